"""Which share of a pool's bytes is the same in all members, by part of the model.

What is the same costs a soup next to nothing, and tells what was trained: a frozen tower is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from soup.checkpoints.checkpoint import Checkpoint

CONNECTOR = ("projector", "connector", "merger", "resampler", "aligner", "perceiver", "mm_proj",
             "mlp1", "modality_projection", "vision_proj", "visual_proj")  # fmt: skip
"""What names of tensors contain that lead from what is seen to what is read."""

VISION = ("vision", "visual", "vit", "image", "pixel")
"""The same, of those that see."""

PARTS = ("vision", "connector", "language")


@dataclass(frozen=True)
class Share:
    """A part of a model.

    Attributes:
        part: one of ``PARTS``.
        nbytes: of all its tensors, in one member.
        common: of those that are the same in all members.
    """

    part: str
    nbytes: int
    common: int


def shares(members: Sequence[Checkpoint]) -> list[Share]:
    """The parts that there are; none where it is not known, or where nobody shares.

    Known are tensors that lie at one place (a base that adapters change), and those whose roots
    were found earlier, see ``soup.checkpoints.digests``. What adapters change counts as different.
    """
    if len(members) < 2:
        return []
    sizes, common = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    for name, info in members[0].tensors.items():
        same = _same(members, name)
        if same is None:
            return []
        part = part_of(name)
        sizes[part] += info.nbytes
        common[part] += same * info.nbytes
    return [Share(part, sizes[part], common[part]) for part in PARTS if sizes[part]]


def part_of(name: str) -> str:
    """Whether a tensor sees, connects or speaks, by its name."""
    if any(word in name for word in CONNECTOR):
        return "connector"
    return "vision" if any(word in name for word in VISION) else "language"


def _same(members: Sequence[Checkpoint], name: str) -> bool | None:
    if any(name in member.updates for member in members):
        return False
    first, *others = (member.tensors[name] for member in members)
    if all((i.file, i.offset, i.dtype) == (first.file, first.offset, first.dtype) for i in others):
        return True
    if any((i.dtype, i.shape) != (first.dtype, first.shape) for i in others):
        return False
    roots = {member.root_of(member.tensors[name]) for member in members}
    return None if None in roots else len(roots) == 1


def in_words(found: Sequence[Share]) -> str:
    """One line of it; empty where there is nothing to say."""
    total, same = sum(s.nbytes for s in found), sum(s.common for s in found)
    if not same:
        return ""
    parts = ", ".join(f"{s.part} {_percent(s.common, s.nbytes)}" for s in found)
    inside = f" ({parts})" if len(found) > 1 else ""
    return f"{_percent(same, total)} of the bytes are the same in all members{inside}"


def _percent(part: int, whole: int) -> str:
    """Rounded, but to 0% and 100% only where it is all or nothing."""
    share = round(100 * part / max(whole, 1))
    return f"{min(max(share, int(part > 0)), 99 if part < whole else 100)}%"
