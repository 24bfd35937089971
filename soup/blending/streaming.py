"""The one piece of code that reads, sums and rounds a blend, whether into a file or into a model.

The result is the float64 value of the method (of the sum, in member order), rounded once to the
output dtype; so it does not depend on threads, chunk size or how members are sharded.
"""

import os
import threading
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from soup.blending import changes
from soup.blending.arithmetic import MERGE, Slice
from soup.blending.blend import Blend, role
from soup.blending.common import equal
from soup.blending.device import CHUNK as DEVICE_CHUNK
from soup.blending.device import Lane
from soup.blending.methods import METHODS
from soup.blending.rounding import all_finite, round_once
from soup.blending.running import Pass, RunningSum
from soup.blending.stages import Stages
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.computing import values as values_of
from soup.checkpoints.dtypes import DTYPES
from soup.checkpoints.lora import LoraUpdate
from soup.checkpoints.proving import Proof
from soup.checkpoints.reading import Reader, Seen, open_shards
from soup.checkpoints.tensors import is_bound
from soup.checkpoints.updates import Read
from soup.errors import BlendError
from soup.events import Observer, Progress, ignore

CHUNK = 1 << 17
"""Elements per chunk of what neither ``kernel`` nor ``device`` does, which have sizes of
their own: smaller ones cost Python's overhead more often, larger ones leave a core's cache."""

THREAD_WORTH = 1 << 25
"""Bytes to read per thread: with less, threads wait for each other more than they help."""


class Sink(Protocol):
    """Where a streamed blend goes: a file at known offsets, or a resident model's parameters."""

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        """Take elements ``start`` onwards of the reference's tensor ``info``, flat.

        ``values`` is 1-D, in the output dtype, and is reused after this returns (on a device:
        after what the thread's stream then holds). Called from several threads at once, never
        twice for the same elements.
        """
        ...


def stream(
    blend: Blend,
    sink: Sink,
    *,
    task: str = "blend",
    observe: Observer = ignore,
    threads: int | None = None,
    chunk: int | None = None,
    running: RunningSum | None = None,
    device: torch.device | None = None,
    skip: Set[str] = frozenset(),
    stages: Stages | None = None,
) -> None:
    """Stream a blend into a sink: read a chunk of every member, sum, round, put.

    Memory is a few chunks per thread, whatever the size of tensors and the number of members.

    Args:
        blend: what to stream.
        sink: where it goes.
        task: the name of the work, for progress (bytes read).
        observe: told of progress.
        threads: readers and summers; by default all cores, fewer for a small blend.
        chunk: elements per chunk; by default what was measured to be best for the way they go.
        running: sums of earlier averages, to start from where they fit; for equal averages.
        device: where to sum and round, if not on the processor: the sink gets values there, and
            all members are read (a float64 sum is more bytes to move than a few of them). For
            blends that ``soup.blending.device.serves``.
        skip: names of tensors that are not wanted; nothing of them is read.
        stages: takes in where the time of a device's lanes went.

    Raises:
        BlendError: NaN or Inf in a member, unequal integers or buffers, or overflow of the
            output dtype; the message names the tensor and the member.
        CheckpointError: a file cannot be read.
        RewrittenError: bytes that are read for the first time by this process are not those that
            a member's digest is of.
    """
    proof = Proof(blend.sources)
    for sums in _passes(blend, running if device is None else None, skip):
        part = blend if sums is None else replace(blend, members=sums.members)
        target = sink if len(part.members) == len(blend.members) else _Nowhere()
        _stream(part, target, sums, task, observe, threads, chunk, device, skip, stages, proof)
        if running is not None and sums is not None:
            running.end(sums)
    proof.settle()


class _Nowhere:
    """A sink for sums that are only remembered."""

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        pass


