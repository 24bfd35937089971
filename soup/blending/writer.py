"""A blend becomes a model directory: complete or not at all.

Everything is written into a hidden sibling, flushed to the disk, and renamed. The weights are
written by ``soup.blending.shards``.
"""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup import holding
from soup._version import __version__
from soup.blending import shards
from soup.blending.blend import Blend
from soup.blending.draft import Draft
from soup.blending.methods import METHODS
from soup.blending.picture import Picture
from soup.blending.room import require_room, unwritable
from soup.blending.stack import Stack, stack
from soup.blending.verifying import MANIFEST as MANIFEST  # known from here, too
from soup.blending.verifying import check, sealed, unsealed
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.companions import Companions, gather, of_adapter
from soup.checkpoints.json_text import read_object
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.origins import origin_of
from soup.errors import OutputError, SoupError
from soup.events import Note, Observer, ignore

LONGEST = 8 << 20
"""Bytes of a manifest that is read, at most: one of a hundred members has some 50 kB."""


@dataclass(frozen=True)
class Written:
    """What ``write`` left behind.

    Attributes:
        path: the model directory.
        digest: the new checkpoint's content digest, as any checkpoint's.
        reused: True when the same soup already stood there and nothing was written.
    """

    path: Path
    digest: str
    reused: bool


def write(
    blend: Blend,
    out: str | os.PathLike[str],
    *,
    kind: str = "blend",
    facts: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    as_adapter: bool = False,
    known: Callable[[Checkpoint], str | None] = lambda checkpoint: None,
    pictures: Sequence[Picture] = (),
    observe: Observer = ignore,
    draft: Draft | None = None,
    require: Callable[[], None] = lambda: None,
) -> Written:
    """Stream a blend into the new model directory ``out``.

    An earlier, different soup at ``out`` is not lost: it is kept beside it, under a name that ends
    in its digest, unless ``overwrite``.

    Args:
        blend: what to write.
        out: the directory to make.
        kind: the recipe, for the manifest and the model card.
        facts: more for the manifest, e.g. scores; JSON values without dates, so that the same
            soup has the same bytes.
        overwrite: delete an earlier soup at ``out`` once the new one stands there.
        as_adapter: write one LoRA adapter (float32 factors) that changes the base as the blend
            does, rather than a full model; see ``soup.blending.stack``.
        known: content digests that need no reading, for a soup that stands there already.
        pictures: charts for the model card.
        observe: told of progress.
        draft: where its weights may have been written already.
        require: called before the result gets its name; nothing is left of it where that raises.

    Raises:
        OutputError: ``out`` holds something that is not a soup, or there is no room.
        UsageError, PoolError: no adapter can be made of this blend, see ``blending.stack.stack``.
        BlendError, CheckpointError: see ``soup.blending.streaming.stream``; nothing is left behind.
    """
    target = Path(os.path.abspath(out))
    check_target(target, blend)
    stacked = stack(blend) if as_adapter else None
    manifest = _manifest(blend, kind, facts or {})
    if stacked is not None:
        manifest |= {"adapter": True, "dtype": "F32"}
    beside = blend.companions
    if as_adapter:
        beside = of_adapter((blend.files_of or blend.reference).path)
    same = _same_soup(target, manifest, blend.reference.base, beside, known)
    if same is not None:
        return Written(target, same, reused=True)
    from soup.blending import card  # yaml: only where something is to be written

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _weights(blend, target, stacked, draft, observe) as (temporary, roots):
            temporary.chmod(0o777 & ~_umask())
            beside.write(temporary)
            blend.require_unchanged()
            require()
            made = open_checkpoint(temporary, base=blend.reference.base)
            digest = made.take_roots(roots) if stacked is None else made.digest
            manifest["digest"] = digest
            for one in pictures:
                (temporary / one.file).write_text(one.svg, encoding="utf-8")
            text = card.model_card(target.name, blend, manifest, pictures)
            (temporary / "README.md").write_text(text, encoding="utf-8")
            text = json.dumps(sealed(manifest, temporary), indent=2, sort_keys=True)
            (temporary / MANIFEST).write_text(text + "\n")
            _flush(temporary)
            kept = _swap_in(temporary, target, overwrite)
    except OSError as error:
        raise unwritable(target, error) from error
    if kept is not None:
        observe(Note(f"the earlier soup at {target.name} was kept as {kept.name}"))
    return Written(target, digest, reused=False)


