"""`soup report`: the last run as one page.

What it does is imported when it does it: help and mistakes need none of it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soup.cli import console
from soup.cli.options import WORK, Work
from soup.errors import OutputError, UsageError

if TYPE_CHECKING:
    from soup.walk import Draw

DEFAULT = Path("report.html")


def report(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write; replaces FILE.")
    ] = DEFAULT,
    work: Work = WORK,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only the path that was written.")
    ] = False,
) -> None:
    """Write the last run as one page: verdict, charts, flipped questions, cost, how to repeat it.

    The page holds everything itself and asks nothing of a network. Nothing is scored.

    Example: soup report -o report.html
    """
    write(out, work)
    if quiet:
        print(out)
    else:
        size = out.stat().st_size
        console.out.print(
            f"{out} ({size / 1000:,.0f} kB): open it in any browser",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def write(out: Path, work: Path) -> None:
    """Write the page of the last run in ``work``.

    Raises:
        SoupError: no run is recorded, what draws is not installed, or it cannot be written.
    """
    from soup.cli.results import write_text
    from soup.reporting.facts import gather
    from soup.reporting.page import page

    if out.is_dir():
        raise OutputError(f"{out}: cannot be written: it is a directory; name a file")
    write_text(out, page(gather(work)))


def drawing(charts: bool | None) -> "Draw | None":
    """What draws charts for the model card; None where none are to be.

    Raises:
        UsageError: they are asked for, and what draws them is not installed.
    """
    from soup.reporting.card import can_draw, pictures

    if charts and not can_draw():
        raise UsageError(
            "--charts needs altair and vl-convert; run: pip install 'vlm-soup[report]'"
        )
    return pictures if charts or (charts is None and can_draw()) else None


def written_or_why_not(out: Path, work: Path) -> str:
    """Write it where what draws is there; a line about what came of it."""
    try:
        write(out, work)
    except UsageError as error:
        return f"No report: {error}"
    return f"Report: {out}, open it in a browser"
