"""What a running command tells whoever watches it: the terminal, a log, a test."""

from collections.abc import Callable
from dataclasses import dataclass

from soup.words import sentence, shown

LABEL = 160
"""Characters of a task's name, at most."""


@dataclass(frozen=True)
class Progress:
    """How far one piece of work has come.

    Attributes:
        task: what is being done, e.g. ``"score ckpt-3 on MMStar (3 of 6)"``; one task, one bar.
        done: units finished so far.
        total: units in all.
        unit: what is counted: ``"B"`` (bytes) or ``"samples"``.
    """

    task: str
    done: int
    total: int
    unit: str

    def __post_init__(self) -> None:
        if not self.task.isprintable() or len(self.task) > LABEL:
            object.__setattr__(self, "task", shown(self.task, LABEL))


@dataclass(frozen=True)
class Note:
    """One line worth telling, e.g. that a duplicate was dropped."""

    text: str
    warning: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", sentence(self.text))  # it holds names of files


Event = Progress | Note
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The observer that nobody listens to."""
