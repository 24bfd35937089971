"""A scorer without a model: scores are looked up or derived from content. For tests and trials."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from math import fsum

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.choosing.scoring import Benchmark, Part, Result
from soup.events import Observer, Progress, ignore


def by_digest(blend: Blend, benchmark: str) -> float:
    """A number in 0–100 that depends on nothing but the blend's content and the benchmark."""
    seed = hashlib.sha256(f"{blend.digest} {benchmark}".encode()).digest()
    return int.from_bytes(seed[:4], "big") % 10001 / 100


def by_names(table: Mapping[tuple[str, ...], float]) -> Callable[[Blend, str], float]:
    """Scores from a table by the members' names, in order; the same on every benchmark."""
    return lambda blend, benchmark: table[tuple(member.name for member in blend.members)]


class FakeScorer:
    """Deterministic scores at no cost.

    Attributes:
        calls: what was measured, as (member names, benchmark), in order.
        answered: samples answered so far.
    """

    def __init__(
        self,
        value: Callable[[Blend, str], float] = by_digest,
        right: Callable[[Blend, str, int], float] | None = None,
        samples: int = 10,
    ) -> None:
        """Scores by benchmark, or by sample.

        Args:
            value: maps a blend and a benchmark's name to a score, 0–100.
            right: maps a blend, a benchmark's name and a sample, from 0, to an outcome, 0–1. A
                score is then 100 times their mean, and ``value`` is not asked.
            samples: of each benchmark.
        """
        self._value = value
        self._right = right
        self._samples = samples
        self._kept: tuple[str, set[tuple[str, str]]] = ("", set())
        self.calls: list[tuple[tuple[str, ...], str]] = []
        self.answered = 0

    def benchmarks(
        self, reference: Checkpoint, names: Sequence[str], observe: Observer = ignore
    ) -> list[Benchmark]:
        """Any name is a benchmark."""
        return [
            Benchmark(name, self._samples, hashlib.sha256(f"fake {name}".encode()).hexdigest())
            for name in names
        ]

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """See ``soup.choosing.scoring.Scorer``."""
        self.calls.append((tuple(member.name for member in blend.members), benchmark.name))
        observe(Progress(task, benchmark.samples, benchmark.samples, "samples"))
        keys = [str(k) for k in range(benchmark.samples)]
        outcomes = self._answer(blend, benchmark.name, keys)
        value = self._value(blend, benchmark.name)
        if self._right is not None:
            value = 100 * fsum(outcomes.values()) / len(outcomes)
        return Result(benchmark.name, value, benchmark.samples, 0.0, outcomes)

    def outcomes(
        self,
        blend: Blend,
        benchmark: Benchmark,
        samples: Sequence[str],
        task: str,
        observe: Observer,
    ) -> Part:
        """See ``soup.choosing.scoring.PartialScorer``."""
        outcomes = self._answer(blend, benchmark.name, samples)
        done = sum(name == benchmark.name for name, _ in self._kept[1])
        observe(Progress(task, done, benchmark.samples, "samples"))
        return Part(outcomes, len(samples))

    def _answer(self, blend: Blend, name: str, samples: Sequence[str]) -> dict[str, float]:
        if self._kept[0] != blend.digest:
            self._kept = (blend.digest, set())
        asked = {(name, sample) for sample in samples} - self._kept[1]
        self.answered += len(asked)
        self._kept[1].update(asked)
        if self._right is None:
            return {}
        return {sample: self._right(blend, name, int(sample)) for sample in samples}
