"""The content digest: a tree of fixed blocks, so that any thread may hash any of them in any order.

A block is 256 KiB of a tensor's bytes, as they are stored; the last one of a tensor may be shorter.

- of a block: BLAKE3 of its bytes;
- of a tensor's values (its *root*): BLAKE3 of its blocks' digests, in order;
- of a tensor: BLAKE3 of its name, dtype and shape, and its root;
- of a checkpoint: BLAKE3 of its tensors' digests, by name (``checkpoint``).

Whoever has bytes in hand, reading or writing, in whatever pieces, gives them to a ``Hasher``.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path

from blake3 import blake3

from soup.checkpoints.soundness import Scan
from soup.checkpoints.tensors import TensorInfo
from soup.errors import CheckpointError

BLOCK = 1 << 18
"""Bytes of a block. Chunks of a stream (``soup.blending``) are whole blocks, where they can be."""

SEGMENT = 1 << 26
"""Bytes that one thread reads of a tensor before it takes the next piece of work."""

THREAD_WORTH = 1 << 25
"""Bytes to read per thread: with less, threads wait for each other more than they help."""

SMALL = 1 << 15
"""Bytes of a piece on average below which it is Python that takes the time, one thread at once."""

Place = tuple[str, int, int]
Part = tuple[TensorInfo, int, int]
"""A stored tensor, and the first and last but one of some of its bytes."""

Seen = tuple[bytes, int, int]
"""Digests of blocks, one behind the other; the greatest magnitude in them, as bits; and how many
zeros they end in, see ``soup.checkpoints.soundness.Scan``."""

Found = tuple[bytes, int, int]
"""The root of a tensor, and of all its values the same two."""

VERSION = "soup-content-2"
"""Of the tree. It is part of each digest, and of the key under which digests are remembered."""


def block_digest(block: "memoryview | bytes") -> bytes:
    """Of at most ``BLOCK`` bytes."""
    return blake3(block).digest()


@lru_cache(maxsize=1 << 16)
def _head(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """As json.dumps([name, dtype, list(shape)]) writes it; the members of a pool have the same."""
    return f"[{quoted(name)}, {quoted(dtype)}, [{', '.join(map(str, shape))}]]\n".encode()


def root(blocks: Iterable[bytes]) -> bytes:
    """Of a tensor's values, given the digests of its blocks in order."""
    return blake3(b"".join(blocks)).digest()


def tensor_digest(name: str, dtype: str, shape: Sequence[int], values: bytes) -> bytes:
    """Of a tensor, given the root of its values."""
    return blake3(_head(name, dtype, tuple(shape)) + values).digest()


def content_digest(tensors: Iterable[bytes]) -> str:
    """Of a checkpoint, as hexadecimal digits, given its tensors' digests by sorted name."""
    return blake3(VERSION.encode() + b"\n" + b"".join(tensors)).hexdigest()


