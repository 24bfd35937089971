"""Several workers and the one queue of their work, behind what a scorer needs.

One thread for each worker takes slices from ``queue``, asks its process and hands in what came of
it. The caller's thread says what is wanted, waits, and looks after workers that hang. Answers are
gathered by question and kept by this process alone; a worker is asked for the metric when all are
there, or an evaluator, which has no model (``evaluating``). So a result does not depend on how many
there are, or on when they were done.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soup.errors import ScoringError, SoupError
from soup.evaluators.workers.evaluating import EVALUATORS, wants_more
from soup.evaluators.workers.gathering import Asked, Gathering, Work
from soup.evaluators.workers.jobs import Job, Rules, Slice
from soup.evaluators.workers.process import Died
from soup.evaluators.workers.queue import Queue
from soup.evaluators.workers.sealing import unfit
from soup.evaluators.workers.seats import Errand, Hand, Seat, request_of
from soup.events import Crew, Event, Note, Observer, Progress, Took, ignore
from soup.words import counted

LOOK = 0.25  # seconds between two looks at workers that may hang
ROOM = 3.0  # seconds between two looks at how much room there is
TOLD = 0.2  # seconds between two events about the whole
LOST = "CUDA error"  # in the words of a worker whose device does nothing more
PATIENCE = 1.5  # seconds that threads have to notice that all is over


@dataclass
class Fleet:
    """Workers that share the work. From the first work on they are there; ``close`` ends them.

    Attributes:
        count: of workers.
        spawn: starts the process of a worker, by its number from 0, or of an evaluator, by its
            number from ``EVALUATORS``; returns at once.
        teach: tells a process what every worker must know; where it is to have no model, and is
            told so by True, what is needed to evaluate.
        log: where a process, by its number, prints to.
        rules: see ``soup.evaluators.workers.jobs``.
        room: how many workers there could be by now; None is as many as there were.
        evaluators: how many there may be.
        gathered: what has come of all that is asked.
    """

    count: int
    spawn: Callable[[int], Hand]
    teach: Callable[[Hand, bool], None]
    log: Callable[[int], Path]
    rules: Rules = field(default_factory=Rules)
    room: Callable[[], int] | None = None
    evaluators: int = 0
    gathered: Gathering = field(default_factory=Gathering, init=False)

    def __post_init__(self) -> None:
        self._changed = threading.Condition(threading.RLock())
        self._queue = Queue(range(self.count), self.rules)
        self._seats = [Seat(k) for k in range(self.count)]
        self._evaluators: list[Seat] = []
        self._errands: deque[Errand] = deque()
        self._failure: BaseException | None = None
        self._closed = False
        self._observe: Observer = ignore
        self._wanted: Asked | None = None
        self._notes: set[str] = set()
        self._told = 0.0
        self._summed = False
        self._first = self.count
        self._looked = time.monotonic()

    # --- what is wanted ----------------------------------------------------------------------

    def expect(self, works: Sequence[Work], observe: Observer) -> None:
        """What will be wanted, or may be; it replaces what was expected before."""
        with self._changed:
            self._observe = observe
            jobs = []
            for work in works:
                if self.gathered.has_failed(work):
                    continue
                asked = self._asked_of(work)
                self.gathered.rate(asked, work)
                jobs.append(asked.job)
            for job in self._queue.expect(jobs):
                self.gathered.drop(job)
            saved, made = self.gathered.saved, self.gathered.saved + self.gathered.dropped
            if jobs:
                self._start()
                return
            self._observe = ignore  # what is still at work comes to nothing
            if made and not self._summed:
                self._summed = True
                text = f"of {made:,} answers that were made on a guess, {saved:,} were wanted"
                observe(Note(f"{counted(self.count, 'worker')}: {text}"))

    @property
    def guessed(self) -> tuple[int, int]:
        """See ``soup.choosing.scoring.GuessingScorer``."""
        with self._changed:
            return self.gathered.saved, self.gathered.saved + self.gathered.dropped

    def measure(self, work: Work, observe: Observer) -> dict[str, Any]:
        """A work's result, as a worker's ``score`` gives it; waits for it.

        Raises:
            SoupError: it cannot be had; everything else is kept.
        """
        with self._changed:
            self._observe = observe
            self.gathered.raise_error(work)
            self.gathered.measured(work)
            asked = self._asked_of(work)
            self._queue.want(asked.job)
            self.gathered.rate(asked, replace(work, likelihood=1.0))
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
            self.gathered.raise_error(work)
            whole = self._asked_of(work)
            self.gathered.rate(whole, replace(work, likelihood=1.0))
            self._queue.drop(whole.job.key)
            asked = self.gathered.narrow(whole, positions)
            self._queue.want(asked.job)
        self._wait(asked, lambda: asked.job.answered)
        texts = [asked.answers[position] for position in positions]
        asking = {"do": "right", "benchmark": source, "positions": positions, "answers": texts}
        return {**self._ask_anybody(asking, observe), "samples": len(positions)}

    def close(self) -> None:
        """End all workers, at once; nothing that was answered is lost."""
        with self._changed:
            self._closed = True
            seats = [*self._seats, *self._evaluators]
            hands = [seat.hand for seat in seats if seat.hand is not None]
            self._changed.notify_all()
        for hand in hands:
            hand.kill()
        end = time.monotonic() + PATIENCE
        for seat in seats:
            if seat.thread is not None:
                seat.thread.join(max(0.0, end - time.monotonic()))
        for hand in hands:
            hand.close()
        for asked in self.gathered.all():
            asked.close()

    def forget_guesses(self) -> None:
        """Remove the answers that nobody has asked for: all is done, nobody will."""
        with self._changed:
            for job in self._queue.expect([]):
                self.gathered.drop(job)

    def _asked_of(self, work: Work) -> Asked:
        """What is known of a work; it becomes a job where it is none yet."""
        job = self._queue.job(work.key)
        return self.gathered.begin(work, self._observe) if job is None else self.gathered[job]

    def _wait(self, asked: Asked, is_over: Callable[[], bool]) -> None:
        """Until a job that is wanted is done."""
        with self._changed:
            self._wanted = asked
            self._start()
        self._tell_whole(always=True)
        try:
            self._until(lambda: is_over() or self.gathered.has_failed(asked.work))
        finally:
            with self._changed:
                self._wanted = None
                asked.close()
        with self._changed:
            self._queue.drop(asked.job.key)
            self.gathered.end(asked.job)
            self.gathered.raise_error(asked.work)

    def _until(self, is_over: Callable[[], bool]) -> None:
        with self._changed:
            while not is_over():
                if self._failure is not None:
                    raise self._failure
                self._changed.wait(LOOK)
                self._end_hung()
                self._grow()
                if self._wants_evaluator():
                    self._start()

    def _grow(self) -> None:
        """Have a seat more for each worker more that there is room for."""
        now = time.monotonic()
        if self.room is None or now - self._looked < ROOM:
            return
        self._looked = now
        for number in range(self.count, self.room()):
            self._seats.append(Seat(number))
            self._queue.add(number)
            self.count += 1
            self._observe(Note(f"{self._seats[-1].name} joins"))
        self._start()

    def _wants_evaluator(self) -> bool:
        """Whether metrics need one more."""
        backlog = self._queue.backlog(time.monotonic())
        there = len(self._evaluators)
        return self._queue.has_work() and wants_more(there, self.evaluators, backlog)

    def _end_hung(self) -> None:
        now = time.monotonic()
        seats = {seat.number: seat for seat in (*self._seats, *self._evaluators)}
        for number in self._queue.overdue(now):
            seat = seats[number]
            if seat.hand is not None and not seat.hung:
                seat.hung = True
                seat.hand.kill()

    def _ask_anybody(self, request: dict[str, Any], observe: Observer) -> dict[str, Any]:
        """Ask whoever is free next something that takes no model."""
        errand = Errand(request)
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
        while self._wants_evaluator():
            self._evaluators.append(Seat(EVALUATORS + len(self._evaluators)))
        for seat in (*self._seats, *self._evaluators):
            if seat.thread is None and not self._closed:
                run = threading.Thread(target=self._run, args=(seat,), name=seat.name, daemon=True)
                seat.thread = run
                run.start()
        self._changed.notify_all()

    def _run(self, seat: Seat) -> None:
        """What the thread of a seat does, until all is over."""
        try:
            while self._is_needed(seat):
                if seat.hand is None and not self._fill(seat):
                    return
                self._next(seat)
        except BaseException as error:
            self._fail(error)

    def _is_needed(self, seat: Seat) -> bool:
        """Wait until there is work, or somebody who is to be ready; False where all is over."""
        with self._changed:
            while not (self._closed or self._errands or self._queue.has_work() or seat.evaluates):
                self._changed.wait()
            return not self._closed

    def _next(self, seat: Seat) -> None:
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
            asked = None if found is None else self.gathered[found.job]
            if errand is not None:
                request = errand.request
            elif found is not None and asked is not None:
                request = request_of(found, asked)
        assert seat.hand is not None
        started = time.monotonic()
        try:
            answer = seat.hand.ask(dict(request), lambda event: self._hear(seat, found, event))
            if (why := unfit(request, answer)) is not None:
                raise Died(why, "", True)
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

    def _hand_in(
        self,
        seat: Seat,
        found: Slice | None,
        asked: Asked | None,
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
                self.gathered.take_in(found, asked, answer, seconds)
            self._changed.notify_all()
        self._tell_whole()

    # --- what goes wrong ---------------------------------------------------------------------

    def _fill(self, seat: Seat) -> bool:
        """Start the process of a seat; False where there will be none."""
        deaths = 0
        while True:
            with self._changed:
                if self._closed:
                    return False
                seat.hand = self.spawn(seat.number)
            try:
                self.teach(seat.hand, seat.evaluates)
            except (Died, SoupError) as error:
                seat.hand.close()
                seat.hand = None
                deaths += 1
                if self._closed or not self._begins_again(seat, error, deaths):
                    return False
            else:
                seat.learned = True
                if seat.evaluates:
                    with self._changed:
                        self._queue.add(seat.number, evaluates=True)
                return True

    def _begins_again(self, seat: Seat, error: Died | SoupError, deaths: int) -> bool:
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
            came_later = seat.number >= self._first
            if not seat.evaluates and not (others and (seat.learned or came_later)):
                raise error from None
            if seat.evaluates:
                self.evaluators = len(self._evaluators)  # another one would fare no better
            else:
                self._queue.retire(seat.number)
        self._observe(Note(f"{seat.name} does not come back, the others go on: {error}", True))
        return False

    def _died(self, seat: Seat, found: Slice | None, end: Died) -> None:
        """A worker has ended at something: it is done again, by whoever is free."""
        assert seat.hand is not None
        with self._changed:
            if self._closed:
                return
            seat.hand.close()
            seat.hand = None
            self._queue.lost(seat.number)
            if seat.evaluates:  # until another one is there
                self._queue.retire(seat.number)
            how = end.how
            if seat.hung:
                how = "gave no answer for far longer than it should take, and was ended"
            if found is None:
                assert seat.errand is not None
                seat.errand.deaths += 1
                deaths, what = seat.errand.deaths, str(seat.errand.request["do"])
                self._errands.appendleft(seat.errand)
            else:
                deaths, what = found.deaths, self.gathered.task_of(found)
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

    def _refused(self, seat: Seat, found: Slice | None, error: SoupError) -> None:
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
        self.gathered.give_up(job, error)
        self._changed.notify_all()

    def _ended(self, text: str, seat: Seat, end: Died) -> ScoringError:
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

    def _hear(self, seat: Seat, found: Slice | None, event: Event) -> None:
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
            all_, made = self.gathered.all(), (self.gathered.saved, self.gathered.dropped)
            ahead = sum(len(one.answers) for one in all_ if one is not asked)
            events.append(Crew(self.count, self._queue.busy, ahead, *made))
            observe = self._observe
        for event in events:
            observe(event)
