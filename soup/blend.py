"""Members times coefficients, and the one piece of code that streams their sum.

A single model, a candidate and a finished soup are all blends: the same stream scores and writes
them. The result is the float64 value of the weighted sum in member order, rounded once to the
output dtype; so it does not depend on threads, chunk size or how members are sharded.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch

from soup.checkpoint import DTYPES, Checkpoint, Read, TensorInfo
from soup.errors import BlendError, CheckpointError, UsageError
from soup.events import Observer, Progress, ignore
from soup.methods import METHODS, Slice, find
from soup.running import Pass, RunningSum

CHUNK = 1 << 16
"""Elements per chunk: its float64 buffers stay in a core's cache, and Python's overhead per chunk
stays small (`benchmarks/blend.py --chunks` measures it)."""


@dataclass(frozen=True, eq=False)
class Blend:
    """A weighted sum of checkpoints.

    Attributes:
        members: what is summed, in this order.
        coefficients: one float64 per member; None for the equal average, whose sum is divided by
            the number of members (that is exact where multiplying by 1/n is not).
        reference: the member of the pool whose tensor order, shards and files the result has.
        dtype: safetensors name of the output's floating-point dtype; None keeps the reference's.
        method: how members are merged, a key of ``soup.methods.METHODS``.
        base: what the members were fine-tuned from; only for methods that work on differences.
        parameters: the method's own, as (name, value); those not named have their defaults.
    """

    members: tuple[Checkpoint, ...]
    reference: Checkpoint
    coefficients: tuple[float, ...] | None = None
    dtype: str | None = None
    method: str = "linear"
    base: Checkpoint | None = None
    parameters: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.members:
            raise BlendError("a blend needs at least one member")
        if self.coefficients is not None:
            if len(self.coefficients) != len(self.members):
                raise BlendError(
                    f"{len(self.coefficients)} coefficients for {len(self.members)} members"
                )
            if not all(map(isfinite, self.coefficients)):
                raise BlendError(f"coefficients must be finite, found {self.coefficients}")
        method = find(self.method, dict(self.parameters))
        if method.needs_base and self.base is None:
            raise UsageError(f"{self.method} works on differences to a base: name it with --base")
        if method.members is not None and len(self.members) != method.members:
            raise UsageError(
                f"{self.method} takes exactly {method.members} members, found {len(self.members)}; "
                "name as many checkpoints, or use another method, e.g. linear"
            )

    @property
    def weights(self) -> tuple[float, ...]:
        """The coefficient of each member; without any, 1/n for linear and 1 for other methods."""
        equal = 1.0 / len(self.members) if self.method == "linear" else 1.0
        return self.coefficients or (equal,) * len(self.members)

    @property
    def sources(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint whose values are read: the members, and the base where one is needed."""
        if self.base is not None and METHODS[self.method].needs_base:
            return (*self.members, self.base)
        return self.members

    @property
    def digest(self) -> str:
        """SHA-256 of what determines its bytes: digests, order, coefficients, dtype, method."""
        recipe: dict[str, Any] = {
            "members": [member.digest for member in self.members],
            "coefficients": self.coefficients and [c.hex() for c in self.coefficients],
            "dtype": self.dtype,
            "arithmetic": "float64-sum-1",
        }
        if self.method != "linear":
            recipe["method"] = self.method
            recipe["parameters"] = sorted((name, value.hex()) for name, value in self.parameters)
            recipe["base"] = [source.digest for source in self.sources[len(self.members) :]]
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    def dtype_of(self, info: TensorInfo) -> str:
        """The output dtype of a tensor: only those that are averaged are ever cast."""
        if self.dtype is None or role(info) != "blend":
            return info.dtype
        return self.dtype

    def nbytes_of(self, info: TensorInfo) -> int:
        """The output's bytes of a tensor."""
        return info.numel * DTYPES[self.dtype_of(info)].itemsize


class Sink(Protocol):
    """Where a streamed blend goes: a file at known offsets, or a resident model's parameters."""

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        """Take elements ``start`` onwards of the reference's tensor ``info``, flat.

        ``values`` is 1-D, in the output dtype, and is reused after this returns. Called from
        several threads at once, never twice for the same elements.
        """
        ...


