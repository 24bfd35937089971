"""What a run has still to ask, and how long that takes: from its plan and earlier results."""

from collections.abc import Sequence
from dataclasses import dataclass

from soup.choosing.journal import Journal
from soup.choosing.scoring import Benchmark, recorded, result_key
from soup.events import Evaluation, Work

RECENT = 5  # newest results of a benchmark that its pace is taken from


@dataclass(frozen=True)
class Plan:
    """The evaluations of a run, at most.

    Attributes:
        evaluations: for each what it asks, in order.
        soup: the number, from 1, of the one that asks the finished soup; None where that has been
            asked everything by then, as a member or as a trial.
    """

    evaluations: tuple[tuple[Benchmark, ...], ...]
    soup: int | None = None


def plan(
    kind: str,
    members: int,
    candidates: int,
    benchmarks: Sequence[Benchmark],
    holdouts: Sequence[Benchmark],
) -> Plan:
    """The members, a greedy soup's trials, and the soup.

    Args:
        kind: of soup, or ``score``.
        members: of the pool.
        candidates: those of them that greedy tries: without duplicates.
        benchmarks: whose mean decides.
        holdouts: not asked of trials.
    """
    every = (*benchmarks, *holdouts)
    found = [every] * members
    if kind == "greedy":
        found += [tuple(benchmarks)] * (candidates - 1)
    of_its_own = kind == "blend" or (kind == "average" and members > 1)
    if kind == "greedy":
        of_its_own = candidates > 1 and bool(holdouts)
        every = tuple(holdouts)
    return Plan((*found, every), len(found) + 1) if of_its_own else Plan(tuple(found))


class Ahead:
    """What of a plan is left, and its events."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self._evaluations = plan.evaluations
        self._left = [{b.digest: b for b in asked} for asked in plan.evaluations]
        self._journal = journal

    def look_up(self, blends: Sequence[str | None], first: int = 1) -> None:
        """Leave out what the journal knows of some evaluations.

        Args:
            blends: the digests of what they ask, in order; None where nobody knows it.
            first: their first one's number.
        """
        for number, digest in enumerate(blends, first):
            if digest is None:
                continue
            for benchmark in self._evaluations[number - 1]:
                if recorded(self._journal, result_key(digest, benchmark.digest)) is not None:
                    self.done(number, benchmark)

    def done(self, number: int, benchmark: Benchmark) -> None:
        """This need not be asked any more: evaluation ``number``, from 1, has its result."""
        if number <= len(self._left):
            self._left[number - 1].pop(benchmark.digest, None)

    def skip(self, number: int) -> None:
        """Nothing more is asked in this evaluation."""
        if number <= len(self._left):
            self._left[number - 1].clear()

    def event(self, number: int, label: str, benchmark: Benchmark, task: str) -> Evaluation:
        """What is told when a benchmark begins to be asked."""
        here = self._left[number - 1] if number <= len(self._left) else {}
        rest = [other for digest, other in here.items() if digest != benchmark.digest]
        return Evaluation(
            number,
            max(number, len(self._evaluations)),
            label,
            benchmark.name,
            task,
            benchmark.samples,
            pace(self._journal, benchmark),
            self._work(rest),
            self._work([other for asked in self._left[number:] for other in asked.values()]),
        )

    def count(self) -> tuple[int, int]:
        """Results to be measured at most, and results of the plan."""
        return sum(map(len, self._left)), sum(map(len, self._evaluations))

    def work(self) -> Work:
        """Everything that is left."""
        return self._work([benchmark for asked in self._left for benchmark in asked.values()])

    def _work(self, benchmarks: Sequence[Benchmark]) -> Work:
        paces = {b.digest: pace(self._journal, b) for b in benchmarks}
        known = [(b.samples, found) for b in benchmarks if (found := paces[b.digest]) is not None]
        unknown = sum(b.samples for b in benchmarks if paces[b.digest] is None)
        return Work(sum(samples * found for samples, found in known), unknown)


def pace(journal: Journal, benchmark: Benchmark) -> float | None:
    """Seconds per question in the newest results of a benchmark; None where none says."""
    found = [record for record in journal.timed.get(benchmark.digest, ()) if record["answered"]]
    answered = sum(record["answered"] for record in found[-RECENT:])
    seconds = sum(record["seconds"] for record in found[-RECENT:])
    return float(seconds / answered) if answered else None
