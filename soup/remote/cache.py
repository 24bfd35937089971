"""The cache of what was fetched: by content, safe to share, never half of a file under its name.

    CACHE/models--NAME-KEY/       one place, whatever its revision
        origin.json               its address, without secrets
        lock                      held by whoever fetches (``soup.holding``)
        blobs/BLAKE3              whole files, by content
        files/KEY                 which blob the file of a name and version is: a link
        partial/KEY.bytes, .parts what has arrived so far of a file, and which parts of it
        snapshots/REVISION/       the model: links to blobs; there only when it is complete
        outlines/REVISION/        the same, but of weights headers alone
        refs/REVISION             the last state seen of a branch, for offline use

The layout is that of a hub's cache where the two do the same. A snapshot that a process works with
is locked by it, shared, until its end; what is locked is never pruned.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from soup import holding
from soup.errors import OutputError
from soup.remote.address import Address

CACHE = "SOUP_CACHE"
"""The environment variable that says where the cache is."""

PREFIX = "models--"
SNAPSHOTS, OUTLINES, BLOBS, FILES, PARTIAL, REFS = (
    "snapshots",
    "outlines",
    "blobs",
    "files",
    "partial",
    "refs",
)
ORIGIN = "origin.json"

_held: dict[Path, int] = {}


def home(given: str | os.PathLike[str] | None = None) -> Path:
    """Where the cache is: as given, by ``SOUP_CACHE``, or ``soup`` in the user's cache."""
    found = os.fspath(given) if given is not None else os.environ.get(CACHE)
    if not found:
        found = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "soup")
    return Path(os.path.abspath(os.path.expanduser(found)))


