"""Eight workers on a terminal of 80 columns: ``python -m tests.watching.eight_workers`` shows it.

The workers are fakes that sleep; the fleet, the queue, the greedy run and what is drawn are real.
With ``--run`` it is the run itself, in the terminal that it is started in.
"""

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import soup
from soup.blending.blend import Blend
from soup.choosing.scoring import Benchmark, Result, Wanted, result_key
from soup.evaluators.fake import FakeScorer, by_digest
from soup.evaluators.workers.fleet import Fleet
from soup.evaluators.workers.gathering import Work
from soup.evaluators.workers.jobs import Rules
from soup.evaluators.workers.sealing import sealed
from soup.evaluators.workers.seats import Hand
from soup.events import Observer, Progress, ignore
from tests.conftest import make_checkpoint, random_tensors

SAMPLES = 1500
SPEED = 300.0  # questions per second
LOAD = 0.4  # seconds


class Sleeper:
    """A worker that is none: it sleeps for as long as its answers would take."""

    def __init__(self, number: int) -> None:
        self.random = random.Random(number)
        self.held = ""
        self.over = False

    def ask(self, request: dict[str, Any], observe: Observer = ignore) -> dict[str, Any]:
        """One request."""
        if request["do"] == "score":
            time.sleep(0.1)
            return {}
        started, task = time.monotonic(), request["task"]
        if self.held != request["blend"]:
            self.held = request["blend"]
            for part in range(5):
                observe(Progress(f"load {task}", part * 3_200_000_000, 16_000_000_000, "B"))
                time.sleep(LOAD / 5)
        loaded = time.monotonic()
        positions = request["positions"]
        for done in range(0, len(positions), 16):
            observe(Progress(task, done, len(positions), "samples"))
            time.sleep(16 / SPEED * (0.5 + self.random.random()))
        observe(Progress(task, len(positions), len(positions), "samples"))
        seconds = {"loading": loaded - started, "answering": time.monotonic() - loaded}
        return {**sealed(positions, ["yes"] * len(positions)), **seconds}

    def kill(self) -> None:
        """It ends with the process."""

    def close(self) -> None:
        """The same."""


class Eight(FakeScorer):
    """A fake scorer on a real fleet of eight."""

    at_once = 8

    def __init__(self, place: Path) -> None:
        super().__init__(samples=SAMPLES)
        self.place = place
        self.fleet = Fleet(8, self.spawn, lambda hand, evaluates: None, lambda k: place, Rules())

    @staticmethod
    def spawn(number: int) -> Hand:
        """Another one."""
        return Sleeper(number)

    def work(self, wanted: Wanted) -> Work:
        """As the real scorer makes it."""
        digest, benchmark = wanted.blend.digest, wanted.benchmark
        key = result_key(digest, benchmark.digest)
        keep = str(self.place / f"{key}.tsv")
        names = {"blend": digest, "benchmark": benchmark.name, "key": key, "keep": keep}
        request = {**names, "task": wanted.task}
        return Work(request, digest, benchmark.name, SAMPLES, False, wanted.likelihood)

    def expect(self, wanted: Sequence[Wanted], observe: Observer = ignore) -> None:
        """See ``ForesightedScorer``."""
        self.fleet.expect([self.work(one) for one in wanted], observe)

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """The fleet's; the number is made up."""
        self.fleet.measure(self.work(Wanted(blend, benchmark, task)), observe)
        return Result(benchmark.name, by_digest(blend, benchmark.name), SAMPLES, 0.0)


def run() -> None:
    """A greedy run of ten members on three benchmarks."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for k in range(10):
            make_checkpoint(place / "ckpts" / f"run-{k:02}", random_tensors(k))
        names = ("MMBench_DEV_EN", "MMStar", "AI2D_TEST")
        settings = soup.Settings(benchmarks=names, out=place / "out", work=place / "work")
        pool = soup.Pool.open(str(place / "ckpts" / "*"))
        scorer = Eight(place)
        soup.make("greedy", pool, scorer, settings)
        scorer.fleet.close()


def screens() -> tuple[list[str], list[str]]:
    """What stands on the screen while members are scored, and while trials are."""
    from tests.terminal import Terminal

    shown = Terminal(["-m", "tests.watching.eight_workers", "--run"], Path.cwd())
    shown.until(lambda t: t.shows("answers ahead") and t.shows("worker 8: run"))
    first = shown.lines
    shown.until(lambda t: t.shows("did not") and t.shows("worker 8: run"))
    second = shown.lines
    shown.kill()
    return first, second


if __name__ == "__main__":
    if "--run" in sys.argv:
        run()
    else:
        for lines in screens():
            print("\n".join(lines), end="\n\n")
