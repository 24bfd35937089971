"""Where the command line prints: results to standard output, all else to standard error."""

import os
import sys

from rich.console import Console

WIDE = 10_000  # columns of what has none: a pipe's lines are not folded


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    has_width = stream.isatty() or "COLUMNS" in os.environ
    return Console(stderr=stderr, width=None if has_width else WIDE)


out = _console(stderr=False)
err = _console(stderr=True)
