"""soup/blending/methods.py: every method against its formula, written out again in loops."""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soup.blending.arithmetic import MERGE, Slice, kept
from soup.blending.methods import METHODS, RANGES, describe, find, require_weights
from soup.errors import UsageError

Rows = list[list[float]]


def test_every_method_has_its_arithmetic() -> None:
    """The table, which needs no torch, and the functions have the same names."""
    assert list(MERGE) == list(METHODS)


def merged(
    name: str,
    rows: Sequence[Sequence[float]],
    base: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
    **parameters: float,
) -> list[float]:
    """A method's result for small members; checks that it changes none of them."""
    members = [torch.tensor(row, dtype=torch.float64) for row in rows]
    origin = None if base is None else torch.tensor(base, dtype=torch.float64)
    values = {**METHODS[name].parameters, **parameters}
    result = MERGE[name](Slice("x", 0, members, origin, weights, values))
    assert result.dtype is torch.float64
    for member, row in zip(members, rows, strict=True):
        np.testing.assert_array_equal(member.numpy(), row)
    if origin is not None:
        np.testing.assert_array_equal(origin.numpy(), base)
    found: list[float] = result.tolist()
    return found


def close(found: Sequence[float], expected: Sequence[float]) -> None:
    """Equal but for the last bits of float64."""
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


@st.composite
def pools(draw: st.DrawFn, least: int = 1, quarters: bool = False) -> tuple[Rows, list[float]]:
    """Members and a base of one length; in quarters, ties of magnitude are frequent."""
    count, length = draw(st.integers(least, 4)), draw(st.integers(1, 9))
    value = (
        st.integers(-8, 8).map(lambda n: n / 4)
        if quarters
        else st.floats(-100, 100, width=32, allow_subnormal=False)
    )
    row = st.lists(value, min_size=length, max_size=length)
    return draw(st.lists(row, min_size=count, max_size=count)), draw(row)


weight = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, -0.5])


@given(pool=pools(), data=st.data())
def test_linear_is_the_weighted_sum(pool: tuple[Rows, list[float]], data: st.DataObject) -> None:
    """Without weights the mean; in exact fractions, with room for rounding alone."""
    rows, _ = pool
    weights = data.draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))
    columns = list(zip(*rows, strict=True))
    close(
        merged("linear", rows, weights=weights),
        [
            float(sum(Fraction(x) * Fraction(w) for x, w in zip(c, weights, strict=True)))
            for c in columns
        ],
    )
    close(merged("linear", rows), [float(sum(map(Fraction, c)) / len(rows)) for c in columns])


@given(pool=pools(), data=st.data(), scale=st.floats(-2, 2))
def test_task_arithmetic_adds_the_task_vectors(
    pool: tuple[Rows, list[float]], data: st.DataObject, scale: float
) -> None:
    """θ_0 + λ·Σ c_i·(θ_i − θ_0); each counts once without weights."""
    rows, base = pool
    drawn = data.draw(st.lists(weight, min_size=len(rows), max_size=len(rows)))
    for weights in (None, drawn):
        counts = [1.0] * len(rows) if weights is None else weights
        origin = np.array(base)
        expected = origin + scale * (np.array(counts) @ (np.array(rows) - origin))
        close(merged("task-arithmetic", rows, base, weights, **{"lambda": scale}), list(expected))


def ties_by_hand(
    rows: Rows, base: list[float], weights: Sequence[float], density: float, scale: float
) -> list[float]:
    """Algorithm 1 of TIES, one element and one member at a time."""
    size = len(base)
    vectors = [[x - b for x, b in zip(row, base, strict=True)] for row in rows]
    count = max(1, round(density * size))
    for vector in vectors:
        smallest = sorted((abs(x) for x in vector), reverse=True)[count - 1]
        for k in range(size):
            if abs(vector[k]) < smallest:
                vector[k] = 0.0
    result = []
    for k in range(size):
        votes = [w * v[k] for w, v in zip(weights, vectors, strict=True)]
        positive = sum(x for x in votes if x > 0)
        negative = -sum(x for x in votes if x < 0)
        if positive == negative:
            result.append(base[k])
            continue
        wins = [
            (x, abs(w))
            for x, w in zip(votes, weights, strict=True)
            if x != 0 and (x > 0) == (positive > negative)
        ]
        mean = sum(x for x, _ in wins) / sum(w for _, w in wins)
        result.append(base[k] + scale * mean)
    return result


