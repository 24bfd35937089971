"""What a running command tells whoever watches it: the terminal, a notebook, a log, a test.

Events may come from any thread. ``who`` says which of several workers reports, and is empty where
there is only one: one who does one thing at a time, so what it begins ends what it did before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from soup.words import sentence, shown

LABEL = 160
"""Characters of a task's name, at most."""


@dataclass(frozen=True)
class Progress:
    """How far one piece of work has come.

    Attributes:
        task: what is being done, e.g. ``"score ckpt-3 on MMStar (3 of 6)"``; one task, one bar.
        done: units finished so far; it ends with ``total``.
        total: units in all.
        unit: what is counted: ``"B"`` (bytes) or ``"samples"``.
        who: reports it.
    """

    task: str
    done: int
    total: int
    unit: str
    who: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "task", shown(self.task, LABEL))  # it holds names of files


@dataclass(frozen=True)
class Note:
    """One line worth telling, e.g. that a duplicate was dropped."""

    text: str
    warning: bool = False
    who: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", sentence(self.text))  # it holds names of files


@dataclass(frozen=True)
class Work:
    """Questions still to be answered: ``seconds`` for those of a known pace, and the others."""

    seconds: float = 0.0
    questions: int = 0


@dataclass(frozen=True)
class Evaluation:
    """Where the whole run stands: a blend begins to be asked one of its benchmarks.

    Attributes:
        number: which of the evaluations this is, from 1.
        of: how many there are in all, at most.
        label: the blend, for people.
        benchmark: what it is asked; empty when nothing more is to be asked.
        task: of the ``Progress`` that counts the answers.
        samples: questions of the benchmark.
        pace: seconds per question, as earlier results had it; None where there is none.
        rest: what this evaluation asks afterwards.
        later: what the evaluations after it ask, at most, by all workers together.
        who: asks it.
    """

    number: int
    of: int
    label: str = ""
    benchmark: str = ""
    task: str = ""
    samples: int = 0
    pace: float | None = None
    rest: Work = field(default_factory=Work)
    later: Work = field(default_factory=Work)
    who: str = ""

    def __post_init__(self) -> None:
        for name in ("label", "benchmark", "task"):
            object.__setattr__(self, name, shown(getattr(self, name), LABEL))


@dataclass(frozen=True)
class Took:
    """What a measurement has taken of those who shared it, where several did.

    Attributes:
        task: of the ``Progress`` that counted its answers.
        seconds: of all of them together.
        answered: questions that were not answered before.
    """

    task: str
    seconds: float
    answered: int


@dataclass(frozen=True)
class Crew:
    """What several workers do together.

    Attributes:
        workers: how many there are.
        busy: those that are at something.
        ahead: answers that are there already to what will be asked, or may be.
        saved: answers that were made because they were likely to be wanted, and were.
        dropped: the same, and were not.
    """

    workers: int
    busy: int
    ahead: int = 0
    saved: int = 0
    dropped: int = 0


Event = Progress | Note | Evaluation | Took | Crew
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that nobody listens to."""
