"""Where workers run: on this machine, or on a Ray cluster."""

from pathlib import Path
from typing import Protocol

from soup.errors import UsageError
from soup.evaluators.workers.devices import AUTO, VISIBLE, places, spare
from soup.evaluators.workers.evaluating import EVALUATORS
from soup.evaluators.workers.process import Process
from soup.evaluators.workers.seats import Hand
from soup.events import Observer, ignore


class Home(Protocol):
    """A place for workers.

    Attributes:
        away: whether it is on other machines, where workers come and go.
        evaluators: how many processes without a model there may be.
        told: hears what users should know of it.
    """

    away: bool
    evaluators: int
    told: Observer

    @property
    def count(self) -> int:
        """How many workers there are, at first."""
        ...

    def spawn(self, number: int, python: str, log: Path) -> Hand:
        """Start a worker, or an evaluator, under an interpreter; it prints into ``log``.

        Args:
            number: see ``soup.evaluators.workers.fleet.Fleet``.
            python: the interpreter.
            log: where what it prints is added.
        """
        ...

    def room(self) -> int:
        """How many workers there are to be by now."""
        ...

    def close(self) -> None:
        """Let go of it; its workers have ended."""
        ...


def home(
    workers: int | str | None,
    each: int,
    device: str,
    engine: str,
    ray: str | None,
    copies: bool,
    evaluators: int | str = AUTO,
) -> Home:
    """The place that the options of ``VLMEvalKitScorer`` speak of.

    Raises:
        UsageError: they do not go together.
    """
    if ray is not None:
        from soup.evaluators.workers.ray_cluster import Cluster

        if evaluators not in (AUTO, 0, "0"):
            raise UsageError(
                f"--evaluators {evaluators}: on a Ray cluster workers evaluate; leave it out"
            )
        return Cluster(ray, AUTO if workers is None else workers, each, device, engine, copies)
    if copies:
        raise UsageError("--ray-copy sends members to nodes of a Ray cluster; add --ray auto")
    return Here(1 if workers is None else workers, each, device, engine, evaluators)


class Here:
    """This machine; each worker has devices of its own."""

    away = False

    def __init__(
        self, workers: int | str, each: int, device: str, engine: str, evaluators: int | str
    ) -> None:
        """Share this machine's devices out, see ``places``, and its cores, see ``spare``.

        Raises:
            UsageError: see there.
        """
        self.told: Observer = ignore
        self._places = places(workers, each, device, engine)
        self.evaluators = spare(evaluators, len(self._places), device)

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self._places)

    def spawn(self, number: int, python: str, log: Path) -> Process:
        """See ``Home``."""
        without = {VISIBLE: "", "OMP_NUM_THREADS": "1"}
        return Process(python, log, without if number >= EVALUATORS else self._places[number])

    def room(self) -> int:
        """How many workers there is room for by now."""
        return self.count

    def close(self) -> None:
        """Nothing of it is left when its workers have ended."""
