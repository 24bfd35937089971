"""soup/choosing/recipes.py: the three soups, against their definitions."""

from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.choosing.recipes import average, greedy, maximum


def members(count: int) -> list[Checkpoint]:
    """Members that are only names; recipes look at nothing else."""
    made = [Checkpoint(Path(f"/m{k}"), f"m{k}", {}, (), {}) for k in range(count)]
    for k, member in enumerate(made):
        member.remember_digest(str(k))
    return made


def mix(some: Sequence[Checkpoint]) -> Blend:
    """The equal average."""
    return Blend(tuple(some), some[0])


def reference_greedy(
    singles: list[float], acc: dict[tuple[int, ...], float]
) -> tuple[list[tuple[int, float, bool]], list[int]]:
    """The definition, on recorded scores."""
    order = sorted(range(len(singles)), key=lambda k: -singles[k])
    kept, best = [order[0]], singles[order[0]]
    path = [(order[0], best, True)]
    for k in order[1:]:
        mean = acc[(*kept, k)]
        path.append((k, mean, mean > best))
        if mean > best:
            kept, best = [*kept, k], mean
    return path, kept


@given(
    # few different scores: ties between members, and between a trial and the best, are common
    singles=st.lists(st.integers(0, 4).map(float), min_size=1, max_size=6),
    data=st.data(),
)
def test_greedy_decides_as_the_definition(singles: list[float], data: st.DataObject) -> None:
    """Order, ties, strict rises and rejections equal the ten-line reference."""
    recorded: dict[tuple[int, ...], float] = {}
    pool = members(len(singles))

    def acc(blend: Blend) -> float:
        key = tuple(pool.index(member) for member in blend.members)
        if len(key) == 1:
            return singles[key[0]]
        if key not in recorded:
            recorded[key] = data.draw(st.integers(0, 6).map(float), label=str(key))
        return recorded[key]

    decisions = list(greedy(pool, mix, acc))
    path, kept = reference_greedy(singles, recorded)
    found = [(int(d.tried[1:]), d.mean, d.kept) for d in decisions]
    assert found == path
    last = next(d for d in reversed(decisions) if d.kept)
    assert [pool.index(member) for member in last.blend.members] == kept


def test_min_gain_must_be_exceeded() -> None:
    """A rise of exactly the minimum is not enough."""
    pool = members(3)
    table = {"m0": 50.0, "m1": 40.0, "m2": 30.0, "m0m1": 50.5, "m0m2": 50.75}
    acc = lambda blend: table["".join(m.name for m in blend.members)]  # noqa: E731
    kept = [d.tried for d in greedy(pool, mix, acc, min_gain=0.5) if d.kept]
    assert kept == ["m0", "m2"]


def test_maximum_is_the_best_member_and_the_first_of_equals() -> None:
    """Argmax over the pool."""
    pool = members(3)
    scores = {"m0": 1.0, "m1": 2.0, "m2": 2.0}
    (decision,) = maximum(pool, mix, lambda blend: scores[blend.members[0].name])
    assert (decision.tried, decision.mean, decision.kept) == ("m1", 2.0, True)


def test_average_is_all_members_and_needs_no_score() -> None:
    """Equal coefficients, no scorer asked."""
    pool = members(4)
    (decision,) = average(pool, mix)
    assert decision.blend.members == tuple(pool)
    assert decision.blend.weights == (0.25,) * 4
    assert decision.mean is None
