"""Two blends' answers side by side, and one blend's: as JSON, Markdown, and for the terminal."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.markup import escape

from soup.choosing.journal import Journal
from soup.choosing.naming import common_benchmarks, find_blend
from soup.choosing.scoring import Result, recorded, result_key
from soup.choosing.side_by_side import Compared, SideBySide, side_by_side
from soup.cli import console, render
from soup.cli.options import ShowOptions
from soup.cli.results import require_places, write_documents
from soup.errors import JournalError, UsageError
from soup.evaluators.kit.answers import Answer, kept_answers, prune_answers
from soup.markup import markdown_row
from soup.words import counted

WIDTH = 200  # characters of a question or an answer that are shown


def show_comparison(
    work: Path, first: str, second: str, bench: Sequence[str], flips: int, display: ShowOptions
) -> None:
    """What ``soup compare`` says.

    Raises:
        SoupError: no such blends, no benchmark in common, or a file cannot be written.
    """
    require_places(display)
    journal = console.journal(work)
    names = find_blend(journal, first), find_blend(journal, second)
    found = side_by_side(journal, *names, bench)
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
    if write_documents(display, lambda: json.dumps(document, indent=2) + "\n", lambda: text):
        return
    if display.quiet:
        return
    render.compared(found, console.out)
    for name, rows in shown.items():
        for row in rows:
            _print_flip(name, row, found)


def show_answers(
    work: Path, name: str, bench: Sequence[str], wrong: bool, limit: int, display: ShowOptions
) -> None:
    """What ``soup answers`` says.

    Raises:
        SoupError: no such blend or benchmark, the answers are not kept any more, or a file cannot
            be written.
    """
    require_places(display)
    journal = console.journal(work)
    blend = find_blend(journal, name)
    known = common_benchmarks(journal, [blend.blend])
    asked = bench or list(known)
    if len(asked) != 1 or asked[0] not in known:
        raise UsageError(f"--bench {', '.join(asked)}: expected one of {', '.join(known)}")
    digest = known[asked[0]]
    result = recorded(journal, result_key(blend.blend, digest))
    if result is None:
        raise JournalError(f"{journal.path}: the result of {name} on {asked[0]} is damaged")
    kept = kept_answers(work, blend.blend, digest, result.settings)
    rows = [
        {**answer.to_dict(), "right": result.outcomes.get(index)}
        for index, answer in kept.items()
        if not wrong or result.outcomes.get(index, 1.0) < 1
    ]
    count = len(rows)
    rows = rows[:limit] if limit else rows
    document = {"version": 1, "name": blend.name, "benchmark": asked[0], "answers": rows}
    heads = ("index", "question", "expected", "said", "right", "image")
    lines = [markdown_row(heads), markdown_row(["---"] * len(heads))]
    lines += [markdown_row([_cell(row[head]) for head in heads]) for row in rows]
    as_json = json.dumps(document, indent=2) + "\n"
    if write_documents(display, lambda: as_json, lambda: "\n".join(lines) + "\n") or display.quiet:
        return
    for row in rows:
        say(f"{asked[0]} {row['index']}", row)
        mark = "–" if row["right"] is None else f"{row['right']:g}"
        said = f"  said: {escape(short(row['said']))}  [dim](right: {mark})[/]"
        console.out.print(said, soft_wrap=True)
    if len(rows) < count:
        console.out.print(f"[dim]{len(rows)} of {count} shown; --limit 0 shows all[/]")


def prune_kept(work: Path, runs: int, display: ShowOptions) -> None:
    """What ``soup answers --prune`` does and says.

    Raises:
        SoupError: the journal cannot be read, or a file not be deleted.
    """
    require_places(display)
    found = prune_answers(work, runs)
    document = {"version": 1, "runs": runs, "deleted": found.files, "bytes": found.nbytes}
    text = f"deleted the answers of {counted(found.files, 'result')} ({decimal(found.nbytes)})"
    if runs:
        text += f"; {'those of the newest run' if runs == 1 else f'those of {runs} runs'} are kept"
    as_json = json.dumps(document, indent=2) + "\n"
    if not write_documents(display, lambda: as_json, lambda: f"{text}\n") and not display.quiet:
        console.out.print(text, soft_wrap=True, highlight=False)


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
        yield markdown_row([cell.rstrip() for cell in line])
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
    say(f"{name} {row['index']}", row)
    for side, label in (("first", found.first), ("second", found.second)):
        mark = "[green]✓[/]" if row["winner"] == side else "[red]✗[/]"
        said = "(not kept)" if row[side] is None else short(row[side])
        console.out.print(f"  {mark} {escape(label)}: {escape(said)}", soft_wrap=True)


def say(head: str, row: dict[str, Any]) -> None:
    """Print a question, what is expected and where its image is."""
    options = "".join(f" {letter}. {text}" for letter, text in row.get("options", {}).items())
    text = f"[bold]{escape(head)}[/] {escape(short(row.get('question', '') + options))}"
    console.out.print(f"\n{text}", soft_wrap=True)
    more = f" [dim]{escape(row['image'])}[/]" if row.get("image") else ""
    expected = escape(short(row.get("expected", "?")))
    console.out.print(f"  expected: {expected}{more}", soft_wrap=True)


def short(text: str) -> str:
    """In one line, of ``WIDTH`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"


def _cell(value: object) -> str:
    return "" if value is None else short(str(value)).replace("|", "\\|")
