"""Where the command line prints: results to standard output, all else to standard error.

``out`` and ``err`` are made when they are first used: help, which typer prints, and commands that
print nothing need no console.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    out: Console
    err: Console


def __getattr__(name: str) -> Any:
    if name not in ("out", "err"):
        raise AttributeError(f"module 'soup.cli.console' has no attribute {name!r}")
    from rich.console import Console

    return globals().setdefault(name, Console(stderr=name == "err"))
