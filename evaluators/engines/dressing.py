"""One model's weights with another one's companion files, as a directory that libraries can read.

Transformers and VLMEvalKit's wrappers take a directory. Where the files that a blend is asked with
do not lie beside the reference's weights, one is made: copies of the files, links to the weights.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.companions import Companions
from soup.checkpoints.weights import INDEX, TORCH_INDEX
from soup.errors import ScoringError


def dressed(reference: Checkpoint, companions: Companions, cache: Path | None) -> Checkpoint:
    """``reference`` as if ``companions`` lay beside its weights.

    Args:
        reference: a full model.
        companions: of any checkpoint that can be blended with it.
        cache: where the directory is made, and found again by its content; None is a temporary
            place.

    Raises:
        ScoringError: the directory cannot be made.
        CheckpointError: a file cannot be read, or was changed.
    """
    if companions.stands_in(reference.path):
        return reference
    links = {file.name: file for file in reference.shards}
    for name in (INDEX, TORCH_INDEX):
        if (reference.path / name).is_file():
            links[name] = reference.path / name
    content = [companions.files_digest, *sorted(str(file.resolve()) for file in links.values())]
    name = hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
    place = (Path(tempfile.gettempdir()) / "soup" if cache is None else cache) / "dressed"
    target = place / name
    try:
        if not _is_right(target, companions, links):
            _make(place, target, companions, links)
    except OSError as error:
        raise ScoringError(f"{target}: cannot be made: {error.strerror or error}") from error
    return replace(reference, path=target)


def _is_right(target: Path, companions: Companions, links: dict[str, Path]) -> bool:
    # Not by ``gather``: in a checkpoint a link that leads out, as those to the weights do, is none
    # of its files.
    copies = [file for file in target.rglob("*") if file.is_file() and not file.is_symlink()]
    files: dict[str, Path | bytes] = {f.relative_to(target).as_posix(): f for f in copies}
    if not target.is_dir() or Companions(files).files_digest != companions.files_digest:
        return False
    return all((target / name).resolve() == file.resolve() for name, file in links.items())


def _make(place: Path, target: Path, companions: Companions, links: dict[str, Path]) -> None:
    """Whole or not at all: it appears under its name by a rename."""
    place.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=place))
    try:
        companions.write(made)
        for name, file in links.items():
            (made / name).symlink_to(os.path.abspath(file))
        try:
            made.rename(target)
        except OSError:  # it is there: damaged, or made by another worker in the same moment
            if not _is_right(target, companions, links):
                shutil.rmtree(target, ignore_errors=True)
                made.rename(target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
