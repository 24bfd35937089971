"""What a journal holds, what of it can go, and what another machine can use of it.

Results go by content, so those of one machine are worth as much on another: an export is a journal
without runs and without what is known of this machine's files.
"""

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soup.checkpoints.safe import read_bounded
from soup.choosing.journal import Journal
from soup.choosing.records import VERSION, decode, encode, head_of, version_of
from soup.errors import JournalError, OutputError

MADE_OF: Mapping[str, tuple[str, str, tuple[type, ...]]] = {
    "benchmark": ("digest", "questions", (dict,)),
    "result": ("key", "result", (dict,)),
    "trial": ("key", "stopped", (dict, type(None))),
}
"""What records are found by, what they say, and of which type that is."""

CARRIED = tuple(MADE_OF)
"""Kinds of records that mean the same on every machine."""

LARGEST = 1 << 30
"""Bytes of a journal that is imported, unpacked, at most: of some million results."""

GZIP = zlib.MAX_WBITS | 16  # its head and its checksum, too


@dataclass(frozen=True)
class Run:
    """One run: its id, when it began (UTC), its command, and how it ended."""

    run: str
    time: str
    command: str
    members: int
    benchmarks: tuple[str, ...]
    end: str


@dataclass(frozen=True)
class Contents:
    """What a journal holds.

    Attributes:
        path: the file.
        size: in bytes.
        runs: the oldest first.
        results: by benchmark's name, how many.
        seconds: what measuring all of them took.
        damaged: lines that cannot be read.
    """

    path: str
    size: int
    runs: tuple[Run, ...]
    results: Mapping[str, int]
    seconds: float
    damaged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def contents(journal: Journal) -> Contents:
    """Look through a journal.

    Raises:
        JournalError: it cannot be read.
    """
    counts: Counter[str] = Counter()
    seconds = 0.0
    for record in journal.results.values():
        if isinstance(result := record.get("result"), dict):  # else it was imported so
            counts[str(result.get("benchmark"))] += 1
        seconds += record.get("seconds") or 0.0
    size = journal.path.stat().st_size if journal.path.exists() else 0
    runs = tuple(_run(records) for records in journal.runs.values())
    return Contents(str(journal.path), size, runs, dict(counts), seconds, journal.lost)


def _run(records: list[dict[str, Any]]) -> Run:
    start = records[0]
    end = "not finished"
    for record in records:
        if record["kind"] in ("soup", "end"):
            end = "finished"
        elif record["kind"] == "failed":
            end = f"failed: {record['error']}".partition("\n")[0]
    verdict = next((r["word"] for r in reversed(records) if r["kind"] == "verdict"), None)
    if verdict is not None and end == "finished":
        end = verdict
    names = tuple(start["benchmarks"])
    return Run(start["run"], start["time"], start["command"], len(start["members"]), names, end)


@dataclass
class Pruned:
    """What went, or would go, by kind of record, and how many bytes that is."""

    records: Counter[str] = field(default_factory=Counter)
    size: int = 0


def prune(journal: Journal, runs: int, *, dry: bool = False) -> Pruned:
    """Drop all runs but the newest ones, and what none of those has used.

    Results of a soup whose directory is still there stay, so that what is published can be compared
    without being asked again; so do trials, and what is known of files that are there.

    Args:
        journal: which.
        runs: how many of the newest stay.
        dry: only count.

    Raises:
        JournalError: it cannot be written; it is as it was.
    """
    everyone = list(journal.runs.values())
    staying = everyone[len(everyone) - runs :] if runs else []
    blends, benchmarks = set(), set()
    for records in staying:
        benchmarks |= {*records[0]["benchmarks"].values(), *records[0]["holdouts"].values()}
        blends |= {member["blend"] for member in records[0]["members"]}
        blends |= {r["blend"] for r in records if r["kind"] in ("decision", "soup")}
    for records in everyone:
        soups = [r for r in records if r["kind"] == "soup"]
        if kept := {r["blend"] for r in soups if r["out"] and os.path.isdir(r["out"])}:
            blends |= kept
            benchmarks |= {*records[0]["benchmarks"].values(), *records[0]["holdouts"].values()}
    old = {records[0]["run"] for records in everyone[: len(everyone) - len(staying)]}
    gone = Pruned()

    def keep(line: bytes) -> bytes | None:
        head = head_of(line)
        if head is None:
            return line  # damage is not for this to delete
        kind, by, name = head[2].decode(), head[3], (head[4] or b"").decode()
        stays = True
        if by == b"run":
            stays = name not in old  # what has been written meanwhile stays, here and below
        elif kind == "benchmark":
            stays = name in benchmarks or name not in journal.benchmarks
        elif kind == "result" and name in journal.results:
            record = decode(line)
            stays = record["blend"] in blends and record["benchmark"] in benchmarks
        elif kind == "digest":
            stays = all(os.path.exists(str(file[0])) for file in decode(line)["files"])
        if stays:
            return line
        gone.records[kind if by != b"run" else "run"] += 1
        gone.size += len(line) + 1
        return None

    if dry:
        for line in journal.path.read_bytes().split(b"\n"):
            if line:
                keep(line)
        return gone
    journal.rewrite(keep)
    return gone


