"""Many candidates over one pool, with the real scorer: does anything grow?

python -m tests.faults.soak DEMO                  # a directory that `soup demo` made
python -m tests.faults.soak DEMO --workers 2 --candidates 1000

Each candidate is another blend of the pool, swapped into the resident model, asked, scored by
VLMEvalKit and recorded, as in a run. Memory (unique pages, all processes), open files and threads
are read as it goes. Exit code 1 where memory at the end is over 5% above that after the warm-up,
or files or threads grew at all.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.choosing.scoring import RecordedScorer
from soup.evaluators import VLMEvalKitScorer

ALLOWED = 1.05  # of the memory after the warm-up


class Held(NamedTuple):
    """What one process, or all of them, hold: bytes, and numbers of files and threads."""

    memory: int
    files: int
    threads: int


def held() -> dict[str, Held]:
    """Of this process and of everything that it started."""
    gc.collect()
    own = psutil.Process()
    found = {}
    for process in (own, *own.children(recursive=True)):
        with process.oneshot():
            name = "command" if process.pid == own.pid else f"worker {process.pid}"
            memory = process.memory_full_info().uss
            found[name] = Held(memory, process.num_fds(), process.num_threads())
    return found


def blends(pool: Pool, number: int) -> list[Blend]:
    """So many blends of the whole pool, no two with the same coefficients."""
    size = len(pool.members)
    made = []
    for k in range(number):
        raw = [1 + ((k * (j + 3)) % (number + j)) / number for j in range(size)]
        raw[k % size] += k / number
        made.append(Blend(pool.members, pool.reference, tuple(part / sum(raw) for part in raw)))
    return made


def soak(demo: Path, work: Path, candidates: int, workers: int, rows: int) -> int:
    """Run and print; how many things grew."""
    table = work / "questions.tsv"
    lines = (demo / "benchmarks" / "parity.tsv").read_text().splitlines(keepends=True)
    table.write_text("".join(lines[: rows + 1]))
    pool = Pool.open(str(demo / "ckpts" / "*"))
    marks: list[dict[str, Held]] = []
    every = max(1, candidates // 20)
    print("| candidates | candidates/s | " + "memory (MB), files, threads of each process |")
    print("|---|---|---|")
    with VLMEvalKitScorer(
        work=work / "place", device="cpu", max_new_tokens=4, workers=workers
    ) as scorer:
        benchmarks = scorer.benchmarks(pool.reference, [str(table)])
        recorded = RecordedScorer(scorer, Journal.open(work / "place"))
        began, before = time.perf_counter(), 0
        for k, blend in enumerate(blends(pool, candidates), start=1):
            recorded.score(blend, benchmarks, f"candidate {k}")
            if k % every == 0 or k == candidates:
                marks.append(held())
                took, began = time.perf_counter() - began, time.perf_counter()
                cells = "; ".join(
                    f"{one.memory / 1e6:.0f}, {one.files}, {one.threads}"
                    for one in marks[-1].values()
                )
                print(f"| {k} | {(k - before) / took:.1f} | {cells} |", flush=True)
                before = k
    return compare(marks)


def compare(marks: list[dict[str, Held]]) -> int:
    """Say what grew from after the warm-up (a quarter of the way) to the end; how much did."""
    if len({tuple(mark) for mark in marks}) > 1:
        print("a worker was replaced on the way: its memory cannot be compared")
        return 1
    wrong = 0
    quarter = len(marks) // 4
    for name in marks[-1]:
        early, late = marks[quarter : 2 * quarter], marks[-quarter:]
        for what in Held._fields:
            first, last = (
                statistics.median(getattr(mark[name], what) for mark in part)
                for part in (early, late)
            )
            grew = last > first * (ALLOWED if what == "memory" else 1)
            wrong += grew
            print(f"{name}: {what} {last / first - 1:+.1%}{', which is too much' * grew}")
    return wrong


def main() -> None:
    """Run one soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("demo", type=Path, help="a directory that `soup demo` made")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=int, default=16, help="questions asked of each candidate")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soup-soak-") as work:
        sys.exit(min(1, soak(given.demo, Path(work), given.candidates, given.workers, given.rows)))


if __name__ == "__main__":
    main()
