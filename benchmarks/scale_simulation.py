"""A greedy run in a made-up time: the real queue and recipe, made-up workers; see ``scale.py``."""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from soup.choosing.recipes import greedy
from soup.evaluators.kit.suites import NEEDS_JUDGE, QUESTIONS
from soup.evaluators.workers.evaluating import EVALUATORS, wants_more
from soup.evaluators.workers.jobs import Job, Rules, Slice
from soup.evaluators.workers.queue import Queue


@dataclass(frozen=True)
class Costs:
    """Of a made-up machine and its benchmarks.

    Attributes:
        start: seconds until a process without a model is up.
        build: seconds until a worker has a model, once; its start is part of it.
        swap: seconds to load other weights into it.
        speed: questions per second of one worker, in full batches.
        batch: questions of a full batch; a smaller one takes as long.
        metric: seconds to evaluate a benchmark.
        judge: seconds more, where a judge is asked.
        jitter: share by which every time varies at random.
        benchmarks: questions of each, and whether it asks a judge.
    """

    start: float = 20.0
    build: float = 60.0
    swap: float = 6.0
    speed: float = 40.0
    batch: int = 32
    metric: float = 3.0
    judge: float = 30.0
    jitter: float = 0.2
    benchmarks: tuple[tuple[int, bool], ...] = tuple(
        (many, name in NEEDS_JUDGE) for name, many in QUESTIONS.items()
    )


POINTS = Costs()
SMALL = replace(POINTS, benchmarks=((1500, False),))
TINY = replace(POINTS, benchmarks=((300, False),))
JUDGED = replace(POINTS, judge=180.0)


@dataclass(frozen=True)
class Member:
    """What stands for a checkpoint: a name, and how good it is."""

    name: str
    rises: bool

    @property
    def digest(self) -> str:
        """Names it, too."""
        return self.name


@dataclass(frozen=True)
class Mixed:
    """What stands for a blend."""

    members: tuple[Member, ...]

    @property
    def digest(self) -> str:
        """Names it."""
        return "+".join(member.name for member in self.members)

    @property
    def key(self) -> str:
        """The same: there are no files beside it."""
        return self.digest


class World:
    """Workers in virtual time around the real queue; a scorer that the real recipe asks."""

    def __init__(
        self, workers: int, costs: Costs, guess: bool, seed: int, evaluators: int | None = None
    ) -> None:
        self.queue = Queue(range(workers), Rules(fewest=costs.batch))
        self.count, self.costs, self.guess = workers, costs, guess
        # As the command has it: none for one worker, and up to one for each of several.
        self.most = workers * (workers > 1) if evaluators is None else evaluators
        self.random = random.Random(seed)
        self.now = 0.0
        self.idle = set(range(workers))
        self.held: dict[int, str] = {}
        self.events: list[tuple[float, int, float]] = []
        self.spent = dict.fromkeys(("answers", "swaps", "metrics", "guesses"), 0.0)
        self.slices = 0
        self.evaluators = 0
        self.built = 0.0
        while wants_more(self.evaluators, self.most, 0.0):
            self.start_evaluator()

    def start_evaluator(self) -> None:
        """There will be one more; it is born without a model."""
        worker = EVALUATORS + self.evaluators
        self.evaluators += 1
        heapq.heappush(self.events, (self.now + self.costs.start, worker, 0.0))

    def jobs(self, blend: str, likelihood: float) -> list[Job]:
        """A blend asked everything."""
        return [
            Job(f"{blend} {k}", blend, str(k), range(many), likelihood, eager=not judged)
            for k, (many, judged) in enumerate(self.costs.benchmarks)
        ]

    def expect(self, blends: Sequence[tuple[str, float]]) -> None:
        """See ``ForesightedScorer``: what is there already goes on."""
        wanted = [job for blend, share in blends for job in self.jobs(blend, share)]
        self.queue.expect(wanted)
        self.offer()

    def score(self, blend: str) -> None:
        """Wait until a blend has been asked everything."""
        for job in self.jobs(blend, 1.0):
            wanted = self.queue.want(job)
            self.offer()
            while not wanted.done:
                self.step()
            self.queue.drop(job.key)

    def offer(self) -> None:
        """Let whoever is idle look at what there is to do."""
        for worker in sorted(self.idle):
            if not self.queue.has_work():
                return
            self.begin(worker)

    def begin(self, worker: int) -> None:
        """One worker takes what the queue has for it."""
        found = self.queue.take(worker, self.now)
        if found is None:
            self.idle.add(worker)
            return
        self.idle.discard(worker)
        self.slices += 1
        loading, rest, kind = self.times(worker, found)
        factor = 1 + self.costs.jitter * (2 * self.random.random() - 1)
        loading, rest = loading * factor, rest * factor
        if worker < EVALUATORS:  # only those count that have a device
            self.spent["swaps"] += loading
            self.spent[kind] += rest
        heapq.heappush(self.events, (self.now + loading + rest, worker, loading))

    def times(self, worker: int, found: Slice) -> tuple[float, float, str]:
        """Seconds of loading and of the rest, and what the rest is."""
        costs, job = self.costs, found.job
        if found.is_metric:
            judged = costs.benchmarks[int(job.benchmark)][1]
            return 0.0, costs.metric + (costs.judge if judged else 0.0), "metrics"
        loading = 0.0
        if worker not in self.held:
            self.built += costs.build
        if self.held.get(worker) != job.blend:
            loading = costs.swap if worker in self.held else costs.build
            self.held[worker] = job.blend
        batches = ceil(len(found.positions) / costs.batch)
        kind = "answers" if job.certain else "guesses"
        return loading, batches * costs.batch / costs.speed, kind

    def step(self) -> None:
        """Go on to the next worker that is done."""
        self.now, worker, loading = heapq.heappop(self.events)
        if worker not in self.queue:
            self.queue.add(worker, evaluates=True)
            self.begin(worker)
        else:
            found = self.queue.done(worker, self.now, loading=loading)
            self.begin(worker)
            if found.job.answered and self.idle:
                self.offer()  # its metric
        if wants_more(self.evaluators, self.most, self.queue.backlog(self.now)):
            self.start_evaluator()


