"""Runs over time, as the journal has them, and the verdicts of nights where there are any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soup.choosing.comparing import results_of, shares_in
from soup.choosing.journal import Journal
from soup.choosing.scoring import mean_of

MOST = 60
"""Newest runs that are shown."""

VERDICTS = ("night", "verdict")
"""Kinds of records that a night ends in."""


@dataclass(frozen=True)
class Past:
    """One run.

    Attributes:
        time: when it began, UTC, as ISO 8601.
        command: what it made.
        members: how many there were.
        best: the best single member's mean, 0–100; None where not all is scored.
        soup: the soup's; None where there was none.
        state: ``done``, ``failed`` or ``not finished``.
        verdict: of a night; empty for other runs.
        alike: whether it asked the same questions as the newest run: its means can be compared.
    """

    time: str
    command: str
    members: int
    best: float | None
    soup: float | None
    state: str
    verdict: str
    alike: bool


def history(journal: Journal, newest: Mapping[str, Any]) -> list[Past]:
    """The runs, oldest first; ``newest`` is the start of the one that the page is about."""
    nights = {
        record["run"]: record
        for kind in VERDICTS
        for record in journal.others.get(kind, ())
        if "run" in record
    }
    runs = list(journal.runs.items())[-MOST:]
    known: dict[Any, float | None] = {}

    def mean(blend: str, benchmarks: Mapping[str, str], shares: Mapping[str, float]) -> Any:
        """Looked up once: most members are there night after night."""
        key = blend, tuple(benchmarks.items()), tuple(shares.items())
        if key not in known:
            found = results_of(journal, blend, benchmarks) if benchmarks else None
            values = {name: result.value for name, result in (found or {}).items()}
            known[key] = mean_of(values, shares) if values else None
        return known[key]

    return [_past(records, nights.get(run), newest, mean) for run, records in runs]


def _past(
    records: Sequence[Mapping[str, Any]],
    night: Mapping[str, Any] | None,
    newest: Mapping[str, Any],
    mean_of_blend: Callable[[str, Mapping[str, str], Mapping[str, float]], float | None],
) -> Past:
    start = records[0]
    benchmarks, shares = start["benchmarks"], shares_in(records)

    def mean(blend: str) -> float | None:
        return mean_of_blend(blend, benchmarks, shares)

    means = [found for m in start["members"] if (found := mean(m["blend"])) is not None]
    soups = [r for r in records if r["kind"] == "soup"]
    ended = any(r["kind"] in ("soup", "end") for r in records)
    failed = any(r["kind"] == "failed" for r in records)
    told = night or next((r for r in reversed(records) if r["kind"] in VERDICTS), {})
    return Past(
        str(start.get("time", "")),
        start["command"],
        len(start["members"]),
        max(means, default=None),
        mean(soups[-1]["blend"]) if soups else None,
        "done" if ended else "failed" if failed else "not finished",
        str(told.get("word") or told.get("verdict") or ""),
        benchmarks == newest["benchmarks"],
    )
