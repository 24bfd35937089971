"""The journal as a table: rows for people, Markdown and JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from soup.choosing.comparing import Differences, run_differences
from soup.choosing.confident import Stopped
from soup.choosing.journal import Journal
from soup.choosing.scoring import Result, mean_of, recorded, result_key

if TYPE_CHECKING:
    from soup.choosing.corrected import Corrected
    from soup.choosing.statistics import Difference

VERSION = 1

NOISE = " ~"
"""After a difference that chance alone could have made."""

LINEAR: Mapping[str, Any] = {"method": "linear", "parameters": {}, "base": None}
"""How a soup was merged whose record says nothing of it."""


@dataclass(frozen=True)
class Row:
    """One member's scores.

    Attributes:
        name: as the user knows it.
        path: its directory.
        digest: of its content.
        scores: headline number by benchmark, 0–100; a benchmark not scored yet is missing.
        holdouts: the same for hold-outs.
        unparsed: rate by benchmark and hold-out, 0–1.
        unjudged: questions without a judge's verdict, by benchmark and hold-out.
    """

    name: str
    path: str
    digest: str
    scores: Mapping[str, float]
    holdouts: Mapping[str, float]
    unparsed: Mapping[str, float]

    mean: float | None
    """The mean of the benchmarks; None until all of them are scored."""

    unjudged: Mapping[str, int] = field(default_factory=dict)

    difference: Difference | None = None
    """To the best single member."""


@dataclass(frozen=True)
class Step:
    """One decision of the recipe: what was tried, its mean, and whether it was kept.

    A trial that was stopped early has no mean, and says how far it came.
    """

    tried: str
    mean: float | None
    kept: bool
    stopped: Stopped | None = None

    difference: Difference | None = None
    """To the soup so far."""

    doubted: bool = False
    """Whether it rose, but not by enough to be sure of."""

    @property
    def sure(self) -> list[str]:
        """The gain over the soup so far, its 95% interval and p, as far as they are known."""
        return sure(self.difference)

    @property
    def verdict(self) -> str:
        """Whether it was kept, in a word, or why nobody knows its mean."""
        if self.stopped:
            return str(self.stopped)
        return "yes" if self.kept else "no: not significant" if self.doubted else "no"


@dataclass(frozen=True)
class SoupRow:
    """The soup that came out; ``merging`` is how, see ``soup.blending.blend.Blend.merging``."""

    kind: str
    members: Mapping[str, float]
    scores: Mapping[str, float]
    holdouts: Mapping[str, float]
    unparsed: Mapping[str, float]
    mean: float | None
    out: str
    digest: str
    merging: Mapping[str, Any] = field(default_factory=lambda: LINEAR)
    unjudged: Mapping[str, int] = field(default_factory=dict)

    difference: Difference | None = None
    """To the best single member."""

    holdout: Difference | None = None
    """The same for the mean of the hold-outs."""

    corrected: Corrected | None = None
    """The gain over the best single member to expect on new questions."""


@dataclass(frozen=True)
class Leaderboard:
    """A run, to look at.

    Attributes:
        command: ``max``, ``average``, ``greedy`` or ``score``.
        benchmarks: names, in the order given.
        holdouts: names, in the order given.
        members: best first; those not fully scored last.
        path: the recipe's decisions, in order.
        soup: the result; None until it is written, and for ``score``.
        finished: whether the run came to its end.
    """

    command: str
    benchmarks: tuple[str, ...]
    holdouts: tuple[str, ...]
    members: tuple[Row, ...]
    path: tuple[Step, ...] = ()
    soup: SoupRow | None = None
    finished: bool = field(default=True)

    @property
    def best(self) -> float | None:
        """The mean of the best single member."""
        return self.members[0].mean if self.members else None

    @property
    def unjudged(self) -> bool:
        """Whether a judge has left any answer without a verdict: a column of its own."""
        rows: list[Row | SoupRow] = [*self.members, *([self.soup] if self.soup else [])]
        return any(sum(row.unjudged.values()) for row in rows)

    def to_json(self) -> str:
        """The versioned document that README describes."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same as a dict."""
        return {
            "version": VERSION,
            "command": self.command,
            "finished": self.finished,
            "benchmarks": list(self.benchmarks),
            "holdouts": list(self.holdouts),
            "members": [
                {
                    "name": row.name,
                    "path": row.path,
                    "digest": row.digest,
                    "scores": dict(row.scores),
                    "holdouts": dict(row.holdouts),
                    "unparsed": dict(row.unparsed),
                    "unjudged": dict(row.unjudged),
                    "mean": row.mean,
                    "difference": _json(row.difference),
                }
                for row in self.members
            ],
            "path": [
                {"tried": s.tried, "mean": s.mean, "kept": s.kept}
                | ({"stopped": asdict(s.stopped)} if s.stopped else {})
                | ({"difference": s.difference.to_dict()} if s.difference else {})
                | ({"doubted": True} if s.doubted else {})
                for s in self.path
            ],
            "soup": None
            if self.soup is None
            else {
                "kind": self.soup.kind,
                "members": dict(self.soup.members),
                **self.soup.merging,
                "scores": dict(self.soup.scores),
                "holdouts": dict(self.soup.holdouts),
                "unparsed": dict(self.soup.unparsed),
                "unjudged": dict(self.soup.unjudged),
                "mean": self.soup.mean,
                "difference": _json(self.soup.difference),
                "holdout_difference": _json(self.soup.holdout),
                "corrected": _json(self.soup.corrected),
                "out": self.soup.out,
                "digest": self.soup.digest,
            },
        }

    def to_markdown(self) -> str:
        """Two GitHub tables: the members with the soup, then the path."""
        heads = ["#", "member", *self.benchmarks, "mean", "Δ best"]
        heads += [f"{name} (hold-out)" for name in self.holdouts] + ["unparsed"]
        heads += ["unjudged"] if self.unjudged else []
        lines = [_row(heads), _row(["---"] * len(heads))]
        for rank, row in enumerate(self.members, 1):
            lines.append(_row([str(rank), row.name, *self.cells(row)]))
        if self.soup is not None:
            lines.append(_row(["", f"**{self.soup.kind} soup**", *self.cells(self.soup)]))
        if len(self.path) > 1:
            lines += ["", "| tried | mean | gain | 95% interval | p | kept |", "|" + "---|" * 6]
            lines += [_row([s.tried, number(s.mean), *s.sure, s.verdict]) for s in self.path]
        for line in self.footer():
            lines += ["", line]
        return "\n".join(lines) + "\n"

    def footer(self) -> list[str]:
        """What is to be known of the differences, in words."""
        found = [row.difference for row in self.members]
        found += [self.soup.difference] if self.soup else []
        return list(footer(found, self.soup))

    def cells(self, row: Row | SoupRow) -> list[str]:
        """One row: benchmarks, mean, difference to best, hold-outs, unparsed, perhaps unjudged."""
        difference = ""
        if row.mean is not None and self.best is not None:
            difference = gained(row.mean - self.best, row.difference)
        return [
            *(number(row.scores.get(name)) for name in self.benchmarks),
            number(row.mean),
            difference,
            *(number(row.holdouts.get(name)) for name in self.holdouts),
            percent(max(row.unparsed.values(), default=None)),
            *([str(sum(row.unjudged.values()))] if self.unjudged else []),
        ]


