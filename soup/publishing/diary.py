"""``nights.jsonl``: what was decided, published, sent and taken back in one place, line by line.

Each line has a checksum, as the journal's have (``soup.choosing.records``). A line that is damaged
is not used, and is said: it may have been a soup that was compared, so it counts as one (the gate
gets stricter by it, never laxer); if it was a rollback, nobody knows of that any more. The last
line, where it has no end, is of a night that was killed: that decides again, and the line goes.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup.choosing.records import decode, encode, head_of
from soup.errors import OutputError
from soup.words import counted

NIGHT, ROLLBACK, SENT = "night", "rollback", "sent"
"""Kinds of lines."""

EARLIER = b'{"time":'
"""What lines of earlier versions begin with; they have no checksum."""


@dataclass(frozen=True)
class Diary:
    """What is recorded, the oldest first.

    Attributes:
        records: of all kinds.
        damaged: numbers of lines, from 1, that are not as they were written.
    """

    records: Sequence[Mapping[str, Any]]
    damaged: Sequence[int] = ()

    @property
    def taken_back(self) -> dict[str, str]:
        """Keys of blends that somebody rolled back from, and did not return to; each with when
        that was.
        """
        found: dict[str, str] = {}
        for record in self.records:
            if record.get("rollback"):
                if record["from"]:  # else somebody went on to a later one
                    found[record["from"]] = record["time"]
                found.pop(record["to"], None)
        return found

    @property
    def members(self) -> Mapping[str, str]:
        """Of the last night that had a pool: digests by name."""
        return next((n["members"] for n in reversed(self.records) if n.get("members")), {})

    @property
    def digests(self) -> set[str]:
        """Of every member that any night had."""
        return {d for record in self.records for d in record.get("members", {}).values()}

    def asked(self, benchmarks: Iterable[str], tonight: str) -> int:
        """How many different soups were compared by any of these questions, tonight's included.

        By names: a benchmark whose table or versions have changed a little still wears out.

        Args:
            benchmarks: their names.
            tonight: the key of tonight's soup.
        """
        names = set(benchmarks)
        before = {
            record["candidate"]
            for record in self.records
            if record.get("nights") and set(record["benchmarks"]) & names
        }
        return len(before | {tonight}) + len(self.damaged)

    def words(self) -> str | None:
        """What is to be said of damage; None where there is none."""
        if not self.damaged:
            return None
        where = ", ".join(map(str, self.damaged[:5])) + (" …" if len(self.damaged) > 5 else "")
        many = counted(len(self.damaged), "damaged line")
        return (
            f"{many} ({where}): each counts as one more soup that was compared, and if one was a "
            "rollback, that is not known any more"
        )


def read(file: Path) -> Diary:
    """The diary in a file; an empty one where there is none.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        *lines, last = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Diary(())
    except OSError as error:
        raise OutputError(f"{file}: cannot be read: {error.strerror}") from error
    records, damaged = [], []
    for number, line in enumerate(lines, 1):
        if (record := _record(line)) is not None:
            records.append(record)
        elif line:
            damaged.append(number)
    if (record := _record(last)) is not None:
        records.append(record)
    return Diary(records, damaged)


def write_down(file: Path, kind: str, **fields: Any) -> None:
    """Add one line, and flush it to the disk.

    Raises:
        OutputError: it cannot be written.
    """
    line = encode({"kind": kind, **fields})
    try:
        with file.open("a+b") as opened:
            opened.seek(0)
            tail = opened.read().rpartition(b"\n")[2]
            if tail and _record(tail) is None:  # of a night that was killed
                opened.truncate(opened.tell() - len(tail))
            elif tail:
                line = b"\n" + line
            opened.write(line)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error


def _record(line: bytes) -> Mapping[str, Any] | None:
    try:
        if head_of(line) is not None:
            return decode(line)
        found = json.loads(line) if line.startswith(EARLIER) else None
    except (ValueError, KeyError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
