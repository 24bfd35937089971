"""Put faults into whole runs and print what came of them.

python -m tests.faults           # a minute or two
python -m tests.faults --long    # 500 kills at random moments, every step of each kind
"""

import argparse
import errno
import tempfile
from pathlib import Path

from tests.faults.runs import (
    Place,
    Row,
    errors_at_steps,
    flipped_bits,
    kills_at_random,
    kills_at_steps,
)


def table(rows: list[Row]) -> str:
    """As Markdown, with what did not survive below it."""
    found = [
        "| fault | injected | survived | bytes lost | results repeated |",
        "|---|---|---|---|---|",
    ]
    found += [f"| {r.kind} | {r.injected} | {r.survived} | {r.lost} | {r.repeated} |" for r in rows]
    return "\n".join([*found, *(f"{r.kind}: {text}" for r in rows for text in r.wrong)])


def all_of(place: Place, kills: int, each: int, flips: int) -> list[Row]:
    """Every kind of fault."""
    return [
        kills_at_steps(place, each),
        kills_at_random(place, kills),
        *(errors_at_steps(place, n, each) for n in (errno.ENOSPC, errno.EIO, errno.EDQUOT)),
        flipped_bits(place, flips),
    ]


def main() -> None:
    """Run and print; exit code 1 where anything did not survive."""
    parser = argparse.ArgumentParser(description="Put faults into whole runs.")
    parser.add_argument("--long", action="store_true", help="hundreds of each")
    parser.add_argument("--kills", type=int, help="at random moments")
    parser.add_argument("--each", type=int, help="steps of each kind")
    parser.add_argument("--flips", type=int, help="flipped bits")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soup-faults-") as root:
        kills, each, flips = (500, 60, 400) if given.long else (30, 4, 30)
        kills, each, flips = given.kills or kills, given.each or each, given.flips or flips
        rows = all_of(Place(Path(root)), kills, each, flips)
    print(table(rows))
    raise SystemExit(any(row.wrong for row in rows))


if __name__ == "__main__":
    main()