def _stream(
    blend: Blend,
    sink: Sink,
    sums: Pass | None,
    task: str,
    observe: Observer,
    threads: int | None,
    chunk: int | None,
    device: torch.device | None,
    skip: Set[str],
    stages: Stages | None,
    proof: Proof,
) -> None:
    """One pass over a blend's chunks, by threads."""
    kernel: Any = _kernel(blend) if device is None else None
    chunk = chunk or _best_chunk(blend, kernel, device)
    same = equal(blend) if device is None and sums is None else frozenset()
    infos = [info for name, info in blend.reference.tensors.items() if name not in skip]
    total = sum(_bytes_read(blend, info, sums, same) for info in infos)
    threads = threads or min(os.cpu_count() or 1, 1 + total // THREAD_WORTH)
    work = _chunks(blend, infos, chunk, kernel)
    lock = threading.Lock()
    failed = threading.Event()
    done = released = 0

    seen = proof.take if proof else None

    def run() -> None:
        nonlocal done, released
        reader = Reader(files, seen)  # one per thread: it reuses its buffers
        torch.set_num_threads(1)  # for this thread: the chunks are the parallelism
        try:
            lane: _Fast | Lane
            if device is None:
                lane = _Fast(blend, mapped, chunk, sums, same, kernel, seen)
            else:
                lane = Lane(blend, files, chunk, device, seen)
            while not failed.is_set():
                with lock:
                    item = next(work, None)
                if item is None:
                    break
                info, start, size = item
                reader.recycle()
                merged = lane.merge(info, start, size)
                if merged is None:  # not for the lane, or not finite: then this says why
                    merged = _blend_chunk(blend, reader.read, info, start, size, sums, same, kernel)
                count, values = merged
                sink.put(info, start, values)
                with lock:
                    done += count
                    observe(Progress(task, done, total, "B"))
                    if mapped and done - released >= kernel.RELEASE:
                        released = done
                        for file in mapped.values():
                            file.release()
            for info, start, size in lane.suspects():
                reader.recycle()
                _blend_chunk(blend, reader.read, info, start, size, sums, same, kernel)
            if stages is not None and isinstance(lane, Lane):
                measured = lane.stages()
                with lock:
                    stages.add(measured)
        except BaseException:
            failed.set()
            raise

    with ExitStack() as stack:
        files = _open_all(blend, stack)
        mapped = _map_all(files, kernel)
        stack.enter_context(_torch_threads_restored())
        executor = stack.enter_context(ThreadPoolExecutor(threads))
        try:
            for future in [executor.submit(run) for _ in range(threads)]:
                future.result()
        except BaseException:  # Ctrl-C, too: the others stop after their chunk
            failed.set()
            raise


def _map_all(files: dict[Path, int], kernel: Any) -> dict[Path, Any]:
    """The files as the kernel reads them; none where it is not there, or one cannot be mapped."""
    try:
        return {} if kernel is None else {file: kernel.Mapped(n) for file, n in files.items()}
    except (OSError, ValueError):  # some file systems cannot
        return {}


def _best_chunk(blend: Blend, kernel: Any, device: torch.device | None) -> int:
    if device is not None:
        return DEVICE_CHUNK
    if kernel is not None and set(blend.reference.dtypes) <= kernel.SUPPORTED:
        return int(kernel.CHUNK)
    return CHUNK


def _chunks(
    blend: Blend, infos: Sequence[TensorInfo], size: int, kernel: Any
) -> Iterator[tuple[TensorInfo, int, int]]:
    whole = METHODS[blend.method].whole_tensor
    for info in infos:
        step = max(info.numel, 1) if whole and role(info) == "blend" else size
        computed = any(info.name in source.updates for source in blend.sources)
        computed = computed and _summed(blend, info, blend.sources, kernel) is None
        if computed and info.shape and 0 < info.shape[-1] <= step:
            step -= step % info.shape[-1]  # whole rows, which LoRA's are computed by
        for start in range(0, info.numel, step):
            yield info, start, min(step, info.numel - start)


@contextmanager
def open_files(blend: Blend) -> Iterator[Read]:
    """Read from the shards of all sources while the context lasts; into new tensors."""
    with ExitStack() as stack:
        files = _open_all(blend, stack)
        yield lambda info, start, count: Reader(files).read(info, start, count)


def chunk(blend: Blend, info: TensorInfo, start: int, count: int) -> torch.Tensor:
    """Elements ``start`` to ``start + count`` of one tensor of a blend, without the compiled loop.

    Raises:
        BlendError, CheckpointError: as ``stream``.
    """
    with open_files(blend) as read:
        return _blend_chunk(blend, read, info, start, count, None, frozenset(), None)[1]


def _open_all(blend: Blend, stack: ExitStack) -> dict[Path, int]:
    sources = (blend.reference, *blend.sources)
    return open_shards((shard for source in sources for shard in source.shards), stack)


@contextmanager
def _torch_threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _passes(
    blend: Blend, running: RunningSum | None, skip: Set[str] = frozenset()
) -> Sequence[Pass | None]:
    """Earlier sums serve equal averages alone: there a trial is one more addition."""
    if running is None or blend.method != "linear" or blend.coefficients is not None:
        return [None]
    averaged = [info for info in blend.reference.tensors.values() if role(info) == "blend"]
    return running.begin(blend.members, averaged, skip) or [None]


def _unread(
    blend: Blend, info: TensorInfo, sums: Pass | None, same: Set[str]
) -> tuple[Checkpoint, ...]:
    """The sources that must be read: those whose sum is not known yet; of equal ones the first."""
    if info.name in same:
        return blend.sources[:1]
    known = sums.known_of(info.name) if sums is not None and role(info) == "blend" else 0
    return blend.sources[known:]


def _bytes_read(blend: Blend, info: TensorInfo, sums: Pass | None, same: Set[str]) -> int:
    return sum(source.tensors[info.name].nbytes for source in _unread(blend, info, sums, same))


def _blend_chunk(
    blend: Blend,
    read: Read,
    info: TensorInfo,
    start: int,
    count: int,
    sums: Pass | None,
    same: Set[str],
    kernel: Any,
) -> tuple[int, torch.Tensor]:
    """Bytes read and the output's elements ``start`` to ``start + count`` of one tensor."""
    kind = role(info)
    sources = _unread(blend, info, sums, same)
    done = sum(count * DTYPES[s.tensors[info.name].dtype].itemsize for s in sources)
    if kind == "take":
        return done, read(blend.members[0].tensors[info.name], start, count)
    parts = [values_of(source, read, info.name, start, count) for source in sources]
    if kind == "copy":
        return done, _equal_in_all(blend, info, parts[: len(blend.members)])
    if sums is None:
        total = _merge(blend, info, start, parts)
    else:
        total = _extend(parts, sums, info, start, count)
        total.div_(len(blend.members))
    rounded = _rounded(total, blend.dtype_of(info), kernel)
    if rounded is None:
        parts = [values_of(s, read, info.name, start, count) for s in blend.sources]
        raise BlendError(_why_not_finite(blend, info, parts, total))
    return done, rounded


def _rounded(total: torch.Tensor, dtype: str, kernel: Any) -> torch.Tensor | None:
    """Float64 values rounded once, by the kernel where it is loaded; None if one is not finite."""
    if kernel is not None and dtype in kernel.SUPPORTED:
        return cast("torch.Tensor | None", kernel.round_once(total, dtype))
    rounded = round_once(total, DTYPES[dtype])
    return rounded if all_finite(rounded) else None


def _extend(
    parts: Sequence[torch.Tensor], sums: Pass, info: TensorInfo, start: int, count: int
) -> torch.Tensor:
    """Float64 sum of the known members and ``parts``, in order; it is remembered, too."""
    if (before := sums.before(info, start, count)) is not None:
        total = torch.from_numpy(before).clone()
        rest = parts
    else:
        total, rest = parts[0].to(torch.float64, copy=True), parts[1:]
    for part in rest:
        total.add_(part)
    sums.after(info, start, count)[:] = total.numpy()
    return total


def _merge(
    blend: Blend, info: TensorInfo, start: int, parts: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The method's float64 result for the same elements of every source."""
    method, base = METHODS[blend.method], None
    if blend.method != "linear":  # which sums mixed dtypes itself, without a copy of each
        parts = [part.to(torch.float64) for part in parts]
    if method.needs_base:
        *parts, base = parts
    parameters = {**method.parameters, **dict(blend.parameters)}
    name = blend.shared_names.get(info.name, info.name)
    elements = Slice(name, start, parts, base, blend.coefficients, parameters)
    return MERGE[blend.method](elements)


def _equal_in_all(blend: Blend, info: TensorInfo, parts: list[torch.Tensor]) -> torch.Tensor:
    """The values that all members have, in the reference's dtype.

    Members in several dtypes agree where their values do in the narrowest; the widest has them.
    """
    narrow, wide = (pick(parts, key=lambda part: part.itemsize) for pick in (min, max))
    for member, part in zip(blend.members, parts, strict=True):
        fine = torch.isfinite(part) | (is_bound(info) & torch.isinf(part))
        if info.is_float and not fine.all():
            raise BlendError(_not_finite_in(member, info, part))
        if not torch.equal(part.to(narrow.dtype), parts[0].to(narrow.dtype)):
            raise BlendError(
                f"tensor {info.name}: {member.name} differs from {blend.members[0].name}; "
                f"{info.dtype} values like these are copied, and must be equal in all members"
            )
    return wide.to(DTYPES[info.dtype])


def _summed(
    blend: Blend, info: TensorInfo, sources: Sequence[Checkpoint], kernel: Any
) -> list[tuple[TensorInfo, LoraUpdate | None]] | None:
    """What the kernel reads of sources for a tensor, and what changes it; None if it cannot."""
    if kernel is None or role(info) != "blend" or blend.dtype_of(info) not in kernel.SUPPORTED:
        return None
    found = [changes.read_of(source, info.name) for source in sources]
    stored = [one for one in found if one is not None]
    dtypes = {tensor.dtype for tensor, _ in stored}
    if len(stored) < len(found) or len(dtypes) != 1 or not dtypes <= kernel.SUPPORTED:
        return None
    return stored


def _kernel(blend: Blend) -> Any:
    """``soup.blending.kernel``, where it serves and was compiled; else None."""
    if blend.method != "linear":
        return None
    try:
        from soup.blending import kernel
    except ImportError:
        return None
    kernel.guard()
    return kernel


@dataclass(frozen=True)
class _Route:
    """How one tensor goes through ``kernel``: per member a file and an offset, in bytes; and what
    changes it.
    """

    loop: Any
    stored: Sequence[TensorInfo]
    rows: Sequence[tuple[Any, int]]
    width: int
    changes: Any


class _Fast:
    """One thread's way through ``soup.blending.kernel``, for chunks that it can merge."""

    def __init__(
        self,
        blend: Blend,
        mapped: dict[Path, Any],
        chunk: int,
        sums: Pass | None,
        same: Set[str],
        kernel: Any,
        seen: Seen | None,
    ) -> None:
        self._seen = seen
        self._blend, self._mapped, self._chunk, self._sums = blend, mapped, chunk, sums
        self._same, self._kernel = same, kernel
        self._loops: dict[tuple[str, ...], Any] = {}
        self._last: tuple[TensorInfo | None, _Route | None] = None, None

    def merge(self, info: TensorInfo, start: int, count: int) -> tuple[int, torch.Tensor] | None:
        """Bytes read and elements of the output; None where the kernel does not serve, or where
        what it met is for others to name: a file that ends early, a value that is not finite.
        """
        if not self._mapped or not count:
            return None
        if self._last[0] is not info:
            self._last = info, self._route(info)
        if (route := self._last[1]) is None:
            return None
        rows = [(file, offset + start * route.width) for file, offset in route.rows]
        sums, coefficients = self._sums, self._blend.coefficients
        values = route.loop.merge(
            rows,
            count,
            coefficients,
            1 if coefficients is not None or info.name in self._same else len(self._blend.members),
            sums.before(info, start, count) if sums is not None else None,
            sums.after(info, start, count) if sums is not None else None,
            route.changes,
            start,
        )
        if values is None:
            return None
        if self._seen is not None:
            size = count * route.width
            for tensor, (file, offset) in zip(route.stored, rows, strict=True):
                self._seen(tensor, start * route.width, file.bytes[offset : offset + size])
        return len(rows) * count * route.width, values

    def _route(self, info: TensorInfo) -> _Route | None:
        """Where the members' elements lie and the loop that merges them, if it can."""
        sources = _unread(self._blend, info, self._sums, self._same)
        found = _summed(self._blend, info, sources, self._kernel)
        if found is None:
            return None
        stored, updates = [one for one, _ in found], [update for _, update in found]
        key = stored[0].dtype, self._blend.dtype_of(info)
        if key not in self._loops:
            self._loops[key] = self._kernel.Loop(*key, self._chunk)
        rows = [(self._mapped[tensor.file], tensor.offset) for tensor in stored]
        if self._seen is not None:
            for update in updates:
                for factor in (update.down, update.up) if update is not None else ():
                    file = self._mapped[factor.file]
                    self._seen(factor, 0, file.bytes[factor.offset :][: factor.nbytes])
        width = DTYPES[stored[0].dtype].itemsize
        by = changes.prepared(updates, self._mapped)
        return _Route(self._loops[key], stored, rows, width, by)

    def suspects(self) -> Sequence[tuple[TensorInfo, int, int]]:
        """See ``blending.device.Lane``; here each chunk is known to be finite when it is merged."""
        return ()


def _why_not_finite(
    blend: Blend, info: TensorInfo, parts: Sequence[torch.Tensor], total: torch.Tensor
) -> str:
    """Which member holds a NaN or an Inf; else it is the output dtype that overflows."""
    for source, part in zip(blend.sources, parts, strict=True):
        if not torch.isfinite(part).all():
            return _not_finite_in(source, info, part)
    return (
        f"tensor {info.name}: {total.abs().max().item():.4g} overflows {blend.dtype_of(info)}; "
        "write a wider dtype, e.g. --dtype bfloat16 or float32"
    )


def _not_finite_in(source: Checkpoint, info: TensorInfo, part: torch.Tensor) -> str:
    kind = "NaN" if torch.isnan(part).any() else "Inf"
    return (
        f"{source.name}: tensor {info.name} holds {kind}; "
        "leave this checkpoint out, its training diverged or its file is damaged"
    )