@dataclass
class Hasher:
    """Roots of tensors whose bytes come in pieces, in any order, from any thread, each byte once.

    Whole blocks are hashed as they come; of the others the pieces are kept until they are whole.
    """

    sizes: Mapping[str, int]
    """Bytes of each tensor."""
    _digests: dict[tuple[str, int], bytes] = field(default_factory=dict)
    _partial: dict[tuple[str, int], tuple[bytearray, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, name: str, start: int, piece: memoryview) -> None:
        """Take bytes ``start`` onwards of a tensor; ``piece`` may be reused afterwards."""
        size, end = self.sizes[name], start + len(piece)
        if not start and 0 < end == size <= BLOCK:  # of tens of thousands of small ones each
            self._digests[name, 0] = block_digest(piece)
            return
        at = start
        while at < end:
            number = at // BLOCK
            first, last = number * BLOCK, min((number + 1) * BLOCK, size)
            until = min(last, end)
            part = piece[at - start : until - start]
            if at == first and until == last:
                self._digests[name, number] = block_digest(part)
            else:
                self._keep((name, number), at - first, part, last - first)
            at = until

    def take(self, name: str, start: int, digests: bytes) -> None:
        """Take the digests of whole blocks from byte ``start`` on, one behind the other."""
        if not start and len(digests) == 32:
            self._digests[name, 0] = digests
            return
        for k in range(len(digests) // 32):
            self._digests[name, start // BLOCK + k] = digests[32 * k : 32 * k + 32]

    def _keep(self, key: tuple[str, int], offset: int, part: memoryview, size: int) -> None:
        with self._lock:
            buffer, filled = self._partial.pop(key, (bytearray(), 0))
            buffer = buffer or bytearray(size)
            buffer[offset : offset + len(part)] = part
            filled += len(part)
            if filled < size:
                self._partial[key] = buffer, filled
                return
        self._digests[key] = block_digest(memoryview(buffer))

    def roots(self) -> dict[str, bytes]:
        """By name, once every byte of every tensor was there."""
        found = self._digests
        return {
            name: blake3(found[name, 0]).digest()
            if 0 < size <= BLOCK
            else root([found[name, k] for k in range(-(-size // BLOCK))])
            for name, size in self.sizes.items()
        }


def workers(total: int, pieces: int) -> int:
    """How many threads are worth while for so many bytes in so many pieces."""
    if total < pieces * SMALL:
        return 1
    return min(os.cpu_count() or 1, 1 + total // THREAD_WORTH)


@dataclass
class Learned:
    """What is found of stored tensors while somebody reads them, in any order, from any thread.

    Two tensors that lie at the same place of a file are one.
    """

    _whole: dict[Place, Seen] = field(default_factory=dict)
    _parts: dict[Place, dict[int, tuple[int, bytes, int, int]]] = field(default_factory=dict)

    def put(self, where: Place, start: int, size: int, seen: Seen) -> None:
        """What stands in ``size`` bytes from ``start`` on, which begin with a block."""
        if size == where[2]:  # of tens of thousands of small tensors nearly all
            self._whole[where] = seen
        else:
            self._parts.setdefault(where, {})[start] = (size, *seen)

    def of(self, info: TensorInfo) -> Found:
        """The root of a tensor, and what stands in its values, once all of it was read."""
        where = place(info)
        whole = self._whole.get(where)
        if whole is not None:
            return blake3(whole[0]).digest(), whole[1], whole[2]
        digests, largest, zeros = [], 0, 0
        for _, (size, blocks, high, behind) in sorted(self._parts.get(where, {}).items()):
            digests.append(blocks)
            largest = max(largest, high)
            zeros = behind + (zeros if behind == size else 0)
        return root(digests), largest, zeros


def place(info: TensorInfo) -> Place:
    """Where a stored tensor lies: its file, its first byte, and its size."""
    return str(info.file), info.offset, info.nbytes


def read_roots(
    infos: Sequence[TensorInfo], progress: Callable[[int], None] = lambda count: None
) -> list[Found]:
    """Read stored tensors on all cores: the root of each, and what stands in its values.

    Args:
        infos: which, in any order; the same may be there twice.
        progress: called, by any thread, with the number of bytes of each piece read.

    Raises:
        CheckpointError: a file cannot be read, or ends too early.
    """
    learned = Learned()

    def read(segment: list[Part]) -> None:
        with _Window(segment[0][0].file) as window:
            for info, start, end in segment:
                digests, scan = [], Scan(info.dtype)
                for at in range(start, end, BLOCK):
                    block = window.read(info, at, min(end - at, BLOCK))
                    digests.append(block_digest(block))
                    scan.update(block)
                seen = b"".join(digests), scan.largest, scan.zeros
                learned.put(place(info), start, end - start, seen)
        progress(sum(end - start for _, start, end in segment))

    total = sum(info.nbytes for info in infos)
    with ThreadPoolExecutor(workers(total, len(infos))) as threads:
        for _ in threads.map(read, _segments(infos)):
            pass
    return [learned.of(info) for info in infos]


def _segments(infos: Sequence[TensorInfo]) -> Iterator[list[Part]]:
    """Parts of tensors that one thread reads: as many as lie behind each other in a file."""
    segment: list[Part] = []
    size = 0
    for info in sorted(infos, key=place):
        for start in range(0, info.nbytes, SEGMENT):
            end = min(start + SEGMENT, info.nbytes)
            if segment and (segment[0][0].file != info.file or size + end - start > SEGMENT):
                yield segment
                segment, size = [], 0
            segment.append((info, start, end))
            size += end - start
    if segment:
        yield segment


class _Window:
    """A file, read a block's length at a time: of small tensors many at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._buffer = memoryview(bytearray(BLOCK))
        self._first = self._end = 0

    def __enter__(self) -> "_Window":
        try:
            self._handle = os.open(self._file, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{self._file}: cannot be read: {error.strerror}") from error
        return self

    def __exit__(self, *of_an_error: object) -> None:
        os.close(self._handle)

    def read(self, info: TensorInfo, start: int, size: int) -> memoryview:
        """At most a block of a tensor's bytes, valid until the next ones are asked for."""
        first = info.offset + start
        if not self._first <= first <= first + size <= self._end:
            self._first = self._end = first
            self._fill(info, first + size)
        return self._buffer[first - self._first : first - self._first + size]

    def _fill(self, info: TensorInfo, needed: int) -> None:
        try:
            while self._end < needed:
                rest = self._buffer[self._end - self._first :]
                count = os.preadv(self._handle, [rest], self._end)
                if not count:
                    raise CheckpointError(f"{info.file}: ended inside tensor {info.name}")
                self._end += count
        except OSError as error:
            raise CheckpointError(f"{info.file}: cannot be read: {error.strerror}") from error


def blocks(info: TensorInfo, start: int = 0, end: int | None = None) -> Iterator[memoryview]:
    """A stored tensor's bytes, block by block; each is valid until the next one.

    Raises:
        CheckpointError: the file cannot be read, or ends too early.
    """
    end = info.nbytes if end is None else end
    buffer = memoryview(bytearray(min(BLOCK, max(end - start, 1))))
    try:
        with info.file.open("rb", buffering=0) as stream:
            stream.seek(info.offset + start)
            while start < end:
                view, filled = buffer[: min(end - start, BLOCK)], 0
                while filled < len(view):
                    count = stream.readinto(view[filled:])
                    if not count:
                        raise CheckpointError(f"{info.file}: ended inside tensor {info.name}")
                    filled += count
                yield view
                start += filled
    except OSError as error:
        raise CheckpointError(f"{info.file}: cannot be read: {error.strerror}") from error
