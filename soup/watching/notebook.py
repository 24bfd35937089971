"""Progress in a notebook: one place below the cell, written anew as the work goes on."""

import html
import sys
import threading
import time
from importlib import import_module
from types import TracebackType
from typing import Any

from soup.events import Event, Note
from soup.watching import lines
from soup.watching.tasks import Tasks

EVERY = 0.25  # seconds between two drawings, at least
NOTES = 100  # newest notes that are shown


class NotebookWatch:
    """An observer that shows events below the cell that runs. Use it as a context manager.

    It may be entered again while it is, and told of events at any time, by any thread.
    """

    reentrant = True

    def __init__(self, quiet: bool = False) -> None:
        """``quiet`` shows nothing but warnings."""
        self._quiet = quiet
        self._tasks = Tasks()
        self._lock = threading.Lock()
        self._notes: list[Note] = []
        self._drawn = 0.0
        self._entered = 0
        self._place: Any = None

    def __enter__(self) -> "NotebookWatch":
        self._entered += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._entered -= 1
        if self._entered == 0:
            with self._lock:
                self._tasks = Tasks()  # only notes stay
                self._draw()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            if isinstance(event, Note):
                if event.warning or not self._quiet:
                    self._notes = [*self._notes, event][-NOTES:]
                    self._draw()
                return
            self._tasks.take(event)
            if not self._quiet and time.monotonic() - self._drawn >= EVERY:
                self._draw()

    def text(self) -> str:
        """What is shown, as plain lines."""
        scene = self._tasks.scene()
        shown = [("warning: " if note.warning else "") + note.text for note in self._notes]
        if not self._quiet:
            shown += [lines.whole(scene)]
            if scene.crew is not None and scene.evaluations:
                shown += [lines.crew(scene.crew)]
            shown += [": ".join(filter(None, lines.task(one))) for one in scene.tasks]
        return "\n".join(filter(None, shown))

    def _draw(self) -> None:
        display: Any = import_module("IPython.display").display
        self._drawn = time.monotonic()
        text = self.text()
        if not text and self._place is None:
            return
        content = {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}
        if self._place is None:
            self._place = display(content, raw=True, display_id=True)
        else:
            self._place.update(content, raw=True)


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    python: Any = sys.modules.get("IPython")  # where it is not imported there is no kernel
    shell = python.get_ipython() if python is not None else None
    return shell is not None and hasattr(shell, "kernel")