def number(value: float | None) -> str:
    """A score with two decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}"


def gained(value: float, difference: Difference | None) -> str:
    """A difference with its sign, marked where it is within the noise."""
    noise = difference is not None and difference.noise and value != 0
    return f"{value:+.2f}{NOISE if noise else ''}"


def sure(difference: Difference | None) -> list[str]:
    """Gain, 95% interval and p as words."""
    if difference is None:
        return ["", "", ""]
    if difference.low is None or difference.high is None or difference.p is None:
        return [f"{difference.gain:+.2f}", "–", "–"]
    low, high = difference.low, difference.high
    return [f"{difference.gain:+.2f}", f"{low:+.2f} … {high:+.2f}", p_value(difference.p)]


def p_value(p: float) -> str:
    """Never 0: as small as can be told."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def footer(differences: Sequence[Difference | None], soup: SoupRow | None) -> Iterator[str]:
    """Lines under the table: the mark, the soup's gain and how sure it is, what is not known."""
    known = [d for d in differences if d is not None]
    if any(d.noise and d.gain for d in known):
        yield (
            f"{NOISE.strip()} within the noise: chance alone makes such a difference more often "
            "than once in 20 (paired by question; questions about one image count as one)"
        )
    for reason in sorted({d.unknown for d in known if d.unknown}):
        yield f"which differences are noise cannot be told: {reason}"
    if soup is None or soup.difference is None or soup.difference.low is None:
        return
    gain, interval, p = sure(soup.difference)
    yield f"{soup.kind} soup to the best single: {gain}, 95% interval {interval}, p {p}"
    if soup.corrected is not None and len(soup.members) > 1:
        c = soup.corrected
        yield (
            f"on new questions expect {c.gain:+.2f} ({c.low:+.2f} … {c.high:+.2f}): soup and best "
            "single were chosen by these numbers, which flatters them"
        )
    if soup.holdout is not None:
        gain, interval, p = sure(soup.holdout)
        yield f"on the hold-outs, by which nothing was chosen: {gain} ({interval}), p {p}"


