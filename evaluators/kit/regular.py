"""Files of a user's, read whole: regular ones only, and none larger than it can be meant to be."""

import os
import stat
from pathlib import Path

PIECE = 1 << 24
"""Bytes that are asked for at once: Python makes room for all of them before it reads."""


class Unreadable(Exception):
    """A file cannot be read, or should not be; the message says why, without its path."""


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file, links followed.

    A pipe, a device or a socket is never waited for, nor read.

    Args:
        path: where.
        most: bytes.

    Raises:
        Unreadable: it is not there, not regular, larger than ``most``, or the disk fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            state = os.fstat(handle)
            if stat.S_ISDIR(state.st_mode):
                raise Unreadable("found a directory")
            if not stat.S_ISREG(state.st_mode):
                raise Unreadable("it is a pipe or a device; expected a regular file")
            if state.st_size > most:
                raise Unreadable(f"it has {state.st_size:,} bytes; expected {most:,} at most")
            pieces, size = [], 0  # /proc says of its files that they are empty
            while size <= most and (piece := stream.read(PIECE)):  # room for ``most`` may not be
                pieces.append(piece)
                size += len(piece)
            content = b"".join(pieces)
    except OSError as error:
        if isinstance(error, IsADirectoryError):
            raise Unreadable("found a directory") from error
        missing = isinstance(error, FileNotFoundError)
        raise Unreadable("no such file" if missing else error.strerror or str(error)) from error
    except ValueError as error:  # a NUL in the path
        raise Unreadable("no such file") from error
    if len(content) > most:
        raise Unreadable(f"it has more than {most:,} bytes")
    return content
