"""Maximum, average, greedy: from a pool and its scores to decisions, ending in a blend.

The definitions are those of POINTS (Liu et al. 2024, arXiv:2409.04828, section "Model Soup") and
of Model Soups (Wortsman et al. 2022, arXiv:2203.05482, Recipe 1).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.choosing.confident import Stopped
from soup.choosing.expecting import chance, trials

Acc = Callable[[Blend], float]
"""The mean of the chosen benchmarks, 0–100, of a blend."""

Trial = Callable[[Blend, Blend], float | Stopped]
"""The Acc of a candidate, or that it was given up because it cannot beat the second blend."""

Accept = Callable[[Blend, Blend], bool]
"""Whether the first blend's rise over the second is enough, where there is one."""

Expect = Callable[[Sequence[tuple[Blend, float]]], None]
"""Told of blends that may be scored, and how likely that is; the first of them is certain."""

AHEAD = 64
"""Trials that are foreseen, at most; for hundreds of idle workers it is not worth more."""

Mix = Callable[[Sequence[Checkpoint]], Blend]
"""The blend of some members, summed in this order; of one member, that member."""


@dataclass(frozen=True)
class Decision:
    """One step of a recipe.

    Attributes:
        tried: the member that was added, or the soup's kind where all came at once.
        blend: what was scored.
        mean: its Acc, 0–100; None where nothing was scored, or not all.
        kept: whether the soup is this blend from now on.
        stopped: why scoring ended early; None where it did not.
        doubted: whether it rose, but not by enough to be sure of.
    """

    tried: str
    blend: Blend
    mean: float | None
    kept: bool
    stopped: Stopped | None = None
    doubted: bool = False


def rank(members: Sequence[Checkpoint], mix: Mix, acc: Acc) -> list[tuple[Checkpoint, float]]:
    """Members with their Acc, best first; those that tie in the order of ``settled``.

    So the order in which a user names them decides nothing.
    """
    scored = [(member, acc(mix([member]))) for member in settled(members)]
    return sorted(scored, key=lambda pair: -pair[1])


def settled(members: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Members in an order of their own: by content digest; of equal ones by name.

    The last bits of a float64 sum depend on order, and that in which a user names members must not
    change a bit.
    """
    return sorted(members, key=lambda member: (member.digest, member.name))


def distinct(ranked: Sequence[tuple[Checkpoint, float]]) -> list[tuple[Checkpoint, float]]:
    """Of members with the same weights the best: they may differ in the files beside them."""
    found: dict[str, tuple[Checkpoint, float]] = {}
    for member, mean in ranked:
        found.setdefault(member.digest, (member, mean))
    return list(found.values())


def maximum(members: Sequence[Checkpoint], mix: Mix, acc: Acc) -> Iterator[Decision]:
    """Maximum Soup: the member with the highest Acc."""
    best, mean = rank(members, mix, acc)[0]
    yield Decision(best.name, mix([best]), mean, kept=True)


def average(members: Sequence[Checkpoint], mix: Mix, acc: Acc | None = None) -> Iterator[Decision]:
    """Average Soup: all members; scored only where ``acc`` is given."""
    return as_given("average", mix(members), acc)


def as_given(kind: str, blend: Blend, acc: Acc | None = None) -> Iterator[Decision]:
    """A blend that is not chosen by scores; scored only where ``acc`` is given."""
    yield Decision(kind, blend, acc(blend) if acc else None, kept=True)


def greedy(
    members: Sequence[Checkpoint],
    mix: Mix,
    acc: Acc,
    min_gain: float = 0.0,
    attempt: Trial | None = None,
    accept: Accept | None = None,
    expect: Expect | None = None,
) -> Iterator[Decision]:
    """Greedy Soup: best first, keep each next member only if the average with it is better.

    Members with the same weights count once. The kept ones are summed in the order in which they
    were kept, which scores and contents decide: the same bits however the members were named.

    Args:
        members: the pool.
        mix: makes the blend of some of them.
        acc: scores a blend.
        min_gain: points of Acc, 0–100, that a rise must exceed; 0 is the definition.
        attempt: scores a trial against the soup so far where that may end early; what is stopped
            is not kept.
        accept: asked of each trial that rises; None keeps them all.
        expect: told before each trial which may follow it.
    """
    ranked = distinct(rank(members, mix, acc))
    best, highest = ranked[0]
    kept = [best]
    yield Decision(best.name, mix(kept), highest, kept=True)
    for k, (member, _) in enumerate(ranked[1:], 1):
        trial = mix([*kept, member])
        if expect is not None:
            likely = chance(len(kept) - 1, k - 1)
            after = trials(kept, [untried for untried, _ in ranked[k:]], likely, AHEAD)
            expect([(mix(members), share) for members, share in after])
        mean = attempt(trial, mix(kept)) if attempt else acc(trial)
        if isinstance(mean, Stopped):
            yield Decision(member.name, trial, None, kept=False, stopped=mean)
            continue
        rises = mean - highest > min_gain
        keep = rises and (accept is None or accept(trial, mix(kept)))
        yield Decision(member.name, trial, mean, kept=keep, doubted=rises and not keep)
        if keep:
            kept.append(member)
            highest = mean
