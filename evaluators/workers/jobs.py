"""What a queue is made of: how work is cut, jobs, slices of them, and all jobs of one blend."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rules:
    """How work is cut.

    Attributes:
        shortest: seconds that a slice should take, at least: what starting one costs must not show.
        longest: the same, at most: the work at hand must not be long when somebody becomes free.
        fewest: questions of a slice, at least: a full batch.
        deaths: of workers at one slice, until it is given up.
        patience: times the expected time of a slice until its worker is taken for hung.
        grace: seconds until then, at least.
        unknown: seconds until then, where nothing is known of the speed.
    """

    shortest: float = 2.0
    longest: float = 30.0
    fewest: int = 16
    deaths: int = 3
    patience: float = 10.0
    grace: float = 120.0
    unknown: float = 3600.0


@dataclass(eq=False)
class Job:
    """A blend asked a benchmark.

    Attributes:
        key: names it; no two jobs of a queue have the same.
        blend: names what a worker must hold for it.
        benchmark: names what is asked: questions of one have about one speed.
        positions: the questions to be answered, in order.
        likelihood: that its result is wanted, above 0; 1 is certain.
        metric: whether its answers are to be evaluated.
        eager: whether that is done before the result is certainly wanted.
    """

    key: str
    blend: str
    benchmark: str
    positions: Sequence[int]
    likelihood: float = 1.0
    metric: bool = True
    eager: bool = True
    taken: int = field(default=0, init=False)
    again: list["Slice"] = field(default_factory=list, init=False)
    running: int = field(default=0, init=False)
    evaluation: str = field(default="no", init=False)
    """``no``, ``waits``, ``runs`` or ``done``."""

    @property
    def pending(self) -> int:
        """Questions that nobody works on yet."""
        return len(self.positions) - self.taken + sum(len(s.positions) for s in self.again)

    @property
    def answered(self) -> bool:
        """Whether all questions are."""
        return not self.pending and not self.running

    @property
    def certain(self) -> bool:
        """Whether the result is wanted in any case."""
        return self.likelihood >= 1

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.answered and (not self.metric or self.evaluation == "done")


@dataclass(eq=False)
class Slice:
    """What a worker does at a time: some questions of a job, or, without any, its metric.

    Attributes:
        job: whose.
        positions: the questions, in order.
        deaths: of workers at it.
    """

    job: Job
    positions: Sequence[int] = ()
    deaths: int = 0

    @property
    def is_metric(self) -> bool:
        """Whether it is the metric."""
        return not self.positions


@dataclass(eq=False)
class Group:
    """The jobs of one blend."""

    blend: str
    jobs: list[Job]
    holders: int = 0
    seconds: float = 0.0
    """Of work that nobody has taken yet."""
    likelihood: float = 0.0

    def rate(self) -> None:
        """Be as likely as the likeliest job."""
        self.likelihood = max((job.likelihood for job in self.jobs), default=0.0)

    @property
    def pending(self) -> bool:
        """Whether something of it is left to be taken."""
        return any(job.pending for job in self.jobs)
