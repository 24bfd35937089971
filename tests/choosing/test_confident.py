"""soup/choosing/confident.py: when a candidate has lost, by arithmetic and by simulation."""

import random
from collections.abc import Sequence
from itertools import product
from math import exp, inf, log, log1p, sqrt

import pytest

from soup.choosing.confident import LOOKS, Seen, Stopped, slices

Outcomes = Sequence[Sequence[float]]
"""Per benchmark, per sample, 0–1."""


def stops_at(soup: Outcomes, candidate: Outcomes, error: float, seed: str) -> float | None:
    """The share of questions after which the candidate is given up."""
    count = sum(map(len, soup))
    weights = [count / len(soup) / len(b) for b in soup]
    names = {f"{seed} {k}": list(map(str, range(len(b)))) for k, b in enumerate(soup)}
    every = [w for w, b in zip(weights, soup, strict=True) for _ in b]
    room = sum(w * (1 - o) for w, b in zip(weights, soup, strict=True) for o in b)
    seen: list[float] = []
    for part in slices(names)[:-1]:
        for digest, name in part:
            b, k = int(digest.split()[-1]), int(name)
            seen.append(weights[b] * (candidate[b][k] - soup[b][k]))
            room -= weights[b] * (1 - soup[b][k])
        if part and Seen(seen, room, every).lost(0.0, error):
            return len(seen) / count
    return None


def answers(
    generator: random.Random, size: int, share: float, disagreeing: int, net: int
) -> tuple[list[float], list[float]]:
    """The soup's and a candidate's outcomes on one benchmark, with a given net of wins."""
    right = int(share * size)
    soup = [1.0] * right + [0.0] * (size - right)
    candidate = list(soup)
    losses = (disagreeing - net) // 2
    for k in generator.sample(range(right), losses):
        candidate[k] = 0.0
    for k in generator.sample(range(right, size), losses + net):
        candidate[k] = 1.0
    return soup, candidate


@pytest.mark.parametrize("error", [0.2, 0.05])
@pytest.mark.parametrize("disagreeing", [3, 31])
@pytest.mark.parametrize("sizes", [(40,), (100, 60, 150), (200, 300)])
def test_a_winner_is_stopped_less_often_than_the_error_allows(
    sizes: tuple[int, ...], disagreeing: int, error: float
) -> None:
    """Even one that wins by a single answer; 100 seeded candidates, whatever the sizes."""
    generator = random.Random(0)
    stopped = 0
    for trial in range(100):
        made = [
            answers(generator, size, 0.6, disagreeing + n - 1, n)
            for size, n in zip(sizes, [1] * len(sizes), strict=True)
        ]
        soup, candidate = zip(*made, strict=True)
        assert sum(map(sum, candidate)) > sum(map(sum, soup))
        stopped += stops_at(soup, candidate, error, str(trial)) is not None
    spread = sqrt(error * (1 - error) / 100)
    assert stopped / 100 <= error + 2 * spread


def test_the_wealth_of_a_winners_enemy_is_one_at_most_on_average() -> None:
    """Over every order in which five questions can be drawn: exactly what the promise rests on."""
    weights = [1.25, 1.25, 1.25, 1.25, 5 / 9, 5 / 9, 5 / 9, 5 / 9, 5 / 9][:5]
    for values in product([-1.0, 0.0, 1.0], repeat=5):
        x = [w * v for w, v in zip(weights, values, strict=True)]
        if sum(x) < 0:
            continue
        total = 0.0
        orders = list(permuted(x))
        for order in orders:
            now, kept = 0.0, 0.0
            for k in range(1, 5):
                seen = Seen(order[:k], 9.0, weights)
                now = seen.wealth(0.0, 0.05)
                assert now >= kept - 1e-12, "the most that it has ever held"
                kept = now
            total += min(exp(now), 20) >= 20
        assert total / len(orders) <= 0.05


