"""Whether a soup's directory is as it was written: every file against its manifest, offline."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.tensors import TensorInfo
from soup.errors import CheckpointError, SoupError
from soup.events import Observer, Progress, ignore
from soup.words import shown

MANIFEST = "soup.json"
LARGEST = 1 << 28
"""Bytes of a manifest, at most."""

WEIGHTS = (".safetensors",)
"""Files whose tensors have a digest of their own: the soup's content."""


@dataclass(frozen=True)
class Verified:
    """What a soup's directory was found to be.

    Attributes:
        path: the directory.
        digest: of the content of its weights, as they are now.
        files: how many files were compared with the manifest.
        nbytes: of its weights.
        problems: what is not as it was written, one line each.
    """

    path: Path
    digest: str
    files: int
    nbytes: int
    problems: tuple[str, ...]


def sealed(manifest: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """A manifest with the digest of every other file of its directory, and with its own.

    Weights are left out: ``digest`` is of their content.
    """
    files = {name: file_digest(directory / name) for name in _files(directory)}
    whole = {**manifest, "files": files}
    return whole | {"check": check(whole)}


def unsealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without what ``sealed`` has added."""
    return {key: value for key, value in manifest.items() if key not in ("files", "check")}


def check(manifest: Mapping[str, Any]) -> str:
    """BLAKE3 of a manifest as JSON, but for ``check``, its keys sorted, without spaces."""
    content = {key: value for key, value in manifest.items() if key != "check"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake3(text.encode()).hexdigest()


def file_digest(file: Path) -> str:
    """BLAKE3 of a file's bytes, as `b3sum` prints it.

    Raises:
        OSError: it cannot be read.
    """
    found = blake3()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def verify(
    directory: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    observe: Observer = ignore,
) -> Verified:
    """Read everything in a soup's directory and compare it with its manifest.

    Args:
        directory: a soup.
        base: the base of a soup that is an adapter, where its settings do not lead to it.
        observe: told of progress.

    Raises:
        CheckpointError: it is no soup, or was written before manifests named their files.
    """
    place = Path(os.path.abspath(directory))
    manifest = _manifest(place)
    problems = []
    if manifest.get("check") != check(manifest):
        problems.append(f"{MANIFEST}: changed since it was written: what it says cannot be trusted")
    listed = {str(name): str(value) for name, value in manifest["files"].items()}
    there = set(_files(place))
    for name in sorted(listed.keys() | there):
        if name not in there:
            problems.append(f"{shown(name)}: missing")
        elif name not in listed:
            problems.append(f"{shown(name)}: not part of the soup")
        else:
            try:
                same = file_digest(place / name) == listed[name]
            except OSError as error:
                problems.append(f"{shown(name)}: cannot be read: {error.strerror}")
                continue
            if not same:
                problems.append(f"{shown(name)}: changed since it was written")
    digest, nbytes = "", 0
    try:
        soup = open_checkpoint(place, base=None if base is None else Path(base))
        stored: Mapping[str, TensorInfo] = soup.tensors
        nbytes, done = soup.nbytes, 0

        def progress(count: int) -> None:
            nonlocal done
            done += count
            observe(Progress(f"verify {place.name}", min(done, nbytes), nbytes, "B"))

        digest = soup.compute_digest(progress)
        if digest != manifest.get("digest"):
            problems.append(
                f"weights: {len(stored):,} tensors with digest {digest[:12]}, expected "
                f"{shown(manifest.get('digest'))[:12]}: changed since they were written"
            )
    except SoupError as error:
        problems.append(f"weights: {error}")
    return Verified(place, digest, len(listed) + 1, nbytes, tuple(problems))


def _manifest(place: Path) -> dict[str, Any]:
    file = place / MANIFEST
    try:
        if not file.is_file() or file.stat().st_size > LARGEST:
            raise CheckpointError(f"{place}: no {MANIFEST}; expected a soup's directory")
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged: it is not JSON any more") from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise CheckpointError(
            f"{file}: names no files: it was changed, or written by an earlier version of soup; "
            "make the soup again to have it verified"
        )
    return found


def _files(directory: Path) -> Iterator[str]:
    """Every file that a manifest lists: all but itself and the weights."""
    for root, folders, files in os.walk(directory):
        folders.sort()
        for name in sorted(files):
            relative = (Path(root) / name).relative_to(directory).as_posix()
            if relative != MANIFEST and not name.endswith(WEIGHTS):
                yield relative
