"""evaluators/workers/queue.py: who does what next, with made-up workers in a made-up time."""

import heapq
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soup.evaluators.workers.jobs import Job, Rules, Slice
from soup.evaluators.workers.queue import Queue

LOAD, METRIC = 5.0, 3.0


class Shop:
    """Workers in virtual time: each takes, works for as long as its slice needs, and reports."""

    def __init__(
        self,
        workers: int,
        pace: float = 0.05,
        rules: Rules = Rules(),
        jitter: float = 0.0,
        deaths: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.queue = Queue(range(workers), rules)
        self.pace, self.jitter, self.deaths = pace, jitter, deaths
        self.random = random.Random(seed)
        self.now = 0.0
        self.idle = set(range(workers))
        self.events: list[tuple[float, int, float]] = []
        self.held: dict[int, str] = {}
        self.log: list[tuple[float, int, Slice]] = []
        self.answered: Counter[tuple[str, int]] = Counter()
        self.busy = 0.0

    def start(self) -> None:
        """Give everybody idle something to do."""
        for worker in sorted(self.idle):
            found = self.queue.take(worker, self.now)
            if found is None:
                continue
            self.idle.remove(worker)
            self.log.append((self.now, worker, found))
            loading = 0.0
            if found.is_metric:
                seconds = METRIC
            else:
                loading = LOAD if self.held.get(worker) != found.job.blend else 0.0
                self.held[worker] = found.job.blend
                seconds = loading + self.pace * len(found.positions)
            seconds *= 1 + self.jitter * self.random.random()
            heapq.heappush(self.events, (self.now + seconds, worker, loading))

    def step(self) -> Slice | None:
        """Go on to the next report; None where nobody works."""
        self.start()
        if not self.events:
            return None
        self.now, worker, loading = heapq.heappop(self.events)
        if self.random.random() < self.deaths:
            found = self.queue.lost(worker)
            self.held.pop(worker, None)
        else:
            found = self.queue.done(worker, self.now, loading=loading)
            for position in found.positions:
                self.answered[found.job.key, position] += 1
        self.idle.add(worker)
        return found

    def run(self) -> float:
        """Work until nothing is left; the time that it took."""
        while self.step() is not None:
            pass
        return self.now


def jobs(blends: int, questions: int = 1000, benchmarks: int = 1) -> list[Job]:
    """Every blend asked every benchmark."""
    return [
        Job(f"{blend}-{bench}", str(blend), str(bench), range(questions))
        for blend in range(blends)
        for bench in range(benchmarks)
    ]


@given(
    st.integers(1, 9),
    st.integers(1, 7),
    st.lists(st.integers(0, 300), min_size=1, max_size=3),
    st.integers(0, 10**6),
)
def test_every_question_is_answered_once_whatever_the_timing(
    workers: int, blends: int, sizes: list[int], seed: int
) -> None:
    """With workers of random speed that die at random; every job ends with its metric, once."""
    rules = Rules(fewest=5, deaths=10**6)
    shop = Shop(workers, rules=rules, jitter=3.0, deaths=0.2, seed=seed)
    wanted = [
        Job(f"{blend}-{bench}", str(blend), str(bench), range(size))
        for blend in range(blends)
        for bench, size in enumerate(sizes)
    ]
    assert shop.queue.expect(wanted) == []
    shop.run()
    expected = {(job.key, position): 1 for job in wanted for position in job.positions}
    assert dict(shop.answered) == expected
    assert all(job.done for job in wanted)
    assert not shop.queue.has_work()


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_what_is_wanted_may_change_at_any_time(workers: int, seed: int) -> None:
    """Whatever is dropped, made likelier or wanted at once: what is certain in the end ends."""
    shop = Shop(workers, rules=Rules(fewest=5, deaths=10**6), jitter=2.0, deaths=0.1, seed=seed)
    choose = random.Random(seed)
    every = {job.key: job for job in jobs(6, 60, 2)}
    for _ in range(12):
        keys = choose.sample(sorted(every), choose.randint(0, len(every)))
        likely = {key: choose.choice([0.25, 0.5, 1.0]) for key in keys}
        before = [key for key in every if shop.queue.job(key) is not None]
        found = [shop.queue.job(key) or Job(key, key[0], key[2], range(60)) for key in keys]
        again = [Job(j.key, j.blend, j.benchmark, j.positions, likely[j.key]) for j in found]
        dropped = {job.key for job in shop.queue.expect(again)}
        assert dropped == set(before) - set(keys)
        if keys and choose.random() < 0.5:
            assert shop.queue.want(Job(keys[0], keys[0][0], keys[0][2], range(60))).certain
        for _ in range(choose.randint(0, 8)):
            shop.step()
    last = [shop.queue.job(key) for key in keys]
    shop.run()
    assert all(job is not None and (job.done or not job.certain) for job in last)
    assert shop.queue.busy == 0


def test_the_same_times_give_the_same_slices() -> None:
    """Nothing is left to chance."""
    logs = []
    for _ in range(2):
        shop = Shop(5, jitter=1.0, seed=3)
        shop.queue.expect(jobs(7, 400, 2))
        shop.run()
        logs.append([(now, w, s.job.key, list(s.positions)) for now, w, s in shop.log])
    assert logs[0] == logs[1]


def test_members_spread_first_then_slices() -> None:
    """A member for each worker, which keeps it; who is done with its own helps the others."""
    shop = Shop(4)
    shop.queue.expect(jobs(6, 2000, 2))
    shop.start()
    assert [s.job.blend for _, _, s in shop.log] == ["0", "1", "2", "3"]
    shop.run()
    loads = Counter[str]()
    held: dict[int, str] = {}
    for _, worker, found in shop.log:
        if not found.is_metric and held.get(worker) != found.job.blend:
            held[worker] = found.job.blend
            loads[found.job.blend] += 1
    assert [loads[str(k)] for k in range(4)] == [1] * 4, "nobody joins while others are unheld"
    assert loads["4"] + loads["5"] == 4, "the last two are shared"


@pytest.mark.parametrize(("workers", "members"), [(2, 3), (8, 10), (8, 1), (64, 10)])
def test_the_tail_is_short(workers: int, members: int) -> None:
    """All end at about the same time: within the swaps that sharing takes, and a slice."""
    shop = Shop(workers)
    shop.queue.expect(jobs(members, 12_000, 1))
    took = shop.run()
    least = (members * (12_000 * shop.pace + METRIC + LOAD)) / workers
    assert took < least + 3 * LOAD + METRIC + 2 * Rules().shortest


def test_nobody_joins_where_a_swap_takes_longer_than_it_saves() -> None:
    """One holds the blend and needs four seconds more; a swap takes five."""
    shop = warm(2)
    (blend,) = {shop.held[0]}
    for questions, both in ((90, False), (900, True)):
        shop.queue.expect([Job(f"of {questions}", blend, "0", range(questions))])
        begun = len(shop.log)
        shop.run()
        at_it = {worker for _, worker, s in shop.log[begun:] if not s.is_metric}
        assert at_it == ({0, 1} if both else {0})
        shop.queue.expect([Job("else", "else", "0", range(10))])  # the other one holds this
        shop.queue.take(1, shop.now)
        shop.queue.done(1, shop.now + 1, loading=LOAD)
        shop.held[1] = "else"


def test_who_is_idle_swaps_while_another_one_does() -> None:
    """Four seconds of work of a blend that nobody holds: two swap, and share it."""
    shop = warm(2)
    shop.queue.expect([Job("small", "9", "0", range(90))])
    begun = len(shop.log)
    shop.run()
    assert len({worker for _, worker, s in shop.log[begun:] if not s.is_metric}) == 2


def warm(workers: int) -> Shop:
    """A shop that has loaded, answered and evaluated before: it knows how long things take."""
    shop = Shop(workers)
    shop.queue.expect(jobs(2 * workers, 200))
    shop.run()
    return shop


def test_what_is_certain_comes_before_what_is_likely() -> None:
    """Then, while that is not decided, the likeliest; nothing is guessed where nothing is left."""
    shop = warm(1)
    likely = [Job(f"job {p}", str(p), "0", range(100), p) for p in (0.25, 1.0, 0.5)]
    shop.queue.expect(likely)
    begun = len(shop.log)
    shop.run()
    assert {s.job.key for _, _, s in shop.log[begun:]} == {"job 1.0"}, "all was decided"
    shop = warm(3)
    long = Job("long", "long", "0", range(90), metric=False)  # too short to be shared
    shop.queue.expect([long, *likely[:1], *likely[2:]])
    shop.now, begun = shop.now + 1, len(shop.log)
    shop.start()
    assert [s.job.key for _, _, s in shop.log[begun:]] == ["long", "job 0.5", "job 0.25"]


def test_a_guess_is_not_begun_where_a_wrong_one_costs_more() -> None:
    """Three seconds before a decision a swap of five is not; ninety seconds before, it is."""
    for questions, guessed in ((60, 0), (1800, 1)):
        shop = warm(2)
        begun = len(shop.log)
        shop.queue.expect([
            Job("at hand", shop.held[0], "0", range(questions), metric=False),
            Job("next", "next", "0", range(2000), 0.5),
        ])  # fmt: skip
        shop.queue._rules = Rules(fewest=2000)
        shop.start()
        assert sum(s.job.key == "next" for _, _, s in shop.log[begun:]) == guessed


def test_what_takes_long_to_evaluate_is_asked_first() -> None:
    """So that a judge reads while the rest is answered."""
    queue = Queue([0])
    queue.expect([Job("quick", "a", "0", range(20)), Job("judged", "a", "1", range(20))])
    order = []
    now = 0.0
    for blend in "ab":
        queue.expect([
            Job(f"quick {blend}", blend, "0", range(20)),
            Job(f"judged {blend}", blend, "1", range(20)),
        ])  # fmt: skip
        while (found := queue.take(0, now)) is not None:
            order.append((found.job.key, found.is_metric))
            now += 30.0 if found.is_metric and found.job.benchmark == "1" else 1.0
            queue.done(0, now)
    assert order[0] == ("quick a", False), "nobody knows yet"
    assert order[4] == ("judged b", False)


def test_a_metric_that_costs_money_waits_until_it_is_wanted() -> None:
    """Answers are made ahead; a judge is asked when the result is certain to count."""
    shop = warm(2)
    shop.pace = 1.0
    begun = len(shop.log)
    shop.queue.expect([
        Job("long", "long", "0", range(60), metric=False),
        Job("a", "a", "0", range(50), 0.5, eager=False),
    ])  # fmt: skip
    shop.run()
    done = [(s.job.key, s.is_metric) for _, _, s in shop.log[begun:]]
    assert ("a", False) in done
    assert ("a", True) not in done
    assert not shop.queue.has_work()
    shop.queue.want(Job("a", "a", "0", range(50)))
    shop.run()
    assert shop.log[-1][2].is_metric


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_metrics_are_for_those_without_a_model(workers: int, evaluators: int, seed: int) -> None:
    """Whoever has one answers as long as something is to be answered; all is done all the same."""
    shop = Shop(workers, rules=Rules(fewest=5, deaths=10**6), jitter=2.0, deaths=0.1, seed=seed)
    for number in range(100, 100 + evaluators):
        shop.queue.add(number, evaluates=True)
        shop.idle.add(number)
    wanted = jobs(4, 200, 2)
    shop.queue.expect(wanted)
    shop.run()
    assert all(job.done for job in wanted)
    assert {worker for _, worker, s in shop.log if not s.is_metric} <= set(range(workers))
    for number in range(100, 100 + evaluators):
        shop.queue.retire(number)
    more = [Job("more", "more", "0", range(10))]
    shop.queue.expect(more)
    shop.idle -= set(range(100, 100 + evaluators))
    shop.run()
    assert more[0].done, "where there are none any more, workers evaluate"


def test_a_metric_waits_for_no_worker_that_answers() -> None:
    """An evaluator that is busy: the next metric waits, until a worker has nothing else to do."""
    queue = Queue([0])
    queue.add(100, evaluates=True)
    queue.expect([Job(name, "a", "x", range(20)) for name in ("first", "second", "third")])
    order = []
    assert queue.take(100, 0.0) is None
    for now in (1.0, 2.0, 3.0):
        found = queue.take(0, now)
        assert found is not None
        assert not found.is_metric
        queue.done(0, now + 0.5)
        if now == 1.0:
            found = queue.take(100, now + 0.5)
            assert found is not None
            assert found.is_metric
    while (found := queue.take(0, 4.0)) is not None:
        order.append((found.job.key, found.is_metric))
        queue.done(0, 4.0)
    assert order == [("second", True), ("third", True)]


def test_what_a_judge_reads_is_answered_by_all() -> None:
    """A slice of it each, so that the judge begins soon; what is evaluated at once goes in turn."""
    for metric, most in ((METRIC + 0.5, 400), (60.0, 100)):
        shop = warm(4)
        shop.queue.speeds.evaluated("1", metric)
        shop.queue.speeds.answered("1", shop.pace * 1000, 1000)
        shop.queue.expect([
            Job("judged", "a", "1", range(400)), *(Job(f"{k}", "a", "0", range(1600)) for k in "bc")
        ])  # fmt: skip
        begun = len(shop.log)
        shop.run()
        sizes = [len(s.positions) for _, _, s in shop.log[begun:] if s.job.key == "judged"]
        assert max(sizes) == most


def test_deadlines_are_learned() -> None:
    """Long while nothing is known, then so many times what a slice should take."""
    queue = Queue([0], Rules(grace=1.0, patience=10, unknown=1000.0, fewest=10))
    queue.expect([Job("a", "a", "x", range(20)), Job("b", "b", "x", range(10)),
                  Job("c", "c", "x", range(10)), Job("d", "d", "x", range(10))])  # fmt: skip
    queue.take(0, 0.0)
    assert queue.overdue(999.0) == []
    assert queue.overdue(1001.0) == [0]
    queue.done(0, 12.0, loading=10.0)  # 0.2 seconds per question; a model was built
    found = queue.take(0, 12.0)
    assert found is not None
    assert found.job.key == "a"
    assert queue.overdue(12.0 + 10 * 0.2 * len(found.positions) - 0.1) == []
    assert queue.overdue(12.0 + 10 * 0.2 * len(found.positions) + 0.1) == [0]


def test_deaths_are_counted_by_slice() -> None:
    """The same questions again, by whoever is free; the worker holds nothing then."""
    shop = Shop(2, rules=Rules(fewest=10))
    shop.queue.expect(jobs(1, 40))
    first = shop.queue.take(0, 0.0)
    assert first is not None
    for k in (1, 2):
        lost = shop.queue.lost(0)
        assert lost is first
        assert first.deaths == k
        assert shop.queue.take(0, 0.0) is first
    shop.queue.done(0, 1.0)
    assert first.job.pending + len(first.positions) == 40
    assert shop.queue.lost(1) is None
