"""Adapters that change an output head which their base does not store, as it is its embedding.

PEFT's ``ensure_weight_tying`` saves both halves, and equal. Where they are not, there is no model
of the base's kind that has both; and where only the head is changed, merging it into the tied
weight would change the embedding, too (PEFT's own merge does).
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from soup.checkpoints import ties
from soup.checkpoints.checkpoint import UNTIE, Checkpoint
from soup.checkpoints.names import Cores
from soup.checkpoints.tensors import TensorInfo
from soup.errors import CheckpointError

SAMPLE = 1 << 16  # bytes that are compared at once; all of them when the adapter is digested


def with_head(
    parent: Checkpoint, changed: Iterable[str]
) -> tuple[Checkpoint, tuple[tuple[str, str], ...]]:
    """The base with the tied heads that an adapter changes and that it does not store.

    Args:
        parent: the base.
        changed: names of the tensors that the adapter changes, as it calls them.

    Returns:
        The base with such heads as second names of its embedding, and pairs of head and embedding
        that must be equal.
    """
    if ties.is_tied(parent.config) is False:
        return parent, ()
    known = Cores(parent.tensors)
    tensors, pairs = dict(parent.tensors), []
    for name in changed:
        if not name.endswith(ties.HEADS) or name in parent.tensors or known.candidates(name):
            continue
        found = [info for other, info in parent.tensors.items() if other.endswith(ties.EMBEDDINGS)]
        if len(found) == 1:
            tensors[name] = replace(found[0], name=name)
            pairs.append((name, found[0].name))
    return replace(parent, tensors=tensors), tuple(pairs)


def require_both(directory: Path, checkpoint: Checkpoint, pairs: Iterable[tuple[str, str]]) -> None:
    """Say at once what would be found when the adapter is digested: that halves differ.

    Raises:
        CheckpointError: only one half is changed, or both are stored whole and differ early on.
    """
    for head, embedding in pairs:
        halves = [checkpoint.updates.get(name) for name in (head, embedding)]
        one, other = (update.inputs if update else () for update in halves)
        alone = not one or not other
        if alone or (len(one) == len(other) == 1 and _start(one[0]) != _start(other[0])):
            which = f"changes {head} alone" if alone else "makes them differ"
            raise CheckpointError(
                f"{directory}: {head} and {embedding} are one tensor in its base "
                f"{checkpoint.home}, but the adapter {which}; {UNTIE}"
            )


def _start(info: TensorInfo) -> tuple[str, bytes]:
    try:
        with info.file.open("rb") as stream:
            stream.seek(info.offset)
            return info.dtype, stream.read(min(SAMPLE, info.nbytes))
    except OSError as error:
        raise CheckpointError(f"{info.file}: cannot be read: {error.strerror}") from error