@settings(max_examples=200)
@given(
    pool=pools(quarters=True),
    data=st.data(),
    density=st.sampled_from([0.1, 0.2, 0.5, 0.77, 1.0]),
    scale=st.sampled_from([0.3, 1.0]),
)
def test_ties_trims_elects_and_averages(
    pool: tuple[Rows, list[float]], data: st.DataObject, density: float, scale: float
) -> None:
    """As the algorithm written out, with equal magnitudes, cancelled votes and weights."""
    rows, base = pool
    weights = data.draw(st.none() | st.lists(weight, min_size=len(rows), max_size=len(rows)))
    expected = ties_by_hand(rows, base, weights or [1.0] * len(rows), density, scale)
    found = merged("ties", rows, base, weights, density=density, **{"lambda": scale})
    close(found, expected)


def test_ties_by_an_example_on_paper() -> None:
    """Two of five entries stay; where signs differ the larger sum wins; trimmed ones do not count.

    The task vectors 5 4 1 0 0, −7 0 0 3 1 and 1 0 6 2 0 become 5 4 . . ., −7 . . 3 . and
    . . 6 2 .
    """
    rows = [[15.0, 14, 11, 10, 10], [3, 10, 10, 13, 11], [11, 10, 16, 12, 10]]
    assert merged("ties", rows, [10] * 5, density=0.4) == [3, 14, 16, 12.5, 10]


def test_equal_weights_are_no_weights_to_ties() -> None:
    """The mean is over weights, so their size does not matter."""
    rows, base = [[1.0, -2, 3], [2, 2, -1]], [0.5, 0, 0]
    assert merged("ties", rows, base, [0.5, 0.5]) == merged("ties", rows, base)


MASK64 = (1 << 64) - 1


