"""How a run began and how it failed, for the record: an old result is never taken for today's."""

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from soup._version import __version__
from soup.choosing.journal import Journal
from soup.choosing.scoring import Benchmark
from soup.errors import SoupError, UsageError
from soup.remote.address import elsewhere, parse

LIBRARIES = ("torch", "transformers", "vlmeval")
"""Whose versions a benchmark's settings name."""


@dataclass
class Attempt:
    """One run, whether or not it came so far as to have an id."""

    run: str | None = None


def circumstances(
    settings: Mapping[str, Any], benchmarks: Sequence[Benchmark] = ()
) -> dict[str, Any]:
    """What a run's first record says besides what it works on, as JSON.

    Args:
        settings: the run's, by name.
        benchmarks: as looked up: what they are measured with is kept, too.
    """
    versions = {"soup": __version__, "python": platform.python_version()}
    for benchmark in benchmarks:
        versions |= {
            name: benchmark.settings[name] for name in LIBRARIES if name in benchmark.settings
        }
    measured = {b.name: dict(b.settings) for b in benchmarks if b.settings}
    out = settings.get("out")
    if out is not None and elsewhere(out):
        settings = {**settings, "out": str(parse(out))}  # without what is secret in it
    return {
        "work": os.path.abspath(settings["work"]),
        "versions": versions,
        "settings": _plain(settings) | ({"measured_with": measured} if measured else {}),
    }


@contextmanager
def failures_recorded(command: str, settings: Mapping[str, Any]) -> Iterator[Attempt]:
    """Records that a run ended early, and why; the error goes on.

    A command that cannot be understood is no run.
    """
    attempt = Attempt()
    try:
        yield attempt
    except UsageError:
        raise
    except BaseException as error:
        with contextlib.suppress(SoupError):  # what ended the run is told, not this
            record_failure(command, settings, error, attempt.run)
        raise


def record_failure(
    command: str, settings: Mapping[str, Any], error: BaseException, run: str | None = None
) -> None:
    """Add to the journal that a run failed.

    Args:
        command: which one.
        settings: the run's, by name.
        error: why.
        run: its id; None where it failed before it had one.

    Raises:
        JournalError: it cannot be written.
    """
    journal = Journal.open(settings["work"])
    if run is None:
        run = journal.start(
            command,
            **circumstances(settings),
            benchmarks=dict.fromkeys(map(str, settings["benchmarks"]), ""),
            holdouts=dict.fromkeys(map(str, settings["holdouts"]), ""),
            members=[],
        )
    journal.append("failed", run=run, error=in_words(error))


def in_words(error: BaseException) -> str:
    """An error as the leaderboard tells it."""
    if isinstance(error, SoupError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return f"{type(error).__name__}: {error}"


def _plain(value: Any) -> Any:
    """A setting as JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, os.PathLike) else value
