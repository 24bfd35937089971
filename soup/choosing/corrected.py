"""What a greedy soup will gain on new questions: its own gain, less what choosing made of it.

A soup is chosen by the very numbers that it is then praised for, and so is the best single member
(the winner's curse). So all recorded blends, rejected trials too, are estimated together:

    y = θ + ε,  ε ~ N(0, Σ)         numbers of members and trials; Σ from their paired outcomes
    θ_j = μ + τ_m · e_j             members; μ is not bounded
    θ_T = (K·θ_S + θ_j)/(K + 1) + 2/(K + 1) · β_T
                                    a trial that adds j to a soup S of K members: what lies between
                                    them, and a bonus for being averaged, less for later ones
    β_T = β + τ_d · e_T             bonuses: what they have in common, and each its own

**Members and what bonuses have of their own** are believed by Bayes' rule, which selection does not
touch: it does not depend on which of the numbers one then looks at (Dawid 1994; Efron 2011, J. Am.
Stat. Assoc. 106, "Tweedie's formula and selection bias"). Each τ² is 0 with the probability in
``NONE``, else, equally likely, one of ``STEPS`` times the sampling variance of what it is the
spread of. Between these (25 of them) all is Gaussian, so the result is a weighted sum of normal
distributions: no sampling, no seed.

**What they have in common, β,** has no prior: it is estimated from the trials alone, and that is
where choosing flatters. Whether trial t was kept is decided by the past and by what t's number
adds to it, its innovation. In the order in which all was scored, with V = τ_m²·… + τ_d²·… + Σ the
covariance of y and C·C' = V, the innovations C⁻¹·(y − E y) are independent, and those of other
trials do not know whether t was kept, later ones not at all. So what the soup gains by a step is
counted with the β that the other innovations tell:

    gain = E[θ_S − θ_best | y, β = 0] − (its share of β)·β̂ + Σ_{t kept} (x_t − x_before)·β̂_(t)

x is a blend's factor of β, 2 · (1 − 1/K) of K members; β̂ is the generalised least squares estimate
from all innovations, β̂_(t) that without t's. This holds for whatever rule a trial was kept by. With
fewer than ``ENOUGH`` trials the others tell too little: then β is one more spread with a prior.

benchmarks/simulations.py measures bias, error and coverage, and of what else was tried;
docs/statistics.md has the tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from soup.choosing.difference import Corrected as Corrected  # known from here, too
from soup.choosing.quantiles import normal
from soup.choosing.statistics import Array

STEPS = (1.0, 4.0, 16.0, 64.0)
NONE = (0.5, 0.8, 0.6)
"""That members do not differ; that bonuses do not differ; that there is none in common (the last
only where there are too few trials)."""

IMAGINED = 0.5
"""How much of the variance of imagined clusters is in Σ (``Paired.covariance``): all of it hides so
much of what blends' errors share that the innovations of few questions lean on each other."""

ENOUGH = 3
"""Trials: of fewer, leaving one out leaves one or none to tell what they have in common."""


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
    contrast = np.zeros(count)
    contrast[soup] += 1
    contrast[best] -= 1
    y = means - means[:many].mean()
    members, bonuses = linear[:, :many], linear[:, many:]
    own_m, own_t, ones, x = (
        members @ members.T,
        bonuses @ bonuses.T,
        np.ones((count, 1)),
        bonuses.sum(1),
    )
    scales = [_spreads(*pair) for pair in _scales(linear, covariance, many)]
    found = []
    if len(trials) < ENOUGH:
        for (m, p_m), (d, p_d), (n, p_n) in product(*scales):
            prior = m * own_m + d * own_t + n * np.outer(x, x)
            normals = _Normals(y, ones, prior, covariance, contrast)
            found.append((np.log(p_m * p_d * p_n) + normals.likelihood, *normals.gain()))
    else:
        gained = _gained(x, trials, soup, many)
        for (m, p_m), (d, p_d) in product(*scales[:2]):
            prior = m * own_m + d * own_t
            normals = _Normals(y, np.column_stack([ones, x]), prior, covariance, contrast)
            found.append((np.log(p_m * p_d) + normals.likelihood, *normals.gain(gained)))
    logs, middle, spread = np.array(found).T
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    low, high = (_quantile(weights, middle, spread, q) for q in (0.025, 0.975))
    return Corrected(float(weights @ middle), low, high)


def _gained(x: Array, trials: Sequence[Trial], soup: int, many: int) -> dict[int, float]:
    """By the place of a trial that was kept: the share of β that it brought."""
    gained = {}
    while soup >= many:
        before = trials[soup - many].before
        gained[soup] = float(x[soup] - x[before])
        soup = before
    return gained


class _Normals:
    """y ~ N(X·b, prior + covariance), b unbounded; what is believed of contrast·θ.

    Attributes:
        likelihood: log, b integrated out.
    """

    def __init__(
        self, y: Array, x: Array, prior: Array, covariance: Array, contrast: Array
    ) -> None:
        both = prior @ contrast
        factor = np.linalg.cholesky(prior + covariance)
        # Innovations, in the order in which all was scored: members, then trials.
        white = np.linalg.solve(factor, np.column_stack([y, both, x]))
        self._y, self._both, self._x = white[:, 0], white[:, 1], white[:, 2:]
        self._variance = float(contrast @ both)
        information = self._x.T @ self._x
        self._fit = np.linalg.solve(information, self._x.T)
        left = self._y - self._x @ (self._fit @ self._y)
        self.likelihood = float(
            -left @ left / 2
            - np.log(factor.diagonal()).sum()
            - np.linalg.slogdet(information)[1] / 2
        )

    def gain(self, gained: Mapping[int, float] | None = None) -> tuple[float, float]:
        """Mean and standard deviation; ``gained``: shares of β, each by the others' innovations."""
        weights = self._both - (self._both @ self._x) @ self._fit
        for place, share in (gained or {}).items():
            others = self._x.copy()
            others[place] = 0
            weights = weights + share * np.linalg.solve(others.T @ others, others.T)[1]
        variance = weights @ weights - 2 * weights @ self._both + self._variance
        return float(weights @ self._y), float(np.sqrt(max(variance, 1e-12)))


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
