"""Where the command line prints: results to standard output, all else to standard error.

``out`` and ``err`` are made when they are first used: help, which typer prints, and commands that
print nothing need no console.
"""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from soup.words import plain

if TYPE_CHECKING:
    from rich.console import Console

    from soup import Journal
    from soup.events import Event

    out: Console
    err: Console

WIDE = 10_000  # columns of what has none: a pipe's lines are not folded


def __getattr__(name: str) -> Any:
    if name not in ("out", "err"):
        raise AttributeError(f"module 'soup.cli.console' has no attribute {name!r}")
    from rich.console import Console

    stream = getattr(sys, "stderr" if name == "err" else "stdout")
    has_width = stream.isatty() or "COLUMNS" in os.environ
    made = Console(stderr=name == "err", width=None if has_width else WIDE)
    made.print = _plainly(made.print)  # type: ignore[method-assign]
    return globals().setdefault(name, made)


def _plainly(show: Callable[..., None]) -> Callable[..., None]:
    """Text that is no markup commands no terminal either, whoever wrote it."""

    def shown(*given: Any, **options: Any) -> None:
        if options.get("markup") is False:
            given = tuple(plain(one, lines=True) if isinstance(one, str) else one for one in given)
        show(*given, **options)

    return shown


def tell(event: "Event") -> None:
    """Show one event of a command that has no progress."""
    from soup.cli.progress import Watch

    Watch(sys.modules[__name__].err)(event)


def journal(work: "str | os.PathLike[str]", create: bool = False) -> "Journal":
    """The journal in a directory; what is damaged in it is said.

    Raises:
        JournalError: it cannot be used.
    """
    from soup.choosing.journal import Journal
    from soup.events import Note

    found = Journal.open(work, create=create)
    if (damage := found.words()) is not None:
        tell(Note(damage, warning=True))
    return found
