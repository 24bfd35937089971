"""The commands that look and make nothing: check, leaderboard.

What they do is imported when they do it: help and mistakes need none of it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import soup
from soup.cli import console
from soup.cli.given import dtype_of
from soup.cli.options import WORK, PoolOptions, ShowOptions, Work, grouped
from soup.errors import PoolError

if TYPE_CHECKING:
    from soup import Report


@grouped
def check(
    pool: PoolOptions,
    digest: Annotated[
        bool, typer.Option("--digest", help="Read all bytes, to find members that are equal.")
    ] = False,
    work: Work = WORK,
) -> None:
    """Say from headers alone whether a pool can be blended, and if not, exactly why.

    Duplicates are found by their files, and by content where it is known from an earlier run
    or [bold]--digest[/] is given. Exit code 1 when the pool cannot be blended.

    Example: soup check ckpts/*
    """
    from soup.cli import render

    report = soup.inspect(pool.ckpts, dtype_of(pool.dtype), pool.base)
    known = {*report.duplicates, *_known_duplicates(report, work, digest)}
    render.check(
        soup.Report(report.members, report.problems, report.warnings, tuple(sorted(known))),
        console.out,
    )
    if report.problems:
        count = len(report.problems)
        raise PoolError(f"the pool cannot be blended: {count} problem(s), listed above")


@grouped
def leaderboard(display: ShowOptions, work: Work = WORK) -> None:
    """Show the last run's table again, or write it for machines.

    Example: soup leaderboard --json board.json --markdown board.md
    """
    from soup.cli.results import show

    show(soup.show(work), display)


def _known_duplicates(report: "Report", work: Path, read: bool) -> list[tuple[str, str]]:
    from soup.checkpoints.pool import same_content

    journal = soup.Journal.open(work, create=read)
    if read:
        from soup.cli.progress import Watch
        from soup.run import identify

        with Watch(console.err) as watch:
            identify(report.members, journal, watch)
        return same_content(report.members)
    known = []
    for member in report.members:
        digest = journal.digest_of(member)
        if digest is not None:
            member.remember_digest(digest)
            known.append(member)
    return same_content(known)
