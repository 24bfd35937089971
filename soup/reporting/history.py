"""Runs over time, as the journal has them, and the verdicts of nights where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soup.choosing.comparing import pair, results_of, shares_in, weights_of
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
        low: lower end of the 95% interval of what the soup gained over the best single member; None
            where it cannot be told.
        high: upper end.
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
    low: float | None = None
    high: float | None = None


def history(journal: Journal, newest: Mapping[str, Any]) -> list[Past]:
    """The runs, oldest first; ``newest`` is the start of the one that the page is about."""
    nights = {
        record["run"]: record
        for kind in VERDICTS
        for record in journal.others.get(kind, ())
        if "run" in record
    }
    runs = list(journal.runs.items())[-MOST:]
    numbers = _Numbers(journal)
    return [_past(records, nights.get(run), newest, numbers) for run, records in runs]


@dataclass
class _Numbers:
    """Means and intervals, each looked up once: most members are there night after night."""

    journal: Journal
    means: dict[Any, float | None] = field(default_factory=dict)
    intervals: dict[Any, tuple[float | None, float | None]] = field(default_factory=dict)

    def mean(self, blend: str, records: Sequence[Mapping[str, Any]]) -> float | None:
        """Of a blend, by the questions of a run; None where it has not answered all."""
        benchmarks, shares = records[0]["benchmarks"], shares_in(records)
        key = blend, tuple(benchmarks.items()), tuple(shares.items())
        if key not in self.means:
            found = results_of(self.journal, blend, benchmarks) if benchmarks else None
            values = {name: result.value for name, result in (found or {}).items()}
            self.means[key] = mean_of(values, shares) if values else None
        return self.means[key]

    def interval(
        self, soup: str, best: str, records: Sequence[Mapping[str, Any]]
    ) -> tuple[float | None, float | None]:
        """Of what one gained over the other, both of which have answered all."""
        benchmarks, weights = records[0]["benchmarks"], weights_of(records)
        key = soup, best, tuple(benchmarks.items()), tuple(weights.items())
        if key not in self.intervals:
            paired = pair(self.journal, benchmarks, [soup, best], weights)
            (found,) = paired.differences([(0, 1)])
            self.intervals[key] = found.low, found.high
        return self.intervals[key]


def _past(
    records: Sequence[Mapping[str, Any]],
    night: Mapping[str, Any] | None,
    newest: Mapping[str, Any],
    numbers: _Numbers,
) -> Past:
    start = records[0]
    benchmarks = start["benchmarks"]
    # In the order of ``recipes.settled``: of equal members the best is the leaderboard's.
    settled = sorted(start["members"], key=lambda m: (m["digest"], m["name"]))
    known = {m["blend"]: numbers.mean(m["blend"], records) for m in settled}
    means = {blend: mean for blend, mean in known.items() if mean is not None}
    best = max(means, key=lambda blend: means[blend], default=None)
    soups = [r for r in records if r["kind"] == "soup"]
    ended = any(r["kind"] in ("soup", "end") for r in records)
    failed = any(r["kind"] == "failed" for r in records)
    soup = numbers.mean(soups[-1]["blend"], records) if soups else None
    low = high = None
    if soup is not None and best is not None and soups[-1]["blend"] != best:
        low, high = numbers.interval(soups[-1]["blend"], best, records)
    told = night or next((r for r in reversed(records) if r["kind"] in VERDICTS), {})
    return Past(
        str(start.get("time", "")),
        start["command"],
        len(start["members"]),
        None if best is None else means[best],
        soup,
        "done" if ended else "failed" if failed else "not finished",
        str(told.get("word") or told.get("verdict") or ""),
        benchmarks == newest["benchmarks"],
        low,
        high,
    )
