"""Whether tonight's soup is better than the published one: pure numbers in, a verdict out.

Both have answered the same questions. The verdict is

- **better** where all of these hold:
  its gain g (points of the mean) is more than ``min_gain``;
  g is more than one standard error of the difference;
  the one-sided sign-flip test of the difference (``soup.choosing.statistics``) has p ≤ alpha / k;
  no guard rail is broken;
- **not better** where g is not more than ``min_gain``, where a guard rail is broken, where the very
  same soup is published already, or where it was taken back by a rollback;
- **cannot tell** elsewhere: the number is higher, but not by enough to be sure. The smallest gain
  that could have been told (4 times in 5) is (z_{1 − alpha/k} + z_{0.8}) · SE, and never less than
  ``min_gain``.

Questions that are asked every night wear out: whoever keeps what scored higher by luck climbs on
luck. The Ladder mechanism (Blum & Hardt 2015, arXiv:1502.04585) lets an estimate move only where a
submission beats the best so far by a step, so that what loses by less tells nothing that could be
climbed on; its parameter-free form (section 3) takes for the step the standard error of the paired
difference to the best so far. So it is here: the published soup is the best so far, it alone is
compared with, and it is replaced only beyond that step. The paper's bound grows with the number of
rounds k (as its logarithm); our test takes the rounds into account as Bonferroni does: k is the
number of different soups, tonight's included, that were ever compared by any of these questions
with what is published in this place, and the k-th is tested at alpha / k. So a night with nothing
to find publishes with a chance of at most alpha / k, and K of them with at most
alpha · (1 + ln K) in all. What neither takes away: greedy has chosen tonight's soup by these same
questions, so the gain itself is flattered. Hold-outs are not; a guard rail may name one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from soup.errors import UsageError
from soup.words import did_you_mean

if TYPE_CHECKING:
    from soup.choosing.statistics import Paired

BETTER = "better"
NOT_BETTER = "not better"
CANNOT_TELL = "cannot tell"

EXIT_CODES: Mapping[str, int] = {BETTER: 0, NOT_BETTER: 3, CANNOT_TELL: 4}
"""Of a command that ends in a verdict."""

POWER = 0.8


@dataclass(frozen=True)
class Rules:
    """What a soup must do to be published.

    Attributes:
        min_gain: points of the mean that it must gain by more than, 0 or more.
        alpha: the chance to publish what is not better, see the module; above 0 and below 1.
        no_worse: by benchmark or hold-out the points that its number may fall by at most.
    """

    min_gain: float = 0.0
    alpha: float = 0.05
    no_worse: Mapping[str, float] = ()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "no_worse", dict(self.no_worse))
        if not self.min_gain >= 0:  # NaN, too, fails this
            raise UsageError(f"--min-gain {self.min_gain:g}: expected 0 or more points")
        if not 0 < self.alpha < 1:
            raise UsageError(f"--alpha {self.alpha:g}: expected more than 0 and less than 1")
        for name, points in self.no_worse.items():
            if not points >= 0:
                raise UsageError(f"--no-worse {name}:{points:g}: expected 0 or more points")

    def require_known(self, names: Sequence[str]) -> None:
        """Raises UsageError where a guard rail names none of these benchmarks."""
        for name in self.no_worse:
            if name not in names:
                hint = did_you_mean(name, names)
                raise UsageError(f"--no-worse {name}: no such benchmark in this run; {hint}")


@dataclass(frozen=True)
class Rail:
    """A guard rail: a benchmark on which the new soup may not fall by more than some points."""

    benchmark: str
    allowed: float
    new: float
    published: float

    @property
    def broken(self) -> bool:
        """Whether it fell further; by the numbers, to ten decimals."""
        return round(self.published - self.new - self.allowed, 10) > 0

    def __str__(self) -> str:
        how = "fell" if self.new < self.published else "rose"
        text = f"{self.benchmark} {how} from {self.published:.2f} to {self.new:.2f}"
        return f"{text}, a fall of {self.allowed:g} is allowed"


@dataclass(frozen=True)
class Pair:
    """What both soups reached on one benchmark, 0–100."""

    benchmark: str
    new: float
    published: float
    holdout: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a night ends in.

    Attributes:
        word: ``better``, ``not better`` or ``cannot tell``.
        why: in a line.
        gain: points of the mean, tonight's soup minus the published one; None where they were not
            compared.
        low: lower end of its 95% interval; None where it cannot be told.
        high: upper end.
        p: one-sided; that such a gain is chance.
        tellable: the smallest gain that could have been told; None where that is unknown.
        step: what the Ladder mechanism requires, points.
        level: what p was held against.
        nights: k, see the module; 0 where nothing was compared.
        pairs: benchmark by benchmark, hold-outs last.
        rails: guard rails.
    """

    word: str
    why: str
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    tellable: float | None = None
    step: float | None = None
    level: float | None = None
    nights: int = 0
    pairs: tuple[Pair, ...] = ()
    rails: tuple[Rail, ...] = ()

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return EXIT_CODES[self.word]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        found["pairs"] = [asdict(pair) for pair in self.pairs]
        found["rails"] = [asdict(rail) | {"broken": rail.broken} for rail in self.rails]
        return found

    @property
    def facts(self) -> list[str]:
        """What it rests on, in words, a line each."""
        lines = []
        if self.gain is not None and self.low is not None and self.high is not None:
            lines.append(
                f"gain over the published soup: {self.gain:+.2f} points, 95% interval "
                f"{self.low:+.2f} … {self.high:+.2f}, one-sided p {_p(self.p)}"
            )
        elif self.gain is not None:
            lines.append(f"gain over the published soup: {self.gain:+.2f} points")
        if self.step is not None and self.level is not None:
            lines.append(
                f"required: more than {self.step:.2f} points, one standard error (the step of the "
                f"Ladder mechanism, arXiv:1502.04585), and p at most {self.level:.2g}, as "
                f"{'this is the first soup' if self.nights == 1 else f'{self.nights} soups were'}"
                f"{' that was' if self.nights == 1 else ''} compared by these questions so far"
            )
        if self.tellable is not None:
            lines.append(f"the smallest gain that could have been told: {self.tellable:.2f} points")
        lines += [f"guard rail {'broken' if r.broken else 'held'}: {r}" for r in self.rails]
        return lines


