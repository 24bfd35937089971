"""Tables for the terminal: what `soup check` found, families, what the doctor says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from soup.cli.escaping import escape
from soup.words import NAME, counted, folded, listed, plain, shown

if TYPE_CHECKING:
    from soup.checkpoints.pool import Report
    from soup.choosing.side_by_side import Compared, SideBySide
    from soup.evaluators.models.families import Family
    from soup.evaluators.workers.doctor import Diagnosis, Trial

NAME_WIDTH = 24  # longer names are folded


def compared(found: SideBySide, console: Console) -> None:
    """Print two blends side by side: per benchmark and category, and the mean of several."""
    table = _plain_table()
    table.add_column("benchmark", overflow="fold", max_width=NAME_WIDTH)
    for head in (found.first, found.second, "difference", "95% interval", "p", "won/lost"):
        table.add_column(escape(head), justify="right", overflow="fold", max_width=NAME_WIDTH)
    for row in compared_rows(found):
        table.add_row(*map(escape, row))
    console.print(table)
    unknown = {one.difference.unknown for one in (*found.benchmarks, found.mean)} - {""}
    for reason in sorted(unknown):
        _line(console, f"which differences are noise cannot be told: {reason}", "dim")


def compared_rows(found: SideBySide) -> Iterator[list[str]]:
    """One row per benchmark and category, the mean of several last; as the table has them."""
    for one in found.benchmarks:
        yield _compared(one.name, one)
        yield from (_compared(f"  {category.name}", category) for category in one.categories)
    if len(found.benchmarks) > 1:
        yield _compared("mean", found.mean)


def _compared(name: str, one: Compared) -> list[str]:
    # Here, for families and check need none of it.
    from soup.choosing.figures import NOISE, aligned, gained, number, sure

    flips = f"{len(one.won)}/{len(one.lost)}" if one.won or one.lost else ""
    gain, interval, p = sure(one.difference)
    gain = aligned([gained(one.difference.gain, one.difference), NOISE])[0]
    return [name, number(one.first), number(one.second), gain, interval, p, flips]


def check(report: Report, console: Console) -> None:
    """Print members and whether they can be blended, with every reason why not."""
    table = _plain_table()
    table.show_edge = False  # an empty line above and one below
    table.add_column("member", overflow="fold", max_width=NAME_WIDTH)
    for head in ("tensors", "parameters", "dtype", "size", "files"):
        table.add_column(head, justify="right")
    if any(member.kind for member in report.members):
        table.add_column("kind", overflow="fold", max_width=NAME_WIDTH)
    for member in report.members:
        table.add_row(
            escape(member.name, NAME),
            f"{len(member.tensors):,}",
            f"{member.parameters:,}",
            "/".join(member.dtypes),
            decimal(member.nbytes),
            str(len(member.shards)),
            *([escape(member.kind or "full", NAME)] if len(table.columns) > 6 else []),
        )
    console.print(table)
    for line in _duplicates(report.duplicates):
        _line(console, f"duplicate: {line}")
    for warning in report.warnings:
        _line(console, f"warning: {warning}", "yellow")
    for problem in report.lines:
        _line(console, f"problem: {problem}", "red")
    if report.problems:
        return
    count = len(report.members)
    ok = f"these {count} can be blended" if count > 1 else "this one can be read"
    from soup.checkpoints.sharing import in_words, shares

    shared = in_words(shares(report.members))
    _line(console, f"ok: {ok}{f'; {shared}' if shared else ''}", "green")
    for line in cost(report):
        _line(console, line)


def families(table: Sequence[Family], transformers: str | None, console: Console) -> None:
    """Print the families of models; those that the transformers here cannot run are dim.

    Args:
        table: what to show.
        transformers: the version installed, None where there is none.
        console: where to.
    """
    drawn = _plain_table()
    for head in ("family", "wrapper", "transformers", "batch", "trust", "last run"):
        drawn.add_column(head, overflow="fold", no_wrap=head != "last run")
    for family in table:
        fits = transformers is not None and family.runs_under(transformers)
        module, _, wrapper = family.wrapper.rpartition(":")
        drawn.add_row(
            escape(family.name),
            escape(f"{wrapper} (ours)" if module else wrapper),
            f"{family.range}{'' if fits else ' [red]✗[/]'}",
            "yes" if family.batched else "no",
            "yes" if family.custom_code else "no",
            escape(family.verified),
            style="" if fits else "dim",
        )
    console.print(drawn)
    here = f"transformers {transformers} is" if transformers else "transformers is not"
    _line(console, f"{here} installed here; ✗ needs another: name its Python, --worker-python")
    _line(console, "trust: brings its own code, add --trust-remote-code")
    _line(
        console, "last run: under which transformers, by tests or by hand; all with random weights"
    )
    equal, by_hand = (
        ", ".join(family.name for family in table if family.vllm == found)
        for found in ("equal", "by hand")
    )
    _line(console, f"--engine vllm: answers equal transformers' own in tests: {equal}")
    _line(console, f"--engine vllm: and by hand, with any transformers that it has: {by_hand}")
    _line(console, "--engine vllm: the others are not asked by it")
    _line(console, "a model of none of these is asked through its chat template")


def diagnosis(found: Diagnosis, console: Console) -> None:
    """Print what was looked at, what is wrong with it, and what to type."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    for finding in found.findings:
        mark = "[green]✓[/]" if not finding.absent else "[dim]–[/]"
        mark = "[yellow]![/]" if finding.note else mark
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
        f"greedy: scores {counted(count, 'member')} and up to {counted(trials, 'trial')} "
        f"({counted(count + trials, 'evaluation')} of each benchmark)"
    )
    yield (
        f"reads {decimal(size * count)} once to digest, {decimal(size * count)} to score the "
        f"members, up to {decimal(size * summed)} for the trials and {decimal(size * count)} for "
        f"the soup; writes {decimal(size)}"
    )


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _duplicates(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One line for each that others repeat."""
    repeats: dict[str, list[str]] = {}
    for first, second in pairs:
        repeats.setdefault(first, []).append(second)
    for first, others in repeats.items():
        verb = "holds" if len(others) == 1 else "hold"
        yield f"{listed(others, 10)} {verb} the same weights as {shown(first)}"


def _line(console: Console, text: str, style: str = "") -> None:
    text = folded(plain(text, lines=True), console.width if console.is_terminal else None)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
