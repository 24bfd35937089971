"""What a blend reached on each benchmark, who measures it, and the record that saves measuring."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from math import fsum, isfinite
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from soup.choosing.journal import Journal
from soup.choosing.questions import Questions
from soup.errors import RewrittenError, ScoringError
from soup.events import Evaluation, Event, Observer, Progress, Took, ignore

if TYPE_CHECKING:  # a leaderboard is shown without
    from soup.blending.blend import Blend
    from soup.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as one scorer would run it.

    Attributes:
        name: the column's heading.
        samples: questions to answer.
        digest: SHA-256 of all that decides the answers and the score besides the model (its
            weights and the files beside them): data, prompts, generation settings, versions.
        settings: the same, to read; it is kept beside each result.
        questions: what they have in common; None where the scorer cannot say.
    """

    name: str
    samples: int
    digest: str
    settings: Mapping[str, Any] = field(default_factory=dict, compare=False)
    questions: Questions | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Result:
    """A blend's result on one benchmark.

    Attributes:
        benchmark: its name.
        value: the headline number, 0–100.
        samples: questions answered.
        unparsed: share of answers, 0–1, in which the metric found none of the allowed ones.
        outcomes: per sample index, how right it was, 0–1; empty where the metric has none.
        settings: what it was measured with.
        unjudged: questions on which the judge gave no verdict; they count as wrong.
    """

    benchmark: str
    value: float
    samples: int
    unparsed: float
    outcomes: Mapping[str, float] = field(default_factory=dict, repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    unjudged: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 100:  # NaN, too, fails this
            raise ScoringError(f"{self.benchmark}: expected a score in 0–100, found {self.value}")


@dataclass(frozen=True)
class Score:
    """A blend's results by benchmark name; its ``mean`` is the Acc of the recipes.

    Attributes:
        results: by benchmark.
        shares: of the mean, by benchmark, summing to one; empty where all count alike.
    """

    results: Mapping[str, Result]
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The mean of the results, 0–100, by their shares.

        Rounded to ten decimals: a "rise" that is only the last bits of a float sum is none.
        """
        if not self.results:
            raise ScoringError("a score without a benchmark has no mean")
        return mean_of({n: r.value for n, r in self.results.items()}, self.shares)


def mean_of(values: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """The mean, 0–100, that decides; see ``Score``."""
    if not shares:
        return round(fsum(values.values()) / len(values), 10)
    return round(fsum(shares[name] * value for name, value in values.items()), 10)


class Scorer(Protocol):
    """Anything that maps a blend to results."""

    def benchmarks(
        self, reference: Checkpoint, names: Sequence[str], observe: Observer = ignore
    ) -> list[Benchmark]:
        """Look benchmarks up, in order; nothing is generated.

        Args:
            reference: the member whose kind of model is asked; a blend says whose companion files
                (config, processor, chat template) it is asked with.
            names: as the user gave them.
            observe: told of progress.

        Raises:
            BenchmarkError: one is unknown, missing, or cannot be scored as configured.
        """
        ...

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """Answer and score one benchmark; ``task`` names the work for progress.

        Raises:
            ScoringError: the model could not be loaded, or a sample could not be answered.
        """
        ...


@runtime_checkable
class HousedScorer(Scorer, Protocol):
    """A scorer that keeps files."""

    def work_in(self, directory: str | os.PathLike[str]) -> None:
        """Keep them there, unless it was made with a place of its own."""
        ...


@runtime_checkable
class TidyScorer(Scorer, Protocol):
    """A scorer that may have left files when it was killed."""

    def tidy(self, recorded: Collection[str]) -> None:
        """Remove what is of no use any more, given the keys of all results that are recorded."""
        ...


@dataclass(frozen=True)
class Part:
    """How a blend did on some samples of a benchmark.

    Attributes:
        outcomes: as in ``Result``, of the samples asked for.
        samples: questions answered for them; more where several make one outcome.
    """

    outcomes: Mapping[str, float]
    samples: int


@runtime_checkable
class PartialScorer(Scorer, Protocol):
    """A scorer that can answer a benchmark bit by bit."""

    def outcomes(
        self,
        blend: Blend,
        benchmark: Benchmark,
        samples: Sequence[str],
        task: str,
        observe: Observer,
    ) -> Part:
        """Answer some samples; a ``measure`` of the same blend right after answers only the rest.

        Args:
            blend: what is asked.
            benchmark: whose samples.
            samples: keys of an earlier result's ``outcomes``.
            task: names the work for progress.
            observe: told of it.

        Raises:
            ScoringError: as ``measure``.
        """
        ...


@dataclass(frozen=True)
class Wanted:
    """A measurement that will be wanted, or may be; fields as of ``Scorer.measure``.

    Attributes:
        blend: what is asked.
        benchmark: what it is asked.
        task: names the work for progress.
        likelihood: that it is wanted, above 0; 1 is certain.
    """

    blend: Blend
    benchmark: Benchmark
    task: str
    likelihood: float = 1.0


@runtime_checkable
class ForesightedScorer(Scorer, Protocol):
    """A scorer that can work on several things at once, and so ahead of what is asked."""

    @property
    def at_once(self) -> int:
        """How many things it can work on at a time."""
        ...

    def expect(self, wanted: Sequence[Wanted], observe: Observer = ignore) -> None:
        """Begin with what will be wanted, or may be, as far as there is nothing better to do.

        No result changes by it. What was expected before, and is not any more, is dropped.

        Args:
            wanted: in order.
            observe: told of progress.
        """
        ...


@runtime_checkable
class GuessingScorer(Scorer, Protocol):
    """A scorer that counts what it has begun before anybody knew whether it would be wanted."""

    @property
    def guessed(self) -> tuple[int, int]:
        """Answers that were made ahead on a guess and wanted later, and all that were made so."""
        ...


class Outlook(Protocol):
    """What a run has still to ask, see ``soup.choosing.ahead.Ahead``."""

    def event(self, number: int, label: str, benchmark: Benchmark, task: str) -> Evaluation:
        """What is told when a benchmark begins to be asked."""
        ...

    def done(self, number: int, benchmark: Benchmark) -> None:
        """An evaluation's result is known."""
        ...

    def skip(self, number: int) -> None:
        """Nothing more is asked in an evaluation."""
        ...


@dataclass(frozen=True)
class Expected:
    """A blend that will be scored on some benchmarks, or may be; see ``Wanted``."""

    blend: Blend
    benchmarks: Sequence[Benchmark]
    label: str
    likelihood: float = 1.0


@dataclass
class RecordedScorer:
    """A scorer that measures nothing twice: results are looked up in, and added to, a journal.

    Attributes:
        measured: how many results had to be measured so far.
        ahead: tells how far the whole run has come; None tells nothing of it.
        shares: of the benchmarks that decide, see ``Score``.
        run: whose results these are; empty where it is none.
    """

    scorer: Scorer
    journal: Journal
    observe: Observer = ignore
    measured: int = 0
    ahead: Outlook | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    run: str = ""
    _numbers: dict[str, int] = field(default_factory=dict, repr=False)
    _expected: Sequence[Expected] = field(default=(), repr=False)
    _announced: frozenset[str] = field(default=frozenset(), repr=False)
    _guessed: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._guessed = self._all_guessed()

    def score(
        self,
        blend: Blend,
        benchmarks: Sequence[Benchmark],
        label: str,
        number: int | None = None,
    ) -> Score:
        """Results of ``blend`` on each benchmark, recorded one by one as they come in.

        Args:
            blend: what is asked.
            benchmarks: what it is asked.
            label: the blend, for people.
            number: which evaluation of the run this is, from 1; by default the one that asked the
                blend before, else the next one.

        Raises:
            CheckpointError: a member was changed while it was scored; nothing is recorded of it.
        """
        number = self._number(blend, number)
        results: dict[str, Result] = {}
        if len(benchmarks) > 1 and self.foresees and blend.key not in self._announced:
            self.expect([Expected(blend, benchmarks, label), *self._expected])
        for benchmark in benchmarks:
            key = result_key(blend.key, benchmark.digest)
            found = recorded(self.journal, key)
            if found is None:
                task = f"{label} on {benchmark.name}"
                self._tell(number, label, benchmark, task)
                took = _Took(self.observe, task)
                with forgetting(self.journal, blend):
                    found = self.scorer.measure(blend, benchmark, task, took)
                blend.require_unchanged()
                self.journal.append(
                    "result",
                    key=key,
                    blend=blend.key,
                    weights=blend.digest,
                    benchmark=benchmark.digest,
                    seconds=took.seconds(),
                    answered=took.answered,
                    companions=blend.companions.digest,
                    run=self.run,
                    result=result_to_json(found, benchmark.settings),
                )
                self.measured += 1
            if self.ahead is not None:
                self.ahead.done(number, benchmark)
            results[benchmark.name] = found
        return Score(results, self.shares if self.shares.keys() == results.keys() else {})

    @property
    def foresees(self) -> bool:
        """Whether it helps to tell what will be scored."""
        return isinstance(self.scorer, ForesightedScorer) and self.scorer.at_once > 1

    def expect(self, blends: Sequence[Expected]) -> None:
        """Let the scorer begin with what will be scored, or may be; see ``ForesightedScorer``."""
        if not self.foresees:
            return
        assert isinstance(self.scorer, ForesightedScorer)
        self._expected = blends
        self._announced = frozenset(one.blend.key for one in blends)
        wanted = [
            Wanted(one.blend, benchmark, f"{one.label} on {benchmark.name}", one.likelihood)
            for one in blends
            for benchmark in one.benchmarks
            if recorded(self.journal, result_key(one.blend.key, benchmark.digest)) is None
        ]
        self.scorer.expect(wanted, self.observe)

    @property
    def guessed(self) -> tuple[int, int]:
        """See ``GuessingScorer``; since this began, and (0, 0) where nothing is guessed."""
        wanted, made = self._all_guessed()
        return wanted - self._guessed[0], made - self._guessed[1]

    def _all_guessed(self) -> tuple[int, int]:
        return self.scorer.guessed if isinstance(self.scorer, GuessingScorer) else (0, 0)

    def begin(self, blend: Blend, benchmark: Benchmark, label: str, task: str) -> None:
        """Tell that a blend is asked a benchmark by other ways than ``score``."""
        self._tell(self._number(blend), label, benchmark, task)

    def give_up(self, blend: Blend) -> None:
        """Nothing more will be asked of a blend."""
        if self.ahead is not None:
            self.ahead.skip(self._number(blend))

    def _number(self, blend: Blend, number: int | None = None) -> int:
        following = max(self._numbers.values(), default=0) + 1
        known = self._numbers.setdefault(blend.key, number or following)
        return number or known

    def _tell(self, number: int, label: str, benchmark: Benchmark, task: str) -> None:
        if self.ahead is not None:
            self.observe(self.ahead.event(number, label, benchmark, task))


@contextmanager
def forgetting(journal: Journal, blend: Blend) -> Iterator[None]:
    """What was remembered of a blend's members counts no more where one was not as remembered.

    The error, which names that one, goes on.
    """
    try:
        yield
    except RewrittenError:
        for source in blend.sources:
            journal.forget_digest(source)
        raise


class _Took:
    """Passes events on, and notes how long a measurement took and how much was answered in it."""

    def __init__(self, observe: Observer, task: str) -> None:
        self._observe = observe
        self._task = task
        self._began = time.monotonic()
        self._first: int | None = None
        self._answered = 0
        self._told: Took | None = None

    @property
    def answered(self) -> int:
        return self._answered if self._told is None else self._told.answered

    def __call__(self, event: Event) -> None:
        if isinstance(event, Took):
            self._told = event  # several shared it: what passed here is not what it took
            return
        if isinstance(event, Progress) and event.task == self._task:
            if self._first is None:
                self._first = event.done  # those before were kept from a run that was stopped
            self._answered = max(self._answered, event.done - self._first)
        self._observe(event)

    def seconds(self) -> float:
        spent = time.monotonic() - self._began if self._told is None else self._told.seconds
        return round(spent, 6)


def result_key(blend_key: str, benchmark_digest: str) -> str:
    """The content key of a result, of a ``Blend.key``: no model's name, no path."""
    return hashlib.sha256(f"{blend_key} {benchmark_digest}".encode()).hexdigest()


def benchmark_digest(settings: Mapping[str, Any]) -> str:
    """The digest of a benchmark that is measured so; see ``Benchmark``."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()


def recorded(journal: Journal, key: str) -> Result | None:
    """The result that the journal holds under a key; one that cannot be is as good as none."""
    record = journal.results.get(key)
    if record is None:
        return None
    try:
        found = Result(**record["result"])
        counts = (found.samples, found.unjudged)
        whole = all(type(n) is int and n >= 0 for n in counts) and 0 <= found.unparsed <= 1
        whole = whole and isinstance(found.outcomes, dict) and isinstance(found.settings, dict)
        whole = whole and all(map(isfinite, found.outcomes.values()))
    except (KeyError, TypeError, OverflowError, ScoringError):
        whole = False
    if not whole:
        del journal.results[key]
        return None
    return found


def result_to_json(result: Result, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A result as the journal keeps it; ``recorded`` is the other way."""
    return asdict(result) | {
        "outcomes": json.loads(json.dumps(dict(result.outcomes))),
        "settings": dict(settings),
    }
