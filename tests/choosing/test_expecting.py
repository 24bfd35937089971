"""soup/choosing/expecting.py, and what follows from it: greedy runs with many workers."""

import hashlib
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.expecting import chance, trials
from soup.choosing.journal import Journal
from soup.choosing.scoring import Benchmark, Result, Wanted, result_key
from soup.evaluators.fake import FakeScorer
from soup.evaluators.workers.gathering import Work
from soup.evaluators.workers.jobs import Rules
from soup.events import Event, Note, Observer, ignore
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors
from tests.workers.test_fleet import FakeHand, World


def test_the_likeliest_trials_come_first() -> None:
    """The one at hand is certain; then both outcomes of each, as far as they were asked for."""
    found = trials("a", "bcd", 0.25, 6)
    assert ["".join(members) for members, _ in found] == ["ab", "ac", "ad", "abc", "acd", "abd"]
    assert [share for _, share in found] == [1, 0.75, 0.5625, 0.25, 0.1875, 0.1875]
    assert len(trials("a", "bcd", 0.25, 99)) == 7
    assert trials("ab", "", 0.5, 9) == []


def test_shares_of_one_depth_are_all_there_is() -> None:
    """Exactly one of all sequences of outcomes comes true."""
    found = trials("a", "bcdef", 0.3, 10**6)
    for depth in range(1, 6):
        last = "abcdef"[depth]
        assert sum(share for members, share in found if members[-1] == last) == pytest.approx(1)


def test_a_chance_is_learned_from_the_trials_before() -> None:
    """A half at first."""
    assert [chance(0, 0), chance(0, 3), chance(3, 3)] == [0.5, 0.2, 0.8]


class FleetScorer(FakeScorer):
    """A fake scorer whose work is shared by fake workers of random speed, in a real fleet."""

    def __init__(self, place: Path, seed: int, workers: int) -> None:
        super().__init__(self.table)
        self.seed, self.place = seed, place
        place.mkdir(parents=True)
        self.world, self.chance = World(), random.Random(seed)
        self.world.happens = self.happens
        rules = Rules(shortest=0.001, longest=0.003, fewest=2, deaths=10**6)
        self.fleet = self.world.fleet(workers, rules)
        self.at_once = workers

    def table(self, blend: Blend, benchmark: str) -> float:
        """A random score, coarse: ties are frequent."""
        seed = f"{self.seed} {blend.digest} {benchmark}"
        return float(hashlib.sha256(seed.encode()).digest()[0] % 16)

    def happens(self, hand: FakeHand, request: dict[str, Any]) -> None:
        """Some slices take longer, some workers die."""
        time.sleep(0.003 * self.chance.random() ** 4)
        if self.chance.random() < 0.02:
            hand.kill()

    def work(self, wanted: Wanted) -> Work:
        """As the real scorer makes it."""
        key = result_key(wanted.blend.key, wanted.benchmark.digest)
        request = {
            "blend": wanted.blend.digest,
            "benchmark": wanted.benchmark.name,
            "key": key,
            "keep": str(self.place / f"{key[:16]}.tsv"),
            "task": wanted.task,
        }
        name = wanted.benchmark.name
        return Work(request, wanted.blend.digest, name, 10, False, wanted.likelihood)

    def expect(self, wanted: Sequence[Wanted], observe: Observer = ignore) -> None:
        """See ``ForesightedScorer``."""
        self.fleet.expect([self.work(one) for one in wanted], observe)

    @property
    def guessed(self) -> tuple[int, int]:
        """See ``GuessingScorer``."""
        return self.fleet.guessed

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """The fleet's, of which the number is the table's."""
        self.fleet.measure(self.work(Wanted(blend, benchmark, task)), observe)
        value = self.table(blend, benchmark.name)
        self.calls.append((tuple(member.name for member in blend.members), benchmark.name))
        return Result(benchmark.name, value, benchmark.samples, 0.0)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Eight small members."""
    directory = tmp_path_factory.mktemp("pool")
    return Pool.open(
        *(make_checkpoint(directory / name, random_tensors(k)) for k, name in enumerate("abcdefgh"))
    )


@pytest.mark.parametrize("seed", range(6))
def test_decisions_are_those_of_one_worker(pool: Pool, tmp_path: Path, seed: int) -> None:
    """With random scores and random times: the same is asked in the same order, and decided."""
    boards, calls = [], []
    for workers in (0, 2, 7):
        place = tmp_path / str(workers)
        scorer = FleetScorer(place, seed, workers)
        one = FakeScorer(scorer.table) if not workers else scorer
        notes: list[Event] = []
        settings = Settings(benchmarks=("x", "y"), out=place / "out", work=place / "work")
        boards.append(make("greedy", pool, one, settings, notes.append))
        calls.append(one.calls)
        if workers:
            fleet = scorer.fleet
            fleet.close()
            assert fleet.gathered.saved + fleet.gathered.dropped > 0
            texts = [event.text for event in notes if isinstance(event, Note)]
            guessed = fleet.gathered.saved + fleet.gathered.dropped
            start = f"{workers} workers: of {guessed} answers that were made on a guess, "
            assert f"{start}{fleet.gathered.saved} were wanted" in texts
            (told,) = [r for r in Journal.open(place / "work").last_run() or () if "made" in r]
            assert (told["wanted"], told["made"]) == (fleet.gathered.saved, guessed)
            assert {path.suffix for path in place.glob("*.*")} == {".tsv", ".answers"}
            assert len(list(place.glob("*.tsv"))) == len(one.calls), "what was dropped is gone"
    assert boards[0].path == boards[1].path == boards[2].path
    assert boards[0].soup is not None
    assert {board.soup.digest for board in boards if board.soup} == {boards[0].soup.digest}
    assert calls[0] == calls[1] == calls[2]
    assert len(calls[0]) == 2 * (8 + 7)
