"""Where the command line prints: results to standard output, all else to standard error.

``out`` and ``err`` are made when they are first used: help, which typer prints, and commands that
print nothing need no console.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

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
    return globals().setdefault(name, made)