def percent(rate: float | None) -> str:
    """A rate, 0–1, as per cent."""
    return "–" if rate is None else f"{100 * rate:.1f}%"


def last_leaderboard(journal: Journal) -> Leaderboard | None:
    """The newest run as far as it came; None where there was none."""
    records = journal.last_run()
    if records is None:
        return None
    start, later = records[0], records[1:]
    benchmarks: dict[str, str] = start["benchmarks"]
    holdouts: dict[str, str] = start["holdouts"]
    sure = run_differences(journal, records)
    rows = []
    for member in start["members"]:
        scores = _results(journal, member["blend"], benchmarks)
        held = _results(journal, member["blend"], holdouts)
        rows.append(
            Row(
                member["name"],
                member["path"],
                member["digest"],
                _values(scores),
                _values(held),
                _unparsed(scores | held),
                _mean(scores, benchmarks),
                _unjudged(scores | held),
                sure.members.get(member["blend"]),
            )
        )
    rows.sort(key=lambda row: float("inf") if row.mean is None else -row.mean)
    decisions = [r for r in later if r["kind"] == "decision"]
    path = tuple(_step(*pair) for pair in zip(decisions, sure.steps, strict=True))
    soups = [r for r in later if r["kind"] == "soup"]
    return Leaderboard(
        start["command"],
        tuple(benchmarks),
        tuple(holdouts),
        tuple(rows),
        path,
        _soup_row(journal, soups[-1], benchmarks, holdouts, sure) if soups else None,
        finished=any(r["kind"] in ("soup", "end") for r in later),
    )


def _json(found: Difference | Corrected | None) -> dict[str, Any] | None:
    return None if found is None else found.to_dict()


def _step(record: dict[str, Any], difference: Difference | None) -> Step:
    stopped = record.get("stopped")
    stop = stopped and Stopped(**stopped)
    doubted = record.get("doubted", False)
    return Step(record["tried"], record["mean"], record["kept"], stop, difference, doubted)


def _soup_row(
    journal: Journal,
    soup: dict[str, Any],
    benchmarks: dict[str, str],
    holdouts: dict[str, str],
    sure: Differences,
) -> SoupRow:
    scores = _results(journal, soup["blend"], benchmarks)
    held = _results(journal, soup["blend"], holdouts)
    return SoupRow(
        soup["soup"],
        soup["members"],
        _values(scores),
        _values(held),
        _unparsed(scores | held),
        _mean(scores, benchmarks),
        soup["out"],
        soup["digest"],
        soup.get("merging", LINEAR),
        _unjudged(scores | held),
        sure.soup,
        sure.holdout,
        sure.corrected,
    )


def _results(journal: Journal, blend: str, benchmarks: dict[str, str]) -> dict[str, Result]:
    found = {}
    for name, digest in benchmarks.items():
        result = recorded(journal, result_key(blend, digest))
        if result is not None:
            found[name] = result
    return found


def _values(results: dict[str, Result]) -> dict[str, float]:
    return {name: result.value for name, result in results.items()}


def _unparsed(results: dict[str, Result]) -> dict[str, float]:
    return {name: result.unparsed for name, result in results.items()}


def _unjudged(results: dict[str, Result]) -> dict[str, int]:
    return {name: result.unjudged for name, result in results.items()}


def _mean(results: dict[str, Result], benchmarks: dict[str, str]) -> float | None:
    if not benchmarks or len(results) < len(benchmarks):
        return None
    return mean_of([result.value for result in results.values()])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
