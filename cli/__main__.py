"""The `soup` command; also `python -m soup`."""

import atexit
import contextlib
import gc
import os
import sys

from soup.cli import stopping

YOUNG = 50_000
"""Objects that are made before Python looks for circles among them; by default 700. A pool may have
hundreds of thousands of tensors, all of which stay, and looking at them again and again is a sixth
of a command's time."""


def main() -> None:
    """Import the command line and run it."""
    gc.set_threshold(YOUNG)
    stopping.catch(early=True)  # importing takes a moment
    from soup.cli import streams

    streams.open_closed()
    streams.guard()
    from soup.cli.app import main as run

    stopping.catch()
    try:
        run()
    except KeyboardInterrupt:  # while it was ending already
        stopping.at_once()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else 0)


def _leave(code: int) -> None:
    """End with this exit code, whatever signal comes now: the command has done what it was to do.

    Python would take itself apart, in which time signals kill it; and where one had come while it
    ran text of code (as dataclasses are made of), would end by SIGINT, not by what was asked.
    """
    stopping.ignore()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # it cannot be said any more
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
