"""The local cache of a model hub: which directory holds the model of an id. Nothing is downloaded.

A cache has, for the model ``org/name``, a folder ``models--org--name`` with ``snapshots/REVISION``
and ``refs/BRANCH``, files that hold a revision:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import os
import re
from pathlib import Path

from soup.checkpoints.safe import read_bounded
from soup.errors import CheckpointError

PREFIX = "models--"
REF = 4096
"""Bytes of a file of ``refs``, at most: it holds one word."""
_ID = re.compile(r"[\w.-]+/[\w.-]+")


def cached(model: str, revision: str | None = None) -> Path | None:
    """The snapshot of a model id in the local cache; None where there is none, or it is no id.

    Raises:
        CheckpointError: there are several, and which is meant cannot be told.
    """
    if not _ID.fullmatch(model):
        return None
    folder = cache() / (PREFIX + model.replace("/", "--"))
    return snapshot(folder, revision) if folder.is_dir() else None


def is_id(name: str) -> bool:
    """Whether a name can be a model's on a hub."""
    return _ID.fullmatch(name) is not None and not name.startswith(".")


def cache() -> Path:
    """Where the cache is, by the environment variables of huggingface_hub."""
    if found := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(found).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def is_root(directory: Path) -> bool:
    """Whether a directory is a model's folder in a cache, rather than a model."""
    return directory.name.startswith(PREFIX) and (directory / "snapshots").is_dir()


def snapshot(directory: Path, revision: str | None = None) -> Path:
    """The model directory in a cache's folder: of a revision or branch, of main, or the only one.

    Raises:
        CheckpointError: there is none, or there are several and none is main's.
    """
    there = sorted(path.name for path in (directory / "snapshots").iterdir() if path.is_dir())
    for name in (revision, "main"):
        if name in there:
            return directory / "snapshots" / str(name)
        try:
            wanted = revision_of(directory / "refs" / name) if name else ""
        except (OSError, ValueError):
            continue
        if wanted in there:
            return directory / "snapshots" / wanted
    if len(there) == 1 and revision is None:
        return directory / "snapshots" / there[0]
    found = ", ".join(there[:3]) + (" …" if len(there) > 3 else "") if there else "none"
    raise CheckpointError(
        f"{directory}: expected one snapshot{f' of {revision}' if revision else ''}, found {found}"
        "; name the one that is meant, snapshots/REVISION"
    )


def revision_of(ref: Path) -> str:
    """The revision that a file of ``refs`` holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, too large, or no text.
    """
    return read_bounded(ref, REF).decode().strip()


def model_of(directory: Path) -> tuple[str, str] | None:
    """Id and revision, for a snapshot's directory; None for any other."""
    if directory.parent.name != "snapshots":
        return None
    root = directory.parent.parent.name
    if not root.startswith(PREFIX):
        return None
    return root.removeprefix(PREFIX).replace("--", "/", 1), directory.name
