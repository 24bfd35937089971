"""An average from files to files in one pass, without torch.

While a run of elements is in a core's cache it is compared, hashed, looked at for what is not
finite, summed, rounded, hashed again and written: whatever is wanted of bytes costs no reading of
its own. Members whose digests are not known are learned that way, and so are those whose digests
are remembered, but not proven (``soup.checkpoints.proving``): in the end the two are compared. What
of the result depends on the order of members, which their digests decide, is done again once they
are known.
"""

import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from soup import compiled
from soup.blending.blend import Blend
from soup.blending.changes import prepared, read_of
from soup.blending.common import equal, roots
from soup.blending.layout import Layout
from soup.blending.runs import CHUNK, Piece, Run, of_blend, of_others
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.digests import BLOCK, Hasher, Learned, Seen, block_digest, place, workers
from soup.checkpoints.proving import require_same
from soup.checkpoints.soundness import INFINITE, zeros_behind
from soup.checkpoints.tensors import ITEMSIZES, TensorInfo
from soup.errors import CheckpointError
from soup.events import Observer, Progress

TELL = 0.05
"""Seconds from one report of progress to the next."""

Otherwise = Callable[[Blend, Piece], memoryview]
"""The bytes of a piece as the plain way makes them, or its error, which names what is wrong."""


@dataclass
class Written:
    """What one pass leaves.

    Attributes:
        hasher: of the result.
        known: roots of tensors that were copied whole.
        unsettled: runs to do again: their result may depend on the order of members, which was not
            known; or they hold what is not finite, which is said of all members at once.
    """

    hasher: Hasher
    known: dict[str, bytes] = field(default_factory=dict)
    unsettled: list[Run] = field(default_factory=list)

    def roots(self) -> dict[str, bytes]:
        """By tensor of the result the root of its values."""
        return self.hasher.roots() | self.known


def write(
    blend: Blend,
    layout: Layout,
    otherwise: Otherwise,
    task: str,
    observe: Observer,
    threads: int | None = None,
    learn: Sequence[Checkpoint] = (),
) -> Written | None:
    """Write a blend's tensors to their places.

    Args:
        blend: one that ``soup.blending.runs.serves``.
        layout: where its tensors go.
        otherwise: asked where the compiled loop met what it has no words for.
        task: the name of the work, for progress (bytes read).
        observe: told of progress.
        threads: how many; by default all cores, fewer for a small blend.
        learn: members whose digests are wanted; they have them afterwards. While there are any the
            order of members counts as not known.

    Returns:
        What was written; None, with nothing done, where a file cannot be mapped.

    Raises:
        BlendError, CheckpointError: as ``soup.blending.streaming.stream``; members whose digests
            are remembered, and not proven, are.
    """
    unproven = list(dict.fromkeys(member for member in blend.members if member.unproven))
    read = [*learn, *unproven]
    sizes = {info.name: blend.nbytes_of(info) for info in blend.reference.tensors.values()}
    common = frozenset() if read else equal(blend)
    runs = list(of_blend(blend, layout, common))
    runs += of_others(_unread(read, sizes))
    known = roots(blend, common)
    hasher = Hasher({name: size for name, size in sizes.items() if name not in known})
    written = Written(hasher, known)
    learned = Learned() if read else None
    with ExitStack() as stack:
        files = _mapped(runs, stack)
        if files is None:
            return None
        wanted = frozenset(k for k, member in enumerate(blend.members) if member in read)
        one = _Pass(blend, layout, otherwise, files, learned, wanted, not learn, written)
        one.all(runs, task, observe, threads)
    if learned is not None:
        for member in learn:
            member.take_read(learned)
        for member in unproven:
            require_same(member, [learned.of(info)[0] for info in member.read_for_digest])
    if not learn and written.unsettled and not settle(blend, layout, otherwise, written):
        return None
    return written


def _unread(members: Sequence[Checkpoint], names: Collection[str]) -> list[TensorInfo]:
    """What the digests of members are of, besides the tensors that a blend reads of them."""
    rest = {}
    for member in members:
        tensors = member.tensors
        for info in member.read_for_digest:
            if not (info.name in names and tensors.get(info.name) is info):
                rest[place(info)] = info
    if not rest:  # nearly always
        return []
    read = {place(member.tensors[name]) for name in names for member in members}
    return [info for where, info in rest.items() if where not in read]


