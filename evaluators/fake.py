"""A scorer without a model: scores are looked up or derived from content. For tests and trials."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from soup.blend import Blend
from soup.checkpoint import Checkpoint
from soup.events import Observer, Progress
from soup.scoring import Benchmark, Result


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
    """

    def __init__(self, value: Callable[[Blend, str], float] = by_digest) -> None:
        """``value`` maps a blend and a benchmark's name to a score, 0–100."""
        self._value = value
        self.calls: list[tuple[tuple[str, ...], str]] = []

    def benchmarks(self, reference: Checkpoint, names: Sequence[str]) -> list[Benchmark]:
        """Any name is a benchmark of ten samples."""
        return [
            Benchmark(name, 10, hashlib.sha256(f"fake {name}".encode()).hexdigest())
            for name in names
        ]

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """See ``soup.scoring.Scorer``."""
        self.calls.append((tuple(member.name for member in blend.members), benchmark.name))
        observe(Progress(task, benchmark.samples, benchmark.samples, "samples"))
        value = self._value(blend, benchmark.name)
        return Result(benchmark.name, value, benchmark.samples, unparsed=0.0)