@dataclass(frozen=True)
class Run:
    """What came of one simulated greedy run: seconds, and worker-seconds by what they went into."""

    members: float
    trials: float
    answers: float
    shares: dict[str, float]
    slices: int

    @property
    def whole(self) -> float:
        """Seconds of all of it."""
        return self.members + self.trials


def simulate(
    workers: int, members: int, costs: Costs, guess: bool, seed: int, evaluators: int | None = None
) -> Run:
    """A greedy run in which each trial is kept with a chance of one half.

    Args:
        workers: how many have a model.
        members: of the pool.
        costs: see there.
        guess: whether idle workers guess.
        seed: of the trials' outcomes, and of times.
        evaluators: how many there may be; None is as the command has it on a machine with GPUs and
            enough cores: none for one worker, up to one for each of several.
    """
    chance = random.Random(1000 + seed)
    pool = [Member(f"m{k}", chance.random() < 0.5) for k in range(members)]
    world = World(workers, costs, guess, seed, evaluators)
    scores: dict[str, float] = {}
    between = 0.0

    def mix(some: Sequence[Member]) -> Mixed:
        return Mixed(tuple(some))

    def acc(blend: Mixed) -> float:
        if len(blend.members) > 1:
            world.score(blend.digest)
            rises = blend.members[-1].rises
            before = scores[mix(blend.members[:-1]).digest]
            scores[blend.digest] = before + (1e-6 if rises else -1e-6)
        return scores[blend.digest]

    singles = [mix([member]).digest for member in pool]
    world.expect([(blend, 1.0) for blend in singles])
    for k, blend in enumerate(singles):
        world.score(blend)
        scores[blend] = 50.0 - k * 1e-3
    between = world.now

    def expect(trials: Sequence[tuple[Mixed, float]]) -> None:
        ahead = trials if guess else trials[:1]
        world.expect([(blend.digest, share) for blend, share in ahead])

    for _ in greedy(pool, mix, acc, expect=expect):  # type: ignore[arg-type]
        pass
    total = workers * world.now
    used = sum(world.spent.values())
    shares = {name: spent / total for name, spent in world.spent.items()}
    shares["idle"] = max(0.0, 1 - used / total)
    return Run(between, world.now - between, world.spent["answers"], shares, world.slices)


def mean_of(workers: int, members: int, costs: Costs, guess: bool, repeats: int) -> Run:
    """The median run by its whole time."""
    runs = [simulate(workers, members, costs, guess, seed) for seed in range(repeats)]
    return sorted(runs, key=lambda run: run.whole)[len(runs) // 2]


def books(workers: int, members: int, costs: Costs, seed: int, evaluators: int) -> dict[str, float]:
    """What each worker's time goes into, seconds on average, while members are scored."""
    world = World(workers, costs, False, seed, evaluators)
    singles = [f"m{k}" for k in range(members)]
    world.expect([(blend, 1.0) for blend in singles])
    for blend in singles:
        world.score(blend)
    useful = members * sum(many for many, _ in costs.benchmarks) / costs.speed
    spent = {
        "answers": useful,
        "half-full batches, chance": world.spent["answers"] - useful,
        "building models": world.built,
        "swaps": world.spent["swaps"] - world.built,
        "metrics": world.spent["metrics"],
    }
    found = {name: seconds / workers for name, seconds in spent.items()}
    found["waiting"] = world.now - sum(found.values())
    return found


def limits(costs: Costs, workers: int) -> tuple[float, float]:
    """Seconds that a trial of a chain takes at least, of which half are kept.

    Without guesses: everybody swaps once, all answer, the last metric is waited for; or a judge,
    who begins when the benchmarks that ask one are answered, which is first.

    With guesses: until a decision nobody knows which of two trials follows, so that of all that is
    done before then half is in vain, however it is chosen. A trial's answers and at least one swap
    are R + S worker-seconds; workers can give at most N·(c - M) of them after the decision before,
    where c is the time of a trial and M its metric, and half of N·M in which they can only guess:
    c ≥ (R + S) / N + M / 2. No judge is asked on a guess, so c is at least a judge's time.
    """
    answers = sum(many for many, _ in costs.benchmarks) / costs.speed
    first = sum(many for many, judged in costs.benchmarks if judged) / costs.speed
    judge = costs.judge + costs.metric if first else 0.0
    without = costs.swap + max(answers / workers + costs.metric, first / workers + judge)
    return without, max((answers + costs.swap) / workers + costs.metric / 2, judge, costs.metric)


def bound(run: Run) -> str:
    """What takes most of the workers' time besides answers that count."""
    name, share = max(
        ((n, s) for n, s in run.shares.items() if n != "answers"), key=lambda pair: pair[1]
    )
    if run.shares["answers"] > 0.8:
        return "answers"
    where = " (chain)" if name == "idle" and run.trials > run.members else ""
    return f"{name}{where} {share:.0%}"
