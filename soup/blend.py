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
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch

from soup.checkpoint import DTYPES, Checkpoint, Read, TensorInfo
from soup.errors import BlendError, CheckpointError, UsageError
from soup.events import Observer, Progress, ignore
from soup.methods import METHODS, Slice

CHUNK = 1 << 17
"""Elements per chunk: two float64 buffers of it stay in a core's cache, and Python's overhead
per chunk stays small (`benchmarks/blend.py --chunks` measures it)."""


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
        if self.method not in METHODS:
            known = ", ".join(METHODS)
            raise UsageError(f"unknown method {self.method!r}; expected one of {known}")
        method = METHODS[self.method]
        if method.needs_base and self.base is None:
            raise UsageError(f"{self.method} works on differences to a base: name it with --base")
        if method.members is not None and len(self.members) != method.members:
            raise UsageError(
                f"{self.method} takes {method.members} members, found {len(self.members)}"
            )
        for name, _ in self.parameters:
            if name not in method.parameters:
                known = ", ".join(method.parameters) or "none"
                raise UsageError(f"{self.method} has no parameter {name!r}; it has: {known}")

    @property
    def weights(self) -> tuple[float, ...]:
        """The coefficient of each member; 1/n for the equal average."""
        return self.coefficients or (1.0 / len(self.members),) * len(self.members)

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
    just above a tie becomes the tie, and then goes to even. Only float32 results with all the
    dropped bits but the first at zero can be such ties; where they are not exact they are moved
    one step back towards the true value ("round to odd", Boldo & Melquiond 2008).
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return values.to(dtype)
    single = values.to(torch.float32)
    below_tie = 0x7FFF if dtype is torch.bfloat16 else 0x0FFF
    risky = (single.view(torch.int32) & below_tie).eq_(0).nonzero().squeeze(1)
    if risky.numel():
        near, true = single[risky], values[risky]
        wide = near.to(torch.float64)
        side = torch.where(true > wide, torch.inf, -torch.inf).to(torch.float32)
        single[risky] = torch.where(true == wide, near, torch.nextafter(near, side))
    return single.to(dtype)


def stream(
    blend: Blend,
    sink: Sink,
    *,
    task: str = "blend",
    observe: Observer = ignore,
    threads: int | None = None,
    chunk: int = CHUNK,
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

    Raises:
        BlendError: NaN or Inf in a member, unequal integers or buffers, or overflow of the
            output dtype; the message names the tensor and the member.
        CheckpointError: a file cannot be read.
    """
    total = sum(info.nbytes for source in blend.sources for info in source.tensors.values())
    work = _chunks(blend, chunk)
    lock = threading.Lock()
    failed = threading.Event()
    done = 0

    def run() -> None:
        nonlocal done
        torch.set_num_threads(1)  # for this thread: the chunks are the parallelism
        while not failed.is_set():
            with lock:
                item = next(work, None)
            if item is None:
                return
            try:
                info, start, size = item
                count, values = _blend_chunk(blend, read, info, start, size)
                sink.put(info, start, values)
            except BaseException:
                failed.set()
                raise
            with lock:
                done += count
                observe(Progress(task, done, total, "B"))

    workers = threads or os.cpu_count() or 1
    with ExitStack() as stack:
        read = stack.enter_context(open_files(blend))
        stack.enter_context(_torch_threads_restored())
        executor = stack.enter_context(ThreadPoolExecutor(workers))
        try:
            for future in [executor.submit(run) for _ in range(workers)]:
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
    """Read from the shards of all sources while the context lasts; from any thread."""
    with ExitStack() as stack:
        yield partial(_read, _open_all(blend, stack))


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


def _blend_chunk(
    blend: Blend, read: Read, info: TensorInfo, start: int, count: int
) -> tuple[int, torch.Tensor]:
    """Bytes read and the output's elements ``start`` to ``start + count`` of one tensor."""
    kind = role(info)
    if kind == "take":
        values = read(info, start, count)
        return values.nbytes * len(blend.members), values
    parts = [source.values(read, info.name, start, count) for source in blend.sources]
    done = sum(count * DTYPES[s.tensors[info.name].dtype].itemsize for s in blend.sources)
    if kind == "copy":
        return done, _equal_in_all(blend, info, parts[: len(blend.members)])
    total = _merge(blend, info, start, parts)
    dtype = DTYPES[blend.dtype_of(info)]
    _require_in_range(blend, info, parts, total)
    return done, round_once(total, dtype)


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


def _read(files: dict[Path, int], info: TensorInfo, start: int, count: int) -> torch.Tensor:
    dtype = DTYPES[info.dtype]
    buffer = bytearray(count * dtype.itemsize)
    view, offset = memoryview(buffer), info.offset + start * dtype.itemsize
    while view:
        try:
            got = os.preadv(files[info.file], [view], offset)
        except OSError as error:
            raise CheckpointError(f"{info.file}: cannot be read: {error.strerror}") from error
        if not got:
            raise CheckpointError(f"{info.file}: ended inside tensor {info.name}; it was changed")
        view, offset = view[got:], offset + got
    return torch.frombuffer(buffer, dtype=dtype)


def _equal_in_all(blend: Blend, info: TensorInfo, parts: list[torch.Tensor]) -> torch.Tensor:
    for member, part in zip(blend.members[1:], parts[1:], strict=True):
        if not torch.equal(part, parts[0].to(part.dtype)):
            raise BlendError(
                f"tensor {info.name}: {member.name} differs from {blend.members[0].name}; "
                f"{info.dtype} values like these are copied, and must be equal in all members"
            )
    return parts[0]


def _require_in_range(
    blend: Blend, info: TensorInfo, parts: list[torch.Tensor], total: torch.Tensor
) -> None:
    """Never a silent NaN or Inf: name the member that holds one, or the overflow."""
    lowest, highest = (bound.item() for bound in total.aminmax())  # NaN reaches both
    dtype = DTYPES[blend.dtype_of(info)]
    largest = max(-lowest, highest)
    if isfinite(lowest) and largest <= torch.finfo(dtype).max:
        return
    for member, part in zip(blend.sources, parts, strict=True):
        if not torch.isfinite(part).all():
            kind = "NaN" if torch.isnan(part).any() else "Inf"
            raise BlendError(
                f"{member.name}: tensor {info.name} holds {kind}; "
                "leave this checkpoint out, its training diverged or its file is damaged"
            )
    if torch.isinf(round_once(total, dtype)).any():
        raise BlendError(
            f"tensor {info.name}: {largest:.4g} overflows {blend.dtype_of(info)}; "
            "write a wider dtype, e.g. --dtype bfloat16 or float32"
        )