def permuted(values: list[float]) -> list[list[float]]:
    """Every order."""
    if not values:
        return [[]]
    return [
        [first, *rest]
        for k, first in enumerate(values)
        for rest in permuted(values[:k] + values[k + 1 :])
    ]


def test_a_clear_loser_is_stopped_early() -> None:
    """Three benchmarks of 300, five points worse, a tenth of the answers other: mostly by half."""
    generator = random.Random(0)
    stops = []
    for trial in range(30):
        made = [answers(generator, 300, 0.8, 31, -15) for _ in range(3)]
        soup, candidate = zip(*made, strict=True)
        stops.append(stops_at(soup, candidate, 0.05, str(trial)))
    assert None not in stops
    assert sorted(stop for stop in stops if stop)[15] <= 0.4


def test_a_certain_loss_needs_no_bet() -> None:
    """Where even all the rest cannot make up for it, or can only make a tie."""
    worse = Seen([-1.0, -1.0, -1.0], 2.0, [1.0] * 6)
    assert worse.possible == pytest.approx(100 * (-3 + 2) / 6)
    assert worse.wealth(0.0, 1e-6) < log(1e6), "bets alone would not stop it"
    assert worse.lost(0.0, 1e-6)
    assert Seen([-1.0, -1.0], 2.0, [1.0] * 4).lost(0.0, 1e-6)
    open_ = Seen([-1.0], 2.0, [1.0] * 3)
    assert not open_.lost(0.0, 1e-6)
    assert open_.lost(100 / 3, 1e-6)
    assert Seen([-1.0] * 4, 9.0, [1.0] * 4).wealth(0.0, 0.05) == inf


def test_the_wealth_is_the_formula_in_the_module() -> None:
    """Two benchmarks in part and one in full, by hand."""
    x = [2.0, -0.5, 0.0, -0.5, -2.0]
    weights = [2.0] * 5 + [0.5] * 20
    seen = Seen(x, 3.0, weights, known=-0.5)
    pace = 2 * log(20) / (0.6 * 25)
    square, total, now, best = 10 * 0.15 * (5 * 4 + 20 * 0.25) / 25, 0.0, 0.0, 0.0
    for k, value in enumerate(x):
        m = (25 * (0.25 + 0.5) / 100 - total) / (25 - k)
        bet = min(sqrt(pace / (square / (10 + k) - (total / (10 + k)) ** 2)), 0.9 / (2 - m))
        now += log1p(bet * (m - value))
        best = max(best, now)
        total, square = total + value, square + value**2
    assert seen.wealth(0.25, 0.05) == pytest.approx(best)
    assert seen.estimate == pytest.approx(-0.5 + 100 * -1 / 5)
    assert seen.possible == pytest.approx(-0.5 + 100 * 2 / 25)


def test_ties_are_no_wins() -> None:
    """The last bits of a sum count for nothing."""
    assert Seen([0.0], 1e-13, [1.0, 1.0]).lost(0.0, 0.05)
    assert not Seen([0.0], 1e-6, [1.0, 1.0]).lost(0.0, 0.05)


@pytest.mark.parametrize("size", [1, 2, 19, 20, 21, 300])
def test_slices_are_a_fixed_order(size: int) -> None:
    """All samples of all benchmarks once, whatever order they came in."""
    samples = [str(k) for k in range(size)]
    found = slices({"x": samples, "y": samples})
    assert found == slices({"y": samples[::-1], "x": samples[::-1]})
    assert len(found) == LOOKS
    assert found[0]
    every = [pair for part in found for pair in part]
    assert sorted(every) == sorted([(b, name) for b in "xy" for name in samples])
    assert max(map(len, found)) - min(map(len, found)) <= 1
    if size > 19:
        assert every != sorted(every)
        assert [pair for part in slices({"x": samples}) for pair in part] != [
            pair for pair in every if pair[0] == "x"
        ]


def test_what_was_stopped_says_so() -> None:
    """Samples answered, samples in all, and the difference in points."""
    assert str(Stopped(540, 1900, -2.314)) == "stopped after 540 of 1,900 samples (estimate -2.31)"
