"""The values of a checkpoint's tensors: read as they are stored, or computed as they are read.

LoRA's are computed in float64 and in blocks of rows, so that a merged model exists nowhere, neither
on the disk nor in memory. Products are rounded, and then added in the order of the rank, without
fused multiply-add: the same bits on every machine that has IEEE's arithmetic, and the same as in
``kernel.c``, which sums plain LoRA on its way (``soup.blending.changes``). Everything here needs
torch; what is known from headers does not.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from soup import compiled
from soup.checkpoints.lora import ExpertsUpdate, LoraUpdate, Replacement, RowsUpdate
from soup.checkpoints.reading import Reader, open_shards
from soup.checkpoints.tensors import TensorInfo
from soup.checkpoints.updates import Read, Update

BLOCK = 1 << 17
"""Elements that are computed at a time, as whole rows. Blocks lie on a grid that depends on the
tensor alone: the last bits of a row's length (DoRA) may depend on how many are computed at a time,
and may not depend on how a tensor is read. As large as a chunk (``soup.blending.streaming.CHUNK``),
so that a chunk is one block."""

COMPARED = 1 << 20
"""Elements that are compared at a time."""


class Source(Protocol):
    """What is needed of a ``soup.checkpoints.checkpoint.Checkpoint``."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By name."""
        ...

    @property
    def shards(self) -> tuple[Path, ...]:
        """The weight files."""
        ...

    @property
    def updates(self) -> Mapping[str, Update]:
        """By name, tensors that are computed."""
        ...


def values(source: Source, read: Read, name: str, start: int, count: int) -> torch.Tensor:
    """Elements of a tensor, flat: as stored, or computed (in float64) where it is updated."""
    if name in source.updates:
        return computed(source.updates[name], read, start, count)
    return read(source.tensors[name], start, count)


def computed(update: Update, read: Read, start: int, count: int) -> torch.Tensor:
    """Elements of a computed tensor, flat, float64; the same whatever ``start`` and ``count``."""
    if isinstance(update, LoraUpdate):
        return _changed(update, read, start, count)
    if isinstance(update, ExpertsUpdate):
        return _changed_experts(update, read, start, count)
    if isinstance(update, RowsUpdate):
        return _changed_rows(update, read, start, count)
    assert isinstance(update, Replacement), update
    return read(update.stored, start, count).to(torch.float64)


def same_values(source: Source, one: TensorInfo, other: TensorInfo) -> bool:
    """Whether two tensors of equal size, computed ones included, are equal in float64."""
    with ExitStack() as stack:
        reader = Reader(open_shards(source.shards, stack))

        def part(info: TensorInfo, start: int) -> torch.Tensor:
            count = min(COMPARED, info.numel - start)
            if (update := source.updates.get(info.name)) is not None:
                return computed(update, reader.read, start, count)
            return reader.read(info, start, count).to(torch.float64)

        for start in range(0, one.numel, COMPARED):
            reader.recycle()
            if not torch.equal(part(one, start), part(other, start)):
                return False
    return True


