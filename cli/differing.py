"""The commands that look into results: compare, answers."""

import json as json_module
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from soup.choosing.journal import Journal
from soup.choosing.leaderboard import markdown_row
from soup.choosing.naming import common_benchmarks, find_blend
from soup.choosing.scoring import Result, recorded, result_key
from soup.choosing.side_by_side import Compared, SideBySide, side_by_side
from soup.cli import console, render
from soup.cli.options import WORK, ShowOptions, Work, grouped
from soup.cli.results import require_places, write_documents
from soup.errors import JournalError, UsageError
from soup.evaluators.kit.answers import Answer, kept_answers

FLIPS = 5  # questions shown each way, in a table
WIDTH = 200  # characters of a question or an answer that are shown

Bench = Annotated[
    list[str] | None,
    typer.Option("--bench", metavar="NAME", help="On this benchmark alone. Repeatable."),
]


@grouped
def compare(
    context: typer.Context,
    display: ShowOptions,
    first: Annotated[str, typer.Argument(metavar="A", help="A member, soup or trial.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    bench: Bench = None,
    flips: Annotated[
        int, typer.Option("--flips", min=0, help="Questions to show, each way, per benchmark.")
    ] = FLIPS,
    work: Work = WORK,
) -> None:
    """Say where two scored blends differ, how surely, and on which questions.

    A blend is a member's name or path, [bold]soup[/], [bold]greedy[/], a soup's directory, a trial
    as a+b+c, or the beginning of a digest. Nothing is scored.

    Example: soup compare greedy ckpts/run-1 --bench MMStar
    """
    require_places(display)
    journal = Journal.open(work, create=False)
    names = find_blend(journal, first), find_blend(journal, second)
    found = side_by_side(journal, *names, _asked(context, bench))
    flipped = {
        one.name: _flipped(work, journal, [named.blend for named in names], one)
        for one in found.benchmarks
    }
    document = found.to_dict()
    for one in document["benchmarks"]:
        one["flips"] = flipped[one["name"]]
    shown = {
        name: [rows[k] for k in _some([row["winner"] for row in rows], flips)]
        for name, rows in flipped.items()
    }
    text = "\n".join(_compare_markdown(found, shown)) + "\n"
    if write_documents(display, json_module.dumps(document, indent=2) + "\n", text):
        return
    render.compared(found, console.out)
    for name, rows in shown.items():
        for row in rows:
            _print_flip(name, row, found)


@grouped
def answers(
    context: typer.Context,
    display: ShowOptions,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A member, soup or trial.")],
    bench: Annotated[
        list[str] | None, typer.Option("--bench", metavar="NAME", help="On which benchmark.")
    ] = None,
    wrong: Annotated[
        bool, typer.Option("--wrong", help="Only those that are not fully right.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 is all.")] = 20,
    work: Work = WORK,
) -> None:
    """Show what a scored blend answered.

    Example: soup answers greedy --bench MMStar --wrong
    """
    require_places(display)
    journal = Journal.open(work, create=False)
    blend = find_blend(journal, name)
    known = common_benchmarks(journal, [blend.blend])
    asked = _asked(context, bench) or list(known)
    if len(asked) != 1 or asked[0] not in known:
        raise UsageError(f"--bench {', '.join(asked)}: expected one of {', '.join(known)}")
    digest = known[asked[0]]
    result = recorded(journal, result_key(blend.blend, digest))
    assert result is not None
    kept = kept_answers(work, blend.blend, digest, result.settings)
    rows = [
        {**answer.to_dict(), "right": result.outcomes.get(index)}
        for index, answer in kept.items()
        if not wrong or result.outcomes.get(index, 1.0) < 1
    ]
    rows = rows[:limit] if limit else rows
    document = {"version": 1, "name": blend.name, "benchmark": asked[0], "answers": rows}
    heads = ("index", "question", "expected", "said", "right", "image")
    lines = [markdown_row(heads), markdown_row(["---"] * len(heads))]
    lines += [markdown_row([_cell(row[head]) for head in heads]) for row in rows]
    as_json = json_module.dumps(document, indent=2) + "\n"
    if write_documents(display, as_json, "\n".join(lines) + "\n"):
        return
    for row in rows:
        _say(f"{asked[0]} {row['index']}", row)
        mark = "–" if row["right"] is None else f"{row['right']:g}"
        said = f"  said: {escape(_short(row['said']))}  [dim](right: {mark})[/]"
        console.out.print(said, soft_wrap=True)
    if limit and len(rows) == limit:
        console.out.print(f"[dim]{len(rows)} shown; --limit 0 shows all[/]")


def _asked(context: typer.Context, bench: Sequence[str] | None) -> list[str]:
    """Benchmarks named on the command line; those of soup.toml are what runs are chosen by."""
    source = context.get_parameter_source("bench")
    if source is None or source.name != "COMMANDLINE":
        return []
    return [Path(name).stem if name.endswith(".tsv") else name for name in bench or ()]


def _flipped(
    work: Path, journal: Journal, blends: Sequence[str], one: Compared
) -> list[dict[str, Any]]:
    """The questions on which one blend did better, with what both said where it is kept."""
    said: list[dict[str, Answer]] = []
    for blend in blends:
        result: Result | None = recorded(journal, result_key(blend, one.digest))
        try:
            said.append(kept_answers(work, blend, one.digest, result.settings if result else {}))
        except JournalError:
            said.append({})
    rows = []
    for winner, keys in (("first", one.won), ("second", one.lost)):
        for key in keys:
            known = said[0].get(key) or said[1].get(key)
            row = known.to_dict() if known else {"index": key}
            row.pop("said", None)
            both = [kept[key].said if key in kept else None for kept in said]
            rows.append({"winner": winner, **row, "first": both[0], "second": both[1]})
    return rows


def _some(winners: Sequence[str], each: int) -> list[int]:
    found = []
    for side in ("first", "second"):
        found += [k for k, winner in enumerate(winners) if winner == side][:each]
    return found


def _compare_markdown(found: SideBySide, flips: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    heads = ["benchmark", found.first, found.second, "difference", "95% interval", "p", "won/lost"]
    yield markdown_row(heads)
    yield markdown_row(["---"] * len(heads))
    for line in render.compared_rows(found):
        yield markdown_row(line)
    for name, rows in flips.items():
        if not rows:
            continue
        yield from ("", f"**{name}**: questions that flipped", "")
        heads = ["index", "question", "expected", found.first, found.second, "better", "image"]
        yield markdown_row(heads)
        yield markdown_row(["---"] * len(heads))
        for row in rows:
            better = found.first if row["winner"] == "first" else found.second
            cells = [row["index"], row.get("question"), row.get("expected")]
            cells += [row["first"], row["second"], better, row.get("image")]
            yield markdown_row([_cell(cell) for cell in cells])


def _print_flip(name: str, row: dict[str, Any], found: SideBySide) -> None:
    _say(f"{name} {row['index']}", row)
    for side, label in (("first", found.first), ("second", found.second)):
        mark = "[green]✓[/]" if row["winner"] == side else "[red]✗[/]"
        said = "(not kept)" if row[side] is None else _short(row[side])
        console.out.print(f"  {mark} {escape(label)}: {escape(said)}", soft_wrap=True)


def _say(head: str, row: dict[str, Any]) -> None:
    options = "".join(f" {letter}. {text}" for letter, text in row.get("options", {}).items())
    text = f"[bold]{escape(head)}[/] {escape(_short(row.get('question', '') + options))}"
    console.out.print(f"\n{text}", soft_wrap=True)
    more = f" [dim]{escape(row['image'])}[/]" if row.get("image") else ""
    expected = escape(_short(row.get("expected", "?")))
    console.out.print(f"  expected: {expected}{more}", soft_wrap=True)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"


def _cell(value: object) -> str:
    return "" if value is None else _short(str(value)).replace("|", "\\|")