def settle(blend: Blend, layout: Layout, otherwise: Otherwise, written: Written) -> bool:
    """Do again what could not be settled, now that the blend's members stand in their order.

    Returns:
        False where a file cannot be mapped any more.
    """
    order = {info.name: info for info in blend.reference.tensors.values()}
    again = []
    for run in written.unsettled:
        rows = []
        for member in blend.members:
            found = read_of(member, run.pieces[0].info.name)
            assert found is not None, "the blend is one that is served"
            tensor = found[0]
            start = run.pieces[0].start * ITEMSIZES[run.dtype]
            rows.append((tensor.file, tensor.offset + start))
        pieces = [Piece(order[p.info.name], p.start, p.count, p.numel) for p in run.pieces]
        again.append(Run(run.kind, pieces, rows, run.dtype, run.out, run.count))
    written.unsettled = []
    with ExitStack() as stack:
        files = _mapped(again, stack)
        if files is None:
            return False
        one = _Pass(blend, layout, otherwise, files, None, frozenset(), True, written)
        for run in again:
            one.do(run, memoryview(bytearray(CHUNK * 4)))
    return True


def _mapped(runs: Sequence[Run], stack: ExitStack) -> dict[Path, compiled.Mapped] | None:
    """Every file that is read, in our address space; None where one cannot be."""
    compiled.guard()
    files: dict[Path, compiled.Mapped] = {}
    read = (path for run in runs for path, _ in run.rows)
    factors = (info.file for run in runs if run.updates for info in run.factors)
    for path in dict.fromkeys([*read, *factors]):
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
        stack.callback(os.close, handle)
        try:
            files[path] = compiled.Mapped(handle)
        except (OSError, ValueError):  # some file systems cannot
            return None
    return files


