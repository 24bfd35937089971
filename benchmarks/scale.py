"""How a run gets faster with more workers: simulated with the real queue, and measured.

    python benchmarks/scale.py simulate           # the tables; seconds to minutes, no GPU, no model
    python benchmarks/scale.py queue              # what the queue itself costs per slice
    python benchmarks/scale.py real --workers 1 2 # the demo's pool, real workers; minutes

The simulation is one of discrete events: the code that hands out work (``workers.queue``), the
greedy recipe and its guesses (``choosing.recipes``, ``choosing.expecting``) are the real ones; only
workers, and with them time, are made up, from costs that are given below or by options. It says
what the policy makes of such costs, not what they are on your machine.
"""

import argparse
import heapq
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

from common import demo, machine, ours, table
from scale_simulation import (
    JUDGED,
    POINTS,
    SMALL,
    TINY,
    Costs,
    books,
    bound,
    limits,
    mean_of,
    simulate,
)

from soup.evaluators.workers.jobs import Job
from soup.evaluators.workers.queue import Queue


def show_simulation(given: argparse.Namespace) -> None:
    """The tables."""
    costs = replace(POINTS, speed=given.speed, swap=given.swap, build=given.build)
    if given.build < costs.start:
        costs = replace(costs, start=given.build)
    print(f"Costs: build {costs.build:.0f} s, swap {costs.swap:.0f} s, {costs.speed:.0f} questions "
          f"per second in batches of {costs.batch}, metric {costs.metric:.0f} s, judge "
          f"{costs.judge:.0f} s more, ± {costs.jitter:.0%}; an evaluator is up in "
          f"{costs.start:.0f} s; half of the trials are kept; medians of "
          f"{given.repeats}")  # fmt: skip
    chain(given)
    suites = {"POINTS (8)": costs, "1 × 1,500": replace(SMALL, speed=costs.speed)}
    losses(costs, 10, given)
    scale(suites["POINTS (8)"], 10, given, "the POINTS suite, 10 members")
    many = replace(costs, benchmarks=((1500, False),) * 20)
    rows = []
    for name, one, members, workers in (
        ("1 × 1,500", suites["1 × 1,500"], 4, 4), ("1 × 1,500", suites["1 × 1,500"], 10, 8),
        ("POINTS", costs, 4, 8), ("20 × 1,500", many, 10, 8), ("POINTS", costs, 100, 8),
        ("POINTS", costs, 100, 64), ("POINTS", costs, 1000, 8), ("POINTS", costs, 1000, 64),
        ("POINTS", costs, 1000, 1024),
    ):  # fmt: skip
        if members * workers > given.largest:
            continue
        repeats = given.repeats if members * workers <= 100 else 1
        rows.append([name, str(members), *cells(workers, members, one, repeats)])
    heads = ["benchmarks × questions", "members", *HEADS]
    print("\nOther sizes:")
    table(heads, rows)


HEADS = ["workers", "members", "trials without guesses", "with", "gain", "whole", "efficiency",
         "what takes most besides answers"]  # fmt: skip


def cells(workers: int, members: int, costs: Costs, repeats: int) -> list[str]:
    """One row: minutes of both phases, with and without guesses."""
    plain = mean_of(workers, members, costs, False, repeats)
    guessed = mean_of(workers, members, costs, True, repeats)
    one = simulate(1, members, costs, False, 0)
    minutes = [f"{seconds / 60:.1f}" for seconds in (guessed.members, plain.trials, guessed.trials)]
    efficiency = one.whole / workers / guessed.whole
    return [
        f"{workers:,}", *minutes, f"{plain.trials / guessed.trials:.2f} ×",
        f"{guessed.whole / 60:.1f} min", f"{efficiency:.2f}", bound(guessed),
    ]  # fmt: skip


def scale(costs: Costs, members: int, given: argparse.Namespace, title: str) -> None:
    """One pool on more and more workers, each to two single ones: see ``simulate``."""
    alone = simulate(1, members, costs, False, 0)
    helped = simulate(1, members, costs, False, 0, evaluators=1)
    rows = []
    for workers in (1, 2, 4, 8, 16, 64, 256, 1024):
        repeats = given.repeats if workers <= 64 else 1
        run = mean_of(workers, members, costs, True, repeats)
        rows.append([
            f"{workers:,}", f"{run.members / 60:.1f}", f"{run.trials / 60:.1f}",
            f"{run.whole / 60:.1f}",
            *(f"{one.members / workers / run.members:.2f}, {one.whole / workers / run.whole:.2f}"
              for one in (alone, helped)),
            bound(run),
        ])  # fmt: skip
    print(f"\nMinutes of a greedy run, {title}; efficiency of the members' part and of the whole:")
    table(["workers", "members", "trials", "whole", "efficiency",
           "to one worker with an evaluator", "what takes most besides answers"], rows)  # fmt: skip
    print(f"With an evaluator one worker takes {helped.whole / 60:.1f} min.")


