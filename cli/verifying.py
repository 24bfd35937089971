"""`soup verify`: whether a soup is as it was written.

What it does is imported when it does it: help and mistakes need none of it.
"""

from pathlib import Path
from typing import Annotated

import typer

from soup.cli import console
from soup.cli.options import Cache
from soup.errors import CheckpointError
from soup.remote.address import is_address, parse
from soup.words import counted


def verify(
    directories: Annotated[
        list[str],
        typer.Argument(metavar="DIR...", help="Soups, as they were written; or their addresses."),
    ],
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", metavar="DIR", help="Of soups that are adapters, where they do not name it."
        ),
    ] = None,
    cache: Cache = None,
) -> None:
    """Compare every file of a soup with its manifest and digests, offline.

    One elsewhere is fetched whole, and what arrived is compared.

    Exit code 1 where one differs, is missing, or is not the soup's.

    Example: soup verify soup-greedy
    """
    from rich.filesize import decimal

    from soup.blending.verifying import verify as verified
    from soup.cli.progress import Watch

    wrong = 0
    for directory in directories:
        with Watch(console.err) as watch:
            here = Path(directory)
            if is_address(directory):
                from soup.checkpoints.arriving import fetch

                here = fetch([directory], cache=cache, observe=watch)[directory]
                directory = str(parse(directory))  # without secrets
            found = verified(here, base, watch)
        wrong += bool(found.problems)
        for problem in found.problems:
            line = f"{directory}: {problem}"
            console.out.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        if not found.problems:
            about = f"{counted(found.files, 'file')}, {decimal(found.nbytes)} of weights"
            line = f"{directory}: as it was written ({about}, digest {found.digest[:12]})"
            console.out.print(line, markup=False, highlight=False, soft_wrap=True)
    if wrong:
        raise CheckpointError(
            f"{wrong} of {counted(len(directories), 'soup')} not as written: copy or download "
            "again, or make the soup again"
        )
