"""Put faults into whole real runs: the command line, VLMEvalKit, resident models, real weights.

python -m tests.faults.real DEMO                    # a directory that `soup demo` made
python -m tests.faults.real DEMO --times 40 --workers 2
python -m tests.faults.real DEMO --only full signals clock together streams reads

Each time ``soup greedy`` is started on an empty ``--work``, and something happens to it: ``kills``
(at a moment that nobody chose SIGKILL ends the command, one worker, all workers, or all of them at
once), or what ``tests.faults.around`` lists. Where the command ended, the same command again must
end with the same bytes, every result measured once, nothing left beside the soup; and no process
may be left, ever. Exit code 1 where anything did not survive.
"""

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from tests.faults.runs import Row, files, results

PATIENCE = 600  # seconds for one run
GONE = 5  # seconds for what a killed command started to be gone
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

    def start(
        self, place: Path, *more: str, said: str = "said", **environment: str
    ) -> "subprocess.Popen[bytes]":
        """The command, in a place, with more options and variables; ``said`` gets what it says."""
        with (place / said).open("ab") as stream:
            return subprocess.Popen(
                [*self.command, "-o", "best", *more],
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
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


def judged(runs: Runs, place: Path, first: int, more: Sequence[str] = ()) -> list[str]:
    """What is wrong once the same command has run again; ``more`` is to be there besides."""
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
    beside = {path.name for path in place.iterdir()} - {"said", ".soup", "best", *more}
    beside |= {path.name for path in (place / ".soup").rglob("*.answers*")}
    if beside:
        wrong.append(f"left: {sorted(beside)}")
    if orphans := left(place):
        wrong.append(f"left running in the end: {orphans}")
    return wrong


def kills(runs: Runs, times: int, chosen: random.Random) -> Iterator[Row]:
    """Every kind of victim, ``times`` times in all."""
    for number, victim in enumerate(VICTIMS):
        row = Row(f"SIGKILL of {victim}")
        for k in range(number, times, len(VICTIMS)):
            place = runs.fresh(f"killed-{k}")
            command = runs.start(place)
            after = chosen.random() * runs.seconds
            time.sleep(after)
            kill(victim, command, chosen)
            first = command.wait(PATIENCE)
            row.add(f"after {after:.1f} s", judged(runs, place, first))
        yield row


def main() -> None:
    """Run and print."""
    from tests.faults import around

    every = {"kills": kills, **around.KINDS}
    parser = argparse.ArgumentParser(description="Put faults into whole real runs.")
    parser.add_argument("demo", type=Path, help="a directory that `soup demo` made")
    parser.add_argument("--times", type=int, default=40, help="of each kind at random moments")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=tuple(every), default=["kills"])
    given = parser.parse_args()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="soup-faults-") as root:
        runs = Runs(given.demo.resolve(), Path(root), given.workers)
        print(f"a run takes {runs.seconds:.1f} s\n", flush=True)
        print("| fault | injected | survived |\n|---|---|---|", flush=True)
        for name in given.only:
            for row in every[name](runs, given.times, random.Random(given.seed)):
                print(f"| {row.kind} | {row.injected} | {row.survived} |", flush=True)
                wrong += [f"{row.kind}: {text}" for text in row.wrong]
    print("\n".join(wrong), end="\n" if wrong else "")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
