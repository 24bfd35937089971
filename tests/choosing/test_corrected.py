"""soup/choosing/corrected.py: the correction against brute force, and where it must end."""

from itertools import product

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

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


PATH = [Trial(0, 1, 1), Trial(4, 2, 2), Trial(4, 3, 2)]
"""Of four members: the second was kept, the third not, the fourth too."""


def four() -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """Numbers of four members and ``PATH``, and the covariance of their errors."""
    generator = np.random.default_rng(4)
    shared = generator.standard_normal((7, 9))
    covariance = shared @ shared.T / 9 + 0.5 * np.eye(7) + 1
    return np.array([62.0, 60.8, 60.5, 60.1, 63.0, 62.2, 63.7]), covariance


def by_hand(means: np.ndarray, covariance: np.ndarray) -> list[tuple[float, float, float]]:  # type: ignore[type-arg]
    """Weight, mean and standard deviation per choice of spreads; the soup is the last trial."""
    mixing = np.array([[0.5, 0.5, 0, 0], [1 / 3, 1 / 3, 1 / 3, 0], [1 / 3, 1 / 3, 0, 1 / 3]])
    of_members = np.vstack([np.eye(4), mixing])
    own = np.zeros((7, 3))  # of each trial's own bonus: the first is in both later soups
    own[4:] = [[1, 0, 0], [2 / 3, 2 / 3, 0], [2 / 3, 0, 2 / 3]]
    x = np.column_stack([np.ones(7), own.sum(1)])
    contrast = np.array([-1.0, 0, 0, 0, 0, 0, 1])
    m = covariance[:4, :4]
    between = float(np.diag(m).mean() * 4 / 3 - m.mean() * 4 / 3)
    back = np.linalg.inv(own[4:]) @ np.hstack([-of_members[4:], np.eye(3)])
    median = float(np.median(np.diag(back @ covariance @ back.T)))
    contrasts = null_space(x.T)
    found = []
    for a, d in product([0.0, *STEPS], [0.0, *STEPS]):
        prior = a * between * of_members @ of_members.T + d * median * own @ own.T
        both = prior + covariance
        likely = multivariate_normal(cov=contrasts.T @ both @ contrasts).pdf(contrasts.T @ means)
        chance = (NONE[0] if a == 0 else (1 - NONE[0]) / 4) * (
            NONE[1] if d == 0 else (1 - NONE[1]) / 4
        )
        # All is linear in y: the recorded numbers, and one by one what each is multiplied with.
        ys = np.vstack([means, np.eye(7)])
        rows, seen = [], []  # innovations one by one: what each adds to those before it
        for t in range(7):
            know = np.linalg.solve(both[:t, :t], both[:t, t])
            sd = np.sqrt(both[t, t] - both[t, :t] @ know)
            rows.append((x[t] - know @ x[:t]) / sd)
            seen.append((ys[:, t] - ys[:, :t] @ know) / sd)
        rows_, seen_ = np.array(rows), np.array(seen)

        def beta(
            without: int | None,
            rows: np.ndarray = rows_,  # type: ignore[type-arg]
            seen: np.ndarray = seen_,  # type: ignore[type-arg]
        ) -> np.ndarray:  # type: ignore[type-arg]
            others = [t for t in range(7) if t != without]
            return np.asarray(np.linalg.lstsq(rows[others], seen[others], rcond=None)[0])

        best = beta(None)
        left = ys - (x @ best).T
        gain = contrast @ x @ best + left @ np.linalg.solve(both, prior @ contrast)
        gain += (beta(4)[1] - best[1]) + (beta(6)[1] - best[1]) / 3
        times, off = gain[1:], gain[1:] - contrast
        spread = np.sqrt(times @ covariance @ times + off @ prior @ off)  # of gain − θ·contrast
        found.append((chance * likely, float(gain[0]), float(spread)))
    return found


def test_what_bonuses_have_in_common_is_told_by_the_other_trials() -> None:
    """Each step by least squares on the innovations of all but its own, and by scipy's normals."""
    means, covariance = four()
    found = corrected_gain(means, covariance, PATH, soup=6, best=0)
    weights, middle, spread = np.array(by_hand(means, covariance)).T
    weights /= weights.sum()
    assert found.gain == pytest.approx(weights @ middle)

    def beyond(value: float, q: float) -> float:
        return float(weights @ norm.cdf((value - middle) / spread) - q)

    assert found.low == pytest.approx(brentq(beyond, -50, 50, args=(0.025,)))
    assert found.high == pytest.approx(brentq(beyond, -50, 50, args=(0.975,)))


def test_a_trials_own_luck_is_not_believed() -> None:
    """Where all is in common, what the only kept trial has beyond its past changes nothing."""
    means, covariance = four()
    path = [Trial(0, 1, 1), Trial(0, 2, 1), Trial(0, 3, 1)]  # only the last was kept
    luck = np.zeros(7)
    luck[6] = 0.5  # the last innovation alone
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(corrected, "NONE", (1 - 1e-9, 1 - 1e-9, 0.5))
        first = corrected_gain(means, covariance, path, soup=6, best=0)
        more = corrected_gain(means + luck, covariance, path, soup=6, best=0)
    assert more.gain == pytest.approx(first.gain, abs=1e-6)
    assert more.low < more.gain < more.high


@pytest.mark.parametrize("bonus", [0.0, 1.5])
def test_on_average_it_is_right_whether_members_help_or_not(bonus: float) -> None:
    """Greedy runs of eight members on Gaussian numbers: at most a third of the flattery is left."""
    members, runs = 8, 250
    naive, error = [], []
    for k in range(runs):
        generator = np.random.default_rng([8, k])
        own = 1.5 * generator.standard_normal(members)
        y, blends = list(np.sort(own)[::-1]), [[j] for j in range(members)]
        own = np.array(y)
        soup, trials = 0, []
        for j in range(1, members):
            blend = [*blends[soup], j]
            # a soup's errors are as large as a member's: no gain but the bonus
            noise = own[blend].mean() + 1.5 * np.sqrt(1 - 1 / len(blend)) * (
                generator.standard_normal()
            )
            trials.append(Trial(soup, j, len(blends[soup])))
            blends.append(blend)
            y.append(noise + bonus * (1 - 1 / len(blend)))
            soup = len(blends) - 1 if y[-1] > y[soup] else soup
        overlap = np.array(
            [[len(set(a) & set(b)) / len(a) / len(b) for b in blends] for a in blends]
        )
        covariance = 1.5**2 * (overlap + np.diag([1 - 1 / len(blend) for blend in blends]))
        true = bonus * (1 - 1 / len(blends[soup]))
        naive.append(y[soup] - y[0] - true)
        error.append(corrected_gain(np.array(y), covariance, trials, soup, 0).gain - true)
    assert np.mean(naive) > 0.5
    assert abs(float(np.mean(error))) < float(np.mean(naive)) / 3