def export(journal: Journal, file: Path) -> Counter[str]:
    """Write what another machine can use, packed where the name ends in ``.gz``.

    Returns:
        How many records of each kind.

    Raises:
        OutputError: it cannot be written; what was there is there still.
    """
    lines = [encode({"kind": "journal", "version": VERSION})]
    counts: Counter[str] = Counter()
    for kind, records in _carried(journal):
        counts[kind] = len(records)
        lines += [encode(record) for record in records.values()]
    content = b"".join(lines)
    if file.suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # the same journal is the same file
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return counts


def _carried(journal: Journal) -> Iterator[tuple[str, Mapping[str, dict[str, Any]]]]:
    yield from zip(CARRIED, (journal.benchmarks, journal.results, journal.trials), strict=True)


@dataclass
class Taken:
    """What an import has added, by kind; what was known; what it could not use."""

    added: Counter[str] = field(default_factory=Counter)
    known: int = 0
    differing: int = 0
    damaged: int = 0


def take_in(journal: Journal, file: Path) -> Taken:
    """Add what another journal, or an export, knows and this one does not.

    Of a result that both have, this journal's stays, also where the two differ.

    Raises:
        JournalError: the file cannot be read, or is no journal of this version.
    """
    try:
        content = read_bounded(file, LARGEST)
        if content[:2] == b"\x1f\x8b":
            content = _unpacked(content)
    except (OSError, ValueError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise JournalError(f"{file}: cannot be read: {why}") from error
    lines = [line for line in content.split(b"\n") if line]
    version = version_of(lines[0]) if lines else None
    if version != VERSION:
        found = "none" if version is None else f"version {version}"
        raise JournalError(
            f"{file}: expected a journal of version {VERSION} (journal.jsonl, or what soup journal "
            f"export wrote), found {found}"
        )
    taken = Taken()
    for line in lines[1:]:
        head = head_of(line)
        if head is None:
            taken.damaged += 1
            continue
        kind = head[2].decode()
        if kind not in CARRIED:
            continue
        there = dict(_carried(journal))[kind]
        name = (head[4] or b"").decode()
        try:
            record = decode(line)
            found_by, meant, types = MADE_OF[kind]
            if not name or record[found_by] != name or not isinstance(record[meant], types):
                raise ValueError("none of ours, with a checksum of theirs")
        except (ValueError, TypeError, KeyError, AttributeError):
            taken.damaged += 1
            continue
        if name in there:
            taken.known += 1
            same = there[name].get("result") == record.get("result")
            taken.differing += kind == "result" and not same
            continue
        record.pop("kind")
        journal.append(kind, **record)
        taken.added[kind] += 1
    return taken


def _unpacked(content: bytes) -> bytes:
    """What gzip has packed, in one piece or several.

    Raises:
        ValueError: it is cut short, or has more than ``LARGEST`` bytes.
        zlib.error: it is damaged.
    """
    pieces, size = [], 0
    while content:
        unpacker = zlib.decompressobj(GZIP)
        pieces.append(unpacker.decompress(content, LARGEST + 1 - size))
        size += len(pieces[-1])
        if size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes unpacked")
        if not unpacker.eof:
            raise ValueError("it ends too early")
        content = unpacker.unused_data
    return b"".join(pieces)
