"""Facts into one HTML page: the template filled, everything from files escaped by its engine."""

from __future__ import annotations

import ast
import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from soup._version import __version__
from soup.choosing.figures import NOISE, gained, number, percent, sure
from soup.choosing.leaderboard import Row, SoupRow
from soup.choosing.likeness import Likeness
from soup.choosing.lines import Line
from soup.choosing.side_by_side import Compared, SideBySide
from soup.errors import UsageError
from soup.markup import size
from soup.reporting.facts import Facts
from soup.reporting.flips import Flip
from soup.watching.lines import duration
from soup.words import counted, sentence, shown

LARGEST = 3_000_000
"""Bytes that a page may have."""

MOODS = {"better": "good", "not better": "bad", "failed": "bad"}

HELD = "(hold\N{NON-BREAKING HYPHEN}out)"

TEXT = 400
"""Characters of a question or an answer."""


@dataclass(frozen=True)
class Record:
    """One row of a table; a strong one is a soup's."""

    cells: Sequence[str]
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table: ``key`` is the column that names the row, ``words`` those that are text."""

    heads: Sequence[str]
    rows: Sequence[Record]
    key: int = 0
    words: Sequence[int] = ()


def page(facts: Facts) -> str:
    """The whole page.

    Raises:
        UsageError: what draws it is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup

        from soup.reporting import charts
    except ImportError as error:
        raise UsageError(
            f"the report needs {error.name}, which is not installed here; "
            "run: pip install 'vlm-soup[report]'"
        ) from error
    environment = Environment(
        keep_trailing_newline=True,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["drawing"] = Markup  # made by us, its texts escaped by Vega
    script = _own("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_own("page.html")).render(
        {
            **_content(facts, charts),
            "style": Markup(_own("page.css")),
            "script": Markup(script),
            "script_digest": f"sha256-{digest}",
            "version": __version__,
        }
    )


def _own(name: str) -> str:
    return resources.files("soup.reporting").joinpath(name).read_text(encoding="utf-8")


def _content(facts: Facts, charts: Any) -> dict[str, Any]:
    board = facts.board
    about = board.about
    return {
        "title": sentence(_title(facts)),
        "when": f"begun {about.time[:16].replace('T', ' ')} UTC, run {about.run}",
        "word": facts.word,
        "mood": MOODS.get(facts.word, "open"),
        "verdict": sentence(facts.verdict),
        "more": [_begun(line) for line in facts.more if not _is_note(line)],
        "notes": [_begun(line) for line in facts.more if _is_note(line)],
        "board": _board(facts),
        "path": _path(facts, charts),
        "gains": _gains(facts, charts),
        "flipped": _flipped(facts),
        "likeness": _likeness(board.likeness, charts) if board.likeness else [],
        "lines": [_line(one, charts) for one in board.lines],
        "past": _past(facts, charts),
        "cost": _cost(facts),
        "place": shown(facts.work.removesuffix("/.soup")),
        "command": sentence(facts.command) if len(facts.command) > 20_000 else facts.command,
        "digests": _digests(facts),
        "versions": Table(
            ("what", "version"),
            [Record([shown(k), shown(v)]) for k, v in sorted(about.versions.items())],
        ),
    }


def _is_note(line: str) -> bool:
    """Whether a line of the leaderboard's footer is about the table rather than the verdict."""
    return line.startswith((NOISE.strip(), "which differences", "the mean counts"))


def _begun(line: str) -> str:
    """A line as a sentence of its own."""
    safe = sentence(line)
    return f"{safe[:1].upper()}{safe[1:]}{'' if safe.endswith('.') else '.'}"


def _expected(text: str) -> str:
    """The answer in the data; of a list of several people's answers each once."""
    try:
        found = ast.literal_eval(text) if text.startswith("[") else text
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = text
    several = list(map(str, found)) if isinstance(found, list) else [text]
    return shown(" / ".join(dict.fromkeys(several)), TEXT)


def _title(facts: Facts) -> str:
    board = facts.board
    made = "Scores" if board.command == "score" else f"{board.command.capitalize()} soup"
    on = ", ".join(board.benchmarks[:6]) + (" …" if len(board.benchmarks) > 6 else "")
    return f"{made} of {counted(len(board.members), 'member')}" + (f" on {on}" if on else "")


def _board(facts: Facts) -> Table:
    board = facts.board
    heads = ["#", "member", "mean", "Δ\N{NO-BREAK SPACE}best", "95%\N{NO-BREAK SPACE}interval", "p"]
    heads += [shown(name) for name in board.benchmarks]
    heads += [f"{shown(name)} {HELD}" for name in board.holdouts] + ["unparsed"]
    heads += ["unjudged"] if board.unjudged else []
    rows = [_member(facts, str(k), row) for k, row in enumerate(board.members, 1)]
    rows += [_member(facts, "", soup) for soup in facts.soups]
    return Table(heads, rows, key=1)


def _member(facts: Facts, rank: str, row: Row | SoupRow) -> Record:
    board = facts.board
    name = row.name if isinstance(row, Row) else f"{row.kind} soup"
    gain = "–"
    if row.mean is not None and board.best is not None:
        gain = gained(row.mean - board.best, row.difference)
    _, interval, p = sure(row.difference)
    if row.difference is not None and row.mean == board.best:
        interval = p = ""
    cells = [rank, shown(name), number(row.mean), gain, interval, p]
    cells += [number(row.scores.get(name)) for name in board.benchmarks]
    cells += [number(row.holdouts.get(name)) for name in board.holdouts]
    cells += [percent(max(row.unparsed.values(), default=None))]
    cells += [str(sum(row.unjudged.values()))] if board.unjudged else []
    return Record(cells, strong=isinstance(row, SoupRow))


def _path(facts: Facts, charts: Any) -> dict[str, Any] | None:
    steps = facts.board.path
    if len(steps) < 2:
        return None
    rows = [
        Record(
            [("" if k == 0 else "+ ") + shown(s.tried), number(s.mean), *s.sure, s.verdict], s.kept
        )
        for k, s in enumerate(steps)
    ]
    heads = ("tried", "mean", "gain", "95% interval", "p", "kept")
    drawn = charts.path(steps) if facts.board.command == "greedy" else None
    return {"chart": drawn, "table": Table(heads, rows, words=(5,))} if drawn else None


def _gains(facts: Facts, charts: Any) -> dict[str, Any] | None:
    found = facts.gains
    if found is None:
        return None
    rows = list(_gain_rows(found, ""))
    rows += _gain_rows(facts.held, " (hold-out)") if facts.held else []
    heads = ("", "soup", shown(found.second), "difference", "95% interval", "p", "won", "lost")
    known = [one.difference.low for one in found.benchmarks]
    drawn = charts.gains(found, facts.held) if any(low is not None for low in known) else None
    return {"chart": drawn, "table": Table(heads, rows)}


def _gain_rows(found: SideBySide, mark: str) -> Iterator[Record]:
    for one in found.benchmarks:
        yield _gain(f"{shown(one.name)}{mark}", one)
        for category in one.categories:
            yield _gain(f"– {shown(category.name)}", category)
    if len(found.benchmarks) > 1:
        yield Record(_gain(f"mean{mark}", found.mean).cells, strong=True)


def _gain(name: str, one: Compared) -> Record:
    won = [str(len(one.won)), str(len(one.lost))] if one.won or one.lost else ["", ""]
    _, interval, p = sure(one.difference)
    gain = gained(one.difference.gain, one.difference)
    return Record([name, number(one.first), number(one.second), gain, interval, p, *won])


def _flipped(facts: Facts) -> dict[str, Any] | None:
    if not facts.flipped or facts.gains is None:
        return None
    won = sum(len(one.won) for one in facts.gains.benchmarks)
    lost = sum(len(one.lost) for one in facts.gains.benchmarks)
    words = (
        f"The soup did better than {shown(facts.gains.second)} on {counted(won, 'question')} and "
        f"worse on {lost:,}; {len(facts.flipped)} of them are shown. soup compare shows them all."
    )
    best = shown(facts.gains.second, 30)
    return {"words": words, "cards": [_card(flip, best) for flip in facts.flipped]}


def _card(flip: Flip, best: str) -> dict[str, Any]:
    asked = flip.asked
    question = None
    if asked is not None:
        options = "".join(f" {letter}. {text}" for letter, text in asked.options.items())
        question = shown(" ".join((asked.question + options).split()), TEXT)
    return {
        "won": flip.won,
        "picture": flip.picture,
        "tiny": flip.tiny,
        "benchmark": shown(flip.benchmark),
        "index": shown(flip.index),
        "question": question,
        "expected": _expected(asked.expected) if asked else "",
        "soup": "(not kept)" if flip.soup is None else shown(flip.soup, TEXT),
        "best": "(not kept)" if flip.best is None else shown(flip.best, TEXT),
        "best_name": best,
    }


def _likeness(found: Likeness, charts: Any) -> list[dict[str, Any]]:
    shows = []
    if found.cosine is not None:
        to = "base" if found.to == "base" else "mean of all members"
        head = f"Weights: cosine of differences to the {to}"
        words = (
            f"{found.independent:+.2f} where two members changed independently of each other, "
            "1 where they learned the same."
        )
        shows.append(_map(head, words, found.names, found.cosine, False, charts))
    if found.differ is not None:
        head = "Answers: share of questions on which two members differ"
        words = "Questions about one image count as one. What never differs cannot be corrected."
        shows.append(_map(head, words, found.names, found.differ, True, charts))
    return shows


def _map(
    head: str, words: str, names: Sequence[str], values: Any, percents: bool, charts: Any
) -> dict[str, Any]:
    rows = [
        Record(
            [
                shown(name),
                *(
                    "" if i == j else percent(value) if percents else f"{value:+.3f}"
                    for j, value in enumerate(row)
                ),
            ]
        )
        for i, (name, row) in enumerate(zip(names, values, strict=True))
    ]
    table = Table(("", *(shown(name) for name in names)), rows)
    drawn = charts.matrix(names, values, percents, head)
    return {"head": head, "words": words, "chart": drawn, "table": table}


def _line(found: Line, charts: Any) -> dict[str, Any]:
    names = list(found.points[0].scores)
    several = names if len(names) > 1 else []
    rows = [
        Record([f"{p.t:.2f}", number(p.mean), *(number(p.scores[n]) for n in several)])
        for p in found.points
    ]
    words = [sentence(text) for text in found.words()]
    return {
        "head": f"{shown(found.first)} → {shown(found.second)}",
        "words": "; ".join([words[0][0].upper() + words[0][1:], *words[1:]]) + ".",
        "chart": charts.line(found),
        "table": Table(("t", "mean", *map(shown, several)), rows),
    }


def _past(facts: Facts, charts: Any) -> dict[str, Any]:
    rows = []
    for one in facts.past:
        gain = one.soup - one.best if one.soup is not None and one.best is not None else None
        when = one.time[:16].replace("T", " ")
        cells = [when, one.command, str(one.members), number(one.best), number(one.soup)]
        cells += ["–" if gain is None else f"{gain:+.2f}", shown(one.verdict or one.state)]
        rows.append(Record(cells))
    heads = ("begun, UTC", "made", "members", "best single", "soup", "gain", "ended")
    alike = [one for one in facts.past if one.alike and one.best is not None]
    drawn = charts.history(alike) if len(alike) > 1 else None
    return {"chart": drawn, "table": Table(heads, rows, words=(1, 6))}


def _cost(facts: Facts) -> dict[str, Any]:
    cost = facts.cost
    told = [("results it looked at", f"{cost.used:,}")]
    if cost.measured is not None:
        told.append(("of these measured by this run", f"{cost.measured:,}"))
        told.append(("known already", f"{cost.reused:,}"))
        if cost.measured:
            told.append(("time to measure them", duration(cost.seconds)))
            told.append(("questions answered", f"{cost.answers:,}"))
    if cost.stopped:
        told.append(("trials that ended early", f"{cost.stopped} ({cost.saved:,} questions saved)"))
    if cost.places:
        told.append(("answered by", ", ".join(map(shown, cost.places))))
    if cost.read is not None:
        told.append(("weights of the members", size(cost.read)))
    whole = f"{cost.all_results:,}, {cost.all_answers:,} answers in {duration(cost.all_seconds)}"
    told.append(("results in the journal", whole))
    rows = [
        Record(
            [
                shown(one.benchmark),
                f"{one.results:,}",
                f"{one.answers:,}",
                duration(one.seconds),
                "–" if one.rate is None else f"{one.rate:,.1f}",
            ]
        )
        for one in cost.speeds
    ]
    heads = ("benchmark", "results", "answers", "time", "answers per second")
    return {"facts": told, "table": Table(heads, rows)}


def _digests(facts: Facts) -> Table:
    board = facts.board
    rows = [Record(["member", shown(r.name), r.digest, shown(r.path, 200)]) for r in board.members]
    if facts.base:
        rows.append(Record(["base", "", facts.base, ""]))
    measured = board.about.settings.get("measured_with") or {}
    for name, settings in measured.items():
        data = str(settings.get("data", ""))
        rows.append(
            Record(["benchmark", shown(name), shown(data), shown(settings.get("judge", ""))])
        )
    if board.soup is not None:
        soup = board.soup
        rows.append(Record(["soup", soup.kind, soup.digest, shown(soup.out, 200)], strong=True))
    return Table(("what", "name", "digest", "where"), rows, key=1, words=(0, 2, 3))