def role(info: TensorInfo) -> str:
    """What happens to a tensor: ``"blend"``, ``"copy"`` (must be equal in all members) or
    ``"take"`` (the reference's; BatchNorm's step counter, which nothing averages).
    """
    if info.name.endswith(".num_batches_tracked"):
        return "take"
    if not info.is_float or info.name.endswith(("inv_freq", "position_ids")):
        return "copy"
    return "blend"


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round float64 to ``dtype`` once, to nearest, ties to even.

    Torch converts float64 to bfloat16 and float16 by way of float32, which rounds twice: a value
    just above a tie becomes the tie, and then goes to even. Only float32 results that are such
    ties can go wrong; where they are not exact they are moved one step back towards the true value
    (as "round to odd" does, Boldo & Melquiond 2008, IEEE Trans. Computers 57(4)).
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return values.to(dtype)
    single = values.to(torch.float32)
    if (
        dtype is torch.bfloat16
    ):  # a tie: of the lower half (little-endian) just the first bit is set
        risky = single.view(torch.int16)[::2].eq(-0x8000)
    else:  # where float16 is subnormal a tie has still more zeros than these
        risky = single.view(torch.int32).bitwise_and(0x0FFF).eq_(0)
    places = risky.nonzero().squeeze(1)
    if places.numel():
        near, true = single[places], values[places]
        wide = near.to(torch.float64)
        side = torch.where(true > wide, torch.inf, -torch.inf).to(torch.float32)
        single[places] = torch.where(true == wide, near, torch.nextafter(near, side))
    return single.to(dtype)


def stream(
    blend: Blend,
    sink: Sink,
    *,
    task: str = "blend",
    observe: Observer = ignore,
    threads: int | None = None,
    chunk: int = CHUNK,
    running: RunningSum | None = None,
) -> None:
    """Stream a blend into a sink: read a chunk of every member, sum, round, put.

    Memory is a few chunks per thread, whatever the size of tensors and the number of members.

    Args:
        blend: what to stream.
        sink: where it goes.
        task: the name of the work, for progress (bytes read).
        observe: told of progress.
        threads: readers and summers; all cores by default.
        chunk: elements per chunk.
        running: sums of earlier averages, to start from where they fit; for equal averages.

    Raises:
        BlendError: NaN or Inf in a member, unequal integers or buffers, or overflow of the
            output dtype; the message names the tensor and the member.
        CheckpointError: a file cannot be read.
    """
    for sums in _passes(blend, running):
        part = blend if sums is None else replace(blend, members=sums.members)
        target = sink if len(part.members) == len(blend.members) else _Nowhere()
        _stream(part, target, sums, task, observe, threads or os.cpu_count() or 1, chunk)
        if running is not None and sums is not None:
            running.end(sums)


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
    threads: int,
    chunk: int,
) -> None:
    """One pass over a blend's chunks, by threads."""
    total = sum(_bytes_read(blend, info, sums) for info in blend.reference.tensors.values())
    work = _chunks(blend, chunk)
    lock = threading.Lock()
    failed = threading.Event()
    done = 0

    def run() -> None:
        nonlocal done
        reader = _Reader(files)  # one per thread: it reuses its buffers
        fast = _Fast(blend, files, chunk, sums)
        torch.set_num_threads(1)  # for this thread: the chunks are the parallelism
        while not failed.is_set():
            with lock:
                item = next(work, None)
            if item is None:
                return
            try:
                info, start, size = item
                reader.recycle()
                merged = fast.merge(info, start, size)
                if merged is None:  # not for the kernel, or not finite: then this says why
                    merged = _blend_chunk(blend, reader.read, info, start, size, sums)
                count, values = merged
                sink.put(info, start, values)
            except BaseException:
                failed.set()
                raise
            with lock:
                done += count
                observe(Progress(task, done, total, "B"))

    with ExitStack() as stack:
        files = _open_all(blend, stack)
        stack.enter_context(_torch_threads_restored())
        executor = stack.enter_context(ThreadPoolExecutor(threads))
        try:
            for future in [executor.submit(run) for _ in range(threads)]:
                future.result()
        except BaseException:  # Ctrl-C, too: the others stop after their chunk
            failed.set()
            raise


def _chunks(blend: Blend, size: int) -> Iterator[tuple[TensorInfo, int, int]]:
    whole = METHODS[blend.method].whole_tensor
    for info in blend.reference.tensors.values():
        step = max(info.numel, 1) if whole and role(info) == "blend" else size
        for start in range(0, info.numel, step):
            yield info, start, min(step, info.numel - start)


