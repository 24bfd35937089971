"""A stream for what nobody must wait for: where it is full, closed or gone, words are lost, no run.

Progress goes to standard error. That may be a file on a full disk, a pipe that nobody reads any
more, or a terminal that has vanished: none of them is a reason to stop scoring.
"""

import contextlib
import sys
from typing import Any, TextIO

ERRORS = (OSError, ValueError, AttributeError)
"""Full or gone; closed; none at all."""


class Steadfast:
    """A text stream, standard error by default, whose errors are nobody's.

    Everything else is the stream's own.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """``stream`` is by default whatever ``sys.stderr`` is at that time."""
        self._stream = stream

    @property
    def _now(self) -> Any:
        return self._stream if self._stream is not None else sys.stderr

    def write(self, text: str) -> int:
        """Write, if it can be done."""
        with contextlib.suppress(*ERRORS):
            self._now.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if it can be done."""
        with contextlib.suppress(*ERRORS):
            self._now.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal; not where nobody can say."""
        try:
            return bool(self._now.isatty())
        except ERRORS:
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._now, name)