@dataclass
class _Pass:
    """Everything that the threads of one pass share."""

    blend: Blend
    layout: Layout
    otherwise: Otherwise
    files: dict[Path, compiled.Mapped]
    learned: Learned | None
    wanted: frozenset[int]
    ordered: bool
    written: Written
    faults: int = field(default_factory=lambda: compiled.faults())

    def all(self, runs: Sequence[Run], task: str, observe: Observer, threads: int | None) -> None:
        """Do all runs, by threads."""
        total = sum(run.nbytes * len(run.rows) for run in runs)
        threads = threads or workers(total, sum(len(run.pieces) * len(run.rows) for run in runs))
        work: Iterator[Run] = iter(runs)
        lock = threading.Lock()
        failed = threading.Event()
        done = released = 0
        told = -math.inf

        def some() -> None:
            nonlocal done, released, told
            result = memoryview(bytearray(CHUNK * 4))
            try:
                while not failed.is_set():
                    with lock:
                        run = next(work, None)
                    if run is None:
                        break
                    self.do(run, result)
                    with lock:
                        done += run.nbytes * len(run.rows)
                        if (now := time.monotonic()) >= told + TELL or done == total:
                            told = now
                            observe(Progress(task, done, total, "B"))
                        if done - released >= compiled.RELEASE:
                            released = done
                            for file in self.files.values():
                                file.release()
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(threads) as executor:
            try:
                for future in [executor.submit(some) for _ in range(threads)]:
                    future.result()
            except BaseException:  # Ctrl-C, too: the others stop after their run
                failed.set()
                raise

    def do(self, run: Run, result: memoryview) -> None:
        """One run; ``result`` has room for its elements in any dtype."""
        if run.kind == "same" and self._copied(run):
            return
        places = [(self.files[path], offset) for path, offset in run.rows]
        if any(offset + run.nbytes > file.size for file, offset in places):
            self._plainly(run)  # it had shrunk before it was mapped
            return
        if run.kind == "changed":
            self._changed(run, places, result)
            return
        rows = compiled.addresses([file.address + offset for file, offset in places])
        first = compiled.alike(rows, run.nbytes) if len(places) > 1 else [0]
        views = [file.bytes[offset : offset + run.nbytes] for file, offset in places]
        seen, finite, settled = self._look(run, views, rows, first)
        if run.kind == "look":
            self._require_read(run)
            return
        if not finite and self.learned is not None:
            self.written.unsettled.append(run)  # whether it may be is known when all is learned
            return
        source: memoryview | None = None
        digests: Sequence[bytes] | None = None
        if not finite:
            pass
        elif not any(first) and run.kind in ("blend", "same") and self._keeps(run):
            source, digests = views[0], seen
        elif run.kind == "take" or (run.kind == "copy" and not any(first)):
            source, digests, settled = views[0], seen, not any(first)
        elif run.kind == "blend" and self._merged(run, places, rows, result):
            source = result[: run.count * ITEMSIZES[run.out]]
        if source is None or compiled.faults() != self.faults:
            self._plainly(run)
            return
        self._put(run, source, digests)
        if not (self.ordered or settled):
            self.written.unsettled.append(run)

    def _changed(
        self, run: Run, places: Sequence[tuple[compiled.Mapped, int]], result: memoryview
    ) -> None:
        """A run of what LoRA changes: the base is read once for all adapters of it."""
        rows = compiled.addresses([file.address + at for file, at in places])
        if not self._merged(run, places, rows, result) or compiled.faults() != self.faults:
            self._plainly(run)
            return
        width, (piece,) = ITEMSIZES[run.dtype], run.pieces
        start = piece.start * width
        for path, at in {run.rows[k] for k in self.wanted}:
            assert self.learned is not None
            view = self.files[path].bytes[at : at + run.nbytes]
            largest, _ = compiled.look(compiled.address_of(view), [run.count], run.dtype, width)
            (seen,) = _seen(view, [run.count], width, largest)
            where = str(path), at - start, piece.numel * width
            self.learned.put(where, start, run.nbytes, seen)
        self._put(run, result[: run.count * ITEMSIZES[run.out]])

    def _keeps(self, run: Run) -> bool:
        """Whether the result of equal values is that value, see ``soup.blending.common``."""
        return run.out == run.dtype and self.blend.coefficients is None

    def _copied(self, run: Run) -> bool:
        """Copy values that need not be looked at, by the kernel, which may share blocks."""
        if any(piece.info.name not in self.written.known for piece in run.pieces):
            return False
        path, offset = run.rows[0]
        handle, there = self.layout.places[run.pieces[0].info.name]
        return copy(self.files[path].descriptor, offset, handle, there, run.nbytes)

    def _look(
        self, run: Run, views: Sequence[memoryview], rows: Sequence[int], first: Sequence[int]
    ) -> tuple[list[bytes] | None, bool, bool]:
        """What is wanted of members' bytes: digests and findings of those that are learned.

        Returns:
            Digests of the first member's blocks, piece by piece, where there are any; whether all
            is finite; whether sums do not depend on the order of members.
        """
        if self.learned is None and run.kind == "blend" and any(first):
            return None, True, True  # what is not finite the sum shows
        width, infinite = ITEMSIZES[run.dtype], INFINITE.get(run.dtype)
        ends: list[int] = []
        for piece in run.pieces:
            ends.append(piece.count + (ends[-1] if ends else 0))
        hashed = {first[k] for k in self.wanted} if run.kind != "look" else {0}
        hashed |= {0} if run.kind != "blend" or not any(first) else set()
        distinct: dict[int, list[Seen]] = {}
        finite, high, low = True, 0, compiled.NOTHING
        for k in dict.fromkeys(first):
            largest, smallest = compiled.look(rows[k], ends, run.dtype, width)
            high, low = max(high, *largest), min(low, *smallest)
            distinct[k] = _seen(views[k], ends, width, largest) if k in hashed else []
        if infinite is not None and high >= infinite:
            finite = False
        if self.learned is not None:
            self._learn(run, distinct, first)
        settled = self.ordered or run.kind != "blend" or not any(first)
        settled = settled or not finite or _exact(run, rows, high, low)
        return [seen[0] for seen in distinct[0]], finite, settled

    def _learn(self, run: Run, found: Mapping[int, Sequence[Seen]], first: Sequence[int]) -> None:
        """Keep what was found of the members that are learned, or of what is only looked at."""
        assert self.learned is not None
        width = ITEMSIZES[run.dtype]
        for k in [0] if run.kind == "look" else self.wanted:
            path, at = run.rows[k]
            file = str(path)
            for piece, seen in zip(run.pieces, found[first[k]], strict=True):
                start, size = piece.start * width, piece.count * width
                where = file, at - start, piece.numel * width
                self.learned.put(where, start, size, seen)
                at += size

    def _merged(
        self,
        run: Run,
        places: Sequence[tuple[compiled.Mapped, int]],
        rows: Sequence[int],
        result: memoryview,
    ) -> bool:
        coefficients = self.blend.coefficients
        factors = None if coefficients is None else compiled.doubles(coefficients)
        divisor = len(places) if coefficients is None else 1
        address = compiled.address_of(result)
        changes = prepared(run.updates, self.files)
        return compiled.merge(
            *(places, rows, run.count, run.dtype, address, run.out, factors, divisor),
            changes=changes,
            first=run.pieces[0].start,
        )

    def _put(self, run: Run, values: memoryview, digests: Sequence[bytes] | None = None) -> None:
        """Write a run's result, and hash it unless its blocks' digests are known."""
        width, at = ITEMSIZES[run.out], 0
        self.layout.write(run.pieces[0].info.name, run.pieces[0].start * width, values)
        known, hasher = self.written.known, self.written.hasher
        for k, piece in enumerate(run.pieces):
            size = piece.count * width
            name, start = piece.info.name, piece.start * width
            if name in known:
                pass
            elif digests is not None:
                hasher.take(name, start, digests[k])
            else:
                hasher.put(name, start, values[at : at + size])
            at += size

    def _plainly(self, run: Run) -> None:
        """What the compiled loop cannot do: another way makes it, or says why it cannot be."""
        width = ITEMSIZES[run.out]
        for piece in run.pieces:
            values = self.otherwise(self.blend, piece)
            self._require_read(run)
            self.layout.write(piece.info.name, piece.start * width, values)
            self.written.hasher.put(piece.info.name, piece.start * width, values)
        if not self.ordered:
            self.written.unsettled.append(run)

    def _require_read(self, run: Run) -> None:
        if compiled.faults() != self.faults:
            names = " or ".join(str(path) for path in self._suspects(run))
            raise CheckpointError(
                f"{names}: could not be read to its end; was it changed meanwhile?"
            )

    def _suspects(self, run: Run) -> list[Path]:
        """The files that could not be read: those that have shrunk, or whose disk fails; if all
        can be read now, every one of the run, or of another thread's that failed meanwhile.
        """
        short = [p for p, file in self.files.items() if file.size > _size(file.descriptor)]
        rows = dict.fromkeys(run.rows)
        return (
            short
            or [p for p, at in rows if not _readable(self.files[p].descriptor, at, run.nbytes)]
            or list(dict.fromkeys(path for path, _ in rows))
        )


