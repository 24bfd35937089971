"""Progress for people: bars in a terminal, a plain line now and then in CI."""

import time
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from soup.events import Event, Note, Progress

LINE_EVERY = 10.0  # seconds between plain lines of one task


class _Counted(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        return Text(f"{amount(task.completed, unit)}/{amount(task.total or 0, unit, named=True)}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{amount(speed, task.fields['unit'], named=True)}/s" if speed else "")


def amount(count: float, unit: str, *, named: bool = False) -> str:
    """A count for people: bytes as kB, MB, …; anything else with its unit, where named."""
    if unit == "B":
        return decimal(int(count))
    return f"{count:,.0f} {unit}" if named else f"{count:,.0f}"


class Watch:
    """An observer that shows events on a console (standard error)."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._bars: Bars | None = None
        self._task: tuple[str, TaskID] | None = None
        self._line = _Line("", 0.0, 0.0, 0)

    def __enter__(self) -> "Watch":
        if self._console.is_terminal and not self._quiet:
            self._bars = Bars(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                _Counted(),
                _Rate(),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Note):
            if not self._quiet or event.warning:
                style = "yellow" if event.warning else ""
                mark = "warning: " if event.warning else ""
                self._console.print(
                    f"{mark}{event.text}", style=style, markup=False, highlight=False
                )
        elif self._bars is not None:
            self._show(self._bars, event)
        elif not self._quiet:
            self._print(event)

    def _show(self, bars: Bars, event: Progress) -> None:
        """One bar: the work at hand; what is finished disappears."""
        if self._task is None or self._task[0] != event.task:
            if self._task is not None:
                bars.remove_task(self._task[1])
            self._task = (event.task, bars.add_task(event.task, total=event.total, unit=event.unit))
        bars.update(self._task[1], completed=event.done, total=event.total)

    def _print(self, event: Progress) -> None:
        now = time.monotonic()
        if self._line.task != event.task:
            self._line = _Line(event.task, now, now, event.done)
        finished = event.done >= event.total
        waited = now - self._line.printed >= LINE_EVERY
        if waited or (finished and event.unit != "B"):
            seconds = max(now - self._line.started, 1e-9)
            done = event.done - self._line.first
            rate = amount(done / seconds, event.unit, named=True)
            total = amount(event.total, event.unit, named=True)
            left = seconds / max(done, 1) * (event.total - event.done)
            rest = "" if finished else f", {left:.0f} s left"
            self._console.print(
                f"{event.task}: {amount(event.done, event.unit)} of {total}, {rate}/s{rest}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
            self._line = _Line(event.task, self._line.started, now, self._line.first)


class _Line:
    def __init__(self, task: str, started: float, printed: float, first: int) -> None:
        self.task = task
        self.started = started
        self.printed = printed
        self.first = first
