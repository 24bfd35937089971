"""What checkpoints are given as, and what they are called: paths, globs, names."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from soup.checkpoints import hub
from soup.checkpoints.origins import Origin, origin_of
from soup.errors import UsageError


def expand(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Directories from paths and quoted globs, in the order given, each glob's sorted.

    Raises:
        UsageError: nothing given, or a glob matches no directory.
        CheckpointError: a folder of a hub's cache with several snapshots, or none.
    """
    found: list[Path] = []
    for path in [os.fspath(path) for path in paths]:
        if glob.has_magic(path) and not os.path.exists(path):
            matches = sorted(match for match in glob.glob(path) if os.path.isdir(match))
            if not matches:
                raise UsageError(f"{path}: matches no directory")
            found += [Path(match) for match in matches]
        else:
            found.append(Path(path))
    if not found:
        raise UsageError("no checkpoint given; name at least one model directory")
    found = [path if os.path.exists(path) else hub.cached(str(path)) or path for path in found]
    return [hub.snapshot(path) if hub.is_root(path) else path for path in found]


def unique_names(paths: Sequence[Path]) -> list[str]:
    """The shortest trailing parts of paths that tell them apart, e.g. ``run-2/checkpoint-500``.

    The same path given twice gets ``#2`` behind its second name. A snapshot in a hub's cache is
    called by its model's id, with its revision where there are two of one model.
    What was fetched is called by its address.
    """
    places = [Path(os.path.abspath(path)) for path in paths]
    origins = [origin_of(place) for place in places]
    parts = [_parts(place, known, origins) for place, known in zip(places, origins, strict=True)]
    names = []
    for index, own in enumerate(parts):
        depth = 1
        others = [p for k, p in enumerate(parts) if k != index and p != own]
        while depth < len(own) and any(p[-depth:] == own[-depth:] for p in others):
            depth += 1
        copies = parts[:index].count(own)
        names.append("/".join(own[-depth:]) + (f"#{copies + 1}" if copies else ""))
    return names


def _parts(path: Path, origin: Origin | None, others: Sequence[Origin | None]) -> tuple[str, ...]:
    """What a checkpoint is called by, last part first to be used."""
    if origin is None:
        return path.parts
    same = {other.revision for other in others if other and other.where == origin.where}
    *front, last = origin.parts
    return (*path.parts[:-3], *front, f"{last}@{origin.revision[:8]}" if len(same) > 1 else last)


def index_of(reference: str | None, paths: Sequence[Path], names: Sequence[str]) -> int:
    """Which member is meant, by its name or by its path.

    Raises:
        UsageError: none is, or more than one.
    """
    if reference is None:
        return 0
    here = os.path.abspath(reference)
    found = [k for k, name in enumerate(names) if name == reference]
    found = found or [k for k, path in enumerate(paths) if os.path.abspath(path) == here]
    found = found or [k for k, path in enumerate(paths) if path.name == reference]
    if len(found) != 1:
        which = "more than one member" if found else "no member"
        raise UsageError(
            f"--reference {reference}: names {which}; expected one of {', '.join(names)}"
        )
    return found[0]
