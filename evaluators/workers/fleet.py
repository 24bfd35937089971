"""Several workers and the one queue of their work, behind what a scorer needs.

One thread for each worker takes slices from ``queue``, asks its process and hands in what came of
it. The caller's thread says what is wanted, waits, and looks after workers that hang. Answers are
gathered by question and kept by this process alone; a worker is asked for the metric when all are
there. So a result does not depend on how many workers there are, or on when they were done.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from soup.errors import ScoringError, SoupError
from soup.evaluators.engines.kept import ANSWERS, Kept
from soup.evaluators.kit.finished import packed
from soup.evaluators.workers.process import Died
from soup.evaluators.workers.queue import Job, Queue, Rules, Slice
from soup.events import Crew, Event, Note, Observer, Progress, Took, ignore
from soup.words import counted

LOOK = 0.25  # seconds between two looks at workers that may hang
TOLD = 0.2  # seconds between two events about the whole
LOST = "CUDA error"  # in the words of a worker whose device does nothing more
PATIENCE = 1.5  # seconds that threads have to notice that all is over


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


@dataclass(frozen=True)
class Work:
    """A blend that is asked a benchmark.

    Attributes:
        request: ``blend``, ``benchmark``, ``key``, ``keep`` and ``task``, as a worker is asked.
        holds: names what a worker holds for it.
        asks: names the benchmark.
        samples: its questions.
        judged: whether its metric asks a judge, who may cost money.
        likelihood: that its result is wanted, above 0; 1 is certain.
    """

    request: Mapping[str, Any]
    holds: str
    asks: str
    samples: int
    judged: bool = False
    likelihood: float = 1.0

    @property
    def key(self) -> str:
        """Of the result."""
        return str(self.request["key"])


def _remove_table(work: Work) -> None:
    table = Path(work.request["keep"])
    for file in (table, packed(table)):
        file.unlink(missing_ok=True)


@dataclass(eq=False)
class _Asked:
    """What has come of a work so far."""

    work: Work
    job: Job
    answers: dict[int, str]
    kept: Kept | None = None
    result: dict[str, Any] | None = None
    seconds: float = 0.0  # of workers, in this process's time
    fresh: int = 0  # answers that were not there before

    @property
    def task(self) -> str:
        return str(self.work.request["task"])

    @property
    def file(self) -> Path:
        return Path(self.work.request["keep"]).with_suffix(ANSWERS)

    def keep(self, positions: Sequence[int], answers: Sequence[str]) -> None:
        """Take in some answers."""
        self.kept = self.kept or Kept(self.file, self.work.key)
        for position, answer in zip(positions, answers, strict=True):
            if position not in self.answers:
                self.fresh += 1
                self.answers[position] = answer
                self.kept.add(position, answer)

    def close(self) -> None:
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    def forget(self) -> None:
        """Remove what is kept: nobody wants it."""
        self.close()
        self.file.unlink(missing_ok=True)
        if self.result is not None:
            _remove_table(self.work)


@dataclass(eq=False)
class _Errand:
    """Something that any worker can be asked, without a model."""

    request: dict[str, Any]
    answer: dict[str, Any] | None = None
    error: SoupError | None = None
    deaths: int = 0


@dataclass(eq=False)
class _Seat:
    """One worker's place: its process, and the thread that asks it."""

    number: int
    hand: Hand | None = None
    thread: threading.Thread | None = None
    learned: bool = False
    hung: bool = False
    live: int = 0  # questions of its slice that are answered
    errand: _Errand | None = None

    @property
    def name(self) -> str:
        return f"worker {self.number + 1}"


