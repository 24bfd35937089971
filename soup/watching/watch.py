"""Whoever watches a run, where it runs: in a notebook, in a terminal, or in a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, Protocol, TextIO, cast, runtime_checkable

from soup.events import Event, Observer, ignore


@runtime_checkable
class Watching(Protocol):
    """An observer that begins and ends, and may be entered again in between."""

    reentrant: bool

    def __call__(self, event: Event) -> None:
        """Show one event."""
        ...

    def __enter__(self) -> Any:
        """Begin to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        ...


def watch(quiet: bool = False) -> Watching:
    """An observer that shows progress: below a notebook's cell, or on standard error.

    A terminal has lines that are drawn anew and vanish in the end; anything else gets a plain line
    every ten seconds at most. ``soup.make(…, observe=soup.watch())`` is enough; around several runs
    use it as a context manager.

    Args:
        quiet: nothing but warnings.
    """
    from soup.watching.notebook import NotebookWatch, in_notebook

    if in_notebook():
        return NotebookWatch(quiet)
    from rich.console import Console

    from soup.watching.steadfast import Steadfast
    from soup.watching.terminal import Watch

    return Watch(Console(file=cast("TextIO", Steadfast())), quiet)


@contextmanager
def around(observe: Observer | None) -> Iterator[Observer]:
    """The observer of one run, shown from its beginning to its end.

    Args:
        observe: None is ``watch`` in a notebook and in a terminal, and nobody elsewhere.
    """
    if observe is None:
        observe = _usual()
    with observe if isinstance(observe, Watching) else nullcontext():
        yield observe


def _usual() -> Observer:
    from soup.watching.notebook import in_notebook

    terminal = sys.stderr is not None and sys.stderr.isatty()
    return watch() if terminal or in_notebook() else ignore
