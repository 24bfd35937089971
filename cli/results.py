"""A leaderboard to where it was asked for: terminal, standard output, files."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from soup.choosing.leaderboard import Leaderboard
from soup.cli import render
from soup.errors import OutputError


def show(board: Leaderboard, given: dict[str, Any], console: Console) -> None:
    """Write a leaderboard as ``json``, ``markdown`` and ``quiet`` in the options say.

    Raises:
        OutputError: a file cannot be written.
    """
    to_stdout = False
    for key, text in (("json", board.to_json), ("markdown", board.to_markdown)):
        file: Path | None = given[key]
        if file is None:
            continue
        if str(file) == "-":
            sys.stdout.write(text())
            to_stdout = True
        else:
            _write_text(file, text())
    if to_stdout:
        return
    if not given["quiet"]:
        render.leaderboard(board, console)
    elif board.soup is not None:
        print(board.soup.out)


def require_places(given: dict[str, Any]) -> None:
    """Raises OutputError, before hours of work, where ``show`` could not write in the end."""
    for key in ("json", "markdown"):
        file: Path | None = given[key]
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
