"""`soup cache`: what was fetched from elsewhere, and what of it can go.

What it does is imported when it does it: help and mistakes need none of it.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from soup.cli import console
from soup.cli.options import Cache
from soup.errors import UsageError

if TYPE_CHECKING:
    from soup.remote.cache import Kept

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def cache(
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="SIZE",
            help="Delete what was used longest ago, until no more than this is left: 50GB, 0.",
        ),
    ] = None,
    cache: Cache = None,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="The same as JSON; - is stdout.")
    ] = None,
) -> None:
    """Show what was fetched from elsewhere, and make room.

    What a running command uses is never deleted. A hub's own cache is left alone (hf cache).

    Example: soup cache --keep 50GB
    """
    from soup.markup import size
    from soup.remote.cache import home, kept, prune, total
    from soup.words import counted

    place = home(cache)
    most = None if keep is None else bytes_of(keep)
    gone, busy = ([], []) if most is None else prune(place, most)
    there = kept(place)
    if json is not None:
        from soup.cli.documents import put

        content = {
            "cache": str(place),
            "bytes": total(place),
            "models": [_said(one) for one in there],
            "deleted": [_said(one) for one in gone],
        }
        put(json, "cache", content)
        if str(json) == "-":
            return
    for one in gone:
        _say(f"deleted {_called(one)}, {size(one.bytes)}")
    for one in busy:
        _say(f"kept {_called(one)}: in use")
    for one in there:
        _say(f"{size(one.bytes):>10}  {_called(one)}  {one.path}")
    _say(f"{counted(len(there), 'model')}, {size(total(place))} in {place}")


def bytes_of(text: str) -> int:
    """A size: ``50GB``, ``500 MB``, ``0``.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if match is None:
        raise UsageError(f"--keep {text}: expected a size, e.g. 50GB")
    return int(float(match[1]) * UNITS[match[2]])


def _called(one: "Kept") -> str:
    return f"{one.where} ({one.revision[:8]})" if one.revision else f"{one.where} (not whole)"


def _said(one: "Kept") -> dict[str, object]:
    return {
        "source": one.where,
        "revision": one.revision or None,
        "path": str(one.path),
        "bytes": one.bytes,
        "used": one.used,
    }


def _say(line: str) -> None:
    console.out.print(line, markup=False, highlight=False, soft_wrap=True)
