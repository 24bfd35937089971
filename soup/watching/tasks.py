"""The work at hand as events tell of it; nothing here draws.

Events come from several threads, late, twice or after the end of what they tell of. A task that has
ended stays ended, and whoever begins a new task has ended the one before.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from soup.events import Crew, Evaluation, Progress, Took

LATE = 1.0  # seconds in which an ended task's events are taken for late ones
WINDOW = 60.0  # seconds over which a speed is the mean
STEP = 1.0  # seconds between the moments that it is taken from
SOONEST = 0.5  # seconds after which there is a speed


@dataclass(frozen=True)
class Task:
    """One task as it stands: fields as in ``Progress``, and units per second where known."""

    name: str
    done: int
    total: int
    unit: str
    who: str
    rate: float | None

    @property
    def seconds_left(self) -> float | None:
        """Until it ends, at this speed."""
        return (self.total - self.done) / self.rate if self.rate else None


@dataclass(frozen=True)
class Scene:
    """Everything at hand at one moment: one evaluation and one task of each worker, at most."""

    tasks: tuple[Task, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    answers: Mapping[str, int] = field(default_factory=dict)
    """How far the evaluations' tasks have come, by name; they may have ended by now."""
    speed: float | None = None
    """Samples per second of the newest task that had a speed: for what has none yet."""

    def task_of(self, evaluation: Evaluation) -> Task | None:
        """The one that counts an evaluation's answers, while it is at hand."""
        return next((task for task in self.tasks if task.name == evaluation.task), None)


@dataclass
class _Track:
    """Where a task began here, and when it was where."""

    event: Progress
    moments: deque[tuple[float, int]] = field(default_factory=deque)

    def move(self, event: Progress, now: float) -> None:
        if event.total == self.event.total and event.done < self.event.done:
            return  # overtaken by a later one
        self.event = event
        if not self.moments or now - self.moments[-1][0] >= STEP:
            self.moments.append((now, event.done))
        while now - self.moments[0][0] > WINDOW and len(self.moments) > 1:
            self.moments.popleft()

    def rate(self, now: float) -> float | None:
        then, done = self.moments[0]
        if now - then < SOONEST or self.event.done <= done:
            return None
        return (self.event.done - done) / (now - then)


class Tasks:
    """The tasks at hand; safe to use from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tracks: dict[str, _Track] = {}
        self._ended: dict[tuple[str, str], float] = {}
        self._evaluations: dict[str, Evaluation] = {}
        self._answers: dict[str, int] = {}
        self._speed: float | None = None
        self._crew: Crew | None = None

    def take(self, event: Progress | Evaluation | Crew | Took) -> None:
        """Learn of one event."""
        with self._lock:
            if isinstance(event, Took):
                return
            if isinstance(event, Crew):
                self._crew = event
            elif isinstance(event, Progress):
                self._progress(event, self._clock())
            elif event.benchmark:
                self._evaluations[event.who] = event
                self._answers = {e.task: self._answers.get(e.task, 0) for e in self._at_hand()}
            else:
                self._evaluations.pop(event.who, None)

    def scene(self) -> Scene:
        """What is at hand now."""
        with self._lock:
            now = self._clock()
            tasks = tuple(
                Task(e.task, min(e.done, e.total), e.total, e.unit, e.who, track.rate(now))
                for track in self._tracks.values()
                for e in [track.event]
            )
            speeds = [task.rate for task in tasks if task.unit == "samples" and task.rate]
            self._speed = speeds[-1] if speeds else self._speed
            return Scene(tasks, self._at_hand(), dict(self._answers), self._speed)

    def _at_hand(self) -> tuple[Evaluation, ...]:
        return tuple(self._evaluations.values())

    def _progress(self, event: Progress, now: float) -> None:
        track = self._tracks.get(event.who)
        if track is None or track.event.task != event.task:
            if event.done and now - self._ended.get((event.who, event.task), -LATE) < LATE:
                return  # late: what it tells of has ended
            if track is not None:
                self._ended[event.who, track.event.task] = now
            track = self._tracks[event.who] = _Track(event)
        track.move(event, now)
        if event.task in self._answers:
            self._answers[event.task] = min(track.event.done, track.event.total)
        if track.event.done >= track.event.total:
            if event.unit == "samples":
                self._speed = track.rate(now) or self._speed
            self._ended[event.who, event.task] = now
            del self._tracks[event.who]
