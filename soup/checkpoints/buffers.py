"""Buffers that a model computes by itself, and that some versions of transformers store.

``inv_freq`` and ``position_ids`` follow from config.json. Where one member stores one and another
does not, the model that is built from the other's files has it all the same: it is left out.
"""

from collections.abc import Sequence
from dataclasses import replace

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.names import Cores
from soup.words import counted, shown

COMPUTED = (
    "inv_freq",
    "position_ids",
    "masked_bias",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
)
"""How the names of such buffers end."""


def leave_out(members: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[str]]:
    """Members without the computed buffers that not all of them store, and what to say of it.

    Names need not agree yet: members saved by different versions may differ in their prefixes.
    """
    theirs = [[n for n in member.tensors if n.endswith(COMPUTED)] for member in members]
    stored = [Cores(names) for names in theirs]
    found, said = [], []
    for member, names in zip(members, theirs, strict=True):
        alone = [name for name in names if not all(other.candidates(name) for other in stored)]
        found.append(without(member, alone))
        if alone:
            what = counted(len(alone), "buffer")
            said.append(
                f"{member.name}: stores {what} ({shown(alone[0], 120)}) that not all members do; "
                "the model computes them itself, so they are left out and the soup has none"
            )
    return found, said


def without(member: Checkpoint, names: Sequence[str]) -> Checkpoint:
    """A member without some of its tensors; its digest is of what is stored, as ever."""
    if not names:
        return member
    gone = set(names)
    return replace(
        member,
        tensors={name: info for name, info in member.tensors.items() if name not in gone},
        stored=member.tensors if member.stored is None else member.stored,
        left_out=(*member.left_out, *names),
    )
