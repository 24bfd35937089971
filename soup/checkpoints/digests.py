"""The content digest: a tree of fixed blocks, so that any thread may hash any of them in any order.

A block is 256 KiB of a tensor's bytes, as they are stored; the last one of a tensor may be shorter.

- of a block: BLAKE3 of its bytes;
- of a tensor's values (its *root*): BLAKE3 of its blocks' digests, in order;
- of a tensor: BLAKE3 of its name, dtype and shape, and its root;
- of a checkpoint: BLAKE3 of its tensors' digests, by name (``checkpoint``).

Whoever has bytes in hand, reading or writing, in whatever pieces, gives them to a ``Hasher``.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from blake3 import blake3

from soup.checkpoints.soundness import Scan
from soup.checkpoints.tensors import TensorInfo
from soup.errors import CheckpointError

BLOCK = 1 << 18
"""Bytes of a block. Chunks of a stream (``soup.blending``) are whole blocks, where they can be."""

SEGMENT = 1 << 26
"""Bytes that one thread reads of a tensor before it takes the next piece of work."""

VERSION = "soup-content-2"
"""Of the tree. It is part of each digest, and of the key under which digests are remembered."""


def block_digest(block: "memoryview | bytes") -> bytes:
    """Of at most ``BLOCK`` bytes."""
    return blake3(block).digest()


def root(blocks: Iterable[bytes]) -> bytes:
    """Of a tensor's values, given the digests of its blocks in order."""
    return blake3(b"".join(blocks)).digest()


def tensor_digest(name: str, dtype: str, shape: Sequence[int], values: bytes) -> bytes:
    """Of a tensor, given the root of its values."""
    head = json.dumps([name, dtype, list(shape)]).encode()
    return blake3(head + b"\n" + values).digest()


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
        return {
            name: root(self._digests[name, k] for k in range(-(-size // BLOCK)))
            for name, size in self.sizes.items()
        }


def read_roots(
    infos: Sequence[TensorInfo], progress: Callable[[int], None] = lambda count: None
) -> list[tuple[bytes, Scan]]:
    """Read stored tensors on all cores: the root of each, and what stands in its values.

    Args:
        infos: which, in any order; the same may be there twice.
        progress: called, by any thread, with the number of bytes of each piece read.

    Raises:
        CheckpointError: a file cannot be read, or ends too early.
    """
    pieces = [
        (k, start, min(start + SEGMENT, info.nbytes))
        for k, info in enumerate(infos)
        for start in range(0, info.nbytes, SEGMENT)
    ]

    def read(piece: tuple[int, int, int]) -> tuple[list[bytes], Scan]:
        k, start, end = piece
        scan = Scan(infos[k].dtype)
        digests = []
        for block in blocks(infos[k], start, end):
            digests.append(block_digest(block))
            scan.update(block)
        progress(end - start)
        return digests, scan

    found: list[tuple[list[bytes], Scan]] = [([], Scan(info.dtype)) for info in infos]
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        for (k, start, end), (digests, scan) in zip(pieces, threads.map(read, pieces), strict=True):
            found[k][0].extend(digests)
            found[k][1].join(scan, end - start)
    return [(root(digests), scan) for digests, scan in found]


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
