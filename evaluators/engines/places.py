"""Which file tensor is which in a model's memory, proven; and sinks that copy a blend there.

Names in files and in memory may differ: transformers 5 renames and fuses on loading.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from soup.blending import device
from soup.blending.blend import Blend
from soup.blending.running import RunningSum
from soup.blending.stages import Stages
from soup.blending.streaming import stream
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.errors import ScoringError
from soup.evaluators.models.loading import from_state
from soup.events import Observer, ignore


class Unplaced(Exception):
    """No one-to-one copy is proven; the message names the tensor that stands in the way."""


def find_places(
    model: nn.Module, reference: Checkpoint, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Which tensor in memory is which in the files, proven.

    Two proofs. Of the names: every file tensor is loaded, by transformers itself, as a constant
    of its own, and found again in memory as that constant (not needed where all names agree). Of
    the content: the reference, which transformers loaded from its files, equals its file tensors
    element by element at the places found, and no tensor in memory is left over.

    Raises:
        Unplaced: a tensor is mixed, split, reshaped, left over or not equal.
    """
    memory = {name: t.detach() for name, t in model.state_dict(keep_vars=True).items()}
    names = {name: name for name in reference.tensors if name in memory}
    if len(names) < len(reference.tensors):
        names = _probe_names(model, reference, memory, dtype)
    places = {name: memory[target] for name, target in names.items()}
    for name, place in places.items():
        shape = reference.tensors[name].shape
        if place.shape != shape:
            raise Unplaced(f"{name} is {list(shape)} in the file, {list(place.shape)} in memory")
        if not place.is_contiguous():
            raise Unplaced(f"{name} is stored in another order in memory")
    covered = {place.data_ptr() for place in places.values()}
    left = [name for name, t in memory.items() if t.numel() and t.data_ptr() not in covered]
    if left:
        raise Unplaced(f"nothing in the files fills {some(left)} of the model")
    equal = _Compare(places)
    stream(Blend((reference,), reference), equal)
    if equal.unequal:
        raise Unplaced(f"{some(sorted(equal.unequal))} changed while it was loaded")
    return places


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _probe_names(
    model: nn.Module, reference: Checkpoint, memory: dict[str, torch.Tensor], dtype: torch.dtype
) -> dict[str, str]:
    """File name to name in memory, by loading constants.

    A tensor that lands nowhere (transformers ignores it on loading) is left out: it has no
    effect on the model.

    Raises:
        Unplaced: tensors are mixed or split, or no constants can be loaded.
    """
    absent = some([name for name in reference.tensors if name not in memory])
    constants = _constants(dtype, len(reference.tensors))
    if constants is None:
        raise Unplaced(f"{absent} is called otherwise in memory, and there are too many to tell")
    for info in reference.tensors.values():
        if not info.is_float:
            raise Unplaced(f"{absent} is called otherwise in memory, and {info.name} is no float")
    state = {
        info.name: constants[k].expand(info.shape)  # one element in memory, whatever the shape
        for k, info in enumerate(reference.tensors.values())
    }
    try:
        probe = from_state(type(model), model.config, state, dtype)
    except Exception as error:  # a conversion that cannot take constants: not provable, not fatal
        text = " ".join(str(error).split())[:200]
        raise Unplaced(
            f"{absent} is called otherwise in memory, and its place cannot be found out "
            f"({type(error).__name__}: {text})"
        ) from error
    by_value = {constants[k].item(): name for k, name in enumerate(reference.tensors)}
    found: dict[str, str] = {}
    for target, tensor in probe.state_dict().items():
        if not tensor.numel():
            continue
        first = tensor.flatten()[0]
        source = by_value.get(first.to(dtype).item())
        if source is None or not bool((tensor == first).all()) or target not in memory:
            raise Unplaced(f"{target} of the model is made of several tensors, or of none")
        found.setdefault(source, target)  # tied tensors show the same constant twice
    return found


def _constants(dtype: torch.dtype, count: int) -> torch.Tensor | None:
    """Different finite, normal values of ``dtype``, as many as there are tensors."""
    if dtype is torch.float16:
        bits = torch.arange(0x0400, 0x7C00, dtype=torch.int16)
        values = bits.view(torch.float16)
    else:
        bits = torch.arange(0x0080, 0x7F80, dtype=torch.int16)
        values = bits.view(torch.bfloat16).to(dtype)
    return values[:count] if count <= len(values) else None


