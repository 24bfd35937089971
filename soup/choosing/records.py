"""One record of the journal as one line: JSON that anybody can read, with a checksum.

A line is ``{"crc":"1b2c3d4e","kind":"result","key":…}``. The checksum is the CRC-32 of everything
behind the comma that follows it, to the end of the line, as eight hexadecimal digits. It finds
every flipped bit, two of them, and all damage of up to 32 bits in a row; of any other damage it
misses one case in four thousand million. ``kind`` comes next, then what the record is found by:
``key``,
``of``, ``run`` or ``digest``. So a journal is indexed without parsing what nobody asks for.
"""

import json
import re
from binascii import hexlify
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any
from zlib import crc32

VERSION = 2
"""Of the format; 1 had no checksums."""

HEAD = re.compile(
    rb'\{"crc":"([0-9a-f]{8})","kind":"([a-z][a-z_-]*)"'
    rb'(?:,"(key|of|run|digest)":"([^"\\]*)")?(?:,"at":([0-9]+))?'
)
SUMMED = len('{"crc":"00000000",')
"""Bytes before those that the checksum is of."""

RESULT = b'","kind":"result","key":"'
"""What follows the checksum of a result, of which there are more than of anything else."""

KEYED = SUMMED - 2 + len(RESULT)
CLOSED = KEYED + 64
ENDED = CLOSED + 1
"""Where in a result's line its key begins and ends, and where the quote behind it ends."""

FIRST = ("kind", "key", "of", "run", "at", "digest")
"""Fields that come first, in this order."""

TYPES: Mapping[str, tuple[type, ...]] = {
    "run": (str,),
    "key": (str,),
    "blend": (str,),
    "digest": (str,),
    "command": (str,),
    "time": (str,),
    "tried": (str,),
    "out": (str,),
    "error": (str,),
    "kept": (bool,),
    "mean": (int, float, str, type(None)),
    "seconds": (int, float),
    "answered": (int,),
    "result": (dict,),
    "settings": (dict,),
    "questions": (dict,),
    "holdouts": (dict,),
    "files": (list,),
    "shares": (dict,),
}
"""What fields of the records in ``TYPED`` may be."""

TYPED = frozenset(
    ("run", "result", "trial", "benchmark", "digest", "decision", "shares", "soup", "failed")
)


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as its line, with the line's end.

    Raises:
        TypeError: it holds what JSON does not have.
    """
    first = {name: record[name] for name in FIRST if name in record}
    text = json.dumps({**first, **record}, separators=(",", ":"))[1:].encode()
    return b'{"crc":"%08x",%b\n' % (crc32(text), text)


def head_of(line: bytes) -> "re.Match[bytes] | None":
    """What a whole line begins with; None for one that is not as it was written."""
    found = HEAD.match(line)
    if found is None or int(found[1], 16) != crc32(memoryview(line)[SUMMED:]):
        return None
    return found


def key_of_result(line: bytes) -> str | None:
    """The key of a whole result, given its line with the line's end; None for anything else.

    It says what ``head_of`` would, in half the time.
    """
    key = line[KEYED:CLOSED]
    # To format the number with %08x alone takes as long as all of this.
    summed = hexlify(crc32(line[SUMMED:-1]).to_bytes(4, "big"))
    if line[:ENDED] != b"".join((b'{"crc":"', summed, RESULT, key, b'"')) or not key.isalnum():
        return None
    return key.decode()


def decode(line: bytes) -> dict[str, Any]:
    """The record of a line whose checksum is right.

    Raises:
        ValueError: it is no record after all: whoever wrote it has made the checksum, too.
    """
    try:
        record = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    del record["crc"]
    for name, value in record.items() if record["kind"] in TYPED else ():
        if name in TYPES and type(value) not in TYPES[name]:
            raise ValueError(f"{name} cannot be {str(value)[:40]}")
    return dict(record)


def version_of(line: bytes) -> int | None:
    """The version that a journal's first line names; None where it is none, or is damaged."""
    try:
        head = json.loads(line)
        if head["kind"] != "journal" or ("crc" in head and head_of(line) is None):
            return None
        return int(head["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


class Records(MutableMapping[str, dict[str, Any]]):
    """Records by key, each parsed when it is first asked for.

    Attributes:
        places: by key the number of a record's line, or the record once it is known.
    """

    def __init__(
        self, parse: Callable[[bytes], dict[str, Any]], line: Callable[[int], bytes]
    ) -> None:
        """``parse`` makes a record of a whole line, ``line`` is where lines are found by number."""
        self._parse = parse
        self._line = line
        self.places: dict[str, int | dict[str, Any]] = {}

    def put(self, key: str, line: int) -> None:
        """Take a record by its line's number; a later one of the same key wins."""
        self.places[key] = line

    def peek(self, key: str) -> bytes | dict[str, Any]:
        """A record, or its line where nobody has asked for the record yet."""
        found = self.places[key]
        return self._line(found) if isinstance(found, int) else found

    def __getitem__(self, key: str) -> dict[str, Any]:
        found = self.places[key]
        if isinstance(found, int):
            found = self.places[key] = self._parse(self._line(found))
        return found

    def __setitem__(self, key: str, record: dict[str, Any]) -> None:
        self.places[key] = record

    def __delitem__(self, key: str) -> None:
        del self.places[key]

    def __contains__(self, key: object) -> bool:
        return key in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(list(self.places))

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"<{len(self)} records>"


class Lists(Mapping[str, list[dict[str, Any]]]):
    """Records by a name that several share, in order, parsed when they are first asked for."""

    def __init__(self, parse: Callable[[bytes], dict[str, Any]]) -> None:
        """``parse`` makes a record of a whole line."""
        self._parse = parse
        self._lines: dict[str, list[bytes | dict[str, Any]]] = {}

    def put(self, name: str, record: bytes | dict[str, Any]) -> None:
        """Take one more record, or its line."""
        self._lines.setdefault(name, []).append(record)

    def count(self, name: str) -> int:
        """How many records have this name."""
        return len(self._lines.get(name, ()))

    def drop(self, name: str) -> None:
        """Forget those of a name."""
        self._lines.pop(name, None)

    def __getitem__(self, name: str) -> list[dict[str, Any]]:
        lines = self._lines[name]
        for k, line in enumerate(lines):
            if isinstance(line, bytes):
                lines[k] = self._parse(line)
        return lines  # type: ignore[return-value]  # all are parsed by now

    def __contains__(self, name: object) -> bool:
        return name in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._lines))

    def __len__(self) -> int:
        return len(self._lines)

    def __repr__(self) -> str:
        return f"<records of {len(self)} names>"