def losses(costs: Costs, members: int, given: argparse.Namespace) -> None:
    """Where the time of the members' part goes: seconds, of each worker on average."""
    rows = []
    for workers, evaluators in ((1, 0), (8, 0), (1, 1), (8, 8)):
        runs = [books(workers, members, costs, seed, evaluators) for seed in range(given.repeats)]
        middle = sorted(runs, key=lambda one: sum(one.values()))[len(runs) // 2]
        rows.append([str(workers), str(evaluators), f"{sum(middle.values()):.0f}",
                     *(f"{seconds:.0f}" for seconds in middle.values())])  # fmt: skip
    print("\nWhat the members' part consists of, seconds of each worker on average:")
    table(["workers", "evaluators", "all", *middle], rows)


def chain(given: argparse.Namespace) -> None:
    """What guesses gain on the greedy chain alone, by what a trial is made of."""
    rows = []
    for name, costs in (
        ("POINTS suite, judge 30 s", POINTS), ("the same, judge 180 s", JUDGED),
        ("the same, no judge, metrics at once", replace(POINTS, judge=0.0, metric=0.5)),
        ("1 × 1,500 questions", SMALL), ("1 × 300 questions", TINY),
        ("1 × 300 questions, swap 20 s", replace(TINY, swap=20.0)),
    ):  # fmt: skip
        plain = mean_of(8, 20, costs, False, given.repeats)
        guessed = mean_of(8, 20, costs, True, given.repeats)
        without, least = limits(costs, 8)
        rows.append([
            name, f"{plain.trials / 19:.1f}", f"{guessed.trials / 19:.1f}",
            f"{plain.trials / guessed.trials:.2f} ×", f"{plain.shares['idle']:.0%}",
            f"{guessed.shares['guesses']:.0%}", f"{without:.1f}", f"{least:.1f}",
            f"{without / least:.2f} ×",
        ])  # fmt: skip
    print("\nSeconds of a trial on 8 workers, 19 trials of which half are kept:")
    table(["a trial", "without guesses", "with", "gain", "idle without", "in guesses",
           "least without", "least with", "gain at most"], rows)  # fmt: skip


def show_queue(given: argparse.Namespace) -> None:
    """Microseconds of processor time of the queue's own code per slice: taken and handed in."""
    rows = []
    for workers, blends, benchmarks in ((2, 6, 3), (8, 10, 8), (64, 100, 8), (1024, 100, 8)):
        times = []
        for _ in range(given.repeats):
            queue = Queue(range(workers))
            asked = [
                Job(f"{blend} {k}", str(blend), str(k), range(1500))
                for blend in range(blends)
                for k in range(benchmarks)
            ]
            begun = time.thread_time()
            queue.expect(asked)
            expecting = time.thread_time() - begun
            waiting = [(0.0, k) for k in range(workers)]
            slices, spent = 0, 0.0
            while waiting:
                now, worker = heapq.heappop(waiting)
                begun = time.thread_time()
                if queue.at(worker) is not None:
                    queue.done(worker, now, loading=5.0)
                found = queue.take(worker, now)
                spent += time.thread_time() - begun
                if found is not None:
                    slices += 1
                    heapq.heappush(waiting, (now + 1 + 0.025 * len(found.positions), worker))
            times.append((spent / slices, slices, expecting))
        each, slices, expecting = sorted(times)[len(times) // 2]
        rows.append([f"{workers:,}", f"{blends:,} × {benchmarks}", f"{slices:,}",
                     f"{each * 1e6:.0f}", f"{expecting * 1e3:.1f}"])  # fmt: skip
    print(machine())
    table(["workers", "blends × benchmarks", "slices", "µs per slice", "ms to expect all"], rows)


def show_real(given: argparse.Namespace) -> None:
    """`soup score` and `soup greedy` on the demo's pool, with real workers on this machine."""
    with tempfile.TemporaryDirectory(prefix="soup-scale-") as scratch:
        place = given.directory or Path(scratch)
        pool = demo(place)
        found: dict[int, list[dict[str, Any]]] = {}
        for repeat in range(given.repeats):
            for workers in given.workers:
                command = [sys.executable, __file__, "child", str(pool), str(place / f"w{workers}")]
                command += ["--workers", str(workers), "--rows", str(given.rows)]
                done = subprocess.run(command, capture_output=True, text=True, env=ours())
                if done.returncode:
                    raise SystemExit(done.stderr[-3000:])
                one = json.loads(done.stdout.splitlines()[-1])
                print(f"{repeat + 1}: {workers} workers, {one['samples']:,} questions in "
                      f"{one['seconds']:.1f} s, {one['cpu']:.1f} s of processors, load "
                      f"{os.getloadavg()[0]:.0f}", flush=True)  # fmt: skip
                found.setdefault(workers, []).append(one)

        def middle(workers: int, what: str) -> float:
            return statistics.median(one[what] for one in found[workers])

        least = given.workers[0]
        rows = [
            [str(n), f"{middle(n, 'seconds'):.1f}",
             f"{middle(least, 'seconds') / middle(n, 'seconds'):.2f} ×",
             f"{least * middle(least, 'seconds') / n / middle(n, 'seconds'):.2f}",
             f"{middle(n, 'cpu'):.1f}", f"{middle(least, 'cpu') / middle(n, 'cpu'):.2f}"]
            for n in found
        ]  # fmt: skip
        print(machine())
        table(["workers", "seconds of scoring", "to one", "efficiency", "seconds of processors",
               "to one"], rows)  # fmt: skip


def child(given: argparse.Namespace) -> None:
    """Score the pool's members, from when all workers have a model: what a longer run consists of.

    One thread each, so that a worker alone does not take both cores.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    import soup
    from soup.evaluators import VLMEvalKitScorer

    pool_at, work = given.places
    shutil.rmtree(work, ignore_errors=True)
    data = Path(work) / "data"
    data.mkdir(parents=True)
    names = []
    for file in sorted((Path(pool_at) / "benchmarks").glob("*.tsv")):
        lines = file.read_text().splitlines(True)
        head, rows = lines[0], lines[1:]
        many = (rows * ceil(given.rows / len(rows)))[: given.rows]
        renumbered = [f"{k}\t{row.split(chr(9), 1)[1]}" for k, row in enumerate(many)]
        (data / file.name).write_text(head + "".join(renumbered))
        names.append(str(data / file.name))
    paths = sorted((Path(pool_at) / "ckpts").iterdir())
    pool = soup.Pool.open(*paths)
    count = int(given.workers[0])
    options: dict[str, Any] = {"device": "cpu", "max_new_tokens": 4, "workers": count}
    with VLMEvalKitScorer(work=work, **options) as scorer:
        first, *others = scorer.benchmarks(pool.reference, names)
        blends = [soup.Blend((member,), pool.reference) for member in pool.members]
        for member in pool.members:
            member.compute_digest()
        together(scorer, blends, [first])
        while scorer._fleet and not built(scorer._fleet, count):
            together(scorer, blends, [first])  # until every worker has built its model
        begun, used = time.perf_counter(), cpu(scorer)
        together(scorer, blends, others)
        seconds, used = time.perf_counter() - begun, cpu(scorer) - used
    samples = len(paths) * len(others) * given.rows
    print(json.dumps({"seconds": seconds, "samples": samples, "cpu": used}))


def together(scorer: Any, blends: Sequence[Any], benchmarks: Sequence[Any]) -> None:
    """Every blend on every benchmark, as a run asks for it."""
    from soup.choosing.scoring import Wanted

    every = [Wanted(blend, one, f"{one.name}") for blend in blends for one in benchmarks]
    scorer.expect(every)
    for wanted in every:
        scorer.measure(wanted.blend, wanted.benchmark, wanted.task)


def built(fleet: Any, count: int) -> bool:
    """Whether every worker has a model."""
    return all(map(fleet._queue.speeds.has_built, range(count)))


def cpu(scorer: Any) -> float:
    """Seconds of processor time of the workers and of this process so far."""
    hands = [seat.hand for seat in scorer._fleet._seats] if scorer._fleet else [scorer._process]
    ticks = os.sysconf("SC_CLK_TCK")
    total = time.process_time()
    for hand in hands:
        fields = Path(f"/proc/{hand.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("simulate", "queue", "real", "child"))
    parser.add_argument("places", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=3, help="of each [3]")
    parser.add_argument("--largest", type=int, default=10_000,
                        help="members × workers that are simulated, at most [10,000]")  # fmt: skip
    parser.add_argument("--speed", type=float, default=POINTS.speed, help="questions per second")
    parser.add_argument("--swap", type=float, default=POINTS.swap, help="seconds")
    parser.add_argument("--build", type=float, default=POINTS.build, help="seconds")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="real ones")
    parser.add_argument("--rows", type=int, default=1200, help="questions per benchmark [1200]")
    parser.add_argument("--directory", type=Path, help="where to work, kept [a temporary one]")
    given = parser.parse_args()
    shows = {"simulate": show_simulation, "queue": show_queue, "real": show_real, "child": child}
    shows[given.what](given)


if __name__ == "__main__":
    main()
