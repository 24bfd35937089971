"""Who holds a directory, and what the dead have left in it.

A lock is the kernel's (``flock``): it ends with the process that has it, however that ends. So a
directory that is being made, and that nobody has locked, was left by a process that is no more, and
only that is removed. Where a file system has no such locks nothing is removed, and nobody waits.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

Say = Callable[[str], None]

LOCK = "lock"
"""The file that whoever works in a directory has locked; it says who that is."""

UNFINISHED = "unfinished"
DELETED = "deleted"
EVERY = 0.2  # seconds between two tries
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)

_held: dict[tuple[str, int], int] = {}


@contextmanager
def alone(directory: str | os.PathLike[str], say: Say) -> Iterator[None]:
    """Be the only command at work in a directory; wait for the one that is.

    A thread that has the directory already has it again. A directory that cannot be made or written
    to is left to whoever writes there to complain of.

    Args:
        directory: where; it is made.
        say: told for whom we wait, or that nobody can be kept out.
    """
    place = Path(os.path.abspath(directory))
    key = (os.path.realpath(place), threading.get_ident())
    handle = _open(place) if key not in _held else None
    try:
        if handle is not None:
            _wait(handle, place, say)
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{_myself()}\n".encode(), 0)
        _held[key] = _held.get(key, 0) + 1
        try:
            yield
        finally:
            _held[key] -= 1
            if not _held[key]:
                del _held[key]
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
            os.close(handle)


def _open(place: Path) -> int | None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        return os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError:
        return None


def _wait(handle: int, place: Path, say: Say) -> None:
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _BUSY:
                say(
                    f"{place}: its file system cannot lock files ({error.strerror}): see to it "
                    "that no other soup command works there at the same time"
                )
                return
        if not told:
            told = True
            who = os.pread(handle, 300, 0).decode(errors="replace").strip()
            say(f"{place}: waiting for {who or 'another command'}, which is at work there")
        time.sleep(EVERY)


def _myself() -> str:
    words = [word for word in sys.argv[1:3] if word.isalpha()][:1]
    name = " ".join(["soup", *words]) if words else os.path.basename(sys.argv[0] or "python")
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return f"{name} (process {os.getpid()} on {os.uname().nodename}, since {since})"


@contextmanager
def unfinished(target: Path, say: Say | None = None) -> Iterator[Path]:
    """A new, hidden directory beside ``target``, to be filled and renamed; gone in the end.

    What dead processes have left there of ``target`` is removed.

    Args:
        target: what it is to become.
        say: told that we wait for another process that makes the same; None does not wait.

    Raises:
        OSError: it cannot be made.
    """
    told = False
    while True:
        with _locked_directory(target.parent) as certain:
            busy = sweep(target.parent, f".{target.name}.") if certain else []
            if say is None or not busy:
                made, handle = _make(target.parent, f".{target.name}.{UNFINISHED}-{os.getpid()}-")
                break
        if not told:
            told = True
            number = busy[0].name.split("-")[-2] if busy[0].name.count("-") > 1 else "?"
            say(f"{target}: waiting for another command that writes it (process {number})")
        time.sleep(EVERY)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(handle)


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A new directory among the system's temporary ones; those of the dead are removed.

    Raises:
        OSError: it cannot be made.
    """
    place = Path(tempfile.gettempdir())
    for entry in place.glob(f"{prefix}*"):
        _remove_if_dead(entry)
    made, handle = _make(place, prefix)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(handle)


def delete(directory: Path) -> None:
    """Delete a directory; if we end halfway, what is left is hidden, and goes the next time.

    Raises:
        OSError: it cannot be renamed.
    """
    hidden = tempfile.mkdtemp(prefix=f".{directory.name}.{DELETED}-", dir=directory.parent)
    os.rename(directory, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def sweep(place: Path, prefix: str) -> list[Path]:
    """Remove what dead processes have left; what is there of living ones is returned."""
    busy = []
    for word in (UNFINISHED, DELETED):
        for entry in place.glob(f"{_literal(prefix)}{word}-*"):
            if not _remove_if_dead(entry) and word == UNFINISHED and entry.exists():
                busy.append(entry)
    return busy


def _remove_if_dead(directory: Path) -> bool:
    """Remove a directory that nobody has locked; whether that was so."""
    try:
        if directory.is_symlink() or directory.stat().st_uid != os.getuid():
            return False
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _make(place: Path, prefix: str) -> tuple[Path, int]:
    """A new directory, and the descriptor by which it is locked."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        try:
            handle = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # taken for a dead one's, before it was locked
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        if made.exists():
            return made, handle
        os.close(handle)


@contextmanager
def _locked_directory(place: Path) -> Iterator[bool]:
    """Whether a directory could be locked, for a moment."""
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            certain = True
        except OSError:
            certain = False
        yield certain
    finally:
        os.close(handle)


def _literal(text: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in text)
