"""What was worked out of a run, kept beside the journal: to look again takes no arithmetic.

``differences.json`` holds the last run's differences, with a checksum. They count as long as all
that they came from is as it was: the run's records, every result and every benchmark in it, byte by
byte, and our own code that works them out. Else they are worked out again, so the file may go at
any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blake3 import blake3

from soup.choosing.comparing import Differences, run_differences
from soup.choosing.difference import Corrected, Difference
from soup.choosing.journal import Journal
from soup.choosing.records import Records, encode
from soup.choosing.scoring import result_key

FILE = "differences.json"

CODE = ("comparing", "corrected", "difference", "quantiles", "questions", "statistics")
"""Our modules that work them out."""


def differences_of(
    journal: Journal, records: Sequence[Mapping[str, Any]], keep: bool = False
) -> Differences:
    """As ``run_differences``; those that are kept where they still hold.

    Args:
        journal: has the run's results.
        records: of the run, its start first.
        keep: whether to keep them, where they are new.
    """
    file = journal.path.with_name(FILE)
    source = _source(journal, records)
    try:
        content = json.loads(file.read_text())
        if content["source"] == source and content.pop("check") == _check(content):
            return _read(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # none, damaged, or not ours
    found = run_differences(journal, records)
    if keep:
        temporary = file.with_name(f".{FILE}.{os.getpid()}")
        with contextlib.suppress(OSError):  # without it, looking only takes longer
            try:
                content = {"source": source, **_written(found)}
                temporary.write_text(json.dumps({**content, "check": _check(content)}))
                temporary.replace(file)
            finally:
                temporary.unlink(missing_ok=True)
    return found


def _source(journal: Journal, records: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of all that a run's differences come from."""
    total = hashlib.sha256(json.dumps(records, sort_keys=True).encode())
    start = records[0]
    named = [member["blend"] for member in start["members"]]
    blends = dict.fromkeys([*named, *(r["blend"] for r in records if "blend" in r)])
    for digest in (*start["benchmarks"].values(), *start["holdouts"].values()):
        total.update(_line(journal.benchmarks, digest))
        for blend in blends:
            total.update(_line(journal.results, result_key(blend, digest)))
    for state in _code():
        total.update(state.encode())
    return total.hexdigest()


def _line(records: Records, key: str) -> bytes:
    if key not in records:
        return b"-"
    found = records.peek(key)
    return found if isinstance(found, bytes) else encode(found)[:-1]


def _check(content: Mapping[str, Any]) -> str:
    """BLAKE3 of what is kept: a damaged digit is never shown."""
    return blake3(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code() -> Iterator[str]:
    for name in CODE:
        about = Path(__file__).with_name(f"{name}.py").stat()
        yield f"{name} {about.st_size} {about.st_mtime_ns};"


def _written(found: Differences) -> dict[str, Any]:
    return asdict(found) | {"differ": [[*pair, share] for pair, share in found.differ.items()]}


def _read(content: Mapping[str, Any]) -> Differences:
    def one(given: Mapping[str, Any] | None) -> Difference | None:
        return None if given is None else Difference(**given)

    corrected = content["corrected"]
    return Differences(
        {blend: Difference(**given) for blend, given in content["members"].items()},
        [one(given) for given in content["steps"]],
        one(content["soup"]),
        one(content["holdout"]),
        None if corrected is None else Corrected(**corrected),
        content["disagree"],
        {(first, second): share for first, second, share in content["differ"]},
    )
