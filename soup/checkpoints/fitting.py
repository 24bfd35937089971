"""Members fitted to a reference: its names for theirs, and its choice of tied tensors.

All from headers. The digest stays that of what a member stores, whatever pool it is in.
"""

from collections.abc import Sequence
from dataclasses import replace

from soup.checkpoints import names, ties
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.problems import AS_IF


def fit(member: Checkpoint, reference: Checkpoint) -> Checkpoint:
    """``member`` with the reference's names and its set of tied tensors.

    What neither names nor ties explain stays as it is, for the pool to report.
    """
    return ties.fit(_renamed(member, reference), reference)


def _renamed(member: Checkpoint, reference: Checkpoint) -> Checkpoint:
    """``member`` with the reference's names for tensors that only their prefixes tell apart."""
    called = names.match(member.tensors, reference.tensors)
    if not called:
        return member
    tensors = {
        called.get(name, name): replace(info, name=called.get(name, name))
        for name, info in member.tensors.items()
    }
    # Old names stay, for the digest, which is of what is stored.
    updates = dict(member.updates)
    updates |= {called[name]: update for name, update in member.updates.items() if name in called}
    note = (
        f"names differ from {reference.name}'s by their prefixes alone{AS_IF}"
        f"{names.in_words(called)}"
    )
    return replace(
        member,
        tensors=tensors,
        updates=updates,
        stored=member.tensors if member.stored is None else member.stored,
        notes=(*member.notes, note),
    )


def fit_all(members: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Members fitted to the first, with the ties that must be proven of each.

    A member that stores both of a pair must have them equal where its config ties them, and
    where another member has only one of them, unless its config says that they are not tied.
    """
    reference, *others = members
    renamed = [reference, *(_renamed(member, reference) for member in others)]
    known = {name for member in renamed for name in ties.tieable(member.tensors)}
    lacking = {name for name in known if any(name not in member.tensors for member in renamed)}
    fitted = []
    for member, alike in zip(members, renamed, strict=True):
        said = ties.is_tied(member.config)
        stored = dict(zip(alike.tensors, member.tensors, strict=True))  # of one order
        both = tuple(
            (stored[head], stored[embedding])
            for head, embedding in ties.pairs(alike.tensors)
            if said or (said is None and lacking.intersection((head, embedding)))
        )
        fitted.append(ties.fit(replace(alike, ties=(*alike.ties, *both)), reference))
    return fitted
