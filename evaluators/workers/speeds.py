"""How long things take, learned from those that were done."""

from collections import deque
from statistics import median

from soup.evaluators.workers.jobs import Job

RECENT = 9
"""Newest loads that their usual time is the median of."""


class Speeds:
    """Of loading, of answering and of metrics. Seconds, as one worker takes them."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[float, float]] = {}
        self._metrics: dict[str, float] = {}
        self._loads: deque[float] = deque(maxlen=RECENT)
        self._built: set[int] = set()

    def answered(self, benchmark: str, seconds: float, questions: int) -> None:
        """A slice of so many questions took so long."""
        before, asked = self._answers.get(benchmark, (0.0, 0.0))
        # What is older counts half by every slice: speeds change with lengths and with neighbours.
        self._answers[benchmark] = before / 2 + max(seconds, 0.0), asked / 2 + questions

    def evaluated(self, benchmark: str, seconds: float) -> None:
        """The metric of a benchmark took so long."""
        self._metrics[benchmark] = seconds

    def loaded(self, worker: int, seconds: float) -> None:
        """A worker took so long to load a blend; its first time it also built its model."""
        if worker in self._built:
            self._loads.append(seconds)
        self._built.add(worker)

    def lost(self, worker: int) -> None:
        """A worker's model is gone."""
        self._built.discard(worker)

    def has_built(self, worker: int) -> bool:
        """Whether a worker has a model."""
        return worker in self._built

    @property
    def load(self) -> float:
        """Seconds to load a blend into a model that there is; 0 where nobody knows yet."""
        return median(self._loads) if self._loads else 0.0

    def pace(self, benchmark: str) -> float | None:
        """Seconds per question of a benchmark, by one worker; None where nobody knows yet."""
        seconds, questions = self._answers.get(benchmark, (0.0, 0.0))
        return seconds / questions if questions else None

    def metric(self, job: Job) -> float:
        """Seconds of a job's metric; 0 where it has none, or nobody knows yet."""
        return self._metrics.get(job.benchmark, 0.0) if job.metric else 0.0

    def rest(self, jobs: list[Job]) -> float:
        """Seconds of what nobody has taken yet of some jobs; by the usual speed where unknown."""
        known = [pace for pace in map(self.pace, self._answers) if pace is not None]
        usual = sum(known) / len(known) if known else 1.0
        paces = [(job.pending, self.pace(job.benchmark)) for job in jobs]
        return sum(n * (usual if pace is None else pace) for n, pace in paces)
