"""What happens around a real run: full disks, signals, clocks, a second command, streams that end.

Each function yields rows of ``tests.faults.real``, given its ``Runs``, how often, and randomness.
"""

import contextlib
import os
import pty
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from tests.faults import reading
from tests.faults.machines import ROOM, mounts, small_disk
from tests.faults.real import PATIENCE, Runs, judged, kill
from tests.faults.runs import Row

SIZES: Mapping[str, tuple[int, ...]] = {
    "--work": (4, 16, 40, 80, 160),
    "--out": (4, 16, 64, 256),
    "TMPDIR": (4, 16, 64, 256),
}
"""KB of a disk that is too small."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED = 130
AT_ONCE = 2.0
"""Seconds in which a command stops that was told to, where each of its processes has a core."""

READ = {
    "a table": "questions.tsv",
    "an image": "images/",
    "an index": "model.safetensors.index.json",
    "kept answers": ".answers",
}
"""Files that a real run reads, its workers included; each by a part of its path."""


def full(runs: Runs, times: int, chosen: random.Random) -> Iterator[Row]:
    """A disk of so many KB under ``--work``, ``--out`` or for temporary files; it gets room."""
    if not mounts():
        print("(full disks are left out: no tmpfs can be mounted here)")
        return
    for what, sizes in SIZES.items():
        row = Row(f"full disk under {what}")
        for size in sizes:
            place = runs.fresh(f"{what.strip('-')}-{size}")
            disk = {"--work": place / ".soup", "--out": place / "out"}.get(what, runs.root / "tmp")
            disk.mkdir(exist_ok=True)
            more = ["-o", "out/best"] if what == "--out" else []
            named = {"TMPDIR": str(disk)} if what == "TMPDIR" else {}
            with small_disk(disk, f"size={size}k"):
                first = runs.start(place, *more, **named).wait(PATIENCE)
                if first == 0:
                    continue  # there was room enough
                said = (place / "said").read_text().splitlines()
                subprocess.run(["mount", "-o", f"remount,size={ROOM}", disk], check=True)
                if what == "--out":
                    wrong = [] if not os.listdir(disk) else [f"left: {os.listdir(disk)}"]
                    wrong += judged(runs, place, first, ["out"])
                else:
                    wrong = judged(runs, place, first)
            wrong += [f"exit code {first}"] if first != 1 else []
            row.add(f"{size} KB ({said[-1]})", wrong)
        yield row


def signals(runs: Runs, times: int, chosen: random.Random) -> Iterator[Row]:
    """Ctrl-C and its like at moments that nobody chose: it stops within two seconds."""
    for number, name in enumerate(STOPS):
        row, slowest = Row(name.name), 0.0
        for k in range(number, times, len(STOPS)):
            place = runs.fresh(f"stopped-{k}")
            command = runs.start(place)
            after = chosen.random() * runs.seconds
            time.sleep(after)
            command.send_signal(name)
            began = time.monotonic()
            first = command.wait(PATIENCE)
            took = time.monotonic() - began
            allowed = AT_ONCE * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
            slowest = max(slowest, took)
            wrong = judged(runs, place, first)
            if first not in (STOPPED, 0):
                wrong.append(f"exit code {first}")
            wrong += [f"took {took:.1f} of {allowed:.1f} s"] if first and took > allowed else []
            row.add(f"after {after:.1f} s", wrong)
        row.kind += f" (stopped within {slowest:.1f} s)"
        yield row


def clock(runs: Runs, times: int, chosen: random.Random) -> Iterator[Row]:
    """A clock that jumps twice a second (``clock.c``), for the command and all that it starts."""
    library = reading.build(runs.root, "clock")
    if library is None:
        print("(a clock that jumps is left out: there is no C compiler)")
        return
    row = Row("clock that jumps")
    for k in range(max(1, times // 8)):
        place = runs.fresh(f"clock-{k}")
        began = time.monotonic()
        first = runs.start(place, LD_PRELOAD=str(library)).wait(PATIENCE)
        jumps = int(2 * (time.monotonic() - began))
        wrong = judged(runs, place, first)
        row.add(f"{jumps} jumps", [*wrong, *([f"exit code {first}"] if first else [])])
    yield row


def together(runs: Runs, times: int, chosen: random.Random) -> Iterator[Row]:
    """The same command twice at once: one waits, and has nothing left to measure."""
    row = Row("two commands on one --work and --out")
    for k in range(max(1, times // 8)):
        place = runs.fresh(f"together-{k}")
        one = runs.start(place)
        time.sleep(chosen.random() * runs.seconds / 2)
        other = runs.start(place, said="other")
        codes = [one.wait(PATIENCE), other.wait(PATIENCE)]
        wrong = judged(runs, place, 0, ["other"])
        wrong += [f"exit codes {codes}"] if any(codes) else []
        row.add("", wrong)
    yield row
    row = Row("two commands on one --out")
    for k in range(max(1, times // 8)):
        place = runs.fresh(f"apart-{k}")
        one = runs.start(place)
        other = runs.start(place, "--work", "second", said="other")
        codes = [one.wait(PATIENCE), other.wait(PATIENCE)]
        wrong = judged(runs, place, 0, ["other", "second"])
        wrong += [f"exit codes {codes}"] if any(codes) else []
        row.add("", wrong)
    yield row


def streams(runs: Runs, times: int, chosen: random.Random) -> Iterator[Row]:
    """A reader of a pipe, or a terminal, that goes away in the middle."""
    row = Row("closed pipe")
    for k in range(max(1, times // 8)):
        place = runs.fresh(f"pipe-{k}")
        command = subprocess.Popen(
            [*runs.command, "-o", "best"],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert command.stdout is not None
        time.sleep(chosen.random() * runs.seconds)
        command.stdout.close()
        first = command.wait(PATIENCE)
        (place / "said").touch()
        wrong = [] if first in (0, 141) else [f"exit code {first}"]
        row.add("", [*wrong, *judged(runs, place, first)])
    yield row
    for hangs_up in (True, False):
        row = Row("vanished terminal" if hangs_up else "vanished terminal, SIGHUP ignored")
        for k in range(max(1, times // 8)):
            place = runs.fresh(f"terminal-{k}-{hangs_up}")
            (place / "said").touch()
            child, terminal = pty.fork()
            if not child:  # pragma: no cover
                os.chdir(place)
                if not hangs_up:
                    signal.signal(signal.SIGHUP, signal.SIG_IGN)
                os.execv(runs.command[0], [*runs.command, "-o", "best"])
            reader = threading.Thread(target=_read, args=(terminal, chosen.random(), runs.seconds))
            reader.start()
            first = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            reader.join()
            wrong = [] if first in ((0, STOPPED) if hangs_up else (0,)) else [f"exit code {first}"]
            row.add("", [*wrong, *judged(runs, place, first)])
        yield row


def _read(terminal: int, share: float, seconds: float) -> None:
    """Read what a terminal is sent for a while; then it is gone."""
    until = time.monotonic() + share * seconds
    os.set_blocking(terminal, False)
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            os.read(terminal, 1 << 16)
        time.sleep(0.05)
    os.close(terminal)


def reads(runs: Runs, times: int, chosen: random.Random) -> Iterator[Row]:
    """Reads that fail or come short, in all processes."""
    library = reading.build(runs.root)
    if library is None:
        print("(reads that fail are left out: there is no C compiler)")
        return
    for way in ("EIO at a read", "short read"):
        row = Row(f"{way}, in all processes")
        for kind, part in READ.items():
            place = runs.fresh(f"{way}-{kind}".replace(" ", "-"))
            if kind in ("an image", "kept answers"):  # the second run reads them
                command = runs.start(place)
                time.sleep(runs.seconds * 0.8)
                kill("all at once", command, chosen)
                command.wait(PATIENCE)
            armed = f"{reading.WAYS[way]} 0 {part}"
            first = runs.start(place, LD_PRELOAD=str(library), SOUP_READS=armed).wait(PATIENCE)
            wrong = judged(runs, place, first)
            if first not in (0, 1) or (first and way == "short read"):
                wrong.append(f"exit code {first}")
            said = (place / "said").read_text().splitlines() or [""]
            row.add(f"{kind} ({said[-1]})", wrong)
        yield row


KINDS: Mapping[str, Callable[[Runs, int, random.Random], Iterator[Row]]] = {
    "full": full,
    "signals": signals,
    "clock": clock,
    "together": together,
    "streams": streams,
    "reads": reads,
}
