"""soup/choosing/confident.py: when a candidate has lost, by arithmetic and by simulation."""

import random
from collections.abc import Sequence
from fractions import Fraction
from math import sqrt
from statistics import NormalDist

import pytest

from soup.choosing.confident import LOOKS, Outlook, Pairs, Stopped, outlook, slices

Outcomes = Sequence[Sequence[float]]
"""Per benchmark, per sample, 0–1."""


def stops_at(soup: Outcomes, candidate: Outcomes, confidence: float, seed: str) -> int | None:
    """The look, from 1, at which the candidate is given up."""
    order = [slices(map(str, range(len(b))), f"{seed} {k}") for k, b in enumerate(soup)]
    for look in range(1, LOOKS):
        pairs = []
        for before, after, parts in zip(soup, candidate, order, strict=True):
            seen = {int(sample) for part in parts[:look] for sample in part}
            differences = [after[k] - before[k] for k in sorted(seen)]
            pairs.append(Pairs(differences, [o for k, o in enumerate(before) if k not in seen]))
        if outlook(pairs, [], confidence).lost(0.0):
            return look
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


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("disagreeing", [3, 11, 31])
@pytest.mark.parametrize(("count", "size"), [(1, 40), (3, 100), (2, 300)])
def test_a_winner_is_stopped_less_often_than_the_confidence_allows(
    count: int, size: int, disagreeing: int, confidence: float
) -> None:
    """Even one that wins by a single answer; 300 seeded candidates, whatever the sizes."""
    generator = random.Random(0)
    stopped = 0
    for trial in range(300):
        nets = [1, *[0] * (count - 1)]
        made = [answers(generator, size, 0.6, disagreeing + n - 1, n) for n in nets]
        soup, candidate = zip(*made, strict=True)
        assert sum(map(sum, candidate)) == sum(map(sum, soup)) + 1
        stopped += stops_at(soup, candidate, confidence, str(trial)) is not None
    assert stopped / 300 < 1 - confidence


def test_a_clear_loser_is_stopped_early() -> None:
    """Three benchmarks of 300, five points worse, a tenth of the answers other: mostly by half."""
    generator = random.Random(0)
    looks = []
    for trial in range(50):
        made = [answers(generator, 300, 0.8, 31, -15) for _ in range(3)]
        soup, candidate = zip(*made, strict=True)
        looks.append(stops_at(soup, candidate, 0.95, str(trial)))
    assert None not in looks
    assert sorted(look for look in looks if look)[25] <= LOOKS // 2


def test_a_certain_loss_needs_no_confidence() -> None:
    """Where even all the rest cannot make up for it, or can only make a tie."""
    pairs = [Pairs([-1.0, -1.0, -1.0], [0.0, 1.0, 0.0])]
    found = outlook(pairs, [], 0.999999)
    assert found.possible == pytest.approx(100 * (-3 + 2) / 6)
    assert found.bound > 0, "confidence alone would not stop it"
    assert found.lost(0.0)
    tie = [Pairs([-1.0, -1.0], [0.0, 0.0])]
    assert outlook(tie, [], 0.999999).lost(0.0)
    assert not outlook([Pairs([-1.0], [0.0, 0.0])], [], 0.999999).lost(0.0)
    assert outlook([Pairs([-1.0], [0.0, 0.0])], [], 0.999999).lost(100 / 3)


def test_the_bound_is_the_formula_in_the_module() -> None:
    """Two benchmarks in part and one in full, in exact arithmetic."""
    pairs = [Pairs([1.0, -1.0, 0.0, 0.0, -1.0], [0.0] * 15), Pairs([0.5, -0.5, 0.0], [1.0] * 7)]
    found = outlook(pairs, [-6.0], 0.9)
    means, variances = Fraction(0), Fraction(0)
    for pair in pairs:
        n, total = len(pair.differences), sum(map(Fraction, pair.differences))
        part = Fraction(n, n + len(pair.unseen))
        u = total / (n + 2)
        v = (sum(Fraction(d) ** 2 for d in pair.differences) + 2) / (n + 2) - u**2
        means += part * total / n + (1 - part) * u
        variances += (1 - part) * v / n
    z = NormalDist().inv_cdf(1 - 0.1 / 9)
    assert found.bound == pytest.approx(-2 + 100 / 3 * (float(means) + z * sqrt(variances)))
    assert found.estimate == pytest.approx((-6 - 20 + 0) / 3)
    assert found.possible == pytest.approx((-6 + 100 * (14 / 20) + 0) / 3)


def test_ties_are_no_wins() -> None:
    """The last bits of a sum count for nothing."""
    assert Outlook(0.0, 1e-12, 5.0).lost(0.0)
    assert not Outlook(0.0, 1e-6, 5.0).lost(0.0)


@pytest.mark.parametrize("size", [1, 2, 9, 10, 11, 300])
def test_slices_are_a_fixed_order_in_ten(size: int) -> None:
    """All samples once, whatever order they came in; another seed, another order."""
    samples = [str(k) for k in range(size)]
    found = slices(samples, "seed")
    assert found == slices(reversed(samples), "seed")
    assert len(found) == LOOKS
    assert found[0]
    assert sorted(sample for part in found for sample in part) == sorted(samples)
    assert max(map(len, found)) - min(map(len, found)) <= 1
    if size > 9:
        assert found != slices(samples, "another")


def test_what_was_stopped_says_so() -> None:
    """Samples answered, samples in all, and the difference in points."""
    assert str(Stopped(540, 1900, -2.314)) == "stopped after 540 of 1,900 samples (estimate -2.31)"
