"""Tables for the terminal: the leaderboard and what `soup check` found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from soup.blending.methods import describe
from soup.choosing.leaderboard import Leaderboard, Row, SoupRow, gained, number, percent

if TYPE_CHECKING:
    from soup.checkpoints.pool import Report
    from soup.evaluators.models.families import Family
    from soup.evaluators.workers.doctor import Diagnosis, Trial

NAME_WIDTH = 24  # longer names are folded
GAP = 2  # characters between columns


@dataclass(frozen=True)
class _Column:
    head: str
    cells: list[str]
    style: str = ""

    @property
    def width(self) -> int:
        return max(map(cell_len, [self.head, *self.cells]))


def leaderboard(board: Leaderboard, console: Console, others: Sequence[Leaderboard] = ()) -> None:
    """Print the ranking, the soups' rows and the path, in tables that fit the console's width.

    Args:
        board: the run to show.
        console: where to.
        others: earlier runs over the same members, whose soups are shown, too.
    """
    soups = [run.soup for run in (*others, board) if run.soup is not None]
    rows: list[Row | SoupRow] = [*board.members, *soups]
    names = [row.name for row in board.members] + [f"{soup.kind} soup" for soup in soups]
    ranks = [str(k) if row.mean is not None else "" for k, row in enumerate(board.members, 1)]
    if board.benchmarks or board.holdouts:
        head = [_Column("#", ranks + [""] * len(soups), "dim"), _Column("member", names)]
        for block in _blocks(head, list(_columns(board, rows)), console.width):
            console.print(_table(head + block, len(board.members)))
    if len(board.path) > 1:
        console.print(_path(board))
    for line in board.footer():
        _line(console, line, "dim")
    for soup in soups:
        console.print(_summary(board, soup), highlight=False)
    if not board.finished:
        console.print("[yellow]this run did not finish; the same command goes on from here[/]")


def check(report: Report, console: Console) -> None:
    """Print members and whether they can be blended, with every reason why not."""
    table = _plain_table()
    table.add_column("member", overflow="fold", max_width=NAME_WIDTH)
    for head in ("tensors", "parameters", "dtype", "size", "files"):
        table.add_column(head, justify="right")
    if any(member.kind for member in report.members):
        table.add_column("kind", overflow="fold", max_width=NAME_WIDTH)
    for member in report.members:
        table.add_row(
            escape(member.name),
            f"{len(member.tensors):,}",
            f"{member.parameters:,}",
            "/".join(member.dtypes),
            decimal(member.nbytes),
            str(len(member.shards)),
            *([escape(member.kind or "full")] if len(table.columns) > 6 else []),
        )
    console.print(table)
    for first, second in report.duplicates:
        _line(console, f"duplicate: {second} holds the same weights as {first}")
    for warning in report.warnings:
        _line(console, f"warning: {warning}", "yellow")
    for problem in report.problems:
        _line(console, f"problem: {problem}", "red")
    if report.problems:
        return
    _line(console, f"ok: these {len(report.members)} can be blended", "green")
    for line in cost(report):
        _line(console, line)


def families(table: Sequence[Family], transformers: str | None, console: Console) -> None:
    """Print the families of models; those that the transformers here cannot run are dim.

    Args:
        table: what to show.
        transformers: the version installed, None where there is none.
        console: where to.
    """
    shown = _plain_table()
    for head in ("family", "wrapper", "transformers", "batch", "trust", "last run"):
        shown.add_column(head, overflow="fold", no_wrap=head != "last run")
    for family in table:
        fits = transformers is not None and family.runs_under(transformers)
        module, _, wrapper = family.wrapper.rpartition(":")
        shown.add_row(
            escape(family.name),
            escape(f"{wrapper} (ours)" if module else wrapper),
            f"{family.range}{'' if fits else ' [red]✗[/]'}",
            "yes" if family.batched else "no",
            "yes" if family.custom_code else "no",
            escape(family.verified),
            style="" if fits else "dim",
        )
    console.print(shown)
    here = f"transformers {transformers} is" if transformers else "transformers is not"
    _line(console, f"{here} installed here; ✗ needs another: name its Python, --worker-python")
    _line(console, "trust: brings its own code, add --trust-remote-code")
    _line(
        console, "last run: under which transformers, by tests or by hand; all with random weights"
    )
    _line(console, "a model of none of these is asked through its chat template")


def diagnosis(found: Diagnosis, console: Console) -> None:
    """Print what was looked at, what is wrong with it, and what to type."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    for finding in found.findings:
        mark = "[yellow]![/]" if finding.note else "[green]✓[/]"
        mark = "[red]✗[/]" if finding.problem else mark
        text = f"{finding.problem}: {finding.found}" if finding.problem else finding.found
        table.add_row(mark, escape(finding.what), escape(text))
    console.print(table)
    if found.commands:
        _line(console, "\nTo set it up:\n")
    for command in found.commands:
        _line(console, f"    {command}")


