"""Buffers that a model computes by itself, and that some versions of transformers store.

``inv_freq`` and ``position_ids`` follow from config.json. Where one member stores one and another
does not, the model that is built from the other's files has it all the same: it is left out. So is
what transformers, if it is installed and knows the model, makes no use of.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from soup.checkpoints.asking import ask, unknown
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.names import Cores
from soup.checkpoints.ties import may_be_tied
from soup.words import counted, listed, shown

COMPUTED = (
    "inv_freq",
    "position_ids",
    "masked_bias",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
)
"""How the names of such buffers end."""

FEW = 4
"""Where no more than one of so many of a member's tensors are its own, transformers is asked for
them: else it is another model."""


def leave_out(members: Sequence[Checkpoint]) -> tuple[list[Checkpoint], list[str]]:
    """Members without the computed buffers that not all of them store, and what to say of it.

    Names need not agree yet: members saved by different versions may differ in their prefixes.
    Takes seconds where transformers has to be asked.
    """
    if all(member.tensors.keys() == members[0].tensors.keys() for member in members):
        return list(members), []
    stored = [Cores(member.tensors) for member in members]
    found, said = [], []
    for member in members:
        own = [n for n in member.tensors if not all(other.candidates(n) for other in stored)]
        computed = [name for name in own if name.endswith(COMPUTED)]
        if computed:
            what = counted(len(computed), "buffer")
            said.append(
                f"{member.name}: stores {what} ({_named(computed)}) that not all members "
                "do; the model computes them itself, so they are left out and the soup has none"
            )
        unused = _unused(member, [name for name in own if name not in computed])
        if unused:
            what = counted(len(unused), "tensor")
            said.append(
                f"{member.name}: stores {what} ({_named(unused)}) that not all members do "
                "and that its model makes no use of, as transformers says: left out, and the soup "
                "has none"
            )
        found.append(without(member, [*computed, *unused]))
    return found, said


def _named(names: Sequence[str]) -> str:
    """A few names, those of all layers as one."""
    starred = dict.fromkeys(
        re.sub(r"\d+", "*", name) if len(names) > FEW else name for name in names
    )
    return listed([shown(name, 120) for name in starred], FEW)


def _unused(member: Checkpoint, own: Sequence[str]) -> list[str]:
    """Those among a member's own tensors that its model, as transformers knows it, ignores."""
    own = [name for name in own if not may_be_tied(name) and name not in member.updates]
    if not own or FEW * len(own) > len(member.tensors) or unknown(member):
        return []
    asked = {
        "path": str(member.home),
        "rewritten": dict(member.rewritten),
        "tensors": [[name, list(info.shape)] for name, info in member.tensors.items()],
    }
    unexpected = Cores(ask(asked).get("unexpected", ()))  # by their names in memory, perhaps
    return [name for name in own if unexpected.candidates(name)]


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
