"""How long a command takes to come up: medians, and ratios to `python -c pass`.

    python benchmarks/start.py WORK_DIRECTORY

Commands run one after another, round after round, so that a busy machine slows all of them alike.
The greedy run is measured when all of its results are known. Processor time is that of the command
and of every process that it has started. Byte code is kept, as an installation keeps it.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import demo, machine, ours, table

BENCH = ("parity", "compare", "digit")
ROWS = 20
"""Of each benchmark: they are answered once, before anything is measured."""
TARGETS = {"help": 0.3, "version": 0.3, "families": 0.3, "leaderboard": 0.3, "a mistake": 0.3}
TARGETS |= {"check, ten members": 0.5, "greedy, all known": 1.5}


def commands(work: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    members = sorted(str(path) for path in (work / "demo" / "ckpts").iterdir() if path.is_dir())
    ten = (members * 10)[:10]
    soup = [sys.executable, "-m", "soup"]
    greedy = [*soup, "greedy", *members, "--max-new-tokens", "4", "--device", "cpu", "--quiet"]
    for name in BENCH:
        lines = (work / "demo" / "benchmarks" / f"{name}.tsv").read_text().splitlines(keepends=True)
        short = work / f"{name}.tsv"
        short.write_text("".join(lines[: ROWS + 1]))
        greedy += ["--bench", str(short)]
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import torch": [sys.executable, "-c", "import torch"],
        "version": [*soup, "--version"],
        "help": [*soup, "--help"],
        "families": [*soup, "families"],
        "leaderboard": [*soup, "leaderboard"],
        "a mistake": [*soup, "greedy", "--nope"],
        "check, ten members": [*soup, "check", *ten],
        "greedy, all known": [*greedy, "--out", str(work / "soup")],
    }


def measure(command: list[str], place: Path, env: dict[str, str]) -> tuple[float, float]:
    """Seconds on the clock, and of processors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, cwd=place, env=env, capture_output=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="keeps the demo's pool and results")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    work = given.directory.resolve()
    work.mkdir(parents=True, exist_ok=True)
    demo(work)
    place = work / "place"
    place.mkdir(exist_ok=True)
    chosen = commands(work)
    done = subprocess.run(chosen["greedy, all known"], cwd=place, env=ours())  # the first time
    if done.returncode:
        raise SystemExit("the greedy run failed")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    env = {**ours(), "PYTHONPYCACHEPREFIX": str(work / "bytecode")}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    for command in chosen.values():
        measure(command, place, env)  # its byte code is written
    for _ in range(given.rounds):
        for name, command in chosen.items():
            found[name].append(measure(command, place, env))
    rows = []
    least = [statistics.median(kind) for kind in zip(*found["python -c pass"], strict=True)]
    for name, pairs in found.items():
        wall, busy = (statistics.median(kind) for kind in zip(*pairs, strict=True))
        target = f"{TARGETS[name]:.1f} s" if name in TARGETS else ""
        ratio = f"{wall / least[0]:.1f} ×"
        rows.append([name, f"{wall:.2f} s", ratio, f"{busy:.2f} s", target])
    print(f"\n{machine()}, load {os.getloadavg()[0]:.1f}, medians of {given.rounds} rounds")
    table(["command", "clock", "to `pass`", "processors", "target (clock)"], rows)
    shutil.rmtree(work / "soup", ignore_errors=True)


if __name__ == "__main__":
    main()
