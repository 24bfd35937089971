"""What commands that were killed have left among the answers; see also ``soup.holding``."""

import contextlib
import os
from collections.abc import Collection
from pathlib import Path

from soup.evaluators.engines.kept import ANSWERS
from soup.evaluators.kit.finished import NAME


def remove_leavings(folder: Path, recorded: Collection[str]) -> None:
    """Remove what killed processes have left: answers of results that were recorded, and files
    that were not whole.

    Args:
        folder: where answers are kept.
        recorded: the keys of all results that there are.
    """
    beginnings = {key[:NAME] for key in recorded}
    for file in folder.glob("*") if folder.is_dir() else ():
        name, _, number = file.name.rpartition(".")
        partial = number.isdecimal() and bool(name) and not lives(int(number))
        done = file.suffix == ANSWERS and file.stem in beginnings
        if partial or done:
            with contextlib.suppress(OSError):
                file.unlink()


def lives(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
