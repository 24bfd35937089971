"""When a candidate can be given up before all of it is measured: the statistics, and no more.

A candidate c wins against the soup so far, s, if the mean over B benchmarks rises by more than
``min_gain``: D = (1/B) · sum_b (value_b(c) − value_b(s)) > min_gain. Where a benchmark's value is
100 times the mean of its samples' outcomes, its part of D is a mean of paired differences
d_i = outcome_i(c) − outcome_i(s) over N samples, all outcomes of s being known.

Samples are answered in a fixed order that is as good as random, ten slices to a benchmark. After
each of the first nine slices of all benchmarks there is a look: has the candidate lost?

- For certain, when D ≤ min_gain even if all that is left were answered right.
- With confidence P, when an upper bound of D is ≤ min_gain. The n samples seen of a benchmark are a
  random sample without replacement of its N, one stratum among B (stratified random sampling:
  Cochran, Sampling Techniques, 3rd edition, 1977, chapter 5). What they say of the rest:

      u   = sum d_i / (n + 2)                          the expected difference of an unseen one
      v   = (sum d_i² + 2) / (n + 2) − u²              its variance
      D̃   = (100/B) · sum_b [ (n/N)·mean(d_i) + (1 − n/N)·u ]
      V   = (100/B)² · sum_b (1 − n/N) · v / n         with finite population correction

      bound = D̃ + z·√V,   z the normal quantile of 1 − (1 − P)/9

  Two imagined pairs in u and v, one won and one lost, keep the variance from vanishing where few
  pairs disagree (Bonett & Price 2012, J. Educ. Behav. Stat. 37; cf. Agresti & Min 2005, Stat.
  Med. 24). Dividing 1 − P by the number of looks (Bonferroni) makes the bound hold for all of
  them together, however they depend on each other.

Assumptions: the sum of the slices' differences is about normally distributed, which the first looks
at benchmarks of less than about a hundred samples strain; and slices are random, which holds for
samples in a fixed shuffled order whatever the benchmark's own. So 1 − P is an approximate bound on
how often a candidate that would have won on all samples is stopped, for each candidate; it is no
bound for a whole run. A candidate that is not stopped is measured in full: nothing is won early.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum, sqrt
from statistics import NormalDist

LOOKS = 10
"""Slices of each benchmark; after all but the last there is a look."""

TIE = 1e-9
"""Points: what is smaller is the last bits of a sum."""


@dataclass(frozen=True)
class Stopped:
    """A candidate that was given up.

    Attributes:
        samples: questions answered.
        of: questions in all, over all benchmarks.
        estimate: what the samples seen say of D: points of the mean, candidate minus soup so far.
    """

    samples: int
    of: int
    estimate: float

    def __str__(self) -> str:
        share = f"{self.samples:,} of {self.of:,} samples"
        return f"stopped after {share} (estimate {self.estimate:+.2f})"


@dataclass(frozen=True)
class Pairs:
    """One benchmark, answered in part.

    Attributes:
        differences: per sample seen, the candidate's outcome minus the soup's, −1 to 1; not empty.
        unseen: per sample not seen, the soup's outcome, 0–1.
        share: of the mean, 0–1; None where all benchmarks count alike.
    """

    differences: Sequence[float]
    unseen: Sequence[float]
    share: float | None = None


@dataclass(frozen=True)
class Outlook:
    """What is known of D, in points.

    Attributes:
        estimate: the differences seen, taken for all.
        bound: D is not higher, with the confidence asked for.
        possible: D if all that is left were answered right.
    """

    estimate: float
    bound: float
    possible: float

    def lost(self, min_gain: float) -> bool:
        """Whether the candidate cannot win; a tie is no win."""
        return min(self.bound, self.possible) <= min_gain + TIE


def outlook(pairs: Sequence[Pairs], known: Sequence[float], confidence: float) -> Outlook:
    """What one look sees.

    Args:
        pairs: benchmarks answered in part.
        known: of each other benchmark the difference of its values, in points; where not all count
            alike, times its share and the number of benchmarks.
        confidence: P, above 0.5 and below 1, for all looks together.
    """
    count = len(pairs) + len(known)
    share = 100 / count
    estimates, means, variances, possible = [], [], [], []
    for pair in pairs:
        seen, left = len(pair.differences), len(pair.unseen)
        size = seen + left
        total = fsum(pair.differences)
        expected = total / (seen + 2)
        weight = 1.0 if pair.share is None else pair.share * count
        squares = fsum(d * d for d in pair.differences)
        variance = (squares + 2) / (seen + 2) - expected**2
        estimates.append(weight * total / seen)
        means.append(weight * (total + left * expected) / size)
        variances.append(weight**2 * left / size * variance / seen)
        possible.append(weight * (total + fsum(1 - outcome for outcome in pair.unseen)) / size)
    sure = fsum(known) / 100
    z = NormalDist().inv_cdf(1 - (1 - confidence) / (LOOKS - 1))
    return Outlook(
        share * (sure + fsum(estimates)),
        share * (sure + fsum(means) + z * sqrt(fsum(variances))),
        share * (sure + fsum(possible)),
    )


def slices(samples: Iterable[str], seed: str) -> list[list[str]]:
    """Samples in an order as good as random, the same for the same seed, in ``LOOKS`` slices.

    Slices are equally long, give or take one; the first is not empty.
    """
    order = sorted(samples, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    ends = [-(-len(order) * k // LOOKS) for k in range(LOOKS + 1)]
    return [order[start:end] for start, end in pairwise(ends)]
