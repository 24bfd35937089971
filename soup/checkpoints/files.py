"""The files beside the weights: which ones a model needs."""

import json
import re
from collections.abc import Callable, Collection, Iterator
from fnmatch import translate
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from soup.checkpoints.json_text import parse
from soup.checkpoints.safe import BESIDE, DEEPEST, MOST, opened_regular, require_safe
from soup.checkpoints.tensors import LFS_POINTER, LFS_PREFIX
from soup.errors import CheckpointError

WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data",
)
READABLE = ("*.safetensors", "*.bin", "*.pt", "*.pth")
"""Among them, those of the formats that are read."""

TRAINER_STATE = (
    "optimizer*",
    "scheduler*",
    "trainer_state.json",
    "training_args*",
    "rng_state*",
    "scaler*",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
    "pytorch_model_fsdp*",
    "events.out.tfevents*",
    "trainer_log.jsonl",
    "train_results.json",
    "all_results.json",
    "runs",
    "wandb",
    "checkpoint-*",
    "__pycache__",
    "args.json",  # ms-swift's, and its version 2's:
    "sft_args.json",
    "adapter_config.json",  # a full model is no adapter
)
LINKED = 100
"""Links to folders that are followed, at most."""

LFS_START = LFS_PREFIX + b"https://git-lfs"

REPLACED = ("README.md", "soup.json", "soup-*.svg")
"""Files that the soup brings itself: its model card, its manifest and the card's charts."""

VOLATILE_CONFIG = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "_commit_hash",
        "torch_dtype",
        "dtype",
    }
)
"""Keys of config.json that say where a checkpoint came from, not how it computes. The dtype is
among them: the tensors' own is what counts, and is compared with the tensors."""

TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
"""Where a chat template may stand, the first that there is before the others."""


def companions(directory: Path) -> Iterator[Path]:
    """Files, relative to ``directory``, that a model needs beside its weights, sorted.

    Everything but weights, trainer state, version control and what the soup brings itself:
    config, generation config, tokenizer, processor, chat template, custom code, licence.
    """
    for relative in _files(directory):
        skip = WEIGHTS + (REPLACED if relative.parent == Path() else ())
        if not _matches(relative.name, skip):
            yield relative


def require_plain(directory: Path) -> None:
    """Nothing in a model's directory is a pipe, a device, or a link that leads out of it.

    Raises:
        CheckpointError: something is; or there is too much.
    """
    for _ in _files(directory):
        pass


def weights_beside(directory: Path, read: Collection[Path]) -> list[Path]:
    """Files, relative to ``directory``, that look like a model's weights and are not ``read``."""
    return [
        relative
        for relative in _files(directory)
        if _matches(relative.name, READABLE) and directory / relative not in read
    ]


def _files(directory: Path) -> Iterator[Path]:
    """Files, relative to ``directory``, but for trainer state and version control.

    Links to folders are followed, as those to files are: a soup is whole wherever it is moved.

    Raises:
        CheckpointError: it cannot be read, or holds what may not be, see ``safe``.
    """
    home, seen, linked = directory.resolve(), 0, 0

    def walk(here: Path, around: tuple[Path, ...]) -> Iterator[Path]:
        itself = here.resolve()
        nonlocal seen, linked
        if itself in around:
            return  # a link to a folder that it stands in
        folders = []
        entries = list(islice(here.iterdir(), MOST + 1 - seen))
        seen += len(entries)
        if seen > MOST or len(around) > DEEPEST:
            found = f"{MOST:,} files" if seen > MOST else f"{DEEPEST} folders within each other"
            raise CheckpointError(f"{here}: more than {found}; is it a model's directory?")
        for entry in sorted(entries):
            if _matches(entry.name, TRAINER_STATE):
                continue
            require_safe(entry, home)
            if not entry.is_dir():
                yield entry.relative_to(directory)
            elif not entry.name.startswith("."):
                folders.append(entry)
                linked += entry.is_symlink()
        if linked > LINKED:  # what stands behind them counts once for each way that leads there
            raise CheckpointError(f"{here}: more than {LINKED} links to folders; remove them")
        for folder in folders:
            yield from walk(folder, (*around, itself))

    try:
        yield from walk(directory, ())
    except OSError as error:
        where = error.filename or directory
        raise CheckpointError(f"{where}: cannot be read: {error.strerror}") from error


def require_readable(file: Path) -> None:
    """Fail now, not after hours of scoring, where a file beside the weights cannot be copied.

    Raises:
        CheckpointError: it cannot be read, is too large, or is a git-lfs pointer; it is named.
    """
    try:
        with opened_regular(file, BESIDE) as stream:
            head = stream.read(len(LFS_START))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(
            f"{file}: would be copied into the soup, but has {error}; move it out of the checkpoint"
        ) from error
    if head == LFS_START:
        raise CheckpointError(f"{file}: {LFS_POINTER}")


def template_of(read: Callable[[str], bytes | None]) -> tuple[str, str] | None:
    """The chat template of a model, as transformers finds it, behind the file that it stands in.

    Args:
        read: the content of a file beside the weights, None where there is none of that name.
    """
    for name in TEMPLATES:
        content = read(name)
        if content is None:
            continue
        try:
            found = content.decode() if name.endswith(".jinja") else _inside(parse(content))
        except (ValueError, AttributeError, KeyError, TypeError):
            continue
        if isinstance(found, str):
            return name, found.strip()
    return None


def _inside(settings: dict[str, Any]) -> Any:
    """A template within JSON; the one called default where there are several, or else all."""
    found = settings.get("chat_template")
    if isinstance(found, list):
        named = {entry["name"]: entry["template"] for entry in found}
        return named.get("default", json.dumps(named, sort_keys=True))
    return found


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return _one_of(patterns)(name) is not None


@cache
def _one_of(patterns: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
    """One expression for all: every file of every member is asked several times."""
    return re.compile("|".join(map(translate, patterns))).match