def check_target(target: Path, blend: Blend) -> None:
    """Say now, before anything is scored, that ``target`` cannot take the result.

    Raises:
        OutputError: it is a file, a directory with other content, a member of the blend or its
            base, or is in or around one of these.
    """
    try:
        _require_apart(target, blend)
        _require_takeable(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error


def _require_apart(target: Path, blend: Blend) -> None:
    here = target.resolve()
    for source in (*blend.members, blend.reference, blend.base):
        if source is None:
            continue
        for place in (path.resolve() for path in (source.path, source.home, *source.shards)):
            if place == here:
                how = "is a member of the pool" if source is not blend.base else "is the base"
            elif here.is_relative_to(place):
                how = f"lies inside {place}, a member of the pool or its base"
            elif place.is_relative_to(here):
                how = f"holds {place}, which is read for it"
            else:
                continue
            raise OutputError(f"{target}: {how}; choose another place with -o")


def _require_takeable(target: Path) -> None:
    if target.is_dir():
        if any(target.iterdir()) and not (target / MANIFEST).is_file():
            raise OutputError(
                f"{target}: exists and is not a soup (no {MANIFEST}); choose another place with -o"
            )
    elif target.exists() or target.is_symlink():
        raise OutputError(f"{target}: expected a directory or nothing there, found a file")
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    try:  # what modes say is not all: a disk may be read-only, /proc takes nothing from anybody
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise OutputError(
            f"{target}: {parent} is not a directory that can be written to: {error.strerror}"
        ) from error


def _manifest(blend: Blend, kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    method = METHODS[blend.method]
    # of the linear method the coefficients say it all
    merging = {} if blend.method == "linear" else {**blend.merging, "paper": method.paper}
    return {
        "version": 1,
        "kind": kind,
        "blend": blend.digest,
        "key": blend.key,
        "companions": blend.companions.files_digest,
        "companions_of": (blend.files_of or blend.reference).name,
        "dtype": blend.dtype or "/".join(blend.reference.dtypes),
        "reference": blend.reference.name,
        "members": [
            {"name": member.name, "digest": member.digest}
            | _source(member)
            | ({"coefficient": coefficient} if method.weighted else {})
            for member, coefficient in zip(blend.members, blend.weights, strict=True)
        ],
        "soup_version": __version__,
        **merging,
        **facts,
    }


def _source(member: Checkpoint) -> dict[str, str]:
    """Where a member was fetched from, at which revision."""
    origin = origin_of(member.path)
    return {} if origin is None else {"source": str(origin)}


def _same_soup(
    target: Path,
    manifest: Mapping[str, Any],
    base: Checkpoint | None,
    beside: Companions,
    known: Callable[[Checkpoint], str | None],
) -> str | None:
    """The digest of the soup at ``target`` when it is, byte for byte, the one to be written.

    Files that somebody has put there besides do not matter, unless they decide answers.
    """
    try:
        there = read_object(target / MANIFEST, LONGEST)
        digest = there.pop("digest")
        if there.get("check") != check({**there, "digest": digest}):
            return None
        if unsealed(there) == json.loads(json.dumps(manifest)):
            found = gather(target)
            if found.digest != beside.digest or not found.holds(beside):
                return None
            soup = open_checkpoint(target, base=base)
            return str(digest) if (known(soup) or soup.digest) == digest else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, SoupError):
        pass  # nothing there, or damaged: write it anew
    return None


@contextmanager
def _weights(
    blend: Blend, target: Path, stacked: Stack | None, draft: Draft | None, observe: Observer
) -> Iterator[tuple[Path, Mapping[str, bytes]]]:
    """A directory with the weights, to be filled up and renamed; and by tensor their roots."""
    drafted = None if draft is None or stacked is not None else draft.take(blend)
    if drafted is not None:
        yield drafted
        return
    require_room(stacked.nbytes if stacked else blend.nbytes, target)
    with holding.unfinished(target, lambda text: observe(Note(text))) as temporary:
        if stacked is not None:
            shards.write_adapter(blend, stacked, temporary)
            yield temporary, {}
        else:
            task = f"write {target.name}"
            yield temporary, shards.write_weights(blend, temporary, task, observe)


def _flush(directory: Path) -> None:
    """Push every file and directory to the disk, so that the rename is the last thing to land."""
    for root, _, files in os.walk(directory):
        for path in (*(Path(root) / file for file in files), Path(root)):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _swap_in(temporary: Path, target: Path, overwrite: bool) -> Path | None:
    """Rename into place; an earlier soup moves aside and is deleted only when asked for."""
    aside: Path | None = None
    if target.is_dir() and any(target.iterdir()):
        aside = _free_name(target)
        target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        if aside is not None:
            aside.rename(target)
        raise
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    if aside is not None and overwrite:
        if aside.is_symlink():  # what it leads to is not ours to delete
            aside.unlink()
        else:
            holding.delete(aside)
        return None
    return aside


def _free_name(target: Path) -> Path:
    try:
        digest = str(read_object(target / MANIFEST, LONGEST).get("blend"))[:8]
    except SoupError:
        digest = "old"
    if not re.fullmatch("[0-9a-f]{8}", digest):
        digest = "old"  # it becomes part of a path
    name = target.with_name(f"{target.name}.{digest}")
    count = 1
    while name.exists():
        count += 1
        name = target.with_name(f"{target.name}.{digest}-{count}")
    return name


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
