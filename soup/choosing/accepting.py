"""When a rise is enough to keep a member: ``--accept significant``.

POINTS keeps every member whose trial scores higher, however little. Here a rise must also be one
that chance makes rarely: each trial is a one-sided sign-flip test (``soup.choosing.statistics``)
against the soup so far, at the level alpha divided by the number of trials that the run could make
(Bonferroni). So where no trial is truly better than the soup it was tried against, a whole run
keeps anybody with a chance of at most alpha, however the trials depend on each other. That the
first soup is the best of many members by the same questions only makes it harder to beat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soup.blending.blend import Blend
from soup.choosing.comparing import pair
from soup.choosing.journal import Journal
from soup.choosing.scoring import Benchmark
from soup.errors import ScoringError


@dataclass(frozen=True)
class Significant:
    """Says whether a trial's rise is significant; a ``soup.choosing.recipes.Accept``.

    Attributes:
        journal: holds the results of what is compared.
        benchmarks: whose mean decides.
        weights: by benchmark its share of the mean; they sum to one.
        alpha: the chance that a run keeps anybody where nobody helps, above 0 and below 1.
        trials: how many the run could make.
    """

    journal: Journal
    benchmarks: Sequence[Benchmark]
    weights: Mapping[str, float]
    alpha: float
    trials: int

    def __call__(self, trial: Blend, soup: Blend) -> bool:
        """Both are scored.

        Raises:
            ScoringError: there are no outcomes of single questions to test.
        """
        return self.of(trial.key, soup.key)

    def of(self, trial: str, soup: str) -> bool:
        """The same by their keys."""
        digests = {benchmark.name: benchmark.digest for benchmark in self.benchmarks}
        paired = pair(self.journal, digests, [trial, soup], self.weights)
        (found,) = paired.differences([(0, 1)])
        if found.above is None:
            raise ScoringError(
                f"--accept significant cannot test a rise: {found.unknown}; use --accept gain"
            )
        return found.above <= self.alpha / max(self.trials, 1)