def judge(paired: "Paired", pairs: Sequence[Pair], rules: Rules, nights: int) -> Verdict:
    """The verdict on the first of two blends against the second.

    Args:
        paired: both, the new one first, on the benchmarks that decide.
        pairs: their numbers on these and on the hold-outs.
        rules: what is required.
        nights: k, see the module; 1 or more.
    """
    (found,) = paired.differences([(0, 1)])
    by_name = {pair.benchmark: pair for pair in pairs}
    rails = tuple(
        Rail(name, allowed, by_name[name].new, by_name[name].published)
        for name, allowed in rules.no_worse.items()
    )
    level = rules.alpha / nights
    step = tellable = None
    if not found.unknown:
        v = paired.covariance()
        step = sqrt(max(float(v[0, 0] + v[1, 1] - v[0, 1] - v[1, 0]), 0.0))
        normal = NormalDist()
        reach = (normal.inv_cdf(1 - level) + normal.inv_cdf(POWER)) * step
        tellable = max(reach, step, rules.min_gain)
    word, why = _decide(found.gain, found.above, found.unknown, rails, rules, step, level)
    return Verdict(
        word,
        why,
        found.gain,
        found.low,
        found.high,
        found.above,
        tellable,
        step,
        None if step is None else level,
        nights,
        tuple(pairs),
        rails,
    )


def _decide(
    gain: float,
    p: float | None,
    unknown: str,
    rails: Sequence[Rail],
    rules: Rules,
    step: float | None,
    level: float,
) -> tuple[str, str]:
    if gain <= rules.min_gain:
        if rules.min_gain:
            return NOT_BETTER, f"{gain:+.2f} points, more than {rules.min_gain:g} are asked for"
        return NOT_BETTER, f"{gain:+.2f} points against the published soup"
    broken = [rail for rail in rails if rail.broken]
    if broken:
        return NOT_BETTER, f"{gain:+.2f} points of the mean, but {broken[0]}"
    if p is None or step is None:
        return CANNOT_TELL, f"{gain:+.2f} points, and how sure that is cannot be told: {unknown}"
    if gain <= step:
        return CANNOT_TELL, f"{gain:+.2f} points is less than one standard error, {step:.2f}"
    if p > level:
        return CANNOT_TELL, f"{gain:+.2f} points may be chance: p {_p(p)}, required {level:.2g}"
    return BETTER, f"{gain:+.2f} points, p {_p(p)}"


def _p(p: float | None) -> str:
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