@contextmanager
def open_files(blend: Blend) -> Iterator[Read]:
    """Read from the shards of all sources while the context lasts; into new tensors."""
    with ExitStack() as stack:
        files = _open_all(blend, stack)
        yield lambda info, start, count: _Reader(files).read(info, start, count)


def _open_all(blend: Blend, stack: ExitStack) -> dict[Path, int]:
    files: dict[Path, int] = {}
    for member in (blend.reference, *blend.sources):
        for shard in member.shards:
            if shard not in files:
                try:
                    files[shard] = os.open(shard, os.O_RDONLY)
                except OSError as error:
                    raise CheckpointError(f"{shard}: cannot be read: {error.strerror}") from error
                stack.callback(os.close, files[shard])
    return files


@contextmanager
def _torch_threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _passes(blend: Blend, running: RunningSum | None) -> Sequence[Pass | None]:
    """Earlier sums serve equal averages alone: there a trial is one more addition."""
    if running is None or blend.method != "linear" or blend.coefficients is not None:
        return [None]
    averaged = [info for info in blend.reference.tensors.values() if role(info) == "blend"]
    return running.begin(blend.members, averaged) or [None]


def _unread(blend: Blend, info: TensorInfo, sums: Pass | None) -> tuple[Checkpoint, ...]:
    """The sources that must be read: those whose sum is not known yet."""
    known = sums.known if sums is not None and role(info) == "blend" else 0
    return blend.sources[known:]


def _bytes_read(blend: Blend, info: TensorInfo, sums: Pass | None) -> int:
    return sum(source.tensors[info.name].nbytes for source in _unread(blend, info, sums))


def _blend_chunk(
    blend: Blend, read: Read, info: TensorInfo, start: int, count: int, sums: Pass | None
) -> tuple[int, torch.Tensor]:
    """Bytes read and the output's elements ``start`` to ``start + count`` of one tensor."""
    kind = role(info)
    sources = _unread(blend, info, sums)
    done = sum(count * DTYPES[s.tensors[info.name].dtype].itemsize for s in sources)
    if kind == "take":
        return done, read(info, start, count)
    parts = [source.values(read, info.name, start, count) for source in sources]
    if kind == "copy":
        return done, _equal_in_all(blend, info, parts[: len(blend.members)])
    if sums is None:
        total = _merge(blend, info, start, parts)
    else:
        total = _extend(parts, sums, info, start, count)
        total.div_(len(blend.members))
    rounded = round_once(total, DTYPES[blend.dtype_of(info)])
    if not _all_finite(rounded):
        parts = [source.values(read, info.name, start, count) for source in blend.sources]
        raise BlendError(_why_not_finite(blend, info, parts, total))
    return done, rounded


def _extend(
    parts: Sequence[torch.Tensor], sums: Pass, info: TensorInfo, start: int, count: int
) -> torch.Tensor:
    """Float64 sum of the known members and ``parts``, in order; it is remembered, too."""
    if sums.known:
        total = torch.from_numpy(sums.before(info, start, count)).clone()
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
    return method.merge(Slice(info.name, start, parts, base, blend.coefficients, parameters))


class _Reader:
    """Reads stored elements into buffers that it uses again for the next chunk."""

    def __init__(self, files: dict[Path, int]) -> None:
        self._files = files
        self._buffers: list[bytearray] = []
        self._used = 0

    def recycle(self) -> None:
        """Everything read so far may be overwritten."""
        self._used = 0

    def read(self, info: TensorInfo, start: int, count: int) -> torch.Tensor:
        """See ``soup.checkpoint.Read``; valid until ``recycle``."""
        dtype = DTYPES[info.dtype]
        if not count:
            return torch.empty(0, dtype=dtype)
        size = count * dtype.itemsize
        if self._used == len(self._buffers):
            self._buffers.append(bytearray(size))
        if len(self._buffers[self._used]) < size:
            self._buffers[self._used] = bytearray(size)
        buffer = self._buffers[self._used]
        self._used += 1
        _read_into(self._files, info, start, memoryview(buffer)[:size])
        return torch.frombuffer(buffer, dtype=dtype, count=count)


