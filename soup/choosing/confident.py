"""When a candidate can be given up before all of it is measured: the statistics, and no more.

A candidate c wins against the soup so far, s, if the weighted mean of the benchmarks rises by more
than ``min_gain``. Where a benchmark's value is 100 times the mean of its N_b outcomes, a question
adds a paired difference, and over all N questions of such benchmarks

    D = known + (100/N) · sum_i x_i,     x_i = N · w_b / N_b · (outcome_i(c) − outcome_i(s)),

w_b being a benchmark's share of the mean, and ``known`` what benchmarks add that are measured in
full. All outcomes of s are known. Questions of all benchmarks are answered in one fixed order that
is as good as random, slice by slice; after each slice but the last there is a look: has c lost?

- For certain, when D ≤ min_gain even if all that is left were answered right.
- Else by a bet against its winning. Did c win, D > min_gain, the next difference, drawn without
  replacement, would on average be at least what is still missing, per question:

      m_i = (N · g − sum_{j<i} x_j) / (N − i + 1),          g = (min_gain − known) / 100

  Whoever begins with 1 and puts λ_i on "x_i is less" holds

      W_n = prod_{i≤n} (1 + λ_i · (m_i − x_i)),

  which, if c wins, is a nonnegative supermartingale whatever is bet, as long as λ_i is settled
  before x_i is seen. So it ever reaches 1/e with a chance of at most e (Ville), at whatever looks,
  with whatever outcomes: no normal approximation, no correction for looking often (Waudby-Smith &
  Ramdas 2020, arXiv:2006.04347, and 2021, arXiv:2010.09686: sampling without replacement, bets).
  c is given up when it does. The bets are

      λ_i = min( √( 2 · ln(1/e) / (v_i · h · N) ), 0.9 / (max x − m_i) )

  v_i the variance of the differences before i, ``PRIOR`` imagined ones among them; this is the bet
  that grows fastest where the wealth arrives after a share h of the questions.

The error is that of a whole run: e = (1 − P) / the trials that it could make. So with a chance of
at least P no trial is stopped that would have won on all questions, however the trials depend on
each other. All that is assumed is that the order is random. A candidate that is not stopped is
measured in full: nothing is won early. ``benchmarks/confident.py`` compares this with the test of
earlier versions, a stratified normal one at nine looks.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import fsum, inf, log, log1p, sqrt

LOOKS = 20
"""Slices; after all but the last there is a look."""

TIE = 1e-9
"""Points: what is smaller is the last bits of a sum."""

SHARE = 0.6
"""Of the questions, after which the bets are to pay."""

PRIOR = 10
"""Imagined differences before the first."""

DISAGREE = 0.15
"""Share of questions on which these are none of 0."""

MOST = 0.9
"""Of what there is, at most, is put on one question."""


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
class Seen:
    """What is known of a candidate at a look.

    Attributes:
        differences: x_i of the questions answered, in their order; not empty.
        room: the sum of what the x_i left could be at most.
        weights: N · w_b / N_b of every question, answered or not.
        known: points of D that are known.
    """

    differences: Sequence[float]
    room: float
    weights: Sequence[float]
    known: float = 0.0

    @property
    def estimate(self) -> float:
        """D, in points, if the questions left were like those seen."""
        return self.known + 100 * fsum(self.differences) / len(self.differences)

    @property
    def possible(self) -> float:
        """D, in points, if all that is left were answered right."""
        return self.known + 100 * (fsum(self.differences) + self.room) / len(self.weights)

    def lost(self, min_gain: float, error: float) -> bool:
        """Whether the candidate is given up; a tie is no win.

        Args:
            min_gain: points that it must win by more than.
            error: the chance, above 0 and below 1, that one that would win ever is.
        """
        if self.possible <= min_gain + TIE:
            return True
        return self.wealth(min_gain, error) >= log(1 / error)

    def wealth(self, min_gain: float, error: float) -> float:
        """The logarithm of the most that betting against the candidate has ever held."""
        count, most = len(self.weights), max(self.weights)
        goal = count * (min_gain - self.known) / 100
        pace = 2 * log(1 / error) / (SHARE * count)
        square = PRIOR * DISAGREE * fsum(w * w for w in self.weights) / count
        total = now = best = 0.0
        for k, x in enumerate(self.differences):
            missing = (goal - total) / (count - k)
            if missing > most:
                return inf  # it cannot win any more
            if missing > -most:
                variance = square / (PRIOR + k) - (total / (PRIOR + k)) ** 2
                bet = sqrt(pace / variance)
                if missing < most:
                    bet = min(bet, MOST / (most - missing))
                now += log1p(bet * (missing - x))
                best = max(best, now)
            total += x
            square += x * x
        return best


def slices(samples: Mapping[str, Iterable[str]]) -> list[list[tuple[str, str]]]:
    """Samples of several benchmarks in one order as good as random, in ``LOOKS`` slices.

    The order is the same for the same benchmarks. Slices are equally long, give or take one; the
    first is not empty.

    Args:
        samples: by the benchmark's digest.

    Returns:
        Pairs of a digest and a sample.
    """
    every = [(digest, name) for digest, names in samples.items() for name in names]
    seed = " ".join(sorted(samples))
    order = sorted(every, key=lambda pair: hashlib.sha256(f"{seed} {pair}".encode()).digest())
    ends = [-(-len(order) * k // LOOKS) for k in range(LOOKS + 1)]
    return [order[start:end] for start, end in pairwise(ends)]
