"""The work of an average, cut into runs that one thread does at a time.

A run is a part of a large tensor, or several small ones that lie side by side in every member and
in the result: there are models of tens of thousands of tensors, and then it is the number of calls
that takes the time, not the bytes.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from soup import compiled
from soup.blending.blend import Blend, role
from soup.blending.changes import read_of
from soup.blending.layout import Layout
from soup.checkpoints.lora import LoraUpdate
from soup.checkpoints.tensors import ITEMSIZES, TensorInfo

CHUNK = 1 << 18
"""Elements of a run, at most; whole blocks of ``soup.checkpoints.digests`` in every dtype."""

COPIED = 1 << 25
"""The same of runs that are only copied, as far as one tensor is not larger."""

Row = tuple[Path, int]
"""A file, and the offset of a byte in it."""


@dataclass
class Piece:
    """Elements of one tensor: ``start`` to ``start + count``.

    Attributes:
        info: the tensor, of the reference; where nothing is written, of a member.
        start: the first element.
        count: how many.
        numel: of the whole tensor.
    """

    info: TensorInfo
    start: int
    count: int
    numel: int


@dataclass
class Run:
    """Pieces that are treated alike, in one go.

    Attributes:
        kind: ``blend``, ``copy``, ``take`` (see ``soup.blending.blend.role``); ``same``: known to
            be equal in all members; ``changed``: LoRA changes some of them first; ``look``: nothing
            is written.
        pieces: what, side by side; of what is changed one.
        rows: per source the place of the first element.
        dtype: of the sources.
        out: of the result.
        count: elements in all.
        stored: per source of what is changed, the tensor that is read.
        updates: per source of what is changed, what changes it.
    """

    kind: str
    pieces: list[Piece]
    rows: list[Row]
    dtype: str
    out: str
    count: int
    stored: Sequence[TensorInfo] = ()
    updates: Sequence[LoraUpdate | None] = ()

    @property
    def factors(self) -> list[TensorInfo]:
        """What else is read of members."""
        return [f for update in self.updates if update for f in (update.down, update.up)]

    @property
    def nbytes(self) -> int:
        """Of each source."""
        return self.count * ITEMSIZES[self.dtype]


def serves(blend: Blend) -> bool:
    """Whether the compiled loop can do all of a blend, from the members' files as they are."""
    if compiled.LIBRARY is None or blend.method != "linear":
        return False
    changed = {name for member in blend.members for name in member.updates}
    for name, info in blend.reference.tensors.items():
        if name in changed:
            found = [read_of(member, name) for member in blend.members]
            dtypes = {one[0].dtype if one is not None else "" for one in found}
        else:
            dtypes = {member.tensors[name].dtype for member in blend.members}
        if len(dtypes) > 1:
            return False
        (dtype,) = dtypes
        if role(info) == "blend":
            if not (dtype in compiled.KINDS and blend.dtype_of(info) in compiled.KINDS):
                return False
        elif dtype != info.dtype or name in changed:
            return False
    return True


def of_blend(blend: Blend, layout: Layout, equal: Collection[str] = ()) -> Iterator[Run]:
    """All runs of a blend, in the order of the reference.

    Args:
        blend: one that ``serves``.
        layout: where the result goes.
        equal: tensors known to be equal in all members, whose result is their value.
    """
    last: Run | None = None
    ends: list[Row] = []
    behind = (0, 0)
    places, members = layout.places, [member.tensors for member in blend.members]
    changed = {name for member in blend.members for name in member.updates}
    for name, info in blend.reference.tensors.items():
        numel = info.numel
        if not numel:
            continue
        if name in changed:
            if last is not None:
                yield from _cut(last)
                last = None
            yield from _changed(blend, info)
            continue
        kind = "same" if name in equal else role(info)
        stored = [tensors[name] for tensors in (members[:1] if kind == "same" else members)]
        dtype, out = stored[0].dtype, blend.dtype_of(info)
        rows = [(tensor.file, tensor.offset) for tensor in stored]
        piece = Piece(info, 0, numel, numel)
        if (
            last is not None
            and rows == ends
            and (kind, dtype, out) == (last.kind, last.dtype, last.out)
            and places[name] == behind
            and last.count + numel <= (COPIED if kind == "same" else CHUNK)
        ):
            last.pieces.append(piece)
            last.count += numel
        else:
            if last is not None:
                yield from _cut(last)
            last = Run(kind, [piece], rows, dtype, out, numel)
        nbytes = stored[0].nbytes
        ends = [(file, offset + nbytes) for file, offset in rows]
        handle, offset = places[name]
        behind = handle, offset + numel * ITEMSIZES[out]
    if last is not None:
        yield from _cut(last)


def _changed(blend: Blend, info: TensorInfo) -> Iterator[Run]:
    """Runs of a tensor that adapters change, or replace."""
    found = [one for member in blend.members if (one := read_of(member, info.name)) is not None]
    stored, updates = [one for one, _ in found], [update for _, update in found]
    kind = "changed" if any(updates) else "blend"
    rows = [(tensor.file, tensor.offset) for tensor in stored]
    piece = Piece(info, 0, info.numel, info.numel)
    dtype, out = stored[0].dtype, blend.dtype_of(info)
    yield from _cut(Run(kind, [piece], rows, dtype, out, info.numel, stored, updates))


def of_others(infos: Sequence[TensorInfo]) -> Iterator[Run]:
    """Runs that only look at stored tensors: those that the result has not."""
    for info in infos:
        rows = [(info.file, info.offset)]
        if info.numel:
            piece = Piece(info, 0, info.numel, info.numel)
            yield from _cut(Run("look", [piece], rows, info.dtype, info.dtype, info.numel))


def _cut(run: Run) -> Iterator[Run]:
    """A run as runs of at most ``CHUNK`` elements; those known to be equal are left whole."""
    if run.count <= CHUNK or run.kind == "same":
        yield run
        return
    (piece,) = run.pieces
    width = ITEMSIZES[run.dtype]
    for start in range(0, run.count, CHUNK):
        count = min(CHUNK, run.count - start)
        rows = [(file, offset + start * width) for file, offset in run.rows]
        part = Piece(piece.info, start, count, piece.numel)
        yield Run(run.kind, [part], rows, run.dtype, run.out, count, run.stored, run.updates)
