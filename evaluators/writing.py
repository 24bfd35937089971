"""Files that are there whole, or as they were; what keeps one from being written is one line."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from soup.errors import ScoringError


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file, in a directory that is made; it is all there, or as it was.

    Raises:
        ScoringError: it cannot be written.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn what keeps a file from being written into one line."""
    try:
        yield
    except OSError as error:
        raise ScoringError(
            f"{file}: cannot be written: {error.strerror}; free some room, the same command goes on"
        ) from error
