"""What a greedy soup will gain on new questions: its own gain, less what choosing made of it.

A soup is chosen by the very numbers that it is then praised for, and so is the best single member
(the winner's curse). Bayes' rule is not touched by selection: what is believed after seeing *all*
numbers, those of rejected trials too, does not depend on which of them one then looks at (Dawid
1994; Efron 2011, J. Am. Stat. Assoc. 106, "Tweedie's formula and selection bias"). So all recorded
blends are estimated together, in an empirical Bayes model whose spreads the numbers themselves
choose, and the gain is read off:

    y = θ + ε,  ε ~ N(0, Σ)         numbers of members and trials; Σ from their paired outcomes
    θ_j = μ + τ_m · e_j             members; μ is not bounded
    θ_T = (K·θ_S + θ_j)/(K + 1) + 2/(K + 1) · β_T
                                    a trial that adds j to a soup S of K members: what lies between
                                    them, and a bonus for being averaged, less for later ones
    β_T = τ_n · e_0 + τ_d · e_T     bonuses: what they have in common, and each its own

Each τ² is 0 with the probability in ``NONE``, else, equally likely, one of ``STEPS`` times the
sampling variance of what it is the spread of. Between these (125 of them at most) all is Gaussian,
so the posterior is a weighted sum of normal distributions: no sampling, no seed.

Why not by repeated splits of the questions, with the recipe rerun on halves: most trials that a
rerun would make were never scored, and guessing them from the recorded gains of their parts
overcorrects by as much as the naive number errs; see ``benchmarks/simulations.py``, which measures
both, and docs/statistics.md for what this one keeps of its promise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from soup.choosing.difference import Corrected as Corrected  # known from here, too
from soup.choosing.quantiles import normal
from soup.choosing.statistics import Array

STEPS = (1.0, 4.0, 16.0, 64.0)
NONE = (0.5, 0.8, 0.6)
"""That members do not differ; that bonuses do not differ; that there is none in common."""

VAGUE = 30.0
"""Points: the spread of μ around the members' mean; as good as no bound."""


@dataclass(frozen=True)
class Trial:
    """One step of a path, as places among the blends: members first, trials behind them.

    Attributes:
        before: the soup so far: the best member, or an earlier trial.
        member: who was added.
        size: members of the soup so far.
    """

    before: int
    member: int
    size: int


def corrected_gain(
    means: Array,
    covariance: Array,
    trials: Sequence[Trial],
    soup: int,
    best: int,
) -> Corrected:
    """What ``soup`` gains over ``best``.

    Args:
        means: (n,) numbers, points, of all members and then of one blend for each of ``trials``.
        covariance: (n, n) of their sampling errors, square points, positive definite.
        trials: as they were tried.
        soup: the place of the chosen blend.
        best: the place of the member that had the highest number.
    """
    if soup == best:
        return Corrected(0.0, 0.0, 0.0)
    count, many = len(means), len(means) - len(trials)
    linear = np.eye(count)  # θ from members and bonuses
    for k, trial in enumerate(trials, many):
        linear[k] = (trial.size * linear[trial.before] + linear[trial.member]) / (trial.size + 1)
        linear[k, k] = 2 / (trial.size + 1)
    scales = _scales(linear, covariance, many)
    ones_m, ones_t = np.zeros((count, count)), np.zeros((count, count))
    ones_m[:many, :many] = ones_t[many:, many:] = 1
    vague, own_m, own_t, common = (
        linear @ part @ linear.T
        for part in (VAGUE**2 * ones_m, np.diag(ones_m.diagonal()), _diagonal(ones_t), ones_t)
    )
    contrast = np.zeros(count)
    contrast[soup] += 1
    contrast[best] -= 1
    logs, middles, spreads = [], [], []
    y = means - means[:many].mean()
    for (m, p_m), (d, p_d), (n, p_n) in product(*(_spreads(*pair) for pair in scales)):
        prior = vague + m * own_m + d * own_t + n * common
        factor = np.linalg.cholesky(prior + covariance)
        both = np.linalg.solve(factor, np.stack([y, prior @ contrast], 1))
        logs.append(
            np.log(p_m * p_d * p_n) - both[:, 0] @ both[:, 0] / 2 - np.log(factor.diagonal()).sum()
        )
        middles.append(both[:, 0] @ both[:, 1])
        spreads.append(contrast @ prior @ contrast - both[:, 1] @ both[:, 1])
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    middle, spread = np.array(middles), np.sqrt(np.maximum(spreads, 1e-12))
    low, high = (_quantile(weights, middle, spread, q) for q in (0.025, 0.975))
    return Corrected(float(weights @ middle), low, high)


def _diagonal(matrix: Array) -> Array:
    return np.diag(matrix.diagonal())


def _scales(linear: Array, covariance: Array, many: int) -> list[tuple[float, float]]:
    """Sampling variances of members, of bonuses, and of their mean, each with its chance of 0."""
    members = covariance[:many, :many]
    between = float((np.trace(members) - members.sum() / many) / max(many - 1, 1))
    inverse = np.linalg.inv(linear)
    bonuses = (inverse @ covariance @ inverse.T)[many:, many:]
    own = float(np.median(bonuses.diagonal()))
    common = float(1 / np.linalg.inv(bonuses).sum())
    return list(zip((between, own, common), NONE, strict=True))


def _spreads(scale: float, none: float) -> list[tuple[float, float]]:
    return [(0.0, none), *((scale * step, (1 - none) / len(STEPS)) for step in STEPS)]


def _quantile(weights: Array, middle: Array, spread: Array, q: float) -> float:
    """Of a weighted sum of normal distributions, by halving."""
    low, high = float((middle - 7 * spread).min()), float((middle + 7 * spread).max())
    for _ in range(60):
        half = (low + high) / 2
        below = np.array([normal(value) for value in (half - middle) / spread])
        if float(weights @ below) < q:
            low = half
        else:
            high = half
    return (low + high) / 2
