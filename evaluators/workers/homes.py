"""Where workers run: on this machine, or on a Ray cluster."""

from pathlib import Path
from typing import Protocol

from soup.errors import UsageError
from soup.evaluators.workers.devices import AUTO, places
from soup.evaluators.workers.process import Process
from soup.evaluators.workers.seats import Hand
from soup.events import Observer, ignore


class Home(Protocol):
    """A place for workers.

    Attributes:
        away: whether it is on other machines, where workers come and go.
        told: hears what users should know of it.
    """

    away: bool
    told: Observer

    @property
    def count(self) -> int:
        """How many workers there are, at first."""
        ...

    def spawn(self, number: int, python: str, log: Path) -> Hand:
        """Start a worker, by its number from 0, under an interpreter; it prints into ``log``."""
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
) -> Home:
    """The place that the options of ``VLMEvalKitScorer`` speak of.

    Raises:
        UsageError: they do not go together.
    """
    if ray is not None:
        from soup.evaluators.workers.ray_cluster import Cluster

        return Cluster(ray, AUTO if workers is None else workers, each, device, engine, copies)
    if copies:
        raise UsageError("--ray-copy sends members to nodes of a Ray cluster; add --ray auto")
    return Here(1 if workers is None else workers, each, device, engine)


class Here:
    """This machine; each worker has devices of its own."""

    away = False

    def __init__(self, workers: int | str, each: int, device: str, engine: str) -> None:
        """Share this machine's devices out, see ``places``.

        Raises:
            UsageError: see there.
        """
        self.told: Observer = ignore
        self._places = places(workers, each, device, engine)

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self._places)

    def spawn(self, number: int, python: str, log: Path) -> Process:
        """Start a worker, by its number from 0, under an interpreter; it prints into ``log``."""
        return Process(python, log, self._places[number])

    def room(self) -> int:
        """How many workers there is room for by now."""
        return self.count

    def close(self) -> None:
        """Nothing of it is left when its workers have ended."""