def splitmix(state: int) -> int:
    """One output of SplitMix64 for a state already advanced, in Python's integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK64
    return state ^ (state >> 31)


def mask_by_hand(seed: int, member: int, name: str, index: int, density: float) -> bool:
    """Whether DARE keeps one entry."""
    digest = hashlib.sha256(f"{seed} {member} {name}".encode()).digest()
    first = int.from_bytes(digest[:8], "little")
    return splitmix((first + (index + 1) * 0x9E3779B97F4A7C15) & MASK64) / 2**64 < density


def test_the_hash_is_splitmix64() -> None:
    """The test's own reference gives the outputs that the algorithm's authors published."""
    states = [(1234567 + k * 0x9E3779B97F4A7C15) & MASK64 for k in (1, 2, 3)]
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix(state) for state in states] == published


@given(
    pool=pools(),
    data=st.data(),
    density=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    scale=st.sampled_from([0.3, 1.0]),
    seed=st.integers(0, 2**53),
)
def test_dare_drops_scales_and_adds(
    pool: tuple[Rows, list[float]], data: st.DataObject, density: float, scale: float, seed: int
) -> None:
    """θ_0 + λ·Σ c_i·m_i·(θ_i − θ_0)/density, the mask by integers of Python."""
    rows, base = pool
    weights = data.draw(st.none() | st.lists(weight, min_size=len(rows), max_size=len(rows)))
    expected = list(base)
    for k, row in enumerate(rows):
        for element, value in enumerate(row):
            if mask_by_hand(seed, k, "x", element, density):
                change = (value - base[element]) / density
                expected[element] += scale * (1.0 if weights is None else weights[k]) * change
    found = merged("dare", rows, base, weights, density=density, seed=seed, **{"lambda": scale})
    close(found, expected)


@given(cuts=st.lists(st.integers(1, 999), max_size=5), start=st.sampled_from([0, 1, 2**40]))
def test_the_mask_does_not_depend_on_chunks(cuts: list[int], start: int) -> None:
    """Pieces of any size, far into a tensor too, are pieces of one mask."""
    borders = [0, *sorted(set(cuts)), 1000]
    pieces = [kept("k", start + a, b - a, 0.3) for a, b in pairwise(borders)]
    assert torch.equal(torch.cat(pieces), kept("k", start, 1000, 0.3))


def test_the_mask_is_random_and_its_own_for_each_key() -> None:
    """Within five standard deviations: its share, and how often neighbours and keys agree."""
    count, density = 200_000, 0.3
    mask = kept("0 0 x", 0, count, density)
    others = [kept(key, 0, count, density) for key in ("1 0 x", "0 1 x", "0 0 y")]
    bound = 5 * math.sqrt(density * (1 - density) / count)
    assert abs(mask.double().mean() - density) < bound
    for other in (*others, mask.roll(1), mask.roll(64)):
        both = (mask & other).double().mean()
        assert abs(both - density**2) < 5 * math.sqrt(density**2 * (1 - density**2) / count)
    assert torch.equal(mask, kept("0 0 x", 0, count, density))
    assert kept("k", 0, count, 1.0).all()


def test_dare_keeps_the_mean_of_task_vectors() -> None:
    """Rescaling makes up for what was dropped."""
    found = merged("dare", [[1.0] * 100_000], [0.0] * 100_000, density=0.1)
    assert set(found) == {0.0, 10.0}
    assert abs(np.mean(found) - 1) < 5 * math.sqrt(0.9 / 0.1 / 100_000)


@given(pool=pools(), t=st.floats(0, 1))
def test_slerp_follows_the_arc(pool: tuple[Rows, list[float]], t: float) -> None:
    """Shoemake's formula by the arc cosine, where that is exact enough."""
    (first, *_), second = pool
    a, b = np.array(first), np.array(second)
    lengths = math.sqrt(a @ a) * math.sqrt(b @ b)
    found = merged("slerp", [first, second], t=t)
    if lengths == 0 or abs((a @ b) / lengths) > 0.999:
        return
    angle = math.acos((a @ b) / lengths)
    expected = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_slerp_between_unit_vectors_stays_on_the_circle() -> None:
    """For small angles too: at half the way, half the angle."""
    for angle in (1e-5, 1e-3, 1.0, 3.1):
        x, y = merged("slerp", [[1.0, 0.0], [math.cos(angle), math.sin(angle)]], t=0.5)
        assert math.hypot(x, y) == pytest.approx(1, abs=1e-9)
        assert math.atan2(y, x) == pytest.approx(angle / 2, rel=1e-9)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0, 2.0], [2.0, 4.0]),
        ([1.0, 2.0], [-1.0, -2.0]),
        ([0.0, 0.0], [3.0, 4.0]),
        ([1.0], [5.0]),
    ],
)
def test_slerp_is_linear_where_there_is_no_arc(first: list[float], second: list[float]) -> None:
    """The same direction, the opposite one, a zero tensor, a single element."""
    expected = [0.75 * x + 0.25 * y for x, y in zip(first, second, strict=True)]
    close(merged("slerp", [first, second], t=0.25), expected)


def test_slerp_begins_and_ends_at_its_members() -> None:
    """To the bit."""
    rows = [[0.1, -0.7, 3.0], [1.3, 0.2, 0.0]]
    assert [merged("slerp", rows, t=t) for t in (0, 1)] == rows


@given(pool=pools(least=2))
def test_model_stock_weighs_base_and_mean_by_the_angle(pool: tuple[Rows, list[float]]) -> None:
    """The cosine is the mean over all pairs, one by one."""
    rows, base = pool
    origin = np.array(base)
    vectors = [np.array(row) - origin for row in rows]
    cosines = []
    for i in range(len(rows)):
        for j in range(i):
            length = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
            cosines.append(vectors[i] @ vectors[j] / length if length else 0.0)
    cosine, count = max(float(np.mean(cosines)), 0.0), len(rows)
    t = count * cosine / (1 + (count - 1) * cosine)
    expected = t * np.mean(rows, axis=0) + (1 - t) * origin
    np.testing.assert_allclose(merged("model-stock", rows, base), expected, rtol=1e-9, atol=1e-9)


