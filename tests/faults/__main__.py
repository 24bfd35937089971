"""Put faults into whole runs and print what came of them.

python -m tests.faults           # a minute or two
python -m tests.faults --long    # 500 kills at random moments, every step of each kind
"""

import argparse
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults import machines, reading
from tests.faults.runs import (
    Place,
    Row,
    errors_at_steps,
    flipped_bits,
    kills_at_random,
    kills_at_steps,
    kills_while_pruning,
)

HEAD = "| fault | injected | survived | bytes lost | results repeated |\n|---|---|---|---|---|"


def all_of(place: Place, kills: int, each: int, flips: int) -> Iterator[Row]:
    """Every kind of fault, one after the other."""
    yield kills_at_random(place, kills)
    yield flipped_bits(place, flips)
    yield kills_at_steps(place, each)
    yield kills_while_pruning(place)
    for number in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        yield errors_at_steps(place, number, each)
    yield from of_machines(place, each)
    yield from reading.rows(place, max(1, each // 4))


def of_machines(place: Place, each: int) -> Iterator[Row]:
    """Disks, clocks, locks, renames."""
    if machines.mounts():
        step = max(1, 24 // each)
        for what, most in (("work", 24), ("out", 48), ("files", 48)):
            unit = 1 if what == "files" else 4
            yield machines.full_disks(place, range(2 * unit, most * unit, step * unit), what)
        yield machines.read_only(place)
    yield machines.clocks(place, each)
    yield machines.locks(place, each)
    yield machines.renames(place)


def main() -> None:
    """Run and print, kind by kind; exit code 1 where anything did not survive."""
    parser = argparse.ArgumentParser(description="Put faults into whole runs.")
    parser.add_argument("--long", action="store_true", help="hundreds of each")
    parser.add_argument("--kills", type=int, help="at random moments")
    parser.add_argument("--each", type=int, help="steps of each kind")
    parser.add_argument("--flips", type=int, help="flipped bits")
    parser.add_argument("--machines", action="store_true", help="disks, clocks, locks alone")
    parser.add_argument("--reads", nargs="*", metavar="KIND", help="what is read alone")
    given = parser.parse_args()
    kills, each, flips = (500, 60, 400) if given.long else (30, 4, 30)
    kills, each, flips = given.kills or kills, given.each or each, given.flips or flips
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="soup-faults-") as root:
        reading.begin_again(Path(root))
        print(HEAD, flush=True)
        place = Place(Path(root))
        every = all_of(place, kills, each, flips)
        if given.machines:
            every = of_machines(place, each)
        elif given.reads is not None:
            every = reading.rows(place, each, given.reads or tuple(reading.READ))
        for row in every:
            cells = (row.kind, row.injected, row.survived, row.lost, row.repeated)
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            wrong += [f"{row.kind}: {text}" for text in row.wrong]
    if reading.library() is not None:  # what it was compiled in is of the process that began
        shutil.rmtree(Path(os.environ["LD_PRELOAD"]).parent, ignore_errors=True)
    print("\n".join(wrong), end="\n" if wrong else "")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
