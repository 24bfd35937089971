"""Tied weights: an output head that is the input embedding, stored once or twice.

Transformers ties the two in memory where the config says so, and then saves one of them or both,
by version and by trainer. Members of a pool may differ in that. Each is fitted to the
reference's choice: what it lacks becomes a second name of what it has, and what it has twice is
dropped once it is known to be equal (``Checkpoint.ties``, proven when its bytes are first read).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint, TensorInfo

HEADS = ("lm_head.weight", "output.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "embed_in.weight")

BOTH = HEADS + EMBEDDINGS

MOST = 100
"""More heads or embeddings than this are no model's: nothing is paired, so that names that a
stranger chose cost no time."""

TEXT_CONFIGS = ("text_config", "llm_config", "language_config")
"""Where a vision-language config keeps its language model's settings."""


def is_tied(config: Mapping[str, Any]) -> bool | None:
    """What a ``config.json`` says about tied embeddings; None where it says nothing, or both.

    Silence means True in transformers' own default, but many classes have another one, and a
    config within a config may disagree with it: then the values must tell.
    """
    nested = (config.get(key) for key in TEXT_CONFIGS)
    configs = (config, *(value for value in nested if isinstance(value, dict)))
    said = {bool(c["tie_word_embeddings"]) for c in configs if "tie_word_embeddings" in c}
    return said.pop() if len(said) == 1 else None


def partner(name: str, tensors: Mapping[str, TensorInfo], like: TensorInfo) -> str | None:
    """The tensor that ``name`` would be tied to, of the shape and kind of ``like``.

    Args:
        name: a head's or an embedding's.
        tensors: those of one member.
        like: the tensor called ``name``, in this member or in another.

    Returns:
        The one candidate whose name has the longest path in common with ``name``; None where
        there is none, or more than one.
    """
    if not may_be_tied(name):
        return None
    others = EMBEDDINGS if _ends(name, HEADS) else HEADS
    found = [
        (_common(name, info.name), info.name)
        for info in tensors.values()
        if _ends(info.name, others)
        and len(info.shape) == 2
        and info.shape == like.shape
        and info.is_float
    ]
    longest = max((depth for depth, _ in found), default=0)
    best = [other for depth, other in found if depth == longest]
    return best[0] if len(best) == 1 else None


def may_be_tied(name: str) -> bool:
    """Whether a tensor's name is a head's or an embedding's."""
    return _ends(name, BOTH)


def tieable(names: Iterable[str]) -> list[str]:
    """Those of names that ``may_be_tied``."""
    return [name for name in names if name.endswith(BOTH) and _ends(name, BOTH)]


def _ends(name: str, endings: tuple[str, ...]) -> bool:
    if not name.endswith(endings):  # nearly all: there may be tens of thousands
        return False
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)


def _common(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count


def pairs(tensors: Mapping[str, TensorInfo]) -> list[tuple[str, str]]:
    """Heads and embeddings that a member stores both, each the other's only partner."""
    tied = tieable(tensors)
    if len(tied) > MOST:
        return []
    found = []
    for name in tied:
        info = tensors[name]
        other = partner(name, tensors, info) if _ends(name, HEADS) else None
        if other is not None and partner(other, tensors, info) == name:
            found.append((name, other))
    return found


def fit(member: Checkpoint, reference: Checkpoint) -> Checkpoint:
    """``member`` with the reference's set of tied tensors, from headers alone.

    What is neither tied nor the reference's stays as it is, for the pool to report.
    """
    if member is reference or is_tied(member.config) is False:
        return member
    if member.tensors.keys() == reference.tensors.keys():
        return member
    if max(len(tieable(m.tensors)) for m in (member, reference)) > MOST:
        return member
    tensors, updates = dict(member.tensors), dict(member.updates)
    for name, info in reference.tensors.items():
        if name in member.tensors:
            continue
        source = partner(name, member.tensors, info)
        if source is not None:
            tensors[name] = replace(member.tensors[source], name=name)
            if source in updates:
                updates[name] = updates[source]
    for name, info in member.tensors.items():
        if name not in reference.tensors and partner(name, tensors, info) in reference.tensors:
            del tensors[name]  # its update stays: the digest and the proof are of what is stored
    if tensors.keys() == member.tensors.keys():
        return member
    stored = member.tensors if member.stored is None else member.stored
    return replace(member, tensors=tensors, updates=updates, stored=stored)
