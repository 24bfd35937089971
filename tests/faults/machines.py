"""What machines do besides dying: full disks, clocks that jump, locks and renames that lie.

A full disk here is one: a small tmpfs is mounted where the run writes, which takes root on Linux.
After the run has met its end the disk gets more room, and the same command runs again.
"""

import contextlib
import errno
import fcntl
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from soup.choosing import journal
from tests.faults.runs import DONE, REFUSED, Place, Row

ROOM = "64m"
"""Of a disk once there is room."""

JUMPS = (timedelta(days=-1), timedelta(days=1), timedelta(days=-20_000), timedelta(days=9_000))


def mounts() -> bool:
    """Whether this machine lets us mount a tmpfs."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[None]:
    """A tmpfs of a size, for as long as the context lasts."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "soup-faults", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def full_disks(place: Place, sizes: Sequence[int], what: str) -> Row:
    """The run on disks of so many KB (or with so many files), then again with room.

    Args:
        place: of runs.
        sizes: to try.
        what: ``work``: the journal's disk; ``out``: the soup's; ``files``: both, which has room for
            that many files only.
    """
    names = {"work": "full disk under --work", "out": "full disk under --out"}
    row = Row(names.get(what, "disk that takes no more files"))
    for size in sizes:
        where = place.fresh(f"full-{what}-{size}")
        options = f"size={ROOM},nr_inodes={size}" if what == "files" else f"size={size}k"
        more = f"remount,size={ROOM},nr_inodes=10000"
        disk = where / "work" if what == "work" else where
        disk.mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(small_disk(disk, options))
            if what == "out":
                try:
                    (where / "work").mkdir()
                except OSError:
                    continue  # no room for a directory: nothing can be tried here
                stack.enter_context(small_disk(where / "work", f"size={ROOM}"))
            first = place.run(where)
            if first == DONE:
                continue  # there was room enough
            subprocess.run(["mount", "-o", more, disk], check=True)
            place.again(where, row, f"{size}", first)
    return row


def read_only(place: Place) -> Row:
    """A directory that nobody may write to, then again where one may."""
    row = Row("read-only directory")
    for what in ("work", "out"):
        where = place.fresh(f"read-only-{what}")
        disk = where / "work" if what == "work" else where
        disk.mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(small_disk(disk, f"size={ROOM}"))
            if what == "out":
                (where / "work").mkdir()
                stack.enter_context(small_disk(where / "work", f"size={ROOM}"))
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            first = place.run(where)
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            found = [] if first == REFUSED else [f"a read-only --{what} ended with {first}"]
            place.again(where, row, what, first, found)
    return row


def prepared(place: Place, kind: str, times: int, prepare: Callable[[int], None]) -> Row:
    """Runs on a machine that is changed; all of them are to come to a good end by themselves."""
    row = Row(kind)
    for k in range(times):
        where = place.fresh(f"{kind.replace(' ', '-')}-{k}")
        first = place.run(where, prepare=lambda k=k: prepare(k))
        place.again(where, row, f"{k}", first)
        if first != DONE:
            row.survived -= 1
            row.wrong.append(f"{k}: ended with {first}")
    return row


def clocks(place: Place, times: int) -> Row:
    """A clock that jumps, by a day or by decades, whenever somebody looks at it."""

    def jump(seed: int) -> None:
        chosen, now = random.Random(seed), time.time

        def late() -> float:
            return max(now() + chosen.choice(JUMPS).total_seconds(), 0.0)

        class Clock(datetime):
            @classmethod
            def now(cls, zone: Any = None) -> datetime:
                return datetime.fromtimestamp(late(), zone or timezone.utc)

        time.time = late
        time.time_ns = lambda: int(late() * 1e9)
        for module in (journal, *_with_a_clock()):
            module.datetime = Clock  # type: ignore[attr-defined]

    return prepared(place, "clock that jumps", times, jump)


def _with_a_clock() -> list[Any]:
    from soup import holding
    from soup.watching import state

    return [holding, state]


def locks(place: Place, times: int) -> Row:
    """``flock`` that always fails, as on some network disks."""

    def fail(seed: int) -> None:
        number = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO)[seed % 3]

        def flock(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        fcntl.flock = flock  # type: ignore[assignment]

    return prepared(place, "locks that fail", times, fail)


def renames(
    place: Place,
    names: Sequence[str] = ("rename", "replace"),
    numbers: Sequence[int] = (errno.ENOENT, errno.EIO, errno.ESTALE),
) -> Row:
    """A rename that was done and says that it was not, as a network disk's second try does."""
    row = Row("rename that is done and fails")
    for name in names:
        for at in range(1, place.steps[name] + 1):
            for number in numbers:

                def lie(
                    step: str, seen: int, at: int = at, of: tuple[str, int] = (name, number)
                ) -> None:
                    if (step, seen) == (of[0], at):
                        raise OSError(of[1], os.strerror(of[1]))

                where = place.fresh(f"{name}-{at}-{number}")
                first = place.run(where, after=lie)
                place.again(where, row, f"{name} {at}, {errno.errorcode[number]}", first)
    return row
