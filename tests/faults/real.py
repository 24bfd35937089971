"""Kill whole real runs: the command line, VLMEvalKit, resident models, real weights.

python -m tests.faults.real DEMO                    # a directory that `soup demo` made
python -m tests.faults.real DEMO --kills 40 --workers 2
python -m tests.faults.real DEMO --full                 # disks instead of kills; needs root

Each time ``soup greedy`` is started on an empty ``--work``, and at a moment that nobody chose
SIGKILL ends the command, one worker, all workers, or all of them at once. Where the command ended,
the same command again must end with the same bytes, every result measured once, nothing left
beside the soup; and no process may be left, ever. Exit code 1 where anything did not survive.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.faults.machines import ROOM, small_disk
from tests.faults.runs import Row, files, results

PATIENCE = 600  # seconds for one run
GONE = 5  # seconds for what a killed command started to be gone
WORK = (4, 16, 40, 80, 160)  # KB of a disk that is too small
TEMPORARY = (4, 16, 64, 256)
VICTIMS = ("the command", "a worker", "all workers", "all at once")


class Runs:
    """One command, run again and again in places of its own."""

    def __init__(self, demo: Path, root: Path, workers: int) -> None:
        self.root = root
        table = root / "questions.tsv"
        rows = (demo / "benchmarks" / "parity.tsv").read_text().splitlines(keepends=True)
        table.write_text("".join(rows[:25]))
        members = sorted(str(path) for path in (demo / "ckpts").iterdir())[:3]
        words = f"greedy {' '.join(members)} --bench {table} --max-new-tokens 4 --device cpu"
        self.command = [sys.executable, "-m", "soup", *words.split(), "--workers", str(workers)]
        began = time.monotonic()
        whole = self.fresh("whole")
        assert self.start(whole).wait(PATIENCE) == 0, (whole / "said").read_text()
        self.seconds = time.monotonic() - began
        self.expected = files(whole / "best")
        self.results = sorted(results(whole / ".soup"))

    def fresh(self, name: str) -> Path:
        """An empty directory to run in."""
        (place := self.root / name).mkdir()
        return place

    def start(self, place: Path, **environment: str) -> "subprocess.Popen[bytes]":
        """The command, in a place."""
        with (place / "said").open("ab") as said:
            return subprocess.Popen(
                [*self.command, "-o", "best"],
                cwd=place,
                stdout=said,
                stderr=said,
                env=os.environ | environment,
            )


def kill(victim: str, command: "subprocess.Popen[bytes]", chosen: random.Random) -> None:
    """SIGKILL to those that are named; of workers, to what they have started, too."""
    workers = []
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = psutil.Process(command.pid).children()
    if victim == "a worker":
        workers = chosen.sample(workers, min(1, len(workers)))
    doomed = [] if victim == "the command" else [worker.pid for worker in workers]
    if victim in ("the command", "all at once"):
        doomed.append(command.pid)
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def left(place: Path) -> list[str]:
    """Processes that still work in a place, once they had time to go."""
    until = time.monotonic() + GONE
    while True:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(place) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def judged(runs: Runs, place: Path, first: int) -> list[str]:
    """What is wrong once the same command has run again."""
    wrong = []
    if orphans := left(place):
        wrong.append(f"left running: {orphans}")
    said = (place / "said").read_text()
    if "Traceback" in said:
        wrong.append("a traceback")
    if first != 0 and runs.start(place).wait(PATIENCE) != 0:
        wrong.append(f"again: {(place / 'said').read_text().splitlines()[-1]}")
    if sorted(results(place / ".soup")) != runs.results:
        wrong.append("other results, or some of them twice")
    if files(place / "best") != runs.expected:
        wrong.append("other bytes")
    beside = {path.name for path in place.iterdir()} - {"said", ".soup", "best"}
    beside |= {path.name for path in (place / ".soup").rglob("*.answers*")}
    if beside:
        wrong.append(f"left: {sorted(beside)}")
    if orphans := left(place):
        wrong.append(f"left running in the end: {orphans}")
    return wrong


def rows(runs: Runs, kills: int, victims: Sequence[str], seed: int) -> list[Row]:
    """Every kind of victim, ``kills`` times in all, one after the other."""
    found = {victim: Row(f"SIGKILL of {victim}") for victim in victims}
    chosen = random.Random(seed)
    for k in range(kills):
        victim = victims[k % len(victims)]
        row, place = found[victim], runs.fresh(f"run-{k}")
        command = runs.start(place)
        after = chosen.random() * runs.seconds
        time.sleep(after)
        kill(victim, command, chosen)
        first = command.wait(PATIENCE)
        wrong = judged(runs, place, first)
        row.injected += 1
        row.survived += not wrong
        row.wrong += [f"{row.kind} after {after:.1f} s: {text}" for text in wrong]
    return list(found.values())


def full(runs: Runs, what: str, sizes: Sequence[int]) -> Row:
    """A disk of so many KB under ``--work`` or for temporary files; then it gets room."""
    row = Row(f"full disk under {what}")
    for size in sizes:
        place = runs.fresh(f"{what.strip('-')}-{size}")
        disk = place / ".soup" if what == "--work" else runs.root / f"tmp-{size}"
        disk.mkdir()
        with small_disk(disk, f"size={size}k"):
            named = {} if what == "--work" else {"TMPDIR": str(disk)}
            first = runs.start(place, **named).wait(PATIENCE)
            if first == 0:
                continue  # there was room enough
            said = (place / "said").read_text().splitlines()
            subprocess.run(["mount", "-o", f"remount,size={ROOM}", disk], check=True)
            wrong = judged(runs, place, first)
            if first != 1:
                wrong.append(f"exit code {first}")
            row.injected += 1
            row.survived += not wrong
            row.wrong += [f"{row.kind}, {size} KB ({said[-1]}): {text}" for text in wrong]
    return row


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Kill whole real runs.")
    parser.add_argument("demo", type=Path, help="a directory that `soup demo` made")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full", action="store_true", help="full disks, instead of kills")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soup-faults-") as root:
        runs = Runs(given.demo.resolve(), Path(root), given.workers)
        if given.full:
            found = [full(runs, "--work", WORK), full(runs, "TMPDIR", TEMPORARY)]
        else:
            found = rows(runs, given.kills, VICTIMS, given.seed)
    print("| fault | injected | survived |\n|---|---|---|")
    for row in found:
        print(f"| {row.kind} | {row.injected} | {row.survived} |")
    wrong = [text for row in found for text in row.wrong]
    print("\n".join(wrong), end="\n" if wrong else "")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
