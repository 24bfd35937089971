"""Maximum, average, greedy: from a pool and its scores to decisions, ending in a blend.

The definitions are those of POINTS (Liu et al. 2024, arXiv:2409.04828, section "Model Soup") and
of Model Soups (Wortsman et al. 2022, arXiv:2203.05482, Recipe 1).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from soup.blend import Blend
from soup.checkpoint import Checkpoint

Acc = Callable[[Blend], float]
"""The mean of the chosen benchmarks, 0–100, of a blend."""


@dataclass(frozen=True)
class Decision:
    """One step of a recipe.

    Attributes:
        tried: the member that was added, or the soup's kind where all came at once.
        blend: what was scored.
        mean: its Acc, 0–100; None where nothing was scored.
        kept: whether the soup is this blend from now on.
    """

    tried: str
    blend: Blend
    mean: float | None
    kept: bool


def single(member: Checkpoint, reference: Checkpoint, dtype: str | None) -> Blend:
    """The blend that is one member."""
    return Blend((member,), reference, dtype=dtype)


def rank(
    members: Sequence[Checkpoint], reference: Checkpoint, acc: Acc, dtype: str | None = None
) -> list[tuple[Checkpoint, float]]:
    """Members with their Acc, best first; members that tie keep their order in the pool."""
    scored = [(member, acc(single(member, reference, dtype))) for member in members]
    return sorted(scored, key=lambda pair: -pair[1])


def maximum(
    members: Sequence[Checkpoint], reference: Checkpoint, acc: Acc, dtype: str | None = None
) -> Iterator[Decision]:
    """Maximum Soup: the member with the highest Acc."""
    best, mean = rank(members, reference, acc, dtype)[0]
    yield Decision(best.name, single(best, reference, dtype), mean, kept=True)


def average(
    members: Sequence[Checkpoint],
    reference: Checkpoint,
    acc: Acc | None = None,
    dtype: str | None = None,
) -> Iterator[Decision]:
    """Average Soup: all members, equal coefficients; scored only where ``acc`` is given."""
    blend = Blend(tuple(members), reference, dtype=dtype)
    yield Decision("average", blend, acc(blend) if acc else None, kept=True)


def greedy(
    members: Sequence[Checkpoint],
    reference: Checkpoint,
    acc: Acc,
    dtype: str | None = None,
    min_gain: float = 0.0,
) -> Iterator[Decision]:
    """Greedy Soup: best first, keep each next member only if the average with it is better.

    Args:
        members: the pool.
        reference: whose files the result takes after.
        acc: scores a blend.
        dtype: the output dtype.
        min_gain: points of Acc, 0–100, that a rise must exceed; 0 is the definition.
    """
    ranked = rank(members, reference, acc, dtype)
    best, highest = ranked[0]
    kept = [best]
    yield Decision(best.name, single(best, reference, dtype), highest, kept=True)
    for member, _ in ranked[1:]:
        trial = Blend((*kept, member), reference, dtype=dtype)
        mean = acc(trial)
        rises = mean - highest > min_gain
        yield Decision(member.name, trial, mean, kept=rises)
        if rises:
            kept.append(member)
            highest = mean
