"""soup/choosing/corrected.py: the correction against brute force, and where it must end."""

import numpy as np
import pytest

from soup.choosing import corrected
from soup.choosing.corrected import NONE, STEPS, Trial, corrected_gain


def test_the_posterior_is_that_of_weighted_draws() -> None:
    """Drawn from the prior and weighted by how well they explain the numbers."""
    means = np.array([60.0, 59.5, 61.0])
    covariance = np.array([[1.0, 0.6, 0.7], [0.6, 1.1, 0.7], [0.7, 0.7, 1.0]])
    found = corrected_gain(means, covariance, [Trial(0, 1, 1)], soup=2, best=0)
    generator = np.random.default_rng(0)
    n = 1_000_000
    # Of two members and one bonus: bonus = trial − middle, so its sampling variance is that.
    own = np.array([-0.5, -0.5, 1]) @ covariance @ np.array([-0.5, -0.5, 1])
    between = (1.0 + 1.1) - (1.0 + 1.1 + 1.2) / 2

    def spread(scale: float, none: float) -> np.ndarray:  # type: ignore[type-arg]
        step = generator.choice([0.0, *STEPS], n, p=[none, *[(1 - none) / 4] * 4])
        return np.sqrt(scale * step) * generator.standard_normal(n)

    steps = generator.choice([0.0, *STEPS], n, p=[NONE[0], *[(1 - NONE[0]) / 4] * 4])
    # μ is integrated by hand: only differences of the numbers are left.
    a, b = (np.sqrt(between * steps) * generator.standard_normal(n) for _ in range(2))
    bonus = spread(own, NONE[1]) + spread(own, NONE[2])
    theta = np.stack([a, b, (a + b) / 2 + bonus], 1)
    contrast = np.array([[-1.0, 1, 0], [-1.0, 0, 1]])
    seen, inverse = contrast @ means, np.linalg.inv(contrast @ covariance @ contrast.T)
    off = seen - theta @ contrast.T
    weights = np.exp(-0.5 * np.einsum("ni,ij,nj->n", off, inverse, off))
    gain = theta[:, 2] - theta[:, 0]
    mean = np.average(gain, weights=weights)
    assert found.gain == pytest.approx(mean, abs=0.03)
    order = np.argsort(gain)
    below = np.cumsum(weights[order]) / weights.sum()
    assert found.low == pytest.approx(gain[order][np.searchsorted(below, 0.025)], abs=0.08)
    assert found.high == pytest.approx(gain[order][np.searchsorted(below, 0.975)], abs=0.08)


def test_a_small_gain_is_mostly_taken_back_and_a_large_one_stays() -> None:
    """By how often chance alone makes such a gain."""
    covariance = 0.5 * np.eye(4) + 0.5

    def gain(by: float) -> float:
        means = np.array([60.0, 59.9, 60.0 + by, 59.8])
        members, trials = means[[0, 1, 3]], [Trial(0, 1, 1)]
        order = np.append(members, means[2])
        return corrected_gain(order, covariance, trials, soup=3, best=0).gain

    assert 0 < gain(0.5) < 0.25
    assert gain(10.0) > 8
    gains = [gain(by) for by in (0.5, 1, 2, 4, 8)]
    assert gains == sorted(gains)


def test_the_best_single_gains_nothing_over_itself() -> None:
    """Exactly, whatever the others did."""
    found = corrected.corrected_gain(np.array([3.0, 2.0]), np.eye(2), [], soup=0, best=0)
    assert found.to_dict() == {"gain": 0.0, "low": 0.0, "high": 0.0}
