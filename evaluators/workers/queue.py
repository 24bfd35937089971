"""Which worker does what next: pure bookkeeping, without a thread, a process or a clock of its own.

A *job* is a blend asked a benchmark; a *slice* is some of its questions, or, when all are answered,
its metric. Whoever is free takes the next slice:

1. the metric of a job that is certainly wanted;
2. of what is certainly wanted, a slice of the blend that it holds; else of a blend that nobody
   holds, so that members spread first; else of one that others hold, where that helps;
3. the same of what is only likely to be wanted, the likeliest first, where that pays.

Where there are evaluators, who have no model, metrics are theirs: who has a model does one only
when it has nothing else that is certain, and all evaluators are busy.

Joining k workers that hold a blend costs a swap of S seconds and brings the end of R seconds of
work from R/k down to (R + S)/(k + 1), which is sooner where R > k·S. To work on something likely
instead would be better only if it were likelier than N/(k + 1), N being all workers: never. Who
would be idle otherwise, guesses that pay included, joins wherever its swap is over before the end:
others may be swapping themselves.

Which guess pays is said in ``guesses``. Of a blend's benchmarks the one whose metric takes longest
comes first, so that it is not waited for in the end. Slices shrink as the work ends, so that none
is waited for long. Speeds are learned from slices that were done, and so are deadlines. The same
calls at the same times give the same slices.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from soup.evaluators.workers.guesses import best_guess, end_of
from soup.evaluators.workers.jobs import Group, Job, Rules, Slice
from soup.evaluators.workers.speeds import Speeds


@dataclass(eq=False)
class _Worker:
    evaluates: bool = False
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
        self._workers: dict[int, _Worker] = {}
        self._models = 0
        self._evaluators: list[_Worker] = []
        for worker in workers:
            self.add(worker)
        self._jobs: dict[str, Job] = {}
        self._groups: dict[str, Group] = {}
        self._open: dict[str, Group] = {}
        self._certain = 0
        self._holders: dict[str, int] = {}
        self._metrics: list[Job] = []
        self.speeds = Speeds()
        self._decided = (float("nan"), 0.0)
        self._ends: dict[str, tuple[int, float]] = {}  # by blend, see ``_busy``

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
        found = [Group(blend, jobs, self._holders.get(blend, 0)) for blend, jobs in groups.items()]
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
        """Whether a worker more that has a model would have something to do."""
        return bool(self._open) or any(job.certain or job.eager for job in self._metrics)

    def take(self, worker: int, now: float) -> Slice | None:
        """The next slice for a worker that is free; None where there is nothing for it to do.

        There may be when something is wanted anew, or a worker has died: nothing else changes it.
        """
        me = self._workers[worker]
        assert me.at is None, "one thing at a time"
        found = self._best(me, now)
        if found is None:
            return None
        self._ends.clear()
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

    def _best(self, me: _Worker, now: float) -> Slice | None:
        """What a worker should do next."""
        if me.evaluates:
            return self._metric(certain=True) or self._metric(certain=False)
        mine = not self._evaluators  # otherwise metrics are for others, unless these are all busy
        found = self._metric(certain=True) if mine else None
        group = None if found else self._choose(me, now)
        if group is None or group.likelihood < 1:
            if mine:
                found = found or self._metric(certain=False)
            elif all(other.at is not None for other in self._evaluators):
                found = self._metric(certain=True)
        if found is None and group is not None:
            found = self._questions(me, group)
        return found

    def _metric(self, certain: bool) -> Slice | None:
        for k, job in enumerate(self._metrics):
            if job.certain == certain and (certain or job.eager):
                del self._metrics[k]
                return Slice(job)
        return None

    def _questions(self, me: _Worker, group: Group) -> Slice:
        # What takes longest to evaluate comes first: a judge reads while the rest is answered.
        pending = [job for job in group.jobs if job.pending]
        job = max(pending, key=self.speeds.metric)
        found = job.again.pop(0) if job.again else self._cut(job, group, me)
        self._weigh(group)
        if not group.pending:
            self._reopen()
        return found

    def _choose(self, me: _Worker, now: float) -> Group | None:
        """The blend of which it should answer questions; one that is only likely has less of it."""
        swap, held = self.speeds.load, self._open.get(me.holds or "")
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
        if best is not None:
            return best
        if self._certain < len(self._open):
            best = best_guess(
                self._open.values(),
                held,
                swap=swap,
                slice_=self._rules.shortest,
                decided=self._until_decided(now),
                workers=self._models,
            )
        return best or self._late(now)

    def _late(self, now: float) -> Group | None:
        """What is certain and ends later than whoever has nothing else to do could help with it."""
        best, least = None, self.speeds.load
        for group in self._open.values():
            if group.likelihood < 1:
                break
            end = (group.seconds + self._busy(group.blend, now)) / group.holders
            end -= min(group.seconds, self._rules.shortest)
            if end > least:
                best, least = group, end
        return best

    def _busy(self, blend: str, now: float) -> float:
        """Seconds until each of those who hold a blend, and are at something, is free, added up."""
        if not self._ends:  # many who are idle ask, one after another
            for me in self._workers.values():
                if me.at is not None and me.holds is not None:
                    count, sum_ = self._ends.get(me.holds, (0, 0.0))
                    self._ends[me.holds] = count + 1, sum_ + me.expected
        count, sum_ = self._ends.get(blend, (0, 0.0))
        return max(sum_ - count * now, 0.0)

    def _until_decided(self, now: float) -> float:
        """Seconds until all that is certainly wanted is done, as far as anybody knows."""
        if now != self._decided[0]:
            times = [0.0]
            for me in self._workers.values():
                if me.at is not None and me.at.job.certain:
                    after = 0.0 if me.at.is_metric else self.speeds.metric(me.at.job)
                    times.append(max(me.expected - now, 0.0) + after)
            times += [self.speeds.metric(job) for job in self._metrics if job.certain]
            self._decided = (now, max(times))
        times = [self._decided[1]]
        for group in self._open.values():
            if group.likelihood < 1:
                break
            left = group.seconds + self._busy(group.blend, now)
            end = end_of(left, group.holders, self.speeds.load, self._models)
            metrics = [self.speeds.metric(job) for job in group.jobs if job.pending]
            times.append(max(end + min(metrics), max(metrics)))
        return max(times)

    def _expected(self, me: _Worker, found: Slice) -> float:
        """Seconds that a slice should take."""
        if found.is_metric:
            return self.speeds.metric(found.job)
        load = self.speeds.load if me.holds != found.job.blend else 0.0
        return load + (self.speeds.pace(found.job.benchmark) or 0.0) * len(found.positions)

    def _cut(self, job: Job, group: Group, me: _Worker) -> Slice:
        """A new slice of a job, for a worker that will hold its blend."""
        left = len(job.positions) - job.taken
        # Those who hold it, and those who will have nothing else to do; for a guess, all of them.
        others = self._models // max(self._certain if job.certain else 1, 1)
        sharing = max(group.holders + (me.holds != group.blend), others, 1)
        pace = self.speeds.pace(job.benchmark)
        if pace is None:
            count = min(left // (2 * sharing), 4 * self._rules.fewest)
        else:
            seconds = group.seconds / (2 * sharing)
            seconds = min(max(seconds, self._rules.shortest), self._rules.longest)
            count = round(seconds / pace) if pace > 0 else left
            # All of them answer what is waited for long, a judge's above all: so it begins soon.
            if pace > 0 and 2 * self.speeds.metric(job) > group.seconds / sharing:
                count = min(count, max(round(self._rules.shortest / pace), ceil(left / sharing)))
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

    def _freed(self, me: _Worker) -> Slice | None:
        """A worker is at nothing any more; what it was at."""
        found, me.at = me.at, None
        self._ends.clear()
        return found

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
        found = self._freed(me)
        assert found is not None, "it was at something"
        if found.is_metric:
            found.job.evaluation = "done"
            self.speeds.evaluated(found.job.benchmark, now - me.since)
            return found
        if me.swaps:
            self.speeds.loaded(worker, loading)
        spent = now - me.since - loading if answering is None else answering
        self.speeds.answered(found.job.benchmark, spent, len(found.positions))
        self._ended(found.job)
        return found

    def lost(self, worker: int) -> Slice | None:
        """A worker has died, or was ended; its slice will be done again, and it holds nothing.

        Returns:
            The slice that it was at, which counts its deaths. Where these are all that ``Rules``
            allows, it is for the caller to ``drop`` the job.
        """
        me = self._workers[worker]
        found = self._freed(me)
        self._hold(me, None)
        self.speeds.lost(worker)
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
        found = self._freed(me)
        if found is not None:
            self.drop(found.job.key)
        return found

    def add(self, worker: int, evaluates: bool = False) -> None:
        """There is a worker more; one that evaluates has no model, and does nothing but metrics."""
        new = self._workers[worker] = _Worker(evaluates)
        if evaluates:
            self._evaluators.append(new)
        else:
            self._models += 1

    def retire(self, worker: int) -> None:
        """A worker is no more; it was at nothing."""
        gone = self._workers.pop(worker)
        self._hold(gone, None)
        if gone.evaluates:
            self._evaluators.remove(gone)
        else:
            self._models -= 1

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
        """Workers that have a model and are at something."""
        return sum(me.at is not None and not me.evaluates for me in self._workers.values())

    def backlog(self, now: float) -> float:
        """Seconds of metrics that wait, or that evaluators are at, as far as anybody knows."""
        waiting = sum(self.speeds.metric(job) for job in self._metrics if job.certain or job.eager)
        running = sum(max(me.expected - now, 0.0) for me in self._evaluators if me.at is not None)
        return waiting + running

    def _weigh(self, group: Group) -> None:
        group.seconds = self.speeds.rest(group.jobs)

    def _allowed(self, worker: int, me: _Worker, found: Slice) -> float:
        rules = self._rules
        pace = self.speeds.pace(found.job.benchmark)
        if found.is_metric or pace is None or not self.speeds.has_built(worker):
            return rules.unknown  # a model is built, a judge is asked: nobody knows how long
        load = self.speeds.load if me.holds != found.job.blend else 0.0
        if load == 0.0 and me.holds != found.job.blend:
            return rules.unknown
        expected = load + pace * len(found.positions)
        return max(rules.grace, rules.patience * expected)
