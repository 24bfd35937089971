"""What may be looked at in a directory that a stranger made.

Regular files only: a pipe is never waited for, a device never read. No link leads out of the
directory, for what it leads to would be copied into a soup; but those of a hub's cache, whose
snapshots are links to its blobs, are what they are meant to be. A checkpoint's directory may itself
be a link. Counts and depths have bounds, so that nothing takes for ever.
"""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from soup.errors import CheckpointError

MOST = 20_000
"""Files beside each other and in folders of a checkpoint, at most."""

DEEPEST = 20
"""Folders within folders, at most."""

LARGEST = 1 << 25
"""Bytes of a JSON file that is parsed, at most; the largest indexes have some millions."""

BESIDE = 1 << 29
"""Bytes of any other file beside the weights, at most: it is copied into a soup. The largest
tokenizers have some 40 million."""

_BLOBS, _MODELS = "blobs", "models--"


def require_safe(entry: Path, home: Path) -> None:
    """A directory's entry is one that may be opened, or followed.

    A link to nothing is left to whoever reads it, who says what to do.

    Args:
        entry: in the directory, or in a folder of it.
        home: the directory, resolved.

    Raises:
        CheckpointError: it is a pipe, a device or a socket, or leads out of the directory.
        OSError: it cannot be looked at.
    """
    linked = entry.is_symlink()
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointError(
            f"{entry}: expected a regular file, found {_kind(mode)}; it is never opened: remove it"
        )
    if linked and not _within(target := entry.resolve(), home):
        raise CheckpointError(
            f"{entry}: a link that leads out of the checkpoint, to {target}, which would be copied "
            "into a soup; put a copy in its place (cp -RL), or remove it"
        )


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _within(target: Path, home: Path) -> bool:
    blob = target.parent.name == _BLOBS and target.parent.parent.name.startswith(_MODELS)
    return blob or home in (target, *target.parents)


def read_bounded(file: Path, most: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        ValueError: it is none, or larger than ``most`` bytes.
        OSError: it cannot be read.
    """
    with opened_regular(file, most) as stream:
        size = max(os.fstat(stream.fileno()).st_size, 1 << 16)  # /proc's files say 0
        return stream.read(min(size, most) + 1)  # room is made for all that is asked for


def opened_regular(file: Path, most: int | None = None) -> BinaryIO:
    """A regular file, opened to be read, without waiting for anybody.

    Raises:
        ValueError: it is none, or larger than ``most`` bytes.
        OSError: it cannot be read.
    """
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(handle)
        if stat.S_ISDIR(state.st_mode):
            raise IsADirectoryError(21, "Is a directory", str(file))
        if not stat.S_ISREG(state.st_mode):
            raise ValueError(f"expected a regular file, found {_kind(state.st_mode)}")
        if most is not None and state.st_size > most:
            raise ValueError(f"{state.st_size:,} bytes, expected {most:,} at most")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
