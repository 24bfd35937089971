"""How long a large journal takes to open, and what SQLite would do instead; in one run.

python benchmarks/journal.py              # 100,000 records
python benchmarks/journal.py --flips 400  # and as many flipped bits in a file of each kind
"""

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from soup.choosing.journal import Journal
from soup.choosing.records import VERSION, encode

OUTCOMES = 100  # questions of each result


def main() -> None:
    """Measure, and flip bits where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--flips", type=int, default=0, help="flipped bits in a file of each kind")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soup-journal-") as place:
        measure(Path(place), given.records)
        if given.flips:
            flip(Path(place), given.flips)


def record(k: int) -> dict[str, object]:
    """A result like those of a run, of so many questions."""
    names = [f"{zlib.crc32(f'{k} {n}'.encode()):08x}" * 8 for n in range(3)]
    outcomes = {str(q): (k * q) % 3 / 2 for q in range(OUTCOMES)}
    fields = dict(zip(("key", "blend", "benchmark"), names, strict=True))
    result = {"benchmark": "x", "value": 50.0, "samples": OUTCOMES, "unparsed": 0.0}
    timed = {"seconds": 1.5, "answered": OUTCOMES}
    return {"kind": "result", **fields, **timed, "result": {**result, "outcomes": outcomes}}


def measure(place: Path, count: int) -> None:
    """Print what opening, looking up and showing take, best of five."""
    lines = [encode({"kind": "journal", "version": VERSION})]
    lines += [encode(record(k)) for k in range(count - 3)]
    members = [{"name": "a", "path": "/a", "digest": "d", "blend": str(record(1)["blend"])}]
    run = {"run": "r", "command": "score", "time": "2026-01-01T00:00:00+00:00"}
    places = {"benchmarks": {"x": str(record(1)["benchmark"])}, "holdouts": {}}
    lines += [encode({"kind": "run", "at": 0, **run, **places, "members": members})]
    lines += [encode({"kind": "end", "run": "r", "at": 1})]
    work = place / "work"
    work.mkdir()
    (work / "journal.jsonl").write_bytes(b"".join(lines))
    key = str(record(count // 2)["key"])
    print(f"{count:,} records, {sum(map(len, lines)) / 1e6:.0f} MB")
    small = place / "small"
    small.mkdir()
    (small / "journal.jsonl").write_bytes(b"".join([lines[0], lines[2], *lines[-2:]]))
    database = place / "journal.db"
    _database(database, count)
    for name, what in (
        ("read the file", lambda: _read(work)),
        ("open the journal", lambda: Journal.open(work, create=False)),
        ("SQLite: open, look one up", lambda: _look_up(database, key)),
        ("soup leaderboard", lambda: _leaderboard(work)),
        ("the same of four records", lambda: _leaderboard(small)),
    ):
        wall, cpu = best(what)
        print(f"{name:26} {wall:7.3f} s, {cpu:6.2f} s of processor time")


def flip(place: Path, flips: int) -> None:
    """Print what a flipped bit does to each kind of file, and how many records it costs."""
    count = 1000
    work = place / "flipped"
    work.mkdir()
    lines = [encode({"kind": "journal", "version": VERSION})]
    raw = b"".join(lines + [encode(record(k)) for k in range(count)])
    database = place / "flipped.db"
    _database(database, count)
    db = database.read_bytes()
    chosen = random.Random(0)
    expected = {str(record(k)["key"]): record(k) for k in range(count)}
    for name, content, look in (
        ("file", raw, lambda c: _records_of_file(work, c)),
        ("SQLite", db, lambda c: _records_of_database(database, c)),
    ):
        lost, wrong = [], 0
        for _ in range(flips):
            changed = bytearray(content)
            changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
            found = look(bytes(changed))
            wrong += any(value != expected.get(key) for key, value in found.items())
            lost.append(count - len(found))
        print(
            f"{name:7} {flips} flipped bits, {count:,} records: nothing readable after "
            f"{lost.count(count)}, records lost after {sum(n > 0 for n in lost)}, "
            f"{sorted(lost)[-5:]} at most; others than were written: {wrong}"
        )


def _records_of_file(work: Path, content: bytes) -> dict[str, object]:
    (work / "journal.jsonl").write_bytes(content)
    return dict(Journal.open(work, create=False).results)


def _records_of_database(database: Path, content: bytes) -> dict[str, object]:
    """What a plain SELECT over all rows still gives; each row has a checksum, as a line has."""
    database.write_bytes(content)
    connection = sqlite3.connect(database)
    found: dict[str, object] = {}
    try:
        for key, crc, body in connection.execute("select key, crc, body from records"):
            if zlib.crc32(key.encode() + body) == crc:
                found[key] = json.loads(body)
    except (sqlite3.DatabaseError, UnicodeDecodeError, TypeError):
        pass  # what came before it counts
    finally:
        connection.close()
    return found


def _database(path: Path, count: int) -> None:
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        db.execute("create table records(key text primary key, crc integer, body blob)")
        bodies = ((str(record(k)["key"]), json.dumps(record(k)).encode()) for k in range(count))
        rows = ((key, zlib.crc32(key.encode() + body), body) for key, body in bodies)
        db.executemany("insert or replace into records values(?, ?, ?)", rows)
    db.close()


def _look_up(path: Path, key: str) -> None:
    db = sqlite3.connect(path)
    assert db.execute("select body from records where key = ?", (key,)).fetchone()
    db.close()


def _read(work: Path) -> bytes:
    return (work / "journal.jsonl").read_bytes()


def _leaderboard(work: Path) -> None:
    command = [sys.executable, "-m", "soup", "leaderboard", "--work", str(work)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)


def best(work: Callable[[], object], times: int = 5) -> tuple[float, float]:
    """Seconds of the fastest of a few: on the clock, and of processor time, children's too."""
    found = []
    for _ in range(times):
        began, before = time.perf_counter(), sum(os.times()[:4])
        work()
        found.append((time.perf_counter() - began, sum(os.times()[:4]) - before))
    return min(found)[0], min(cpu for _, cpu in found)


if __name__ == "__main__":
    main()