@dataclass
class Fleet:
    """Workers that share the work. From the first work on they are there; ``close`` ends them.

    Attributes:
        count: of workers.
        spawn: starts the process of a worker, by its number from 0; returns at once.
        teach: tells a process what every worker must know.
        log: where a worker's process, by its number, prints to.
        rules: see ``soup.evaluators.workers.queue``.
        saved: answers that were there when somebody asked for them, made ahead because they were
            likely to be wanted.
        dropped: the same that nobody asked for.
    """

    count: int
    spawn: Callable[[int], Hand]
    teach: Callable[[Hand], None]
    log: Callable[[int], Path]
    rules: Rules = field(default_factory=Rules)
    saved: int = field(default=0, init=False)
    dropped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._queue = Queue(range(self.count), self.rules)
        self._seats = [_Seat(k) for k in range(self.count)]
        self._asked: dict[Job, _Asked] = {}
        self._errands: deque[_Errand] = deque()
        self._errors: dict[str, SoupError] = {}
        self._begun: set[str] = set()
        self._measured: set[str] = set()
        self._failure: BaseException | None = None
        self._closed = False
        self._observe: Observer = ignore
        self._wanted: _Asked | None = None
        self._notes: set[str] = set()
        self._told = 0.0
        self._summed = False

    # --- what is wanted ----------------------------------------------------------------------

    def expect(self, works: Sequence[Work], observe: Observer) -> None:
        """What will be wanted, or may be; it replaces what was expected before."""
        with self._changed:
            self._observe = observe
            jobs = []
            for work in works:
                if work.key in self._errors:
                    continue
                asked = self._asked_of(work)
                self._rate(asked, work)
                jobs.append(asked.job)
            for job in self._queue.expect(jobs):
                self._drop(job)
            made = self.saved + self.dropped
            if jobs:
                self._start()
                return
            self._observe = ignore  # what is still at work comes to nothing
            if made and not self._summed:
                self._summed = True
                text = f"{self.count} workers: of {made:,} answers that were made on a guess, "
                observe(Note(f"{text}{self.saved:,} were wanted"))

    def measure(self, work: Work, observe: Observer) -> dict[str, Any]:
        """A work's result, as a worker's ``score`` gives it; waits for it.

        Raises:
            SoupError: it cannot be had; everything else is kept.
        """
        with self._changed:
            self._observe = observe
            self._raise_error(work)
            self._measured.add(work.key)
            asked = self._asked_of(work)
            self._queue.want(asked.job)
            self._rate(asked, replace(work, likelihood=1.0))
        self._wait(asked, lambda: asked.result is not None)
        assert asked.result is not None
        observe(Progress(asked.task, work.samples, work.samples, "samples"))
        observe(Took(asked.task, asked.seconds, asked.fresh))
        return dict(asked.result)

    def outcomes(self, work: Work, samples: Sequence[str], observe: Observer) -> dict[str, Any]:
        """How right the answers to some questions are, and how many these are; waits for it.

        A later ``measure`` of the same work asks only the rest.
        """
        source = work.request["benchmark"]
        asking = {"do": "positions", "benchmark": source, "samples": list(samples)}
        positions = self._ask_anybody(asking, observe)["positions"]
        with self._changed:
            self._raise_error(work)
            whole = self._asked_of(work)
            missing = [position for position in positions if position not in whole.answers]
            self._rate(whole, replace(work, likelihood=1.0))
            self._queue.drop(whole.job.key)
            del self._asked[whole.job]
            part = Job(work.key, work.holds, work.asks, missing, metric=False)
            asked = self._asked[part] = replace(whole, job=part)
            self._queue.want(part)
        self._wait(asked, lambda: part.answered)
        texts = [asked.answers[position] for position in positions]
        asking = {"do": "right", "benchmark": source, "positions": positions, "answers": texts}
        return {**self._ask_anybody(asking, observe), "samples": len(positions)}

    def close(self) -> None:
        """End all workers, at once; nothing that was answered is lost."""
        with self._changed:
            self._closed = True
            hands = [seat.hand for seat in self._seats if seat.hand is not None]
            self._changed.notify_all()
        for hand in hands:
            hand.kill()
        end = time.monotonic() + PATIENCE
        for seat in self._seats:
            if seat.thread is not None:
                seat.thread.join(max(0.0, end - time.monotonic()))
        for hand in hands:
            hand.close()
        for asked in self._asked.values():
            asked.close()

    def forget_guesses(self) -> None:
        """Remove the answers that nobody has asked for: all is done, nobody will."""
        with self._changed:
            for job in self._queue.expect([]):
                self._drop(job)

    # --- jobs --------------------------------------------------------------------------------

    def _asked_of(self, work: Work) -> _Asked:
        """What is known of a work; it becomes a job where it is none yet."""
        job = self._queue.job(work.key)
        if job is not None:
            return self._asked[job]
        task = work.request["task"]
        answers: dict[int, str] = {}
        file = Path(work.request["keep"]).with_suffix(ANSWERS)
        if file.exists():  # of a run that was stopped
            kept = Kept(file, work.key)
            kept.close()
            answers = dict(kept.known)
            if kept.damaged:
                text = f"{task}: {kept.damaged} kept answers were not as they had been written; "
                self._observe(Note(f"{text}they are in {kept.aside}, and asked again", True))
            if answers and work.key not in self._begun:
                text = f"{task}: {len(answers)} of {work.samples} answers are kept"
                self._observe(Note(text))
        self._begun.add(work.key)
        missing = [position for position in range(work.samples) if position not in answers]
        job = Job(work.key, work.holds, work.asks, missing, work.likelihood, eager=not work.judged)
        asked = self._asked[job] = _Asked(work, job, answers)
        return asked

    def _rate(self, asked: _Asked, work: Work) -> None:
        """A work is as likely to be wanted as is said now."""
        if work.likelihood >= 1 and asked.work.likelihood < 1:
            self.saved += asked.fresh
        asked.work = work
        asked.job.likelihood = work.likelihood

    def _raise_error(self, work: Work) -> None:
        if work.key in self._errors:
            raise self._errors.pop(work.key)

    def _drop(self, job: Job) -> None:
        """Nobody wants a job any more: what was made ahead of it goes."""
        asked = self._asked.pop(job)
        asked.close()
        if asked.work.likelihood < 1:
            self.dropped += asked.fresh
            asked.forget()

    def _wait(self, asked: _Asked, is_over: Callable[[], bool]) -> None:
        """Until a job that is wanted is done."""
        with self._changed:
            self._wanted = asked
            self._start()
        self._tell_whole(always=True)
        try:
            self._until(lambda: is_over() or asked.work.key in self._errors)
        finally:
            with self._changed:
                self._wanted = None
                asked.close()
        with self._changed:
            self._queue.drop(asked.job.key)
            self._asked.pop(asked.job, None)
            self._raise_error(asked.work)

    def _until(self, is_over: Callable[[], bool]) -> None:
        with self._changed:
            while not is_over():
                if self._failure is not None:
                    raise self._failure
                self._changed.wait(LOOK)
                self._end_hung()

    def _end_hung(self) -> None:
        now = time.monotonic()
        for number in self._queue.overdue(now):
            seat = self._seats[number]
            if seat.hand is not None and not seat.hung:
                seat.hung = True
                seat.hand.kill()

    def _ask_anybody(self, request: dict[str, Any], observe: Observer) -> dict[str, Any]:
        """Ask whoever is free next something that takes no model."""
        errand = _Errand(request)
        with self._changed:
            self._observe = observe
            self._errands.append(errand)
            self._start()
        self._until(lambda: errand.answer is not None or errand.error is not None)
        if errand.error is not None:
            raise errand.error
        assert errand.answer is not None
        return errand.answer

    # --- threads -----------------------------------------------------------------------------

    def _start(self) -> None:
        """Have a thread at each seat, and let them look at what there is to do."""
        for seat in self._seats:
            if seat.thread is None and not self._closed:
                run = threading.Thread(target=self._run, args=(seat,), name=seat.name, daemon=True)
                seat.thread = run
                run.start()
        self._changed.notify_all()

    def _run(self, seat: _Seat) -> None:
        """What the thread of a seat does, until all is over."""
        try:
            while self._is_needed(seat):
                if seat.hand is None and not self._fill(seat):
                    return
                self._next(seat)
        except BaseException as error:
            self._fail(error)

    def _is_needed(self, seat: _Seat) -> bool:
        """Wait until there is work; False where all is over."""
        with self._changed:
            while not self._closed and not (self._errands or self._queue.has_work()):
                self._changed.wait()
            return not self._closed

    def _next(self, seat: _Seat) -> None:
        """Do one thing, or wait until something has changed."""
        with self._changed:
            if self._closed:
                return
            errand = self._errands.popleft() if self._errands else None
            found = None if errand else self._queue.take(seat.number, time.monotonic())
            if errand is None and found is None:
                self._changed.wait()
                return
            seat.live, seat.hung, seat.errand = 0, False, errand
            asked = None if found is None else self._asked[found.job]
            if errand is not None:
                request = errand.request
            elif found is not None and asked is not None:
                request = self._request(found, asked)
        assert seat.hand is not None
        started = time.monotonic()
        try:
            answer = seat.hand.ask(dict(request), lambda event: self._hear(seat, found, event))
        except Died as end:
            self._died(seat, found, end)
        except SoupError as error:
            if LOST in str(error):
                seat.hand.kill()
                self._died(seat, found, Died(f"lost its device ({error})", "", True))
            else:
                self._refused(seat, found, error)
        else:
            self._hand_in(seat, found, asked, answer, time.monotonic() - started)

    @staticmethod
    def _request(found: Slice, asked: _Asked) -> dict[str, Any]:
        request = asked.work.request
        if found.is_metric:
            answers = [asked.answers[position] for position in range(asked.work.samples)]
            names = ("benchmark", "keep", "task")
            return {"do": "score", "answers": answers} | {name: request[name] for name in names}
        names = ("blend", "benchmark", "task")
        positions = list(found.positions)
        return {"do": "answer", "positions": positions} | {name: request[name] for name in names}

    def _hand_in(
        self,
        seat: _Seat,
        found: Slice | None,
        asked: _Asked | None,
        answer: dict[str, Any],
        seconds: float,
    ) -> None:
        with self._changed:
            if found is None or asked is None:
                assert seat.errand is not None
                seat.errand.answer = answer
            else:
                loading, answering = answer.pop("loading", 0.0), answer.pop("answering", None)
                now = time.monotonic()
                self._queue.done(seat.number, now, loading=loading, answering=answering)
                seat.live = 0
                if self._asked.get(found.job) is asked:
                    asked.seconds += seconds
                    if found.is_metric:
                        asked.result = answer
                        asked.close()
                    else:
                        asked.keep(found.positions, answer["answers"])
                elif not found.job.certain:  # it was dropped meanwhile
                    self.dropped += len(found.positions)
                    if found.is_metric and found.job.key not in self._measured:
                        _remove_table(asked.work)
            self._changed.notify_all()
        self._tell_whole()

    # --- what goes wrong ---------------------------------------------------------------------

    def _fill(self, seat: _Seat) -> bool:
        """Start the process of a seat; False where there will be none."""
        deaths = 0
        while True:
            with self._changed:
                if self._closed:
                    return False
                seat.hand = self.spawn(seat.number)
            try:
                self.teach(seat.hand)
            except (Died, SoupError) as error:
                seat.hand.close()
                seat.hand = None
                deaths += 1
                if self._closed or not self._begins_again(seat, error, deaths):
                    return False
            else:
                seat.learned = True
                return True

    def _begins_again(self, seat: _Seat, error: Died | SoupError, deaths: int) -> bool:
        """Whether to start a worker once more that has ended before it could do anything."""
        others = [s for s in self._seats if s is not seat and s.learned and s.number in self._queue]
        if isinstance(error, Died):
            text = f"{seat.name} {error.how} (when it began)"
            # One that never spoke would end in the same way again, unless others do speak.
            if deaths < self.rules.deaths and (error.greeted or others):
                text += f"; it is started again (death {deaths} of {self.rules.deaths})"
                self._observe(Note(text, warning=True))
                return True
            error = self._ended(text, seat, error)
        with self._changed:
            if not seat.learned or not others:
                raise error from None
            self._queue.retire(seat.number)
        self._observe(Note(f"{seat.name} does not come back, the others go on: {error}", True))
        return False

    def _died(self, seat: _Seat, found: Slice | None, end: Died) -> None:
        """A worker has ended at something: it is done again, by whoever is free."""
        assert seat.hand is not None
        with self._changed:
            if self._closed:
                return
            seat.hand.close()
            seat.hand = None
            self._queue.lost(seat.number)
            how = end.how
            if seat.hung:
                how = "gave no answer for far longer than it should take, and was ended"
            if found is None:
                assert seat.errand is not None
                seat.errand.deaths += 1
                deaths, what = seat.errand.deaths, str(seat.errand.request["do"])
                self._errands.appendleft(seat.errand)
            else:
                asked = self._asked.get(found.job)
                deaths, what = found.deaths, str(asked.task if asked else "something else")
                what += " (its metric)" if found.is_metric else ""
            if not end.greeted:
                raise self._ended(f"{seat.name} {how} (at: {what})", seat, end)
            if deaths >= self.rules.deaths:
                times = counted(deaths, "worker")
                text = f"{times} died at: {what}; the last, {seat.name}, {how}"
                error = self._ended(text, seat, end)
                if found is None:
                    raise error
                self._give_up(found.job, error)
                return
            self._changed.notify_all()
        again = "its metric" if found and found.is_metric else "it"
        if found is not None and found.positions:
            again = counted(len(found.positions), "question")
        text = f"{seat.name} {how} (at: {what}); {again} will be done again"
        self._observe(Note(f"{text} (death {deaths} of {self.rules.deaths})", warning=True))

    def _refused(self, seat: _Seat, found: Slice | None, error: SoupError) -> None:
        """A worker says that it cannot be done."""
        with self._changed:
            if found is None:
                assert seat.errand is not None
                seat.errand.error = error
            else:
                self._queue.fail(seat.number)
                self._give_up(found.job, error)
            self._changed.notify_all()

    def _give_up(self, job: Job, error: SoupError) -> None:
        """A job has no result; who asks for it hears why."""
        self._queue.drop(job.key)
        asked = self._asked.pop(job, None)
        if asked is not None:
            asked.close()
            self._errors[job.key] = error
        self._changed.notify_all()

    def _ended(self, text: str, seat: _Seat, end: Died) -> ScoringError:
        log = self.log(seat.number)
        return ScoringError(
            f"{text}; the end of what it printed (the whole is in {log}):", end.words
        )

    def _fail(self, error: BaseException) -> None:
        """Nothing goes on; whoever waits hears why."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    # --- what is told ------------------------------------------------------------------------

    def _hear(self, seat: _Seat, found: Slice | None, event: Event) -> None:
        """A worker tells of something."""
        if isinstance(event, Note):
            with self._changed:
                if event.text in self._notes:  # each of them finds the same
                    return
                self._notes.add(event.text)
            self._observe(event)
            return
        if isinstance(event, Progress):
            if event.unit == "samples" and found is not None:
                seat.live = event.done
            self._observe(replace(event, who=seat.name))
            self._tell_whole()

    def _tell_whole(self, always: bool = False) -> None:
        """How far what is waited for has come, and what all are doing."""
        with self._changed:
            asked, now = self._wanted, time.monotonic()
            if asked is None and not always:
                return
            if not always and now - self._told < TOLD:
                return
            self._told = now
            events: list[Event] = []
            if asked is not None:
                done = len(asked.answers) + sum(
                    seat.live
                    for seat in self._seats
                    if (found := self._queue.at(seat.number)) is not None and found.job is asked.job
                )
                events.append(Progress(asked.task, done, asked.work.samples, "samples"))
            ahead = sum(len(one.answers) for one in self._asked.values() if one is not asked)
            crew = Crew(self.count, self._queue.busy, ahead, self.saved, self.dropped)
            events.append(crew)
            observe = self._observe
        for event in events:
            observe(event)