@dataclass
class _Compare:
    """A sink that only looks whether what comes is what is there."""

    places: dict[str, torch.Tensor]
    unequal: set[str] = field(default_factory=set)

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        place = self.places.get(info.name)
        if place is None or info.name in self.unequal:
            return
        there = place.view(-1)[start : start + len(values)].cpu()
        if not torch.equal(values.to(place.dtype), there):
            self.unequal.add(info.name)


@dataclass
class CopyIn:
    """A sink that copies into the model's own tensors and keeps checksums of what it sent.

    Attributes:
        places: tensors in memory by names in files.
        left: checksums of those that are to stay as they are.
        written: bytes of the others, in memory.
    """

    places: dict[str, torch.Tensor]
    left: Mapping[str, int] = field(default_factory=dict)
    written: int = 0
    sums: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        """See ``soup.blending.streaming.Sink``."""
        place = self.places.get(info.name)
        if place is None:
            return  # transformers ignores it on loading, too
        sent = values.to(place.dtype)
        with torch.no_grad():
            place.view(-1)[start : start + len(values)].copy_(sent)
        with self.lock:
            self.written += sent.nbytes
            self.sums.setdefault(info.name, []).append(_checksum(sent))

    def verify(self) -> dict[str, int]:
        """Checksums of what the model holds now.

        Raises:
            ScoringError: it is not what was sent, or what was there and should have stayed.
        """
        found = checksums(self.places)
        for name, there in found.items():
            sent = self.left.get(name, sum(int(part) for part in self.sums.get(name, ())))
            if (there - sent) % (1 << 64):
                raise ScoringError(
                    f"tensor {name} did not arrive in the model as it was sent; where it is tied "
                    "to another tensor, the checkpoint holds two different values for them"
                )
        return found


@dataclass(frozen=True)
class Swapped:
    """What a swap has come to.

    Attributes:
        written: bytes written into the model.
        sums: checksums of all of its tensors, by names in files.
        stages: where the time went, if it was a GPU that summed.
    """

    written: int
    sums: dict[str, int]
    stages: Stages | None = None


def checksums(places: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Of each tensor in memory the sum of its elements' bit patterns."""
    return {name: int(_checksum(place.view(-1))) for name, place in places.items()}


def _checksum(flat: torch.Tensor) -> torch.Tensor:
    """Sum of the elements' bit patterns: order does not matter, every bit does.

    An int64 on the same device, which is not waited for.
    """
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.itemsize]
    return flat.view(width).sum(dtype=torch.int64)


def swap_in(
    blend: Blend,
    places: dict[str, torch.Tensor],
    task: str,
    observe: Observer = ignore,
    running: RunningSum | None = None,
    left: Mapping[str, int] | None = None,
) -> Swapped:
    """Stream a blend into a model's own tensors and verify what they hold then.

    Args:
        blend: what to stream; on a GPU it is summed there where ``soup.blending.device`` can.
        places: tensors in memory by names in files, see ``find_places``.
        task: the name of the work, for progress.
        observe: told of bytes streamed.
        running: sums to start from, where it is the processor that sums.
        left: checksums of tensors that have the blend's values already: they are not read, and not
            written to.

    Raises:
        ScoringError: a tensor did not arrive as it was sent, or did not stay what it was.
    """
    left = left or {}
    gpu = _gpu_of(places)
    if gpu is not None and device.serves(blend):
        copy_in, stages = CopyIn(places, left), Stages()
        try:
            stream(
                blend,
                copy_in,
                task=task,
                observe=observe,
                threads=min(device.LANES, os.cpu_count() or 1),
                device=gpu,
                skip=left.keys(),
                stages=stages,
            )
            return Swapped(copy_in.written, copy_in.verify(), stages)
        except torch.OutOfMemoryError:
            pass  # the processor sums, then, as where there is no GPU
        finally:
            torch.cuda.empty_cache()  # a thread's buffers are of no use to another stream
    copy_in = CopyIn(places, left)
    stream(blend, copy_in, task=task, observe=observe, running=running, skip=left.keys())
    return Swapped(copy_in.written, copy_in.verify())


def _gpu_of(places: dict[str, torch.Tensor]) -> torch.device | None:
    """The one GPU that all of a model's tensors are on."""
    devices = {place.device for place in places.values()}
    gpu = devices.pop() if len(devices) == 1 else None
    return gpu if gpu is not None and gpu.type == "cuda" else None
