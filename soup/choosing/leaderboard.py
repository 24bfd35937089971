"""A run to look at: rows for people, Markdown and JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from soup import markup
from soup.choosing.companionship import Companionship
from soup.choosing.confident import Stopped
from soup.choosing.figures import NOISE, gained, number, percent, sure
from soup.choosing.likeness import Likeness
from soup.choosing.lines import Line
from soup.errors import UsageError

if TYPE_CHECKING:
    from soup.choosing.difference import Corrected, Difference

VERSION = 1

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

    companions: str = ""
    """Digest of the companion files that it was scored with."""

    source: str | None = None
    """Where it was fetched from, at which revision; None for one that was here."""


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
class About:
    """Which run a leaderboard is of.

    Attributes:
        run: its id in the journal.
        time: when it began, UTC, as ISO 8601.
        versions: of soup, Python and the libraries that scored.
        settings: what it was asked to do; ``measured_with`` in it is the scorer's, by benchmark.
    """

    run: str = ""
    time: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


INVARIANT = "answers do not depend on what was asked beside them (batch-invariant)"


@dataclass(frozen=True, repr=False)
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
        error: why it failed, where it did.
        about: which run it was.
    """

    command: str
    benchmarks: tuple[str, ...]
    holdouts: tuple[str, ...]
    members: tuple[Row, ...]
    path: tuple[Step, ...] = ()
    soup: SoupRow | None = None
    finished: bool = field(default=True)
    error: str | None = None
    """Why it failed, where it did."""

    about: About = field(default_factory=lambda: About(), compare=False)
    """Which run it was; two runs may have the same leaderboard."""

    why: str = ""
    """Of a greedy soup that kept nobody or few: why, and what would help."""

    shares: Mapping[str, float] = field(default_factory=dict)
    """Of the mean, by benchmark; empty where all count alike."""

    companions: Companionship = field(default_factory=Companionship)
    """With whose companion files was scored."""

    likeness: Likeness | None = None
    """How alike the members are, in weights and in answers, as far as that is recorded."""

    lines: Sequence[Line] = ()
    """Scores between two of the members, where ``soup line`` recorded them."""

    invariant: bool = False
    """Whether every answer was given by an engine whose answers do not depend on others."""

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
            "error": self.error,
            "run": self.about.run,
            "time": self.about.time,
            "versions": dict(self.about.versions),
            "settings": dict(self.about.settings),
            "why": self.why,
            "shares": dict(self.shares),
            "companions": asdict(self.companions),
            "likeness": None if self.likeness is None else self.likeness.to_dict(),
            "lines": [line.to_dict() for line in self.lines],
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
                    "companions": row.companions,
                    "source": row.source,
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

    @property
    def title(self) -> str:
        """What was made of how many, on what, and when it was begun."""
        on = ", ".join(self.benchmarks) or "no benchmark"
        made = "scores" if self.command == "score" else f"{self.command} soup"
        when = f", {self.about.time[:16].replace('T', ' ')} UTC" if self.about.time else ""
        return f"{made} of {len(self.members)} members on {on}{when}"

    def to_markdown(self) -> str:
        """A title with the date, and two GitHub tables: members with the soup, then the path."""
        parts = [f"## {markup.inline(self.title)}"]
        if self.error is not None:
            parts.append(f"**This run failed:** {markup.inline(' '.join(self.error.split()))}")
        elif not self.finished:
            parts.append("**This run did not finish.**")
        if self.members:
            parts += [markup.markdown(*table) for table in self.tables()]
        return "\n\n".join([*parts, *map(markup.inline, self.footer())]) + "\n"

    def to_frame(self) -> Any:
        """A pandas DataFrame: a row for each member, best first, then the soup's.

        Columns: ``name``; ``kind``, which is ``"member"`` or the soup's; ``mean`` and each
        benchmark and hold-out, 0–100; ``difference`` to the best single, in points; ``unparsed``,
        the worst rate, 0–1; ``unjudged``, a count; ``path``. What is not known is NaN.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise UsageError(
                "to_frame needs pandas, which is not installed here; run: pip install pandas"
            ) from error
        rows: list[Row | SoupRow] = [*self.members, *([self.soup] if self.soup else [])]
        return pandas.DataFrame([self._record(row) for row in rows])

    def tables(self) -> list[markup.Table]:
        """Heads and rows: the members with the soup, then the path where there is one."""
        heads = ["#", "member", *self.benchmarks, "mean", "Δ best"]
        heads += [f"{name} (hold-out)" for name in self.holdouts] + ["unparsed"]
        heads += ["unjudged"] if self.unjudged else []
        rows = [[str(k), row.name, *self.cells(row)] for k, row in enumerate(self.members, 1)]
        if self.soup is not None:
            rows.append(["", markup.Strong(f"{self.soup.kind} soup"), *self.cells(self.soup)])
        if len(self.path) < 2:
            return [(heads, rows)]
        steps = [[s.tried, number(s.mean), *s.sure, s.verdict] for s in self.path]
        return [(heads, rows), (["tried", "mean", "gain", "95% interval", "p", "kept"], steps)]

    def __repr__(self) -> str:
        best = f"best {self.members[0].name}" if self.members else "no member"
        facts = [f"{len(self.members)} members", f"{best} {number(self.best)}"]
        if self.soup is not None:
            facts.append(f"soup {number(self.soup.mean)} at {self.soup.out or 'no place'}")
        facts += [] if self.finished else ["not finished"]
        return f"<Leaderboard of {self.command}: {'; '.join(facts)}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        tables = "".join(markup.page(*table) for table in self.tables())
        return tables + markup.paragraphs(self.footer())

    def _repr_markdown_(self) -> str:
        """For notebooks that show no HTML."""
        return self.to_markdown()

    def _record(self, row: Row | SoupRow) -> dict[str, Any]:
        gain = row.mean - self.best if row.mean is not None and self.best is not None else None
        return {
            "name": row.name if isinstance(row, Row) else f"{row.kind} soup",
            "kind": "member" if isinstance(row, Row) else row.kind,
            "mean": row.mean,
            "difference": gain,
            **{name: row.scores.get(name) for name in self.benchmarks},
            **{name: row.holdouts.get(name) for name in self.holdouts},
            "unparsed": max(row.unparsed.values(), default=None),
            "unjudged": sum(row.unjudged.values()),
            "path": row.path if isinstance(row, Row) else row.out,
        }

    def footer(self) -> list[str]:
        """What is to be known of the differences, in words."""
        found = [row.difference for row in self.members]
        found += [self.soup.difference] if self.soup else []
        lines = []
        if self.shares:
            parts = [f"{name} {100 * share:.1f}%" for name, share in self.shares.items()]
            lines = [f"the mean counts {', '.join(parts)}"]
        if self.benchmarks or self.holdouts:
            lines += self.companions.lines
        steady = [INVARIANT] if self.invariant else []
        return [*lines, *footer(found, self.soup), *([self.why] if self.why else []), *steady]

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


def _json(found: Difference | Corrected | None) -> dict[str, Any] | None:
    return None if found is None else found.to_dict()
