"""`soup rescore`: kept answers evaluated again; as JSON, Markdown, and for the terminal.

What it does is imported when it does it: help and mistakes need none of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soup.cli import completing, console
from soup.cli.differing import asked
from soup.cli.grouping import grouped
from soup.cli.options import WORK, ShowOptions, Work

if TYPE_CHECKING:
    from soup.choosing.rescoring import Change, Rescored

HEADS = ("scored", "benchmark", "old", "new", "difference", "better/worse")


@grouped
def rescore(
    context: typer.Context,
    display: ShowOptions,
    bench: Annotated[
        list[str] | None,
        typer.Option(
            "--bench",
            metavar="NAME",
            autocompletion=completing.among(completing.benchmarks),
            help="On this benchmark alone; a path where its table is elsewhere now. Repeatable.",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="MODEL", help="Who judges now; none by default."),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option("--judge-url", metavar="URL", help="Its OpenAI-compatible endpoint, …/v1."),
    ] = None,
    worker_python: Annotated[
        Path | None,
        typer.Option(
            "--worker-python",
            metavar="PATH",
            help="Python whose VLMEvalKit evaluates (default: the one here).",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="How a run's id begins (default: the newest)."),
    ] = None,
    flips: Annotated[
        int,
        typer.Option("--flips", metavar="N", min=0, help="Questions to show per result."),
    ] = 0,
    work: Work = WORK,
) -> None:
    """Evaluate a run's kept answers again, by another VLMEvalKit or judge; no model is asked.

    Shows which numbers change, on which questions, and whether the soup would be another. It
    takes neither a GPU nor the checkpoints.

    Example: soup rescore --worker-python envs/newer/bin/python --flips 3
    """
    from soup.choosing.journal import Journal
    from soup.cli.progress import Watch
    from soup.cli.results import require_places, write_documents
    from soup.evaluators.workers.rescorer import Rescorer
    from soup.evaluators.workers.rescorer import rescore as evaluate

    require_places(display)
    journal = Journal.open(work, create=False)
    given = [] if not asked(context, bench) else list(bench or ())
    with (
        Watch(console.err, display.quiet) as watch,
        Rescorer(work, worker_python, judge, judge_url) as rescorer,
    ):
        found = evaluate(journal, rescorer, run, given, watch)
    questions = {id(change): _flipped(work, change) for change in found.changes} if flips else {}
    document = found.to_dict()
    for row, change in zip(document["results"], found.changes, strict=True):
        row["flips"] = questions.get(id(change), [])
    text = "\n".join(_markdown(found, questions, flips)) + "\n"
    if write_documents(display, lambda: json.dumps(document, indent=2) + "\n", lambda: text):
        return
    if not display.quiet:
        _show(found, questions, flips)


def _ways(found: Rescored) -> Iterator[str]:
    """Lines about what is another than it was."""
    lines: dict[str, list[str]] = {}
    for name, way in found.ways.items():
        parts = [f"{key} {_said(old)} → {_said(new)}" for key, (old, new) in way.items()]
        lines.setdefault(", ".join(parts), []).append(name)
    for text, names in lines.items():
        yield f"{', '.join(names)}: {text or 'the same VLMEvalKit and judge as before'}"
    silent = [c.scored.benchmark for c in found.changes if c.scored.benchmark not in found.recorded]
    changed = {c.scored.benchmark for c in found.changes if c.difference or c.better or c.worse}
    for name in dict.fromkeys(silent):
        if name in changed:
            yield (
                f"{name}: VLMEvalKit says that it is the version that it was, and scores "
                "otherwise: its code has changed; the journal keeps the old results"
            )


def _said(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return " ".join(map(str, value.values()))
    return str(value)


def _rows(found: Rescored) -> Iterator[list[str]]:
    for change in found.changes:
        flips = f"{len(change.better)}/{len(change.worse)}"
        yield [
            change.scored.name,
            change.scored.benchmark,
            f"{change.scored.result.value:.2f}",
            f"{change.result.value:.2f}",
            f"{change.difference:+.2f}",
            flips if change.scored.result.outcomes and change.result.outcomes else "–",
        ]


def _largest(found: Rescored) -> str:
    most = max(found.changes, key=lambda change: abs(change.difference))
    if not most.difference:
        return "no number changes"
    return (
        f"the largest change: {most.scored.name} on {most.scored.benchmark}, "
        f"{most.difference:+.2f} points"
    )


def _flipped(work: Path, change: Change) -> list[dict[str, Any]]:
    """The questions whose outcome changed, with what was said."""
    from soup.evaluators.kit.answers import kept_answers

    old, new = change.scored.result, change.result
    said = kept_answers(work, change.scored.blend, change.scored.digest, old.settings)
    return [
        {**said[key].to_dict(), "old": old.outcomes[key], "new": new.outcomes[key]}
        for key in (*change.better, *change.worse)
        if key in said
    ]


def _markdown(
    found: Rescored, questions: Mapping[int, list[dict[str, Any]]], flips: int
) -> Iterator[str]:
    from soup.markup import markdown_row
    from soup.words import markdown

    yield f"## Run {found.run}, scored again"
    yield ""
    for line in (*_ways(found), _largest(found)):
        yield f"- {markdown(line, 500)}"
    yield ""
    yield markdown_row(HEADS)
    yield markdown_row(["---"] * len(HEADS))
    for row in _rows(found):
        yield markdown_row([markdown(cell) for cell in row])
    for change in found.changes:
        rows = questions.get(id(change), [])[:flips]
        if rows:
            yield f"\n**{markdown(change.scored.name)} on {markdown(change.scored.benchmark)}**\n"
            heads = ("index", "question", "expected", "said", "old", "new")
            yield markdown_row(heads)
            yield markdown_row(["---"] * len(heads))
        for one in rows:
            yield markdown_row([markdown(one[head], 200) for head in heads])
    yield ""
    if found.verdict is not None:
        yield f"**{markdown(str(found.verdict), 500)}**\n"
    yield found.board.to_markdown()


def _show(found: Rescored, questions: Mapping[int, list[dict[str, Any]]], flips: int) -> None:
    from rich import box
    from rich.table import Table

    from soup.cli import board
    from soup.cli.escaping import escape
    from soup.cli.flips import say, short

    for text in _ways(found):
        _line(text)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in HEADS:
        numbers = head not in ("scored", "benchmark")
        table.add_column(head, overflow="fold", justify="right" if numbers else "left")
    for row in _rows(found):
        table.add_row(*map(escape, row))
    console.out.print(table)
    _line(_largest(found))
    for change in found.changes:
        for one in questions.get(id(change), [])[:flips]:
            say(f"{change.scored.name} on {change.scored.benchmark} {one['index']}", one)
            marks = f"[dim](right: {one['old']:g} → {one['new']:g})[/]"
            console.out.print(f"  said: {escape(short(one['said']))}  {marks}", soft_wrap=True)
    _line("\nthe run's decisions with the new numbers:\n", "bold")
    board.leaderboard(found.board, console.out)
    if found.verdict is not None:
        _line(str(found.verdict), "" if found.verdict.same else "bold")


def _line(text: str, style: str = "") -> None:
    from soup.words import plain

    text = plain(text, lines=True)
    console.out.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
