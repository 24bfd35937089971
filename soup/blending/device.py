"""Summing on a GPU: members' bytes are copied there while the next ones are read.

The same operations on the same float64 values in the same order as ``blending.methods.linear`` and
``rounding.round_once``, so the same bits wherever arithmetic is IEEE's. Nothing here waits for
the device but the reuse of a buffer: whether all results are finite is asked at the end. Any torch
device will do; on one that is no GPU there are just no streams and no pinned memory.
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from soup.blending.blend import Blend, role
from soup.blending.rounding import not_finite, round_once
from soup.blending.stages import Clock, Stages
from soup.checkpoints.checkpoint import TensorInfo
from soup.checkpoints.dtypes import DTYPES
from soup.checkpoints.reading import Seen, read_into

CHUNK = 1 << 21
"""Elements per chunk: large enough that a dozen small kernels take less time than the copies."""

LANES = 8
"""Threads at most: so many readers of the page cache are as fast as a PCIe bus."""


def serves(blend: Blend) -> bool:
    """Whether a blend's sum can be made on a device: a linear one of stored tensors."""
    return blend.method == "linear" and not any(member.updates for member in blend.members)


def _widest(blend: Blend) -> int:
    """Bytes of the largest element among those that are summed."""
    names = [info.name for info in blend.reference.tensors.values() if role(info) == "blend"]
    dtypes = {member.tensors[name].dtype for member in blend.members for name in names}
    return max((DTYPES[dtype].itemsize for dtype in dtypes), default=1)


class _Slot:
    """A piece of one member on its way: where it is read into, and where it arrives."""

    def __init__(self, size: int, device: torch.device) -> None:
        cuda = device.type == "cuda"
        # Pinned: only from there does a copy run while the processor goes on.
        self.host = torch.empty(size, dtype=torch.uint8, pin_memory=cuda)
        self.there = torch.empty(size, dtype=torch.uint8, device=device)
        self.left = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]


class Lane:
    """One thread's buffers and its stream on a device; what it merges stays there."""

    def __init__(
        self,
        blend: Blend,
        files: dict[Path, int],
        chunk: int,
        device: torch.device,
        seen: Seen | None = None,
    ) -> None:
        """To be made in the thread that will use it; ``chunk`` is the longest, in elements.

        ``seen`` is shown what is read, while it is copied; see ``soup.checkpoints.reading``.
        """
        self._blend, self._files, self._device, self._seen = blend, files, device, seen
        if device.type == "cuda":
            own = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            own.wait_stream(torch.cuda.current_stream(device))  # of what was asked of the device
            torch.cuda.set_device(device)
            torch.cuda.set_stream(own)  # both for this thread alone
        # Two: while one is copied, the other is read into.
        self._slots = [_Slot(chunk * _widest(blend), device) for _ in range(2)]
        self._sum = torch.empty(chunk, dtype=torch.float64, device=device)
        self._wide = torch.empty_like(self._sum)
        # A tensor: dividing by a number, torch's kernel for GPUs multiplies by its reciprocal.
        self._count = torch.tensor(float(len(blend.members)), dtype=torch.float64, device=device)
        self._bad: list[tuple[TensorInfo, int, int, torch.Tensor]] = []
        self._clock = Clock(device.type == "cuda")

    def merge(self, info: TensorInfo, start: int, count: int) -> tuple[int, torch.Tensor] | None:
        """Bytes read and elements of the output, on the device; None where that is not its work.

        The elements may still be on their way: they are there for this thread's stream.
        """
        if role(info) != "blend" or not count:
            return None
        blend, total, wide = self._blend, self._sum[:count], self._wide[:count]
        done = 0
        for k, member in enumerate(blend.members):
            part = self._send(member.tensors[info.name], start, count)
            begun = self._clock.begin()
            target = wide if k else total  # the first is not added to zero: that would lose -0.0
            target.copy_(part)
            if blend.coefficients is not None:
                target.mul_(blend.coefficients[k])
            if k:
                total.add_(wide)
            self._clock.end("sum", begun)
            done += part.nbytes
        begun = self._clock.begin()
        if blend.coefficients is None and len(blend.members) > 1:
            total.div_(self._count)
        rounded = round_once(total, DTYPES[blend.dtype_of(info)], everywhere=True)
        self._bad.append((info, start, count, not_finite(rounded)))
        self._clock.end("sum", begun)
        self._clock.stages.nbytes += done
        return done, rounded

    def stages(self) -> Stages:
        """Where the time went; once ``suspects`` has been asked."""
        return self._clock.finish()

    def suspects(self) -> Iterator[tuple[TensorInfo, int, int]]:
        """Waits until all is done; chunks with an element that is not finite in the output."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        for info, start, count, bad in self._bad:
            if bad:
                yield info, start, count

    def _send(self, info: TensorInfo, start: int, count: int) -> torch.Tensor:
        """Stored elements on the device, in their own dtype, valid until the next but one."""
        dtype = DTYPES[info.dtype]
        size = count * dtype.itemsize
        slot = self._slots[0]
        self._slots.reverse()
        clock = self._clock
        if slot.left is not None:
            begun = clock.begin(here=True)
            slot.left.synchronize()
            clock.end("wait", begun)
        begun = clock.begin(here=True)
        read_into(self._files, info, start, slot.host.numpy()[:size].data)
        clock.end("read", begun)
        begun = clock.begin()
        slot.there[:size].copy_(slot.host[:size], non_blocking=True)
        clock.end("copy", begun)
        if slot.left is not None:
            slot.left.record()
        if self._seen is not None:
            self._seen(info, start * dtype.itemsize, slot.host.numpy()[:size].data)
        return slot.there[:size].view(dtype)
