"""Whether there is room for a result, and what to say where there is none."""

import shutil
from pathlib import Path

from soup.errors import OutputError


def require_room(needed: int, target: Path) -> None:
    """There are ``needed`` bytes free where ``target`` will be.

    Raises:
        OutputError: there are not.
        OSError: its parent is not there.
    """
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise OutputError(
            f"{target}: needs {needed / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free there"
        )


def unwritable(target: Path, error: OSError) -> OutputError:
    """What to raise of an error of the disk."""
    return OutputError(f"{target}: cannot be written: {error.strerror or error}")
