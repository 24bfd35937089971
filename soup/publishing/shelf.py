"""The directory where soups are published: dated models, a link to the one in use, the history.

    DIR/2026-11-26/      a soup, as any command writes it
    DIR/2026-11-27/
    DIR/latest           a link to the one in use, swapped in one step
    DIR/nights.jsonl     a line for each night: verdict, gain, what was left out

Whoever serves ``DIR/latest`` sees one whole soup or the other, at any time.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup import holding
from soup.blending.writer import MANIFEST
from soup.errors import OutputError
from soup.publishing import diary
from soup.publishing.diary import Diary

LATEST = "latest"
NIGHTS = "nights.jsonl"
DATED = re.compile(r"(\d{4}-\d{2}-\d{2})(?:-(\d+))?")


@dataclass(frozen=True)
class Shelf:
    """A place to publish in.

    Attributes:
        path: the directory.
    """

    path: Path

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, create: bool = True, whole: bool = True
    ) -> "Shelf":
        """The shelf at a path.

        Args:
            path: the directory.
            create: make it where there is none.
            whole: its link, where there is one, must lead to a soup.

        Raises:
            OutputError: it cannot be made or written to, or its link leads to no soup.
        """
        shelf = cls.at(path)
        try:
            if create:
                shelf.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{path}: cannot be published in: {error.strerror}") from error
        if not shelf.path.is_dir():
            raise OutputError(f"{path}: expected a directory that soups were published in")
        if not os.access(shelf.path, os.W_OK):
            raise OutputError(f"{path}: cannot be published in: not writable")
        link = shelf.path / LATEST
        if link.exists() and not link.is_symlink():
            raise OutputError(f"{link}: expected a link to a soup; choose another --publish")
        if whole and link.is_symlink() and shelf.current is None:
            raise OutputError(
                f"{link}: leads to {os.readlink(link)}, where no soup is; choose another one with "
                "soup rollback --to NAME, or remove the link to begin anew"
            )
        return shelf

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> "Shelf":
        """The same without a look at it."""
        return cls(Path(os.path.abspath(path)))

    @property
    def current(self) -> Path | None:
        """The soup in use; None where there is none."""
        link = self.path / LATEST
        if not link.is_symlink():
            return None
        target = Path(os.path.realpath(link))
        if target.parent == Path(os.path.realpath(self.path)):
            target = self.path / target.name  # as ``soups`` has it, where a link leads to the shelf
        return target if (target / MANIFEST).is_file() else None

    def soups(self) -> list[Path]:
        """All that were published and are there, the oldest first."""
        found = [entry for entry in self.path.iterdir() if _date(entry.name)]
        found = [e for e in found if (e / MANIFEST).is_file() and not e.is_symlink()]
        return sorted(found, key=lambda entry: _date(entry.name) or ())

    def place(self, date: str, key: str) -> Path:
        """Where a soup of a date goes: a free name, or where it stands since a night was killed.

        Args:
            date: as ``2026-11-27``.
            key: of the blend, its weights and the files beside them.
        """
        count = 1
        while True:
            place = self.path / (date if count == 1 else f"{date}-{count}")
            unused = place != self.current and place.is_dir()
            if not os.path.lexists(place) or (unused and key_of(place) == key):
                return place
            count += 1

    def use(self, soup: Path) -> None:
        """Point the link at a soup, in one step.

        Raises:
            OutputError: it cannot be done; the link is as it was.
        """
        temporary = self.path / f".{LATEST}.{os.getpid()}"
        try:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            temporary.symlink_to(soup.name)
            temporary.replace(self.path / LATEST)
            self._flush()
        except OSError as error:
            raise OutputError(
                f"{self.path / LATEST}: cannot be swapped: {error.strerror}"
            ) from error

    def prune(self, keep: int, never: Iterable[Path]) -> list[Path]:
        """Delete the oldest soups.

        Args:
            keep: how many stay besides the one in use.
            never: directories that stay whatever their age; what lies in or around one, too.

        Returns:
            What was deleted.

        Raises:
            OutputError: one could not be.
        """
        apart = [Path(os.path.realpath(path)) for path in never]
        current = self.current
        old = [soup for soup in self.soups() if soup != current]
        deleted = []
        for soup in old[: max(len(old) - keep, 0)]:
            here = Path(os.path.realpath(soup))
            if any(p.is_relative_to(here) or here.is_relative_to(p) for p in apart):
                continue
            try:
                holding.delete(soup)  # half a soup is never seen under its name
            except OSError as error:
                raise OutputError(f"{soup}: cannot be deleted: {error.strerror}") from error
            deleted.append(soup)
        return deleted

    @property
    def diary(self) -> Diary:
        """What was decided here, night by night.

        Raises:
            OutputError: it cannot be read.
        """
        return diary.read(self.path / NIGHTS)

    def remember(self, kind: str, **fields: Any) -> None:
        """Add a line to the diary.

        Raises:
            OutputError: it cannot be written.
        """
        diary.write_down(self.path / NIGHTS, kind, **fields)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else publishes here meanwhile.

        Raises:
            OutputError: somebody does.
        """
        file = self.path / ".lock"
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise OutputError(
                    f"{self.path}: another soup nightly or soup rollback is at work there; wait "
                    "for its end, or choose another --publish"
                ) from error
            self._sweep()
            yield
        finally:
            os.close(handle)

    def _sweep(self) -> None:
        """Remove what nights that were killed have left, of whatever date."""
        with contextlib.suppress(OSError):
            for left in self.path.glob(f".{LATEST}.*"):
                left.unlink(missing_ok=True)
            for entry in self.path.iterdir():
                name = entry.name.lstrip(".").partition(".")[0]
                if entry.name.startswith(f".{name}.") and _date(name):
                    holding.sweep(self.path, f".{name}.")

    def _flush(self) -> None:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def manifest(soup: Path) -> dict[str, Any]:
    """What ``soup.json`` says; empty where there is none that can be read."""
    try:
        found = json.loads((soup / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _date(name: str) -> tuple[str, int] | None:
    found = DATED.fullmatch(name)
    return (found[1], int(found[2] or 1)) if found else None


def _earlier(soup: Path, than: Path) -> bool:
    return (_date(soup.name) or ("", 0)) < (_date(than.name) or ("", 0))


def key_of(soup: Path) -> str:
    """The key of the blend that stands in a directory: its weights and the files beside them."""
    there = manifest(soup)
    return str(there.get("key") or there.get("blend", ""))  # earlier versions had no key


def roll_back(shelf: Shelf, to: str | None, time: str) -> tuple[Path | None, Path]:
    """Use the soup before the current one again, or a named one; remembered, so that no night
    publishes again by itself what was taken back, and no other roll-back leads to it.

    Whoever goes on to a later soup has taken back none.

    Returns:
        The soup that was in use, None where the link led nowhere, and the one that is.

    Raises:
        OutputError: there is none before it, or none of that name.
    """
    with shelf.alone():
        soups, current = shelf.soups(), shelf.current
        names = [soup.name for soup in soups]
        have = f"it has {', '.join(names) or 'none'}"
        if to is not None and to not in names:
            raise OutputError(f"{shelf.path}: no soup {to}; {have}")
        if to is None and current is None:
            raise OutputError(f"{shelf.path}: no soup is in use there; name one with --to, {have}")
        if to is None:
            assert current is not None
            back = shelf.diary.taken_back
            before = [soup for soup in soups if _earlier(soup, current)]
            good = [soup for soup in before if key_of(soup) not in back]
            if not good:
                which = "that was not taken back, too; name one with --to" if before else ""
                text = f"there is no soup before {current.name} {which}".rstrip()
                raise OutputError(f"{shelf.path}: {text}; {have}")
            to = good[-1].name
        target = shelf.path / to
        taken = current is not None and _earlier(target, current)
        left, now = key_of(current) if current and taken else "", key_of(target)
        fields = {"time": time, "rollback": target.name, "from": left, "to": now}
        shelf.remember(diary.ROLLBACK, **fields)
        shelf.use(target)
        return current, target
