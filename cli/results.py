"""A leaderboard to where it was asked for: terminal, standard output, files."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import soup
from soup.choosing.journal import FILE, now
from soup.choosing.leaderboard import About, Leaderboard
from soup.cli import board as boards
from soup.cli import console
from soup.cli.fetching import watched
from soup.cli.options import LookOptions, PoolOptions, ShowOptions
from soup.errors import OutputError, SoupError, UsageError

if TYPE_CHECKING:
    from soup.settings import Settings

SUMMARY = "GITHUB_STEP_SUMMARY"


def show(board: Leaderboard, display: ShowOptions | LookOptions) -> None:
    """Write a leaderboard as the options say.

    Raises:
        OutputError: a file cannot be written.
    """
    if _write(board, display):
        return
    if not display.quiet:
        boards.leaderboard(board, console.out)
    elif board.soup is not None:
        print(board.soup.out)


def _write(board: Leaderboard, display: ShowOptions | LookOptions) -> bool:
    """Write the documents that were asked for; whether one of them is on standard output."""
    return write_documents(display, board.to_json, board.to_markdown)


def write_documents(
    display: ShowOptions | LookOptions, as_json: Callable[[], str], as_markdown: Callable[[], str]
) -> bool:
    """Write what machines read, where it was asked for; whether standard output is taken by it.

    Raises:
        OutputError: a file cannot be written.
    """
    to_stdout = False
    for file, text in ((display.json, as_json), (display.markdown, as_markdown)):
        if file is None:
            continue
        if str(file) == "-":
            sys.stdout.write(text())
            to_stdout = True
        elif is_step_summary(file):
            append_text(file, text() + "\n")
        else:
            write_text(file, text())
    return to_stdout


def is_step_summary(file: Path) -> bool:
    """Whether this is where GitHub's CI collects Markdown of all steps of a job."""
    summary = os.environ.get(SUMMARY)
    return bool(summary) and os.path.realpath(file) == os.path.realpath(str(summary))


@contextmanager
def failure_shown(kind: str, settings: "Settings", display: ShowOptions) -> Iterator[None]:
    """Where a run fails, its documents say so, instead of holding yesterday's result."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if display.json is not None or display.markdown is not None:
            with contextlib.suppress(OutputError):  # what ended the run is told, not this
                _write(_failed(kind, settings, error), display)
        raise


def open_pool(
    kind: str, pool: PoolOptions, settings: "Settings", quiet: bool = False
) -> "soup.Pool":
    """The pool of a run; where it cannot be opened, that is recorded beside earlier runs.

    What is elsewhere is fetched, with progress unless ``quiet``.

    Raises:
        SoupError: see ``Pool.open``.
    """
    try:
        with watched(pool, quiet) as observe:
            return soup.Pool.open(
                *pool.ckpts,
                dtype=settings.dtype,
                base=pool.base,
                reference=pool.reference,
                processor=pool.processor,
                cache=pool.cache,
                observe=observe,
            )
    except UsageError:
        raise
    except SoupError as error:
        if (Path(settings.work) / FILE).exists():  # a first run has nothing to be mistaken for
            from soup.choosing.attempts import record_failure

            record_failure(kind, asdict(settings), error)
        raise


def _failed(kind: str, settings: "Settings", error: BaseException) -> Leaderboard:
    """What is to be said of a run that has just failed."""
    from soup.choosing.attempts import circumstances, in_words

    with contextlib.suppress(SoupError):
        found = soup.show(settings.work)
        if found.error == in_words(error) and not isinstance(error, UsageError):
            return found
    about = circumstances(asdict(settings))
    return Leaderboard(
        kind,
        tuple(map(str, settings.benchmarks)),
        tuple(map(str, settings.holdouts)),
        (),
        finished=False,
        error=in_words(error),
        about=About("", now(), about["versions"], about["settings"]),
    )


def require_places(display: ShowOptions) -> None:
    """Raises OutputError, before hours of work, where ``show`` could not write in the end."""
    for file in (display.json, display.markdown):
        if file is None or str(file) == "-":
            continue
        if file.is_dir():
            raise OutputError(f"{file}: cannot be written: it is a directory")
        if not os.access(file.parent, os.W_OK):
            found = "not writable" if file.parent.is_dir() else "no such directory"
            raise OutputError(f"{file}: cannot be written: {file.parent}: {found}")


def append_text(file: Path, text: str) -> None:
    """Add to a file.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with file.open("a", encoding="utf-8", errors="backslashreplace") as opened:
            opened.write(text)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error


def write_text(file: Path, text: str) -> None:
    """Write a file whole.

    Raises:
        OutputError: it cannot be written; what was there is there still.
    """
    try:
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(file)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
