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
    crew: Crew | None = None
    """What several workers do together, where there are several."""
    speeds: Mapping[str, float] = field(default_factory=dict)
    """Samples per second of each of them, over all that it has done of late."""

    def task_of(self, evaluation: Evaluation) -> Task | None:
        """The one that counts an evaluation's answers, while it is at hand."""
        return next(
            (t for t in self.tasks if t.name == evaluation.task and t.who == evaluation.who), None
        )

    @property
    def workers(self) -> dict[str, Task | None]:
        """What each of several workers does; None is nothing."""
        doing = {task.who: task for task in self.tasks if task.who}
        names = [f"worker {k + 1}" for k in range(self.crew.workers if self.crew else 0)]
        return {name: doing.get(name) for name in names}


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


class _Meter:
    """How fast somebody answers, over several tasks."""

    def __init__(self, now: float) -> None:
        self._before = 0  # answered in tasks that have ended
        self._last = 0
        self._moments: deque[tuple[float, int]] = deque([(now, 0)])

    def move(self, done: int, now: float) -> None:
        """So many are answered of the task at hand; where they are fewer, it is another one."""
        if done < self._last:
            self._before += self._last
        self._last = done
        if now - self._moments[-1][0] >= STEP:
            self._moments.append((now, self._before + done))
        while now - self._moments[0][0] > WINDOW and len(self._moments) > 1:
            self._moments.popleft()

    @property
    def speed(self) -> float:
        """Per second, from the first moment to the last."""
        (then, before), (last, count) = self._moments[0], self._moments[-1]
        return (count - before) / (last - then) if last - then >= SOONEST else 0.0


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
        self._meters: dict[str, _Meter] = {}

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
            measured = {who: meter.speed for who, meter in self._meters.items()}
            speeds = [task.rate for task in tasks if task.unit == "samples" and task.rate]
            if self._crew is not None and any(measured.values()):
                speeds = [sum(measured.values())]
            self._speed = speeds[-1] if speeds else self._speed
            answers = dict(self._answers)
            return Scene(tasks, self._at_hand(), answers, self._speed, self._crew, measured)

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
        asked = self._evaluations.get(event.who)
        if asked is not None and asked.task == event.task:
            self._answers[event.task] = min(track.event.done, track.event.total)
        if event.unit == "samples" and event.who:
            meter = self._meters.setdefault(event.who, _Meter(now))
            meter.move(track.event.done, now)
        if track.event.done >= track.event.total:
            if event.unit == "samples":
                self._speed = track.rate(now) or self._speed
            self._ended[event.who, event.task] = now
            del self._tracks[event.who]
