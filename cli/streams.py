"""Standard output and error of the command: what cannot be written is one line, or nothing."""

import contextlib
import os
import sys
from typing import Any, TextIO

from soup.errors import OutputError
from soup.watching.steadfast import Steadfast


class ReaderGone(Exception):
    """Whoever read our output has gone: that is no error, and ends the command as any other.

    None of ``OSError``, for libraries take such a one for the end of all, each in its own way.
    """

    CODE = 141
    """The exit code, as of a command that SIGPIPE ends."""


class Results:
    """Standard output: what cannot be written there is an error in one line.

    Everything else is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Raises OutputError where nothing can be written, ReaderGone where nobody reads."""
        with self._told():
            return self._stream.write(text)

    def flush(self) -> None:
        """Raises OutputError where nothing can be written, ReaderGone where nobody reads."""
        with self._told():
            self._stream.flush()

    @contextlib.contextmanager
    def _told(self) -> Any:
        try:
            yield
        except BrokenPipeError as error:
            raise ReaderGone from error
        except (OSError, ValueError) as error:
            # What is still in the buffer goes nowhere, rather than into another error at the end.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            why = getattr(error, "strerror", None) or error
            raise OutputError(
                f"standard output: cannot be written: {why}; what was done is kept: "
                "`soup leaderboard` shows the table of a run again"
            ) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def open_closed() -> None:
    """Have the first three descriptors lead somewhere: else the next files would take their place.

    To be called before anything is opened.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)


def guard() -> None:
    """Have the standard streams be as this module says."""
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # for good
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    for name, kind in (("stdout", Results), ("stderr", Steadfast)):
        if not isinstance(getattr(sys, name), kind):
            setattr(sys, name, kind(getattr(sys, name)))