@dataclass(frozen=True)
class Folder:
    """What the cache has of one place."""

    path: Path
    where: str

    @classmethod
    def of(cls, address: Address, cache: Path) -> "Folder":
        """The folder of an address, which need not be there."""
        from blake3 import blake3

        last = re.sub(r"[^\w.]+", "-", address.where.rpartition("/")[2])[:60].strip("-.") or "model"
        key = blake3(address.where.encode()).hexdigest()[:16]
        return cls(cache / f"{PREFIX}{address.scheme}-{last}-{key}", address.where)

    @contextmanager
    def alone(self, say: Callable[[str], None]) -> Iterator[None]:
        """Be the only one that fetches from this place; the folder is made."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not (self.path / ORIGIN).exists():
                write_text(self.path / ORIGIN, json.dumps({"address": self.where}) + "\n")
            for name in (SNAPSHOTS, OUTLINES, BLOBS, FILES, PARTIAL, REFS):
                (self.path / name).mkdir(exist_ok=True)
        except OSError as error:
            if not (self.path / SNAPSHOTS).is_dir():
                raise self.unwritable(error) from error  # one that others fill may still be read
        with holding.alone(self.path, say):
            yield

    def unwritable(self, error: OSError) -> OutputError:
        """What to say where the cache cannot be written."""
        return OutputError(
            f"{error.filename or self.path}: cannot be written: {error.strerror or error}; name "
            f"another place for what is fetched with --cache DIR or {CACHE}"
        )

    def snapshot(self, revision: str) -> Path | None:
        """The whole model at a revision, held from now on; None where it is not there."""
        found = self.path / SNAPSHOTS / revision
        return found if found.is_dir() and hold(found) else None

    def outline(self, revision: str) -> Path | None:
        """The model without its weights at a revision, held; None where it is not there."""
        found = self.path / OUTLINES / revision
        return found if found.is_dir() and hold(found) else None

    def remember(self, asked: str, revision: str) -> None:
        """What a branch was last seen at; an address without revisions is ``main``."""
        with contextlib.suppress(OSError):  # a cache that others fill
            write_text(self.path / REFS / _ref(asked), revision + "\n")

    def last(self, asked: str) -> str | None:
        """What was remembered of a branch; a revision that is here is itself."""
        if asked and (self.path / SNAPSHOTS / asked).is_dir():
            return asked
        try:
            return (self.path / REFS / _ref(asked)).read_text().strip()
        except OSError:
            return None

    def require_room(self, count: int) -> None:
        """There is room for so many bytes more.

        Raises:
            OutputError: there is not.
        """
        free = shutil.disk_usage(self.path).free
        if free < count:
            raise OutputError(
                f"{self.where}: {count / 1e9:.2f} GB are to be fetched, {free / 1e9:.2f} GB are "
                f"free at {self.path.parent}; make room (soup cache --keep SIZE), or name another "
                "place with --cache DIR"
            )

    def arrange(self, kind: str, revision: str, files: Mapping[str, Path | bytes]) -> Path:
        """Make a snapshot or an outline, whole or not at all, and hold it.

        Args:
            kind: ``SNAPSHOTS`` or ``OUTLINES``.
            revision: its name.
            files: by name, blobs to link to, or content.
        """
        target = self.path / kind / revision
        with holding.unfinished(target) as made:
            made.chmod(0o755)
            for name, what in files.items():
                file = made / name
                file.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(what, bytes):
                    file.write_bytes(what)
                else:
                    file.symlink_to(os.path.relpath(what, file.parent))
            made.rename(target)
        hold(target)
        return target


def _ref(asked: str) -> str:
    return re.sub(r"[^\w.-]", lambda found: f"%{ord(found[0]):02x}", asked or "main")


def write_text(file: Path, text: str) -> None:
    """Write a small file, whole or not at all."""
    made = file.with_name(f".{file.name}.{os.getpid()}")
    made.write_text(text)
    made.replace(file)


def hold(directory: Path) -> bool:
    """Keep others from pruning a directory until this process ends; whether it is there.

    It counts as used now.
    """
    if directory in _held:
        return True
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    with contextlib.suppress(OSError):  # file systems without locks; caches of others
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    with contextlib.suppress(OSError):
        os.utime(directory)
    if not directory.is_dir():  # pruned in between
        os.close(handle)
        return False
    _held[directory] = handle
    return True


@dataclass(frozen=True)
class Kept:
    """One model in the cache.

    Attributes:
        where: its address.
        revision: which state of it; empty for what is not whole.
        path: its directory.
        bytes: of its files; what two have in common counts for both.
        used: when it was last opened, in seconds since 1970.
    """

    where: str
    revision: str
    path: Path
    bytes: int
    used: float


def kept(cache: Path) -> list[Kept]:
    """What is there, the last used first."""
    found = []
    for folder in _folders(cache):
        whole = _inside(folder / SNAPSHOTS)
        names = {path.name for path in whole}
        for path in [*whole, *(p for p in _inside(folder / OUTLINES) if p.name not in names)]:
            size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            found.append(Kept(_where(folder), path.name, path, size, path.stat().st_mtime))
        if size := _size(_inside(folder / PARTIAL)):
            used = (folder / PARTIAL).stat().st_mtime
            found.append(Kept(_where(folder), "", folder / PARTIAL, size, used))
    return sorted(found, key=lambda one: -one.used)


def total(cache: Path) -> int:
    """Bytes that the cache takes."""
    return sum(
        _size(_inside(folder / part)) for folder in _folders(cache) for part in (BLOBS, PARTIAL)
    )


def prune(cache: Path, most: int) -> tuple[list[Kept], list[Kept]]:
    """Delete what was used longest ago, until no more than so many bytes are there.

    Returns:
        What was deleted, and what would have been, but is in use.
    """
    gone, busy = [], []
    for one in reversed(kept(cache)):
        if total(cache) <= most:
            break
        folder = one.path.parent if one.path.name == PARTIAL else one.path.parent.parent
        with _locked(folder) as free:
            if free and (not one.revision or _delete_free(one.path)):
                outline = folder / OUTLINES / one.path.name
                if one.revision and outline.is_dir():
                    _delete_free(outline)
                if not one.revision:
                    for file in _inside(one.path):
                        file.unlink(missing_ok=True)
                _sweep(folder)
                gone.append(one)
            else:
                busy.append(one)
    return gone, busy


def _sweep(folder: Path) -> None:
    """Delete blobs that no snapshot and no outline links to."""
    linked = {
        os.path.realpath(file)
        for kind in (SNAPSHOTS, OUTLINES)
        for file in (folder / kind).rglob("*")
        if file.is_symlink()
    }
    for blob in _inside(folder / BLOBS):
        if os.path.realpath(blob) not in linked:
            blob.unlink(missing_ok=True)
    for link in _inside(folder / FILES):
        if not link.exists():
            link.unlink(missing_ok=True)


def _delete_free(directory: Path) -> bool:
    """Delete a directory that nobody holds; whether that was so."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holding.delete(directory)
            return True
        return False
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether nobody fetches into a folder; nobody does meanwhile."""
    handle = os.open(folder / holding.LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


def _folders(cache: Path) -> list[Path]:
    return [path for path in sorted(cache.glob(f"{PREFIX}*")) if (path / ORIGIN).is_file()]


def _inside(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _size(files: Iterable[Path]) -> int:
    """Bytes on the disk: of what has arrived in part, no more than that."""
    return sum(os.stat(file).st_blocks * 512 for file in files)


def _where(folder: Path) -> str:
    try:
        return str(json.loads((folder / ORIGIN).read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name
