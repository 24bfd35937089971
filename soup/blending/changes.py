"""How LoRA's tensors go through the compiled loop: what it reads of each member, and does to it.

Factors are read where they lie in their files, as all else is. What the loop has no words for
(DoRA, the experts of a layer in one tensor, modules that files hold together) is computed by
``soup.checkpoints.computing``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from soup import compiled
from soup.checkpoints.lora import LoraUpdate, Replacement
from soup.checkpoints.tensors import TensorInfo
from soup.checkpoints.updates import Update


class Member(Protocol):
    """What is needed of a ``soup.checkpoints.checkpoint.Checkpoint``."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """By name."""
        ...

    @property
    def updates(self) -> Mapping[str, Update]:
        """By name, tensors that are computed."""
        ...


def read_of(member: Member, name: str) -> tuple[TensorInfo, LoraUpdate | None] | None:
    """The stored tensor that a member's values are made of, and what changes it, if anything.

    Returns:
        None where the loop cannot make them.
    """
    update = member.updates.get(name) if member.updates else None
    if update is None:
        return member.tensors[name], None
    if isinstance(update, Replacement):
        return update.stored, None
    if not isinstance(update, LoraUpdate) or update.magnitude is not None:
        return None
    known = {update.down.dtype, update.up.dtype} <= compiled.FACTORS.keys()
    return (update.stored, update) if known else None


def prepared(
    updates: Sequence[LoraUpdate | None], files: Mapping[Path, compiled.Mapped]
) -> compiled.Changes | None:
    """What is done to members' elements of one tensor; None where nothing is.

    Args:
        updates: per member what changes it.
        files: all that their factors lie in.
    """
    columns = {update.matrix[1] for update in updates if update is not None}
    if not columns:
        return None
    (width,) = columns  # of one tensor all have the same
    read = [
        (files[info.file], info.offset + info.nbytes)
        for update in updates
        if update is not None
        for info in (update.down, update.up)
    ]
    by = [None if update is None else _change(update, files) for update in updates]
    return compiled.Changes(by, width, read)


def _change(update: LoraUpdate, files: Mapping[Path, compiled.Mapped]) -> compiled.Change:
    rank, columns = update.rank, update.matrix[1]
    if update.transposed:  # stored as [in, out]: A's columns times B's rows
        left, left_row, left_step = update.down, 1, update.down.shape[1]
        right, right_row, right_step = update.up, 1, rank
    else:
        left, left_row, left_step = update.up, rank, 1
        right, right_row, right_step = update.down, columns, 1
    places = [files[info.file].address + info.offset for info in (left, right)]
    kinds = [compiled.FACTORS[info.dtype] for info in (left, right)]
    strides = (left_row, left_step, right_row, right_step)
    return compiled.Change(*places, *strides, rank, *kinds, update.scale)
