"""Greedy trials that end early: a candidate is answered slice by slice while it can still win.

``confident`` says when it cannot. What it says of a candidate is recorded beside the results,
so that a run that goes on neither asks again nor decides otherwise; it is never a result itself.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from math import fsum

from soup.blending.blend import Blend
from soup.choosing.confident import LOOKS, SHARE, Seen, Stopped, slices
from soup.choosing.scoring import (
    Benchmark,
    PartialScorer,
    RecordedScorer,
    Result,
    Score,
    forgetting,
    recorded,
    result_key,
)
from soup.errors import ScoringError

EQUAL = 1e-6
"""Points by which a number may differ from the mean of its outcomes."""


def means_of_outcomes(scores: Sequence[Score]) -> set[str]:
    """Benchmarks whose number has been 100 times the mean of its outcomes in every score."""
    found: list[Result] = [result for score in scores for result in score.results.values()]
    others = {result.benchmark for result in found if not _is_mean(result)}
    return {result.benchmark for result in found} - others


def _is_mean(result: Result) -> bool:
    values = result.outcomes.values()
    return bool(values) and abs(100 * fsum(values) / len(values) - result.value) < EQUAL


@dataclass
class Trials:
    """Scores candidates against the soup so far; a ``soup.choosing.recipes.Trial``.

    Attributes:
        scorer: over a ``PartialScorer``.
        benchmarks: whose mean decides.
        error: the chance, at most, that a trial is stopped that would win.
        min_gain: points that a candidate must gain by more than.
        by_sample: names of those that can be judged by some of their samples. The others are
            measured in full before.
        label: a blend for people.
    """

    scorer: RecordedScorer
    benchmarks: Sequence[Benchmark]
    error: float
    min_gain: float
    by_sample: Collection[str]
    label: Callable[[Blend], str]

    def __call__(self, candidate: Blend, soup: Blend) -> float | Stopped:
        """The candidate's Acc, or that it was given up."""
        key = self._key(candidate, soup)
        journal = self.scorer.journal
        if not all(self._recorded(candidate, b) for b in self.benchmarks):
            if key not in journal.trials:
                stopped = self._look(candidate, soup)
                candidate.require_unchanged()
                journal.append("trial", key=key, stopped=stopped and asdict(stopped))
            found = journal.trials[key]["stopped"]
            if found is not None:
                self.scorer.give_up(candidate)
                return Stopped(**found)
        return self.scorer.score(candidate, self.benchmarks, self.label(candidate)).mean

    def _look(self, candidate: Blend, soup: Blend) -> Stopped | None:
        """Answer until the candidate has lost, or until the last slice is left."""
        before = self.scorer.score(soup, self.benchmarks, self.label(soup)).results
        races, whole = [], []
        for benchmark in self.benchmarks:
            result = before[benchmark.name]
            plain = benchmark.name in self.by_sample and _is_mean(result)
            if plain and not self._recorded(candidate, benchmark):
                races.append(_Race(benchmark, result, self.scorer.shares.get(benchmark.name)))
            else:
                whole.append(benchmark)
        if not races:
            return None
        known, answered = [], 0
        if whole:
            label = self.label(candidate)
            for name, result in self.scorer.score(candidate, whole, label).results.items():
                difference = result.value - before[name].value
                if name in self.scorer.shares:
                    difference *= self.scorer.shares[name] * len(self.benchmarks)
                known.append(difference)
                answered += result.samples
        running = _Running(races, sum(known) / len(self.benchmarks), len(self.benchmarks))
        for part in slices({r.benchmark.digest: r.before.outcomes for r in races})[:-1]:
            answered += sum(self._answer(race, candidate, part) for race in races)
            running.take(part)
            if part and running.seen.lost(self.min_gain, self.error):
                of = sum(benchmark.samples for benchmark in self.benchmarks)
                return Stopped(answered, of, round(running.seen.estimate, 10))
        return None

    def _answer(self, race: "_Race", candidate: Blend, part: Sequence[tuple[str, str]]) -> int:
        """A slice's questions of one benchmark; their number."""
        samples = [sample for digest, sample in part if digest == race.benchmark.digest]
        if not samples:
            return 0
        scorer = self.scorer.scorer
        assert isinstance(scorer, PartialScorer)
        task = f"{self.label(candidate)} on {race.benchmark.name}"
        self.scorer.begin(candidate, race.benchmark, self.label(candidate), task)
        with forgetting(self.scorer.journal, candidate):
            found = scorer.outcomes(candidate, race.benchmark, samples, task, self.scorer.observe)
        if found.outcomes.keys() != set(samples):
            raise ScoringError(
                f"{race.benchmark.name}: outcomes of {len(samples)} samples expected, found "
                f"{len(found.outcomes)}, or of others; leave --confident out"
            )
        race.after |= found.outcomes
        return found.samples

    def _recorded(self, blend: Blend, benchmark: Benchmark) -> bool:
        key = result_key(blend.key, benchmark.digest)
        return recorded(self.scorer.journal, key) is not None

    def _key(self, candidate: Blend, soup: Blend) -> str:
        """The content key of a trial: all that decides when it ends."""
        parts = [candidate.key, soup.key, *(b.digest for b in self.benchmarks)]
        parts += [share.hex() for share in self.scorer.shares.values()]
        parts += [self.error.hex(), float(self.min_gain).hex(), f"bets {SHARE} {LOOKS}"]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@dataclass
class _Race:
    """A benchmark that is answered in part; the soup's result on it is known."""

    benchmark: Benchmark
    before: Result
    share: float | None
    after: dict[str, float] = field(default_factory=dict)


class _Running:
    """A candidate's differences so far, as ``confident`` wants them."""

    def __init__(self, races: Sequence[_Race], known: float, benchmarks: int) -> None:
        self._races = {race.benchmark.digest: race for race in races}
        count = sum(len(race.before.outcomes) for race in races)
        self._weights = {
            race.benchmark.digest: count
            * (1 / benchmarks if race.share is None else race.share)
            / len(race.before.outcomes)
            for race in races
        }
        self._every = [
            self._weights[race.benchmark.digest] for race in races for _ in race.before.outcomes
        ]
        self._room = fsum(
            self._weights[race.benchmark.digest] * (1 - outcome)
            for race in races
            for outcome in race.before.outcomes.values()
        )
        self._known = known
        self._differences: list[float] = []

    def take(self, part: Sequence[tuple[str, str]]) -> None:
        """Add a slice's questions, in their order."""
        for digest, sample in part:
            race, weight = self._races[digest], self._weights[digest]
            before = race.before.outcomes[sample]
            self._differences.append(weight * (race.after[sample] - before))
            self._room -= weight * (1 - before)

    @property
    def seen(self) -> Seen:
        return Seen(self._differences, self._room, self._every, self._known)
