"""What a blend reached on each benchmark, who measures it, and the record that saves measuring."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import fsum
from typing import Any, Protocol, runtime_checkable

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.choosing.journal import Journal
from soup.choosing.questions import Questions
from soup.errors import ScoringError
from soup.events import Observer, ignore


@dataclass(frozen=True)
class Benchmark:
    """A benchmark as one scorer would run it.

    Attributes:
        name: the column's heading.
        samples: questions to answer.
        digest: SHA-256 of all that decides the answers and the score besides the weights: data,
            prompts, generation settings, the reference's companion files, versions.
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
    """A blend's results by benchmark name; its ``mean`` is the Acc of the recipes."""

    results: Mapping[str, Result]

    @property
    def mean(self) -> float:
        """The mean of the results, 0–100, equal weights.

        Rounded to ten decimals: a "rise" that is only the last bits of a float sum is none.
        """
        if not self.results:
            raise ScoringError("a score without a benchmark has no mean")
        return mean_of([result.value for result in self.results.values()])


def mean_of(values: Sequence[float]) -> float:
    """The mean, 0–100, that decides; see ``Score.mean``."""
    return round(fsum(values) / len(values), 10)


class Scorer(Protocol):
    """Anything that maps a blend to results."""

    def benchmarks(
        self, reference: Checkpoint, names: Sequence[str], observe: Observer = ignore
    ) -> list[Benchmark]:
        """Look benchmarks up, in order; nothing is generated.

        Args:
            reference: whose companion files (config, processor, chat template) will be used.
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


@dataclass
class RecordedScorer:
    """A scorer that measures nothing twice: results are looked up in, and added to, a journal.

    Attributes:
        measured: how many results had to be measured so far.
    """

    scorer: Scorer
    journal: Journal
    observe: Observer = ignore
    measured: int = 0

    def score(self, blend: Blend, benchmarks: Sequence[Benchmark], label: str) -> Score:
        """Results of ``blend`` on each benchmark, recorded one by one as they come in.

        Raises:
            CheckpointError: a member was changed while it was scored; nothing is recorded of it.
        """
        results: dict[str, Result] = {}
        for benchmark in benchmarks:
            key = result_key(blend.digest, benchmark.digest)
            found = recorded(self.journal, key)
            if found is None:
                task = f"{label} on {benchmark.name}"
                found = self.scorer.measure(blend, benchmark, task, self.observe)
                blend.require_unchanged()
                self.journal.append(
                    "result", key=key, blend=blend.digest, result=_to_json(found, benchmark)
                )
                self.measured += 1
            results[benchmark.name] = found
        return Score(results)


def result_key(blend_digest: str, benchmark_digest: str) -> str:
    """The content key of a result: no model's name, no path."""
    return hashlib.sha256(f"{blend_digest} {benchmark_digest}".encode()).hexdigest()


def recorded(journal: Journal, key: str) -> Result | None:
    """The result that the journal holds under a key."""
    record = journal.results.get(key)
    return None if record is None else Result(**record["result"])


def _to_json(result: Result, benchmark: Benchmark) -> dict[str, Any]:
    return asdict(result) | {
        "outcomes": json.loads(json.dumps(dict(result.outcomes))),
        "settings": dict(benchmark.settings),
    }
