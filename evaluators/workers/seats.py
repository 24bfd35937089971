"""A worker's place among several: what sits there, and what it is asked."""

import threading
from dataclasses import dataclass
from typing import Any, Protocol

from soup.errors import SoupError
from soup.evaluators.workers.evaluating import EVALUATORS
from soup.evaluators.workers.gathering import Asked
from soup.evaluators.workers.jobs import Slice
from soup.events import Observer


class Hand(Protocol):
    """A worker, wherever it runs; see ``soup.evaluators.workers.process.Process``."""

    def ask(self, request: dict[str, Any], observe: Observer = ...) -> dict[str, Any]:
        """Send a request, tell of its progress, return its result; raises ``Died``."""
        ...

    def kill(self) -> None:
        """End it, at once, from any thread."""
        ...

    def close(self) -> None:
        """End it, and let go of it."""
        ...


@dataclass(eq=False)
class Errand:
    """Something that any worker can be asked, without a model."""

    request: dict[str, Any]
    answer: dict[str, Any] | None = None
    error: SoupError | None = None
    deaths: int = 0


@dataclass(eq=False)
class Seat:
    """One worker's place: its process, and the thread that asks it."""

    number: int
    hand: Hand | None = None
    thread: threading.Thread | None = None
    learned: bool = False
    hung: bool = False
    live: int = 0  # questions of its slice that are answered
    errand: Errand | None = None

    @property
    def evaluates(self) -> bool:
        """Whether a process sits there that has no model."""
        return self.number >= EVALUATORS

    @property
    def name(self) -> str:
        """For people, who count from 1."""
        if self.evaluates:
            return f"evaluator {self.number - EVALUATORS + 1}"
        return f"worker {self.number + 1}"


def request_of(found: Slice, asked: Asked) -> dict[str, Any]:
    """What a worker is asked for a slice, see ``soup.evaluators.workers.protocol``."""
    request = asked.work.request
    if found.is_metric:
        answers = [asked.answers[position] for position in range(asked.work.samples)]
        names = ("benchmark", "keep", "task")
        return {"do": "score", "answers": answers} | {name: request[name] for name in names}
    names = ("blend", "benchmark", "task")
    positions = list(found.positions)
    return {"do": "answer", "positions": positions} | {name: request[name] for name in names}
