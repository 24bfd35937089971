"""Lines that are drawn anew: where the cursor waits, and what is left of them."""

import io
from collections.abc import Iterator
from itertools import count

import pyte
import pytest
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from soup.events import Evaluation
from soup.watching.anchored import Anchored
from soup.watching.terminal import Watch

COLUMNS = 40


class Screen:
    """A file that is a terminal's screen."""

    def __init__(self) -> None:
        self.screen = pyte.Screen(COLUMNS, 12)
        self._stream = pyte.Stream(self.screen)

    def write(self, text: str) -> int:
        """What a terminal does with it; a line break returns to the first column."""
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def isatty(self) -> bool:
        """It is drawn on."""
        return True

    @property
    def lines(self) -> list[str]:
        """Down to the last that is not empty."""
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip().splitlines()


@pytest.fixture
def screen() -> Screen:
    """An empty one."""
    return Screen()


def block(counts: Iterator[int], lines: int) -> Group:
    """Lines of the whole width that change each time."""
    number = next(counts)
    return Group(*(Text(f"{number} " + "x" * (COLUMNS - 3)) for _ in range(lines)))


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_the_cursor_waits_at_the_first_line_and_nothing_is_left(screen: Screen, lines: int) -> None:
    """So what a terminal has folded, or echoed there, is erased with it; what is printed stays."""
    console = Console(file=screen, width=COLUMNS, height=12, force_terminal=True)  # type: ignore[arg-type]
    console.print("above")
    counts = count()
    live = Live(
        console=console,
        get_renderable=lambda: block(counts, lines),
        auto_refresh=False,
        transient=True,
    )
    live._live_render = Anchored("")
    live.start(refresh=True)
    for shown in (["above"], ["above", "a note", "and another"]):
        if len(shown) > 1:
            console.print("a note\nand another")
        live.refresh()
        assert screen.lines[: len(shown)] == shown
        assert len(screen.lines) == len(shown) + lines
        assert (screen.screen.cursor.y, screen.screen.cursor.x) == (len(shown), 0)
        screen.write("^C")
        live.refresh()
        assert not any("^C" in line for line in screen.lines)
    live.stop()
    assert screen.lines == ["above", "a note", "and another"]
    assert (screen.screen.cursor.y, screen.screen.cursor.x) == (3, 0)


def test_what_a_narrower_terminal_has_folded_is_erased(screen: Screen) -> None:
    """Two lines that have become four."""
    output = io.StringIO()
    console = Console(file=output, width=COLUMNS, height=12, force_terminal=True)
    live = Live(console=console, auto_refresh=False, transient=True)
    live._live_render = Anchored("")
    live.start()
    live.update(Text("first\nsecond"), refresh=True)
    output.truncate(0)
    live.refresh()
    screen.write("above\n" + "folded\n" * 4)
    screen.screen.cursor_up(4)  # a terminal keeps the cursor at its line
    screen.write(output.getvalue().lstrip("\0"))
    assert screen.lines == ["above", "first", "second"]
    live.stop()


def test_progress_is_drawn_so(screen: Screen) -> None:
    """The observer of the command line."""
    console = Console(file=screen, width=COLUMNS, height=12, force_terminal=True)  # type: ignore[arg-type]
    console.print("above")
    with Watch(console) as watch:
        watch(Evaluation(4, 11, "c (4 of 6)", "MMStar", "c on MMStar", 1500))
        assert watch._live is not None
        watch._live.refresh()
        assert screen.lines[1].startswith("evaluation 4 of 11")
        assert (screen.screen.cursor.y, screen.screen.cursor.x) == (1, 0)
    assert screen.lines == ["above"]