def trial(made: Trial, console: Console) -> None:
    """Print what a model was asked and what it said."""
    _line(console, f"\nasked about a red square: {made.question}")
    _line(console, f"answered: {made.answer!r}, {made.seconds:.1f} s with loading", "green")


def cost(report: Report) -> Iterator[str]:
    """What a greedy run over a pool would score, read and write, at most."""
    count, size = len(report.members), report.members[0].nbytes
    trials = max(count - 1, 0)
    summed = sum(range(2, count + 1))
    yield (
        f"greedy: scores {count} members and up to {trials} trials ({count + trials} evaluations "
        "of each benchmark)"
    )
    yield (
        f"reads {decimal(size * count)} once to digest, {decimal(size * count)} to score the "
        f"members, up to {decimal(size * summed)} for the trials and {decimal(size * count)} for "
        f"the soup; writes {decimal(size)}"
    )


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _columns(board: Leaderboard, rows: Sequence[Row | SoupRow]) -> Iterator[_Column]:
    if board.benchmarks:
        differences = [
            gained(row.mean - board.best, row.difference)
            if row.mean is not None and board.best is not None
            else "–"
            for row in rows
        ]
        yield _Column("mean", [number(row.mean) for row in rows], "bold")
        yield _Column("Δ best", differences, "cyan")
    for name in board.benchmarks:
        yield _Column(name, [number(row.scores.get(name)) for row in rows])
    for name in board.holdouts:
        yield _Column(f"{name} (h)", [number(row.holdouts.get(name)) for row in rows], "magenta")
    worst = [percent(max(row.unparsed.values(), default=None)) for row in rows]
    yield _Column("unparsed", worst, "dim")
    missing = [sum(row.unjudged.values()) for row in rows]
    if any(missing):
        yield _Column("unjudged", [str(count) for count in missing], "yellow")


def _blocks(
    head: Sequence[_Column], columns: Sequence[_Column], width: int
) -> Iterator[list[_Column]]:
    """Split columns so that each table, with rank and member before it, fits the width."""
    name = min(max(head[1].width, 6), NAME_WIDTH)
    room = width - head[0].width - name - GAP - 2
    block: list[_Column] = []
    used = 0
    for column in columns:
        needed = column.width + GAP
        if block and used + needed > room:
            yield block
            block, used = [], 0
        block.append(column)
        used += needed
    yield block


def _table(columns: Sequence[_Column], members: int) -> Table:
    table = _plain_table()
    for k, column in enumerate(columns):
        if k == 1:
            table.add_column(column.head, overflow="fold", max_width=NAME_WIDTH)
        else:
            table.add_column(column.head, justify="right", style=column.style, overflow="fold")
    for k in range(len(columns[0].cells)):
        table.add_row(
            *(escape(column.cells[k]) for column in columns),
            style="bold green" if k >= members else "",
            end_section=k == members - 1,
        )
    return table


def _path(board: Leaderboard) -> Table:
    table = _plain_table()
    table.add_column("tried", overflow="fold", max_width=2 * NAME_WIDTH)
    table.add_column("mean", justify="right")
    known = any(step.difference for step in board.path)
    for head in ("gain", "95% interval", "p") if known else ():
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("kept")
    for k, step in enumerate(board.path):
        name = step.tried if k == 0 else f"+ {step.tried}"
        kept = "[green]yes[/]" if step.kept else f"[dim]{step.verdict}[/]"
        table.add_row(escape(name), number(step.mean), *(step.sure if known else ()), kept)
    return table


def _summary(board: Leaderboard, soup: SoupRow) -> str:
    share = f"{len(soup.members)} of {len(board.members)} members"
    if soup.merging["method"] != "linear":
        share += f" by {describe(soup.merging['method'], soup.merging['parameters'])}"
    text = f"[bold green]{soup.kind} soup[/]: {share}"
    if soup.mean is not None and board.best is not None:
        text += f", mean {soup.mean:.2f} ({soup.mean - board.best:+.2f} to the best single)"
    return f"{text}, written to {escape(soup.out)}"
