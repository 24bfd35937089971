"""Whether a soup's directory is as it was written: every file against its manifest, offline."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from soup.checkpoints.json_text import parse, shallow
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.safe import BESIDE, opened_regular, read_bounded
from soup.checkpoints.tensors import MAX_HEADER, TensorInfo
from soup.errors import CheckpointError, SoupError
from soup.events import Observer, Progress, ignore
from soup.words import shown

MANIFEST = "soup.json"
WEIGHTS = (".safetensors",)
"""Files whose tensors have a digest of their own, the soup's content; of them the manifest has the
headers, which hold more than that."""

ADDED = ("files", "headers", "check")
"""Keys of a manifest that ``sealed`` adds."""


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

    Of weights it is that of their headers: ``digest`` is of their content.
    """
    names = [name for name in _files(directory) if name != MANIFEST]
    files = {name: file_digest(directory / name) for name in names if not _is_weights(name)}
    headers = {name: header_digest(directory / name) for name in names if _is_weights(name)}
    whole = {**manifest, "files": files, "headers": headers}
    return whole | {"check": check(whole)}


def unsealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without what ``sealed`` has added."""
    return {key: value for key, value in manifest.items() if key not in ADDED}


def check(manifest: Mapping[str, Any]) -> str:
    """BLAKE3 of a manifest as JSON, but for ``check``, its keys sorted, without spaces."""
    content = {key: value for key, value in manifest.items() if key != "check"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return blake3(text.encode()).hexdigest()


def file_digest(file: Path) -> str:
    """BLAKE3 of a file's bytes, as `b3sum` prints it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or larger than one beside weights can be.
    """
    found = blake3()
    with opened_regular(file, BESIDE) as stream:
        while part := stream.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def header_digest(file: Path) -> str:
    """BLAKE3 of all bytes of a safetensors file that come before its tensors'.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or its header has no size that one can have.
    """
    with opened_regular(file) as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length:,} bytes")
        return blake3(start + stream.read(length)).hexdigest()


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
    headers = manifest.get("headers")  # earlier versions did not name them
    if isinstance(headers, dict):
        listed |= {str(name): str(value) for name, value in headers.items()}
    there = {name for name in _files(place) if name != MANIFEST}
    if headers is None:
        there = {name for name in there if not _is_weights(name)}
    for name in sorted(listed.keys() | there):
        if name not in there:
            problems.append(f"{shown(name)}: missing")
        elif name not in listed:
            problems.append(f"{shown(name)}: not part of the soup")
        elif (why := _difference(place / name, listed[name])) is not None:
            problems.append(f"{shown(name)}: {why}")
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


def _difference(file: Path, expected: str) -> str | None:
    """What is wrong with a file, None where nothing is."""
    try:
        found = header_digest(file) if _is_weights(file.name) else file_digest(file)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:
        return f"cannot be what was written: {error}"
    return None if found == expected else "changed since it was written"


def _manifest(place: Path) -> dict[str, Any]:
    file = place / MANIFEST
    try:
        if not file.exists():
            raise CheckpointError(f"{place}: no {MANIFEST}; expected a soup's directory")
        found = shallow(parse(read_bounded(file)))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: damaged: it is not JSON any more ({error})") from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise CheckpointError(
            f"{file}: names no files: it was changed, or written by an earlier version of soup; "
            "make the soup again to have it verified"
        )
    return found


def _is_weights(name: str) -> bool:
    return name.endswith(WEIGHTS)


def _files(directory: Path) -> Iterator[str]:
    """Everything in a directory but its folders; links to folders, which nobody has written."""
    for root, folders, files in os.walk(directory):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in sorted(files + links):
            yield (Path(root) / name).relative_to(directory).as_posix()