def test_model_stock_at_its_ends() -> None:
    """Equal task vectors give the members, orthogonal and opposite ones the base."""
    assert merged("model-stock", [[3.0, 4.0]] * 3, [1.0, 1.0]) == pytest.approx([3, 4])
    assert merged("model-stock", [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0]) == pytest.approx([0, 0])
    assert merged("model-stock", [[1.0, 1.0], [-1.0, -1.0]], [0.0, 0.0]) == [0, 0]
    assert merged("model-stock", [[3.0, 4.0]], [1.0, 1.0]) == [3, 4]


@pytest.mark.parametrize("name", METHODS)
def test_equal_members_give_that_member(name: str) -> None:
    """Also where they did not leave the base, so that nothing is divided by zero."""
    for base in ([0.5, 0.0, 2.0], [0.0, 0.0, 0.0]):
        for row in ([0.5, 0.0, 2.0], [0.0, 0.0, 0.0]):
            if name == "task-arithmetic":
                close(merged(name, [row, row], base, [0.5, 0.5]), row)
            elif name == "dare":
                close(merged(name, [row, row], base, [0.5, 0.5], density=1.0), row)
            elif name == "ties":
                close(merged(name, [row, row], base, density=1.0), row)
            else:
                close(merged(name, [row, row], base), row)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_nan_and_inf_are_never_trimmed_or_dropped(name: str, bad: float, where: int) -> None:
    """They reach the result in any member or the base, where the engine finds and names them."""
    rows = [[1.0, 2.0, 3.0, 4.0], [4.0, -3.0, 2.0, 1.0], [0.1, 0.2, 0.3, 0.4]]
    if where == 2 and not METHODS[name].needs_base:
        return
    for element in range(4):
        changed = [list(row) for row in rows]
        changed[where][element] = bad
        found = merged(name, changed[:2], changed[2])
        assert not np.isfinite(found).all()


@pytest.mark.parametrize("name", METHODS)
def test_float64_extremes_do_not_overflow_on_the_way(name: str) -> None:
    """Norms are scaled, so huge and tiny members stay finite."""
    for size in (1e200, 1e-200):
        rows = [[size, -size, 0.0], [size, size, 0.0]]
        assert np.isfinite(merged(name, rows, [0.0, 0.0, size])).all()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("tise", {}, "unknown method 'tise'; did you mean ties?"),
        ("ties", {"densty": 1}, "ties has no parameter 'densty'; did you mean density?"),
        ("linear", {"t": 1}, "linear has no parameter 't'; it has none"),
        ("ties", {"density": 0}, r"ties: density: expected a number in \(0, 1\], found 0"),
        ("dare", {"density": 1.5}, r"expected a number in \(0, 1\], found 1.5"),
        ("dare", {"density": math.nan}, r"expected a number in \(0, 1\], found nan"),
        ("dare", {"seed": 0.5}, "seed: expected a whole number from 0 to 2.53, found 0.5"),
        ("dare", {"seed": math.inf}, "seed: expected a whole number"),
        ("slerp", {"t": -0.1}, r"slerp: t: expected a number in \[0, 1\], found -0.1"),
        ("ties", {"lambda": math.inf}, "lambda: expected a finite number, found inf"),
    ],
)
def test_methods_and_parameters_are_checked(
    name: str, parameters: dict[str, float], message: str
) -> None:
    """One line with what was expected and what was found."""
    with pytest.raises(UsageError, match=message):
        find(name, parameters)


def test_weights_are_checked() -> None:
    """One finite weight per member, for a method that has them."""
    require_weights("ties", [1, 0, -1], 3)
    with pytest.raises(UsageError, match="expected 3 weights, one per member .*, found 2"):
        require_weights("linear", [1, 2], 3)
    with pytest.raises(UsageError, match="weight 2: expected a finite number, found nan"):
        require_weights("linear", [1, math.nan], 2)
    with pytest.raises(UsageError, match="slerp takes no weights; .* one of linear, task-arith"):
        require_weights("slerp", [1, 2], 2)


def test_defaults_are_in_range_and_methods_describe_themselves() -> None:
    """Every parameter has a range that its default fits."""
    for method in METHODS.values():
        assert method.summary
        assert all(RANGES[key][1](value) for key, value in method.parameters.items())
    assert describe("ties", {"density": 0.3}) == "ties (density 0.3, lambda 1)"
    assert describe("linear", {}) == "linear"
