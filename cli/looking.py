"""The commands that look and make nothing: check, leaderboard.

What they do is imported when they do it: help and mistakes need none of it.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import soup
from soup.cli import console
from soup.cli.fetching import watched
from soup.cli.given import dtype_of
from soup.cli.grouping import grouped
from soup.cli.options import WORK, LookOptions, PoolOptions, Work
from soup.errors import PoolError, SoupError, UsageError
from soup.words import counted

if TYPE_CHECKING:
    from soup import Report


@grouped
def check(
    pool: PoolOptions,
    digest: Annotated[
        bool,
        typer.Option(
            "--digest", help="Read all bytes: finds members that are equal, NaN, Inf and zeros."
        ),
    ] = False,
    model: Annotated[
        bool,
        typer.Option(
            "--model/--no-model",
            help="Ask transformers whether the tensors are those of the model that config.json "
            "describes; takes seconds at first, the answer is kept in --work.",
        ),
    ] = True,
    work: Work = WORK,
    json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="All that was found, as JSON; - is stdout."),
    ] = None,
) -> None:
    """Say from headers alone whether a pool can be blended, and if not, exactly why.

    Of models elsewhere only headers and small files are fetched. Duplicates are found by their
    files, and by content where it is known from an earlier run or [bold]--digest[/] is given. Exit
    code 1 when the pool cannot be blended.

    Example: soup check ckpts/*
    """
    from soup.cli import render

    dtype = dtype_of(pool.dtype)
    try:
        with watched(pool) as observe:
            report = soup.inspect(
                pool.ckpts,
                dtype,
                pool.base,
                pool.reference,
                pool.processor,
                pool.cache,
                observe,
                whole=digest,
            )
        if model:
            report = compared(report, work)
        known = {*report.duplicates, *_known_duplicates(report, work, digest)}
        report = looked_into(report)
    except SoupError as error:
        if json is not None and not isinstance(error, UsageError):
            from soup.cli import documents

            documents.put(json, "check", documents.failed(error))
        raise
    report = replace(report, duplicates=tuple(sorted(known)))
    if json is not None:
        from soup.cli import documents

        documents.put(json, "check", documents.pool_found(report))
    if str(json) != "-":
        render.check(report, console.out)
    if report.problems:
        count = counted(len(report.problems), "problem")
        where = "in the document" if str(json) == "-" else "listed above"
        raise PoolError(f"the pool cannot be blended: {count}, {where}")


@grouped
def leaderboard(display: LookOptions, work: Work = WORK) -> None:
    """Show the last run's table again, or write it for machines.

    Example: soup leaderboard --json board.json --markdown board.md
    """
    from soup.cli.results import show

    show(soup.show(work, console.tell), display)


def compared(report: "Report", work: Path) -> "Report":
    """The report with what transformers says of the reference, which the others are like."""
    from soup.checkpoints.described import describe
    from soup.cli.progress import Watch

    if report.problems:
        return report  # these come first
    reference = report.reference or report.members[0]
    with Watch(console.err) as watch:
        found = describe(reference, work, watch)
    notes = tuple(f"{reference.name}: {note}" for note in found.notes)
    problems = tuple(found.problems(reference.name))
    return replace(report, problems=problems, warnings=(*report.warnings, *notes))


def looked_into(report: "Report") -> "Report":
    """The report with what is wrong with the values of members that have been digested."""
    from soup.checkpoints.problems import together
    from soup.checkpoints.soundness import problems, remarks

    members = [*report.members, *([report.base] if report.base else [])]
    known = [member for member in members if member.soundness is not None]
    warnings = together(remarks(known), [member.name for member in members])
    return replace(
        report,
        problems=(*report.problems, *problems(known)),
        warnings=(*report.warnings, *warnings),
    )


def _known_duplicates(report: "Report", work: Path, read: bool) -> list[tuple[str, str]]:
    from soup.checkpoints.pool import same_content

    journal = console.journal(work, create=read)
    if read:
        from soup.cli.progress import Watch
        from soup.identifying import identify

        with Watch(console.err) as watch:
            identify([*report.members, *([report.base] if report.base else [])], journal, watch)
        return same_content(report.members)
    return same_content([member for member in report.members if journal.recall(member)])
