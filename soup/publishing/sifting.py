"""Which of the checkpoints that have landed can be used tonight, and why the others cannot.

A trainer may be writing one of them now, another may have been cut short by a full disk, a third
may have diverged. None of that concerns the rest of the pool.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.origins import origin_of
from soup.checkpoints.pool import expand, inspect, unique_names
from soup.checkpoints.problems import summary
from soup.checkpoints.soundness import problems as unsound
from soup.choosing.journal import Journal
from soup.errors import CheckpointError, PoolError, SoupError, UnfinishedError, UsageError
from soup.events import Observer, ignore
from soup.identifying import identify
from soup.watching.lines import duration

Looks = dict[str, tuple[int, int]]
"""By a file's path below its directory: bytes and time of the last change, in ns."""

UNREACHABLE = "not reachable"
UNFINISHED = "not ready"
DAMAGED = "damaged"
MISFIT = "does not fit"


@dataclass(frozen=True)
class LeftOut:
    """A checkpoint that is not used tonight.

    Attributes:
        name: as the pool would call it.
        path: its directory, or its address.
        how: ``not reachable``, ``not ready``, ``damaged`` or ``does not fit``.
        why: what is wrong, in a line.
    """

    name: str
    path: str
    how: str
    why: str


@dataclass(frozen=True)
class Sifted:
    """What a look at the directories found.

    Attributes:
        ready: directories that make a pool, in the order given.
        left_out: the others.
        looks: files of each that is ready, to tell later whether it has changed.
    """

    ready: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]
    looks: Mapping[Path, Looks] = field(repr=False)

    def changed(self) -> list[Path]:
        """Those whose files are not what they were."""
        return [path for path, looked in self.looks.items() if look(path) != looked]


def sift(
    paths: Sequence[str | os.PathLike[str]],
    journal: Journal,
    *,
    settle: float = 0.0,
    skip_bad: bool = True,
    read: bool = True,
    opening: Mapping[str, Any] | None = None,
    observe: Observer = ignore,
    now: Callable[[], float] = time.time,
) -> Sifted:
    """Look at directories, read those that are new, and keep what can be blended.

    Of those that do not fit each other the largest group is kept, the first one of equal groups.

    Args:
        paths: model directories and quoted globs; plain files among them are passed over.
        journal: knows what has been read before; what is new is digested, and searched for NaN
            and Inf.
        settle: seconds for which no file of a directory may have changed.
        skip_bad: leave out what is damaged or does not fit; else that is an error.
        read: read what is new; else headers alone are looked at.
        opening: more for ``soup.checkpoints.pool.inspect``: dtype, base.
        observe: told of progress.
        now: the clock that files' times are of, in seconds.

    Raises:
        UsageError: nothing given, or a glob that matches nothing.
        SoupError: something is wrong with a checkpoint, and ``skip_bad`` is off.
    """
    directories = _directories(paths)
    names = dict(zip(directories, unique_names(directories), strict=True))
    ready: list[Path] = []
    left: dict[Path, LeftOut] = {}
    looks: dict[Path, Looks] = {}

    def leave(path: Path, how: str, error: SoupError) -> None:
        if how != UNFINISHED and not skip_bad:
            raise error
        why = str(error).partition("\n")[0].removeprefix(f"{names[path]}: ")
        left[path] = LeftOut(names[path], str(path), how, why)

    for path in directories:
        looks[path] = look(path)
        try:
            _require_settled(path, looks[path], settle, now())
            member = open_checkpoint(path, names[path], *_base_of(opening))
            if read:
                _read(member, journal, observe)
            if look(path) != looks[path]:
                raise UnfinishedError(f"{path}: changed while it was looked at")
        except UnfinishedError as error:
            leave(path, UNFINISHED, error)
        except SoupError as error:
            gone = not path.exists() or look(path) != looks[path]
            leave(path, UNFINISHED if gone else DAMAGED, error)
        else:
            ready.append(path)
    kept = _fitting(ready, dict(opening or {}), skip_bad)
    for path, why in kept.items():
        if why:
            leave(path, MISFIT, PoolError(why))
    usable = [path for path in ready if not kept.get(path)]
    return Sifted(
        tuple(usable),
        tuple(left[p] for p in directories if p in left),
        {p: looks[p] for p in usable},
    )


def look(directory: Path) -> Looks:
    """Sizes and times of all files in a directory; links are followed to files, not to folders."""
    found: Looks = {}
    for root, _, files in os.walk(directory):
        for name in files:
            file = os.path.join(root, name)
            try:
                state = os.stat(file)
            except OSError:  # gone since, or a link to nothing
                found[os.path.relpath(file, directory)] = (-1, 0)
                continue
            found[os.path.relpath(file, directory)] = (state.st_size, state.st_mtime_ns)
    return found


def _directories(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Each once, without plain files, which a shell's glob gives, too."""
    found = expand(paths)
    return list(dict.fromkeys(path for path in found if not path.is_file()))


def _base_of(opening: Mapping[str, Any] | None) -> list[Any]:
    base = (opening or {}).get("base")
    return [] if base is None else [base]


def _require_settled(path: Path, looked: Looks, settle: float, now: float) -> None:
    if origin_of(path) is not None:
        return  # fetched: it is there only when it is complete
    for name, (_, changed) in looked.items():
        age = now - changed / 1e9
        if abs(age) < settle:  # a clock that is far ahead, as on a network disk, is not "just now"
            raise UnfinishedError(
                f"{path / name}: was written {duration(max(age, 0))} ago; it counts as complete "
                f"after {duration(settle)} without a change (--settle)"
            )


def _read(member: Checkpoint, journal: Journal, observe: Observer) -> None:
    """Digest what is new; its values are looked at meanwhile.

    Raises:
        SoupError: it cannot be read, changes meanwhile, or holds what cannot be averaged.
    """
    identify([member], journal, observe)
    if found := summary(unsound([member])):
        raise CheckpointError(found[0])


def _fitting(ready: Sequence[Path], opening: dict[str, Any], skip_bad: bool) -> dict[Path, str]:
    """Of directories that can be read: why each does not fit the largest group; empty where it
    does.
    """
    if len(ready) < 2:
        return {}
    try:
        report = inspect(ready, **opening)
        if not report.problems:
            return {}
        if not skip_bad:
            raise PoolError(f"the pool cannot be blended: {report.lines[0]}")
    except UsageError:
        raise
    except SoupError:
        if not skip_bad:
            raise
    left, groups = list(ready), []
    whys: dict[Path, str] = {}
    while left:
        first = left[0]
        fits = [first]
        for other in left[1:]:
            why = _why_apart(first, other, opening)
            if why:
                whys[other] = why
            else:
                fits.append(other)
        groups.append(fits)
        left = [path for path in left if path not in fits]
    largest = max(groups, key=len)  # the first of those
    return {
        path: ""
        if path in largest
        else _why_apart(largest[0], path, opening) or whys.get(path, "fits no other")
        for path in ready
    }


def _why_apart(first: Path, second: Path, opening: dict[str, Any]) -> str:
    try:
        return next(iter(inspect([first, second], **opening).lines), "")
    except (CheckpointError, PoolError) as error:
        return str(error)
