"""Lines that are drawn anew from where they start, whatever the terminal has made of them since.

rich leaves the cursor behind the last line, and goes up as many rows as it has drawn. A terminal
that has become narrower may hold more: it folds lines anew. The same is true of the ``^C`` that it
echoes behind a line that is full. Here the cursor waits at the start of the first line, which stays
with it, and everything from there on is erased.
"""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions
from rich.control import Control
from rich.live_render import LiveRender
from rich.segment import ControlType, Segment

ERASE = "\r\x1b[J"
"""To the start of the row; erases it and all below."""


class Anchored(LiveRender):
    """What rich's ``Live`` draws by, with another place for the cursor."""

    def position_cursor(self) -> Control:
        """Erases what was drawn."""
        return _control(ERASE) if self._shape else Control()

    def restore_cursor(self) -> Control:
        """Erases what was drawn, after the line break with which ``Live`` ends."""
        height = self._shape[1] if self._shape else 0
        return _control(f"\x1b[A{ERASE}" if height else "\r")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """The lines, and the way back to their start."""
        yield from super().__rich_console__(console, options)  # type: ignore[misc]
        height = self._shape[1] if self._shape else 0
        up = f"\x1b[{height - 1}A" if height > 1 else ""
        yield _control(f"{up}\r").segment


def _control(codes: str) -> Control:
    """Codes of which rich has no type."""
    control = Control()
    control.segment = Segment(codes, None, [(ControlType.CARRIAGE_RETURN,)])
    return control
