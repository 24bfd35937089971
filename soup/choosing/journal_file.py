"""The journal's file: locked while somebody works with it, and read line by line.

A journal of 10⁵ results has a hundred MB, of which a command needs a handful of lines. So lines are
looked at as they come, none is kept, and those that are asked for are read again: from the same
file, whatever has taken its name by then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from soup.choosing.records import head_of
from soup.errors import JournalError

STEP = 1 << 20
"""Bytes read at once: what a processor's caches hold."""

LINE = 1 << 13
"""Bytes in which most lines lie whole."""


class Lines:
    """A file's lines, one after the other; and each of them again, for as long as this lives."""

    def __init__(self, path: Path) -> None:
        """``path`` is what the file is called in errors."""
        self._path = path
        self._handle: int | None = None

    def of(self, handle: int) -> Iterator[bytes]:
        """All lines of an open file with their ends; the last one need not have one."""
        self._handle = os.dup(handle)
        weakref.finalize(self, os.close, self._handle)
        with os.fdopen(os.dup(handle), "rb", buffering=STEP) as file:
            file.seek(0)
            yield from file

    def at(self, start: int) -> bytes:
        """The line that begins at a byte, without its end.

        Raises:
            JournalError: it cannot be read, or is not any more as it was written.
        """
        assert self._handle is not None, "no line has been read"
        try:
            line = _line(self._handle, start)
        except OSError as error:
            raise JournalError(f"{self._path}: cannot be read: {error.strerror}") from error
        if head_of(line) is None:
            raise JournalError(
                f"{self._path}: a record was damaged after it had been read "
                f"({line[:60].decode(errors='replace')!r} …); run the same command again"
            )
        return line


def _line(handle: int, start: int) -> bytes:
    found, size = b"", LINE
    while piece := os.pread(handle, size, start + len(found)):
        end = piece.find(b"\n")
        if end >= 0:
            return found + piece[:end]
        found += piece
        size *= 2
    return found


def lines(content: bytes) -> Iterator[bytes]:
    """Lines without their ends; the last one need not have one. Empty ones are none."""
    start, size = 0, len(content)
    while start < size:
        end = content.find(b"\n", start)
        end = size if end < 0 else end
        if end > start:
            yield content[start:end]
        start = end + 1


def whole(handle: int) -> bytes:
    """Everything in an open file."""
    with os.fdopen(os.dup(handle), "rb", buffering=0) as file:
        file.seek(0)
        return file.read()


@contextmanager
def locked(path: Path, flags: int, how: int) -> Iterator[int]:
    """A descriptor of the file that is there, locked for as long as the context lasts.

    Where the file system has no locks there is none: lines are written whole, in one call.

    Raises:
        OSError: it cannot be opened.
    """
    while True:
        handle = os.open(path, flags | os.O_NONBLOCK, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):  # a pipe would never be at its end
                raise OSError(errno.EINVAL, "expected a regular file")
            with contextlib.suppress(OSError):
                fcntl.flock(handle, how)
            if _is_there(handle, path):  # or it was written anew before the lock was ours
                yield handle
                return
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)  # whoever has a copy of the handle has it, too
            os.close(handle)


def _is_there(handle: int, path: Path) -> bool:
    try:
        there, here = path.stat(), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def flush(directory: Path) -> None:
    """Have the disk know what a directory's files are called."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
