"""`soup line`: the score along the line between two members.

What it does is imported when it does it: help and mistakes need none of it.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import soup
from soup.cli import console
from soup.cli.fetching import watched
from soup.cli.given import scorer_of, settings_of
from soup.cli.grouping import grouped
from soup.cli.options import (
    WORK,
    Base,
    BenchmarkOptions,
    Cache,
    Dtype,
    PoolOptions,
    Quiet,
    RunOptions,
    ScoringOptions,
    Work,
)

if TYPE_CHECKING:
    from soup.choosing.lines import Line


@grouped
def line(
    context: typer.Context,
    benchmarks: BenchmarkOptions,
    scoring: ScoringOptions,
    first: Annotated[str, typer.Argument(metavar="A", help="A member: its directory or name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    points: Annotated[
        int,
        typer.Option(
            "--points", metavar="N", help="Places on the line, both ends among them.", min=3
        ),
    ] = 11,
    base: Base = None,
    dtype: Dtype = None,
    cache: Cache = None,
    quiet: Quiet = False,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="The line as JSON; - is stdout."),
    ] = None,
    work: Work = WORK,
) -> None:
    """Score the straight line between two members: is there a valley between them?

    Where the mean falls between two members, they lie in different basins, and averaging them
    does harm. Known results are reused; the line is kept for the report, and for why greedy kept
    few. Without [bold]--bench[/] the last run's benchmarks are asked.

    Example: soup line ckpts/run-1 ckpts/run-2 --points 11
    """
    journal = soup.Journal.open(work, create=False)
    ckpts = [_place(journal, first), _place(journal, second)]
    pool = PoolOptions(ckpts, base=base, dtype=dtype, cache=cache)
    if not benchmarks.bench and not benchmarks.suite:
        benchmarks = _last(journal, benchmarks)
    settings = settings_of(pool, benchmarks, RunOptions(work))
    scorer = scorer_of(context, scoring, work, benchmarks)
    from soup.cli.documents import put
    from soup.cli.progress import Watch
    from soup.line import line as score_line

    scorer.require_sources([*settings.benchmarks])
    with watched(pool, quiet) as observe:
        opened = soup.Pool.open(
            *ckpts, dtype=settings.dtype, base=base, cache=cache, observe=observe
        )
    with Watch(console.err, quiet) as watch, scorer:
        found = score_line(opened, scorer, settings, points, watch)
    if json is not None:
        put(json, "line", found.to_dict())
    if not quiet and str(json) != "-":
        _show(found)


def _place(journal: "soup.Journal", text: str) -> str:
    """A directory as it is; a member's name as where the last run that had it found it."""
    if os.path.exists(text):
        return text
    for records in reversed(list(journal.runs.values())):
        for member in records[0]["members"]:
            if member["name"] == text:
                return str(member["path"])
    return text


def _last(journal: "soup.Journal", given: BenchmarkOptions) -> BenchmarkOptions:
    """The benchmarks of the last run that had any."""
    from dataclasses import replace

    for records in reversed(list(journal.runs.values())):
        settings = records[0].get("settings", {})
        if settings.get("benchmarks") and records[0]["members"]:
            weights = settings.get("bench_weights", {})
            names = [
                f"{name}={weights[name]}" if name in weights else name
                for name in settings["benchmarks"]
            ]
            return replace(given, bench=names)
    return given


def _show(found: "Line") -> None:
    from rich import box
    from rich.table import Table

    from soup.choosing.figures import number
    from soup.cli.escaping import escape

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    names = list(found.points[0].scores)
    for head in ("t", "mean", *(names if len(names) > 1 else [])):
        table.add_column(escape(head), justify="right", no_wrap=True)
    for point in found.points:
        scores = [number(point.scores[name]) for name in names] if len(names) > 1 else []
        style = "bold green" if point is found.best else ""
        table.add_row(f"{point.t:.2f}", number(point.mean), *scores, style=style)
    console.out.print(table)
    console.out.print(
        f"t is the share of {escape(found.second)}; the rest is {escape(found.first)}'s",
        style="dim",
        highlight=False,
    )
    for sentence in found.words():
        console.out.print(sentence, markup=False, highlight=False)