def _changed(update: LoraUpdate, read: Read, start: int, count: int) -> torch.Tensor:
    rows, columns = update.matrix
    right = _right(update, read)
    height = max(1, BLOCK // columns)
    pieces = []
    for row in range(start // columns // height * height, rows, height):
        first = row * columns
        if first >= start + count:
            break
        block = _block(update, read, right, row, min(height, rows - row))
        pieces.append(block[max(start - first, 0) : start + count - first])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _block(
    update: LoraUpdate, read: Read, right: torch.Tensor, row: int, height: int
) -> torch.Tensor:
    """Whole rows, flat, in a tensor of its own."""
    columns = update.matrix[1]
    stored = read(update.stored, row * columns, height * columns)
    changed = stored.to(torch.float64, copy=True).view(height, columns)
    _add(changed, _left(update, read, row, height), right, update.scale)
    if update.magnitude is not None:
        wanted = read(update.magnitude, row, height).to(torch.float64)
        lengths = torch.linalg.vector_norm(changed, dim=1)
        changed.mul_((wanted / lengths).unsqueeze(1))
    return changed.view(-1)


def _add(values: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float) -> None:
    """Add scale·(left · right), all float64 matrices, in place."""
    (height, columns), rank = values.shape, left.shape[1]
    assert values.is_contiguous()
    if compiled.LIBRARY is not None:
        places, kinds = (left.data_ptr(), right.data_ptr()), (compiled.FACTORS["F64"],) * 2
        by = compiled.Change(*places, *left.stride(), *right.stride(), rank, *kinds, scale)
        compiled.change(values.data_ptr(), height * columns, columns, by)
        return
    found = torch.zeros_like(values)
    for k in range(rank):
        found.add_(left[:, k : k + 1] * right[k])
    values.add_(found.mul_(scale))


def _right(update: LoraUpdate, read: Read) -> torch.Tensor:
    """The whole right factor, float64 ``[r, columns]``."""
    info = update.up if update.transposed else update.down

    def make() -> torch.Tensor:
        stored = _whole(info, read).view(info.shape[0], -1)  # a convolution's kernel in one row
        return stored.t().contiguous() if update.transposed else stored

    return update.recent.get(info.name, make)


def _whole(info: TensorInfo, read: Read) -> torch.Tensor:
    """A stored tensor, float64, in memory of its own."""
    return read(info, 0, info.numel).to(torch.float64, copy=True).view(info.shape)


def _left(update: LoraUpdate, read: Read, row: int, height: int) -> torch.Tensor:
    """Rows of the left factor, float64 ``[height, r]``."""
    if not update.transposed:
        part = read(update.up, row * update.rank, height * update.rank)
        return part.to(torch.float64).view(height, update.rank)
    width = update.down.shape[1]
    parts = [read(update.down, k * width + row, height) for k in range(update.rank)]
    return torch.stack(parts, dim=1).to(torch.float64)


def _changed_experts(update: ExpertsUpdate, read: Read, start: int, count: int) -> torch.Tensor:
    rows, columns = update.target.shape[-2:]
    down = update.recent.get(update.down.name, lambda: _whole(update.down, read))
    up = update.recent.get(update.up.name, lambda: _whole(update.up, read))
    stored = read(update.stored, start, count).to(torch.float64, copy=True)
    height = max(1, BLOCK // columns)
    at = start
    while at < start + count:  # blocks on a grid, of one expert each
        layer, row = divmod(at // columns, rows)
        row -= row % height
        begin = (layer * rows + row) * columns
        expert = layer if update.expert is None else update.expert
        block = _expert(update, down, up, expert, row, min(height, rows - row)).reshape(-1)
        stop = min(begin + len(block), start + count)
        stored[at - start : stop - start] += block[at - begin : stop - begin]
        at = stop
    return stored


def _expert(
    update: ExpertsUpdate, down: torch.Tensor, up: torch.Tensor, expert: int, row: int, height: int
) -> torch.Tensor:
    """Rows of one expert's scale·(B·A), or scale·(A'·B') where it is stored so; float64."""
    rank = update.rank
    left, right = up[:, expert :: update.experts], down[expert * rank : (expert + 1) * rank]
    if update.transposed:
        left, right = right.t(), left.t()
    return _product(left[update.first + row :][:height], right, update.scale)


def _product(left: torch.Tensor, right: torch.Tensor, scale: float) -> torch.Tensor:
    """Scale·(left · right), float64."""
    found = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64)
    _add(found, left, right, scale)
    return found


def _changed_rows(update: RowsUpdate, read: Read, start: int, count: int) -> torch.Tensor:
    columns = update.target.shape[-1]
    low, high = start // columns, -(-(start + count) // columns)
    stored = read(update.stored, low * columns, (high - low) * columns)
    changed = stored.to(torch.float64, copy=True).view(high - low, columns)
    height = max(1, BLOCK // columns)
    for patch in update.patches:
        begin = max(0, -((patch.at - low) // patch.step))
        end = min(patch.count, -((patch.at - high) // patch.step))
        if begin >= end:
            continue
        down = update.recent.get(patch.down.name, partial(_whole, patch.down, read))
        up = update.recent.get(patch.up.name, partial(_whole, patch.up, read))
        left = up[patch.first : patch.first + patch.count, patch.expert :: patch.experts]
        right = down[patch.expert * patch.rank : (patch.expert + 1) * patch.rank]
        for row in range(begin // height * height, end, height):  # blocks on a grid
            block = _product(left[row : row + height], right, patch.scale)
            one, other = max(row, begin), min(row + height, end)
            at = patch.at + one * patch.step - low
            rows = changed[at : at + (other - one - 1) * patch.step + 1 : patch.step]
            rows.add_(block[one - row : other - row])
    return changed.view(-1)[start - low * columns :][:count]