def _read_into(files: dict[Path, int], info: TensorInfo, start: int, view: memoryview) -> None:
    """Fill a byte buffer with a stored tensor's elements from ``start`` on."""
    offset = info.offset + start * DTYPES[info.dtype].itemsize
    while view:
        try:
            got = os.preadv(files[info.file], [view], offset)
        except OSError as error:
            raise CheckpointError(f"{info.file}: cannot be read: {error.strerror}") from error
        if not got:
            raise CheckpointError(f"{info.file}: ended inside tensor {info.name}; it was changed")
        view, offset = view[got:], offset + got


def _equal_in_all(blend: Blend, info: TensorInfo, parts: list[torch.Tensor]) -> torch.Tensor:
    for member, part in zip(blend.members[1:], parts[1:], strict=True):
        if not torch.equal(part, parts[0].to(part.dtype)):
            raise BlendError(
                f"tensor {info.name}: {member.name} differs from {blend.members[0].name}; "
                f"{info.dtype} values like these are copied, and must be equal in all members"
            )
    return parts[0]


class _Fast:
    """One thread's way through ``soup.kernel``, for chunks that it can merge."""

    def __init__(self, blend: Blend, files: dict[Path, int], chunk: int, sums: Pass | None) -> None:
        self._blend, self._files, self._chunk, self._sums = blend, files, chunk, sums
        self._scratches: dict[tuple[str, ...], Any] = {}
        try:
            from soup import kernel
        except ImportError:  # an interpreter without numba: slower, the same bits
            self._kernel = None
        else:
            self._kernel = kernel if blend.method == "linear" else None

    def merge(self, info: TensorInfo, start: int, count: int) -> tuple[int, torch.Tensor] | None:
        """Bytes read and elements of the output, or None where the kernel does not serve."""
        kernel, sums = self._kernel, self._sums
        if kernel is None or not count or role(info) != "blend":
            return None
        sources = _unread(self._blend, info, sums)
        dtypes = {source.tensors[info.name].dtype for source in sources}
        out = self._blend.dtype_of(info)
        if len(dtypes) > 1 or not {*dtypes, out} <= kernel.SUPPORTED:
            return None
        if any(info.name in source.updates for source in sources):
            return None
        key = (*dtypes, out)
        if key not in self._scratches:
            self._scratches[key] = kernel.Scratch(len(sources), *key, self._chunk)
        scratch = self._scratches[key]
        for row, source in zip(scratch.rows, sources, strict=True):
            _read_into(self._files, source.tensors[info.name], start, row[:count].data.cast("B"))
        remembered = (
            {}
            if sums is None
            else {
                "before": sums.before(info, start, count),
                "after": sums.after(info, start, count),
            }
        )
        coefficients = self._blend.coefficients
        divisor = len(self._blend.members) if coefficients is None else 1
        values = scratch.merge(count, coefficients, divisor, **remembered)
        return None if values is None else (scratch.rows[:, :count].nbytes, values)


EXPONENTS = {
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float32: (torch.int32, 0x7F800000),
    torch.float64: (torch.int64, 0x7FF0000000000000),
}
"""Per dtype, the integers of its width and its exponent bits: all set in NaN and Inf alone."""


def _all_finite(values: torch.Tensor) -> bool:
    """One cheap pass over the bit patterns: the largest, without signs, is below that of Inf."""
    if not values.numel():
        return True
    integers, exponent = EXPONENTS[values.dtype]
    sign_cut = torch.iinfo(integers).max
    return bool(values.view(integers).bitwise_and(sign_cut).amax().item() < exponent)


def _why_not_finite(
    blend: Blend, info: TensorInfo, parts: Sequence[torch.Tensor], total: torch.Tensor
) -> str:
    """Which member holds a NaN or an Inf; else it is the output dtype that overflows."""
    for source, part in zip(blend.sources, parts, strict=True):
        if not torch.isfinite(part).all():
            kind = "NaN" if torch.isnan(part).any() else "Inf"
            return (
                f"{source.name}: tensor {info.name} holds {kind}; "
                "leave this checkpoint out, its training diverged or its file is damaged"
            )
    return (
        f"tensor {info.name}: {total.abs().max().item():.4g} overflows {blend.dtype_of(info)}; "
        "write a wider dtype, e.g. --dtype bfloat16 or float32"
    )
