"""A leaderboard to where it was asked for: terminal, standard output, files."""

import os
import sys
from pathlib import Path

from soup.choosing.leaderboard import Leaderboard
from soup.cli import console, render
from soup.cli.options import ShowOptions
from soup.errors import OutputError


def show(board: Leaderboard, display: ShowOptions) -> None:
    """Write a leaderboard as the options say.

    Raises:
        OutputError: a file cannot be written.
    """
    if write_documents(display, board.to_json(), board.to_markdown()):
        return
    if not display.quiet:
        render.leaderboard(board, console.out)
    elif board.soup is not None:
        print(board.soup.out)


def write_documents(display: ShowOptions, as_json: str, as_markdown: str) -> bool:
    """Write what machines read, where it was asked for; whether standard output is taken by it.

    Raises:
        OutputError: a file cannot be written.
    """
    to_stdout = False
    for file, text in ((display.json, as_json), (display.markdown, as_markdown)):
        if file is None:
            continue
        if str(file) == "-":
            sys.stdout.write(text)
            to_stdout = True
        else:
            _write_text(file, text)
    return to_stdout


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