def _size(descriptor: int) -> int:
    return os.fstat(descriptor).st_size


def _readable(descriptor: int, start: int, size: int) -> bool:
    """Whether so many bytes can be read now."""
    try:
        while size and (part := os.pread(descriptor, min(size, 1 << 20), start)):
            start, size = start + len(part), size - len(part)
    except OSError:
        return False
    return not size


def _digests(part: memoryview) -> bytes:
    """Of the blocks of a part that begins with one."""
    if len(part) <= BLOCK:
        return block_digest(part)
    return b"".join([block_digest(part[at : at + BLOCK]) for at in range(0, len(part), BLOCK)])


def _seen(view: memoryview, ends: Sequence[int], width: int, largest: Sequence[int]) -> list[Seen]:
    """Of each piece of what lies side by side its blocks' digests, and what stands in it.

    Args:
        view: the bytes.
        ends: where each piece ends, in elements.
        width: bytes of an element.
        largest: of each piece the greatest magnitude.
    """
    found, start = [], 0
    for end, high in zip(ends, largest, strict=True):
        end *= width
        part = view[start:end]
        found.append((_digests(part), high, 0 if view[end - 1] else zeros_behind(part)))
        start = end
    return found


def _exact(run: Run, rows: Sequence[int], high: int, low: int) -> bool:
    """Whether sums of a run are exact, see the C file: at a glance, else tile by tile."""
    fraction = {"F32": 23, "BF16": 7, "F16": 10}[run.dtype]
    spare = 53 - (fraction + 1) - (len(rows) - 1).bit_length()
    if low == compiled.NOTHING or max(high >> fraction, 1) - max(low >> fraction, 1) <= spare:
        return True
    return compiled.exact(rows, run.count, run.dtype)


def copy(source: int, offset: int, target: int, there: int, size: int) -> bool:
    """Copy bytes from file to file without looking at them; file systems may share the blocks.

    Returns:
        False where this system or file system cannot.

    Raises:
        OSError: no room, or the like.
    """
    if not hasattr(os, "copy_file_range"):
        return False
    begun = False
    while size:
        try:
            done = os.copy_file_range(source, target, size, offset, there)
        except OSError:
            if begun:
                raise
            return False
        if not done:  # it has shrunk, or the file system does nothing
            return False
        begun = True
        offset, there, size = offset + done, there + done, size - done
    return True
