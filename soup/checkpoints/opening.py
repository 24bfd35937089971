"""A path becomes a Checkpoint: here a full model and a LoRA adapter are told apart."""

import os
from pathlib import Path

from soup.checkpoints import hub
from soup.checkpoints.adapter import open_adapter
from soup.checkpoints.checkpoint import Checkpoint, open_model
from soup.checkpoints.inside import is_wrapped, merged
from soup.checkpoints.origins import called
from soup.checkpoints.weights import is_adapter
from soup.errors import CheckpointError
from soup.remote.address import elsewhere


def open_checkpoint(
    path: str | os.PathLike[str],
    name: str | None = None,
    base: "str | os.PathLike[str] | Checkpoint | None" = None,
) -> Checkpoint:
    """Read the headers of the model in directory ``path``; no tensor is read.

    Args:
        path: a model directory or a LoRA adapter's; the id of one in the hub's local cache; or its
            address, which is fetched whole.
        name: how the user knows it; by default the directory's own name.
        base: the model that an adapter changes; by default the local directory that its
            ``adapter_config.json`` names. Of no effect on a full model.

    Raises:
        CheckpointError: the directory, its index or a header is missing, damaged or of a
            format that cannot be blended; the message names the file.
    """
    path, base = _here(path), base if base is None or isinstance(base, Checkpoint) else _here(base)
    # Not resolved: ckpts/best -> ckpts/step-900 is known by the name the user gave.
    directory = Path(os.path.abspath(path))
    try:
        if not directory.exists() and (kept := hub.cached(os.fspath(path))) is not None:
            directory = kept
        if hub.is_root(directory):
            directory = hub.snapshot(directory)
        name = name or called(directory)
        if is_adapter(directory):
            return open_adapter(directory, name, base)
        model = open_model(directory, name)
        return merged(model) if is_wrapped(model.tensors) else model
    except OSError as error:  # a folder that may not be looked into
        where = error.filename or directory
        raise CheckpointError(f"{where}: cannot be read: {error.strerror}") from error


def _here(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    if not elsewhere(path):
        return path
    from soup.checkpoints.arriving import fetch  # only where something is to be fetched

    return fetch([os.fspath(path)])[os.fspath(path)]
