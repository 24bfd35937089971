"""Progress in a terminal: lines that are drawn anew; anywhere else a plain line now and then."""

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from soup.events import Event, Note
from soup.watching import lines
from soup.watching.tasks import Task, Tasks
from soup.words import folded

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LINE_EVERY = 10.0  # seconds between plain lines, at least
REDRAWN = 8  # times a second
BAR = 20  # characters
SHORT = 10  # the same, of each of several workers
SHOWN = 16  # workers with a line each


class Watch:
    """An observer that shows events on a console. Use it as a context manager.

    It may be entered again while it is, and told of events at any time, by any thread.
    """

    reentrant = True

    def __init__(self, console: "Console", quiet: bool = False, *, lines: bool = True) -> None:
        """On a console.

        Args:
            console: where to; in a terminal the lines vanish in the end, notes stay.
            quiet: show nothing but warnings.
            lines: where it is no terminal, print a line now and then.
        """
        self._console = console
        self._quiet = quiet
        self._lines = lines
        self._tasks = Tasks()
        self._lock = threading.Lock()
        self._printed = time.monotonic()
        self._entered = 0
        self._live: Any = None

    def __enter__(self) -> "Watch":
        self._entered += 1
        if self._entered == 1 and not self._quiet and is_screen(self._console):
            self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered -= 1
        if self._entered == 0 and self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Note):
            if event.warning or not self._quiet:
                self._print(
                    f"warning: {event.text}" if event.warning else event.text, event.warning
                )
            return
        self._tasks.take(event)
        if self._live is None and self._lines and not self._quiet:
            self._print_now_and_then()

    def _start(self) -> None:
        from rich.errors import LiveError
        from rich.live import Live

        from soup.watching.anchored import Anchored

        live = Live(
            console=self._console,
            get_renderable=self._drawn,
            refresh_per_second=REDRAWN,
            transient=True,
            vertical_overflow="crop",
        )
        live._live_render = Anchored(live.get_renderable(), vertical_overflow="crop")
        try:
            live.start()
        except LiveError:  # the caller draws on this console
            return
        self._live = live

    def _print(self, text: str, warning: bool = False) -> None:
        style = "yellow" if warning else ""
        text = folded(text, self._console.width if self._console.is_terminal else None)
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def _print_now_and_then(self) -> None:
        with self._lock:  # or two threads print the same line
            now = time.monotonic()
            if now - self._printed < LINE_EVERY:
                return
            self._printed = now
        scene = self._tasks.scene()
        text = lines.whole(scene, labels=True)
        if not text and scene.tasks:
            text = ": ".join(lines.task(scene.tasks[0]))
        if text:
            self._print(text)

    def _drawn(self) -> "RenderableType":
        """The line of the whole, then a bar for each task."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        scene = self._tasks.scene()
        width = self._console.width - 1  # a full line would make some terminals wrap
        parts: list[RenderableType] = []
        whole = lines.whole(scene, width)
        if whole:
            parts.append(Text(whole, style="bold", no_wrap=True, overflow="crop"))
        if scene.crew is not None and scene.evaluations:
            parts.append(Text(lines.shortened(lines.crew(scene.crew), width), no_wrap=True))

        def row(name: str, text: str, one: Task | None, bar: int) -> None:
            cells: list[RenderableType] = [Text(name, no_wrap=True)]
            if one is not None:
                cells.append(ProgressBar(total=max(one.total, 1), completed=one.done, width=bar))
            grid = Table.grid(padding=(0, 1, 0, 0))
            grid.add_row(*cells, Text(text, no_wrap=True))
            parts.append(grid)

        asked = {evaluation.task for evaluation in scene.evaluations}
        workers = scene.workers if scene.crew is not None else {}
        for one in scene.tasks:
            if one.who not in workers:
                alone = one.name in asked and len(asked) == 1  # the line above has its counts
                name, text = lines.task(one, counted=not alone)
                room = width - BAR - 1 - (len(text) + 1 if text else 0)
                row(lines.shortened(name, max(room, 1)), text, one, BAR)
        if not scene.evaluations:  # what they are still at is for nothing
            workers = {}
        shown = [
            (who, doing, *lines.worker(doing, scene.speeds.get(who)))
            for who, doing in list(workers.items())[:SHOWN]
        ]
        longest = max((len(text) for *_, text in shown), default=0)
        for who, doing, name, text in shown:
            room = max(width - SHORT - 4 - len(who) - longest, 1)
            row(f"{who}: {lines.shortened(name, room):{room}}", text, doing, SHORT)
        if len(workers) > SHOWN:
            parts.append(Text(f"and {len(workers) - SHOWN} more workers"))
        return Group(*parts)


def is_screen(console: "Console") -> bool:
    """Whether lines can be drawn anew there: a terminal indeed, whatever is said of colours."""
    return console.file.isatty() and not console.is_dumb_terminal
