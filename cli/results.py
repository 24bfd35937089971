"""A leaderboard to where it was asked for: terminal, standard output, files."""

import os
import sys
from pathlib import Path

from soup.choosing.leaderboard import Leaderboard
from soup.cli import board as boards
from soup.cli import console
from soup.cli.options import ShowOptions
from soup.errors import OutputError


def show(board: Leaderboard, display: ShowOptions) -> None:
    """Write a leaderboard as the options say.

    Raises:
        OutputError: a file cannot be written.
    """
    to_stdout = False
    for file, text in ((display.json, board.to_json), (display.markdown, board.to_markdown)):
        if file is None:
            continue
        if str(file) == "-":
            sys.stdout.write(text())
            to_stdout = True
        else:
            _write_text(file, text())
    if to_stdout:
        return
    if not display.quiet:
        boards.leaderboard(board, console.out)
    elif board.soup is not None:
        print(board.soup.out)


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


def _write_text(file: Path, text: str) -> None:
    try:
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(file)
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
