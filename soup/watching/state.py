"""What a run is doing, in a small file, for whoever asks from another terminal.

Each run has its own file below ``<work>/running``; it is written whole, now and then, as events
come, and goes when the run ends. What a killed run leaves is known by its process being gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from soup.events import Event, Note, Observer
from soup.watching import lines
from soup.watching.tasks import Tasks

FOLDER = "running"
EVERY = 2.0  # seconds between two writings, at least
VERSION = 1


@dataclass(frozen=True)
class State:
    """What one run was doing when it last said so.

    Attributes:
        command: what it makes.
        began: when, UTC, as ISO 8601.
        at: when it said this.
        host: where it runs.
        pid: its process there.
        words: how far the whole run and each task have come, a line each.
        evaluation: the number of the present one, from 1; None where nothing is evaluated.
        of: how many there are at most.
        note: the newest thing worth telling; empty where there was none.
        alive: whether its process is there; None where that cannot be seen from here.
    """

    command: str
    began: str
    at: str
    host: str
    pid: int
    words: tuple[str, ...]
    evaluation: int | None = None
    of: int | None = None
    note: str = ""
    alive: bool | None = None

    @property
    def age(self) -> float:
        """Seconds since it said this."""
        then = datetime.fromisoformat(self.at)
        return max((datetime.now(timezone.utc) - then).total_seconds(), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "words": list(self.words), "age": round(self.age, 1)}


class _Stated:
    """Passes events on, and writes what they tell."""

    def __init__(self, observe: Observer, file: Path, about: Mapping[str, Any]) -> None:
        self._observe = observe
        self._file = file
        self._about = about
        self._tasks = Tasks()
        self._note = ""
        self._lock = threading.Lock()
        self._written = -EVERY

    def __call__(self, event: Event) -> None:
        """Pass it on; write, where it is time."""
        self._observe(event)
        if isinstance(event, Note):
            self._note = event.text
        else:
            self._tasks.take(event)
        with self._lock:  # workers tell of things at the same time
            now = time.monotonic()
            if now - self._written < EVERY or not os.path.isdir(self._file.parent.parent):
                return
            self._written = now
            self.write()

    def write(self) -> None:
        """Write it whole; a disk that is full ends no run."""
        scene = self._tasks.scene()
        evaluation = max(scene.evaluations, key=lambda e: e.number, default=None)
        tasks = [": ".join(filter(None, lines.task(one))) for one in scene.tasks]
        content = {
            "version": VERSION,
            **self._about,
            "at": _now(),
            "words": [*filter(None, [lines.whole(scene, labels=True)]), *tasks],
            "evaluation": None if evaluation is None else evaluation.number,
            "of": None if evaluation is None else evaluation.of,
            "note": self._note,
        }
        temporary = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(content))
            temporary.replace(self._file)

    def end(self) -> None:
        """The run is over."""
        with self._lock:
            self._written = float("inf")
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            self._file.parent.rmdir()  # the last one out


@contextmanager
def stated(observe: Observer, work: str | os.PathLike[str], command: str) -> Iterator[Observer]:
    """The observer of one run, which also keeps its state in ``work`` while the context lasts."""
    folder = Path(os.path.abspath(work)) / FOLDER
    host, pid = platform.node() or "localhost", os.getpid()
    name = f"{host.replace(os.sep, '-')}-{pid}-{threading.get_ident()}.json"
    about = {"command": command, "began": _now(), "host": host, "pid": pid, "born": _born(pid)}
    for state, file in _read(folder):
        if state.alive is False:  # killed, and nobody has asked for it since
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
    watched = _Stated(observe, folder / name, about)
    try:
        yield watched
    finally:
        watched.end()


def running(work: str | os.PathLike[str]) -> list[State]:
    """The runs that say they work in ``work``, the oldest first; killed ones are among them."""
    found = [state for state, _ in _read(Path(work) / FOLDER)]
    return sorted(found, key=lambda state: state.began)


def _read(folder: Path) -> Iterator[tuple[State, Path]]:
    try:
        files = sorted(folder.glob("*.json"))
    except OSError:
        return  # whoever works there says what is wrong with it
    for file in files:
        try:
            told = json.loads(file.read_text())
            alive = None
            if told["host"] == (platform.node() or "localhost"):
                alive = _is_there(int(told["pid"])) and _born(told["pid"]) == told["born"]
            state = State(
                str(told["command"]),
                str(told["began"]),
                str(told["at"]),
                str(told["host"]),
                int(told["pid"]),
                tuple(map(str, told["words"])),
                told["evaluation"],
                told["of"],
                str(told["note"]),
                alive,
            )
            _ = state.age
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it has ended meanwhile, or is none of ours
        yield state, file


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _born(pid: int) -> str:
    """When a process began, so that another one of its number is told apart; Linux says it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
