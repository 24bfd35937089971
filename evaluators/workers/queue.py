"""Which worker does what next: pure bookkeeping, without a thread, a process or a clock of its own.

A *job* is a blend asked a benchmark; a *slice* is some of its questions, or, when all are answered,
its metric. Whoever is free takes the next slice:

1. the metric of a job that is certainly wanted;
2. of what is certainly wanted, a slice of the blend that it holds; else of a blend that nobody
   holds, so that members spread first; else of one that others hold, where that helps;
3. the same of what is only likely to be wanted, the likeliest first, where that pays.

Joining k workers that hold a blend costs a swap of S seconds and brings the end of R seconds of
work from R/k down to (R + S)/(k + 1), which is sooner where R > k·S. To work on something likely
instead would be better only if it were likelier than N/(k + 1), N being all workers: never.

A guess that comes true with a chance of p saves at most the time until it is decided, D. One that
does not keeps its worker from what is wanted then, for L = max(S + slice - D, slice / 2) seconds,
as what is begun is not broken off. It pays where p·D > c·(1 - p)·L·u; of N workers those matter
that could join what is wanted then, u = R / (S·N), at most 1; c is caution.

Of a blend's benchmarks the one whose metric takes longest comes first, so that it is not waited for
in the end. Slices shrink as the work ends, so that none is waited for long. Speeds are learned from
slices that were done, and so are deadlines. The same calls at the same times give the same slices.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

RECENT = 9
"""Newest loads that their usual time is the median of."""

CAUTION = 2.0
"""How much a wrong guess counts: all these times are estimates, and waiting costs nothing new."""


@dataclass(frozen=True)
class Rules:
    """How work is cut.

    Attributes:
        shortest: seconds that a slice should take, at least: what starting one costs must not show.
        longest: the same, at most: the work at hand must not be long when somebody becomes free.
        fewest: questions of a slice, at least: a full batch.
        deaths: of workers at one slice, until it is given up.
        patience: times the expected time of a slice until its worker is taken for hung.
        grace: seconds until then, at least.
        unknown: seconds until then, where nothing is known of the speed.
    """

    shortest: float = 2.0
    longest: float = 30.0
    fewest: int = 16
    deaths: int = 3
    patience: float = 10.0
    grace: float = 120.0
    unknown: float = 3600.0


@dataclass(eq=False)
class Job:
    """A blend asked a benchmark.

    Attributes:
        key: names it; no two jobs of a queue have the same.
        blend: names what a worker must hold for it.
        benchmark: names what is asked: questions of one have about one speed.
        positions: the questions to be answered, in order.
        likelihood: that its result is wanted, above 0; 1 is certain.
        metric: whether its answers are to be evaluated.
        eager: whether that is done before the result is certainly wanted.
    """

    key: str
    blend: str
    benchmark: str
    positions: Sequence[int]
    likelihood: float = 1.0
    metric: bool = True
    eager: bool = True
    taken: int = field(default=0, init=False)
    again: list["Slice"] = field(default_factory=list, init=False)
    running: int = field(default=0, init=False)
    evaluation: str = field(default="no", init=False)
    """``no``, ``waits``, ``runs`` or ``done``."""

    @property
    def pending(self) -> int:
        """Questions that nobody works on yet."""
        return len(self.positions) - self.taken + sum(len(s.positions) for s in self.again)

    @property
    def answered(self) -> bool:
        """Whether all questions are."""
        return not self.pending and not self.running

    @property
    def certain(self) -> bool:
        """Whether the result is wanted in any case."""
        return self.likelihood >= 1

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.answered and (not self.metric or self.evaluation == "done")


@dataclass(eq=False)
class Slice:
    """What a worker does at a time: some questions of a job, or, without any, its metric.

    Attributes:
        job: whose.
        positions: the questions, in order.
        deaths: of workers at it.
    """

    job: Job
    positions: Sequence[int] = ()
    deaths: int = 0

    @property
    def is_metric(self) -> bool:
        """Whether it is the metric."""
        return not self.positions


@dataclass(eq=False)
class _Group:
    """The jobs of one blend."""

    blend: str
    jobs: list[Job]
    holders: int = 0
    seconds: float = 0.0
    """Of work that nobody has taken yet."""
    likelihood: float = 0.0

    def rate(self) -> None:
        """Be as likely as the likeliest job."""
        self.likelihood = max((job.likelihood for job in self.jobs), default=0.0)

    @property
    def pending(self) -> bool:
        return any(job.pending for job in self.jobs)


@dataclass(eq=False)
class _Worker:
    holds: str | None = None
    at: Slice | None = None
    swaps: bool = False
    since: float = 0.0
    expected: float = 0.0
    deadline: float = 0.0


class Queue:
    """The work of a fleet. Not safe to use from several threads at once."""

    def __init__(self, workers: Iterable[int], rules: Rules = Rules()) -> None:
        self._rules = rules
        self._workers = {worker: _Worker() for worker in workers}
        self._jobs: dict[str, Job] = {}
        self._groups: dict[str, _Group] = {}
        self._open: dict[str, _Group] = {}
        self._certain = 0
        self._holders: dict[str, int] = {}
        self._metrics: list[Job] = []
        self._speeds: dict[str, tuple[float, float]] = {}
        self._metric_times: dict[str, float] = {}
        self._decided = (float("nan"), 0.0)
        self._loads: deque[float] = deque(maxlen=RECENT)
        self._loaded: set[int] = set()

    def __contains__(self, worker: int) -> bool:
        return worker in self._workers

    # --- what is wanted ----------------------------------------------------------------------

    def expect(self, jobs: Sequence[Job]) -> list[Job]:
        """What is wanted from now on, in order; whatever else there was is dropped.

        A job that is known by its key goes on as it is, with the new likelihood.

        Returns:
            What was dropped. Slices of it that workers are at come to nothing.
        """
        wanted = {job.key: job for job in jobs}
        dropped = [job for key, job in self._jobs.items() if key not in wanted]
        found: dict[str, Job] = {}
        for key, job in wanted.items():
            known = self._jobs.get(key)
            if known is not None:
                known.likelihood = job.likelihood
            found[key] = known or job
        self._jobs = found
        self._regroup()
        self._decided = (float("nan"), 0.0)
        return dropped

    def want(self, job: Job) -> Job:
        """Want a job for certain, before all others; one that is known goes on as it is."""
        known = self._jobs.get(job.key, job)
        if job.key in self._jobs and known.certain:
            return known
        self._jobs.pop(job.key, None)
        known.likelihood = 1.0
        self._jobs = {known.key: known, **self._jobs}
        self._regroup()
        self._decided = (float("nan"), 0.0)
        return known

    def drop(self, key: str) -> None:
        """Want a job no more, where there is one."""
        job = self._jobs.pop(key, None)
        if job is None:
            return
        if job in self._metrics:
            self._metrics.remove(job)
        group = self._groups[job.blend]
        group.jobs.remove(job)
        group.rate()
        if not group.jobs:
            del self._groups[group.blend]
        self._weigh(group)
        if group.blend in self._open and not group.pending:
            self._reopen()

    def _regroup(self) -> None:
        groups: dict[str, list[Job]] = {}
        for job in self._jobs.values():
            groups.setdefault(job.blend, []).append(job)
        found = [_Group(blend, jobs, self._holders.get(blend, 0)) for blend, jobs in groups.items()]
        for group in found:
            group.rate()
        found.sort(key=lambda group: -group.likelihood)  # of equal ones the order given stays
        self._groups = {group.blend: group for group in found}
        for group in found:
            self._weigh(group)
        self._reopen()
        self._metrics = [job for job in self._jobs.values() if self._awaits_metric(job)]

    def _reopen(self) -> None:
        """Find the groups of which something is left to be taken."""
        self._open = {group.blend: group for group in self._groups.values() if group.pending}
        self._certain = sum(group.likelihood >= 1 for group in self._open.values())

    @staticmethod
    def _awaits_metric(job: Job) -> bool:
        return job.metric and job.answered and job.evaluation in ("no", "waits")

    # --- who does it -------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether a worker more would have something to do."""
        return bool(self._open) or any(job.certain or job.eager for job in self._metrics)

    def take(self, worker: int, now: float) -> Slice | None:
        """The next slice for a worker that is free; None where there is nothing for it to do.

        There may be when something is wanted anew, or a worker has died: nothing else changes it.
        """
        me = self._workers[worker]
        assert me.at is None, "one thing at a time"
        found = self._metric(certain=True) or self._questions(me, certain=True, now=now)
        found = found or self._metric(certain=False)
        found = found or self._questions(me, certain=False, now=now)
        if found is None:
            return None
        me.at, me.since = found, now
        me.deadline = now + self._allowed(worker, me, found)
        me.expected = now + self._expected(me, found)
        if found.is_metric:
            found.job.evaluation = "runs"
        else:
            me.swaps = me.holds != found.job.blend
            self._hold(me, found.job.blend)
            found.job.running += 1
        return found

    def _metric(self, certain: bool) -> Slice | None:
        for k, job in enumerate(self._metrics):
            if job.certain == certain and (certain or job.eager):
                del self._metrics[k]
                return Slice(job)
        return None

    def _questions(self, me: _Worker, certain: bool, now: float) -> Slice | None:
        group = self._choose(me, certain, now)
        if group is None:
            return None
        # What takes longest to evaluate comes first: a judge reads while the rest is answered.
        pending = [job for job in group.jobs if job.pending]
        job = max(pending, key=self._metric_time)
        found = job.again.pop(0) if job.again else self._cut(job, group, me)
        self._weigh(group)
        if not group.pending:
            self._reopen()
        return found

    def _choose(self, me: _Worker, certain: bool, now: float) -> _Group | None:
        swap, held = self.load_time, self._open.get(me.holds or "")
        if not certain:
            return self._guess(me, held, swap, self._until_decided(now))
        if held is not None and held.likelihood >= 1:
            return held
        best, most = None, 0.0
        for group in self._open.values():
            if group.likelihood < 1:
                break  # they stand in order of their likelihood
            if not group.holders:
                return group
            gain = group.seconds - group.holders * swap
            worth = gain / (group.holders * (group.holders + 1))
            if worth > most:
                best, most = group, worth
        return best

    def _guess(
        self, me: _Worker, held: _Group | None, swap: float, decided: float
    ) -> _Group | None:
        """The likeliest that pays, see above."""
        slice_ = self._rules.shortest
        for group in [held] if held is not None else self._open.values():
            share = group.likelihood
            joins = group is not held and group.holders > 0
            if share >= 1 or (joins and group.seconds <= group.holders * swap):
                continue
            late = max((0.0 if group is held else swap) + slice_ - decided, slice_ / 2)
            of_use = min(1.0, group.seconds / (swap * len(self._workers))) if swap else 1.0
            if share * decided > CAUTION * (1 - share) * late * of_use:
                return group
        return None

    def _until_decided(self, now: float) -> float:
        """Seconds until all that is certainly wanted is done, as far as anybody knows."""
        if now != self._decided[0]:
            times = [0.0]
            for me in self._workers.values():
                if me.at is not None and me.at.job.certain:
                    after = 0.0 if me.at.is_metric else self._metric_time(me.at.job)
                    times.append(max(me.expected - now, 0.0) + after)
            times += [self._metric_time(job) for job in self._metrics if job.certain]
            for group in self._open.values():
                if group.likelihood < 1:
                    break
                after = max(map(self._metric_time, group.jobs))
                times.append(group.seconds / max(group.holders, 1) + after)
            self._decided = (now, max(times))
        return self._decided[1]

    def _metric_time(self, job: Job) -> float:
        return self._metric_times.get(job.benchmark, 0.0) if job.metric else 0.0

    def _expected(self, me: _Worker, found: Slice) -> float:
        """Seconds that a slice should take."""
        if found.is_metric:
            return self._metric_time(found.job)
        load = self.load_time if me.holds != found.job.blend else 0.0
        return load + (self.pace(found.job.benchmark) or 0.0) * len(found.positions)

    def _cut(self, job: Job, group: _Group, me: _Worker) -> Slice:
        """A new slice of a job, for a worker that will hold its blend."""
        left = len(job.positions) - job.taken
        # Those who hold it, and those who will have nothing else to do; for a guess, all of them.
        others = len(self._workers) // max(self._certain if job.certain else 1, 1)
        sharing = max(group.holders + (me.holds != group.blend), others, 1)
        pace = self.pace(job.benchmark)
        if pace is None:
            count = min(left // (2 * sharing), 4 * self._rules.fewest)
        else:
            seconds = group.seconds / (2 * sharing)
            seconds = min(max(seconds, self._rules.shortest), self._rules.longest)
            count = round(seconds / pace) if pace > 0 else left
        count = max(count, self._rules.fewest)
        if left - count < self._rules.fewest // 2:
            count = left
        found = Slice(job, job.positions[job.taken : job.taken + count])
        job.taken += len(found.positions)
        return found

    def _hold(self, me: _Worker, blend: str | None) -> None:
        if me.holds == blend:
            return
        for name, change in ((me.holds, -1), (blend, 1)):
            if name is not None:
                self._holders[name] = self._holders.get(name, 0) + change
                if not self._holders[name]:
                    del self._holders[name]
                if name in self._groups:
                    self._groups[name].holders = self._holders.get(name, 0)
        me.holds = blend

    # --- what came of it ---------------------------------------------------------------------

    def done(
        self, worker: int, now: float, *, loading: float = 0.0, answering: float | None = None
    ) -> Slice:
        """A worker has done its slice.

        Args:
            worker: which.
            now: the time.
            loading: seconds of it in which it loaded the blend.
            answering: seconds of it in which it answered; None is the rest.
        """
        me = self._workers[worker]
        found, me.at = me.at, None
        assert found is not None, "it was at something"
        if found.is_metric:
            found.job.evaluation = "done"
            self._metric_times[found.job.benchmark] = now - me.since
            return found
        if me.swaps:
            if worker in self._loaded:
                self._loads.append(loading)
            self._loaded.add(worker)
        spent = now - me.since - loading if answering is None else answering
        name, count = found.job.benchmark, len(found.positions)
        seconds, questions = self._speeds.get(name, (0.0, 0.0))
        # What is older counts half by every slice: speeds change with lengths and with neighbours.
        self._speeds[name] = (seconds / 2 + max(spent, 0.0), questions / 2 + count)
        self._ended(found.job)
        return found

    def lost(self, worker: int) -> Slice | None:
        """A worker has died, or was ended; its slice will be done again, and it holds nothing.

        Returns:
            The slice that it was at, which counts its deaths. Where these are all that ``Rules``
            allows, it is for the caller to ``drop`` the job.
        """
        me = self._workers[worker]
        found, me.at = me.at, None
        self._hold(me, None)
        self._loaded.discard(worker)
        if found is None:
            return None
        found.deaths += 1
        job = found.job
        if found.is_metric:
            job.evaluation = "waits"
            if self._jobs.get(job.key) is job:
                self._metrics.append(job)
            return found
        job.running -= 1
        job.again.append(found)
        group = self._groups.get(job.blend)
        if group is not None and self._jobs.get(job.key) is job:
            self._weigh(group)
            self._reopen()
        return found

    def fail(self, worker: int) -> Slice | None:
        """A worker's slice cannot be done by anybody: its job is dropped."""
        me = self._workers[worker]
        found, me.at = me.at, None
        if found is not None:
            self.drop(found.job.key)
        return found

    def retire(self, worker: int) -> None:
        """A worker is no more; it was at nothing."""
        self._hold(self._workers.pop(worker), None)

    def _ended(self, job: Job) -> None:
        job.running -= 1
        if self._jobs.get(job.key) is job and self._awaits_metric(job):
            self._metrics.append(job)

    # --- what is known -----------------------------------------------------------------------

    def overdue(self, now: float) -> list[int]:
        """Workers that have been at their slice for so long that they must hang."""
        return [k for k, me in self._workers.items() if me.at is not None and now > me.deadline]

    def at(self, worker: int) -> Slice | None:
        """What a worker is at."""
        found = self._workers.get(worker)
        return found.at if found is not None else None

    def is_wanted(self, job: Job) -> bool:
        """Whether a job has not been dropped."""
        return self._jobs.get(job.key) is job

    def job(self, key: str) -> Job | None:
        """The job of a key, where it is wanted."""
        return self._jobs.get(key)

    @property
    def busy(self) -> int:
        """Workers that are at something."""
        return sum(me.at is not None for me in self._workers.values())

    @property
    def load_time(self) -> float:
        """Seconds to load a blend into a model that there is; 0 where nobody knows yet."""
        return median(self._loads) if self._loads else 0.0

    def pace(self, benchmark: str) -> float | None:
        """Seconds per question of a benchmark, by one worker; None where nobody knows yet."""
        seconds, questions = self._speeds.get(benchmark, (0.0, 0.0))
        return seconds / questions if questions else None

    def _weigh(self, group: _Group) -> None:
        known = [pace for pace in map(self.pace, self._speeds) if pace is not None]
        usual = sum(known) / len(known) if known else 1.0
        paces = [(job.pending, self.pace(job.benchmark)) for job in group.jobs]
        group.seconds = sum(n * (usual if pace is None else pace) for n, pace in paces)

    def _allowed(self, worker: int, me: _Worker, found: Slice) -> float:
        rules = self._rules
        pace = self.pace(found.job.benchmark)
        if found.is_metric or pace is None or worker not in self._loaded:
            return rules.unknown  # a model is built, a judge is asked: nobody knows how long
        load = self.load_time if me.holds != found.job.blend else 0.0
        if load == 0.0 and me.holds != found.job.blend:
            return rules.unknown
        expected = load + pace * len(found.positions)
        return max(rules.grace, rules.patience * expected)
