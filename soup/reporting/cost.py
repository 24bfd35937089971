"""What a run cost, and what it did not have to pay: from the times of its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soup.choosing.confident import Stopped
from soup.choosing.journal import Journal
from soup.choosing.scoring import result_key


@dataclass(frozen=True)
class Speed:
    """How one benchmark went, over all its results that say how long they took."""

    benchmark: str
    results: int
    answers: int
    seconds: float

    @property
    def rate(self) -> float | None:
        """Answers per second."""
        return self.answers / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
        used: results that it looked at: of members, trials and the soup.
        measured: those of them that it measured itself; None where the journal does not say.
        seconds: that measuring them took.
        answers: given in that time.
        places: what answered: engines, devices, compute dtypes.
        speeds: by benchmark, over the whole journal.
        all_results: in the journal.
        all_seconds: that measuring all of them took.
        all_answers: given in that time.
        saved: questions that trials which ended early were not asked.
        stopped: trials that did.
        guessed: answers that several workers made before anybody knew whether they were wanted.
        wanted: those of them that were: time that was saved.
        read: bytes of the members' weights, once each; None where unknown.
    """

    used: int
    measured: int | None
    seconds: float
    answers: int
    places: Sequence[str]
    speeds: Sequence[Speed]
    all_results: int
    all_seconds: float
    all_answers: int
    saved: int
    stopped: int
    guessed: int
    wanted: int
    read: int | None

    @property
    def reused(self) -> int | None:
        """Results that were known."""
        return None if self.measured is None else self.used - self.measured


def cost_of(
    journal: Journal, records: Sequence[Mapping[str, Any]], stopped: Sequence[Stopped]
) -> Cost:
    """What a run cost, given its records, its start first, and its trials that ended early."""
    start = records[0]
    benchmarks: Mapping[str, str] = {**start["benchmarks"], **start["holdouts"]}
    blends = {m["blend"] for m in start["members"]}
    blends |= {r["blend"] for r in records if r["kind"] in ("decision", "soup")}
    keys = [result_key(blend, digest) for blend in blends for digest in benchmarks.values()]
    used = [journal.results[key] for key in keys if key in journal.results]
    own = [record for record in used if record.get("run") == start["run"]]
    told = all("run" in record for record in used)
    timed = [record for found in journal.timed.values() for record in found]
    names = {digest: name for name, digest in benchmarks.items()}
    return Cost(
        len(used),
        len(own) if told else None,
        sum(record["seconds"] for record in own),
        sum(record["answered"] for record in own),
        _places(used),
        [
            Speed(names[digest], len(found), _sum(found, "answered"), _sum(found, "seconds"))
            for digest, found in journal.timed.items()
            if digest in names
        ],
        len(journal.results),
        sum(record["seconds"] for record in timed),
        sum(record["answered"] for record in timed),
        sum(max(one.of - one.samples, 0) for one in stopped),
        len(stopped),
        *_guessed(records),
        _bytes(start),
    )


def _sum(records: Sequence[Mapping[str, Any]], name: str) -> Any:
    return sum(record[name] for record in records)


def _places(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """E.g. ``vllm on cuda, bfloat16``; each once."""
    found = set()
    for record in results:
        settings = record["result"].get("settings", {})
        if device := settings.get("device"):
            kind = settings.get("compute_dtype", "")
            engine = settings.get("engine") or "transformers"
            found.add(f"{engine} on {device}{f', {kind}' if kind else ''}")
    return sorted(found)


def _guessed(records: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    found: Mapping[str, Any] = next((r for r in reversed(records) if r["kind"] == "guesses"), {})
    return int(found.get("made", 0)), int(found.get("wanted", 0))


def _bytes(start: Mapping[str, Any]) -> int | None:
    sizes = {member["digest"]: member.get("bytes") for member in start["members"]}
    known = [size for size in sizes.values() if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None
