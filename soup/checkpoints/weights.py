"""Which files of a directory hold its weights, and how each is read."""

from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from soup.checkpoints.files import TRAINER_STATE, weights_beside
from soup.checkpoints.json_text import read_object
from soup.checkpoints.safetensors_format import read_header
from soup.checkpoints.tensors import TensorInfo
from soup.checkpoints.torch_format import read_torch
from soup.checkpoints.trainers import advice
from soup.errors import CheckpointError, UnfinishedError
from soup.words import counted

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
TORCH_INDEX = "pytorch_model.bin.index.json"
TORCH_SINGLES = ("pytorch_model.bin", "model.pt", "pytorch_model.pt")
FULL = (SINGLE, INDEX, TORCH_SINGLES[0], TORCH_INDEX)
"""Any of these makes a directory a full model."""


def read_weights(file: Path) -> list[TensorInfo]:
    """The tensors of one file, in its order, by its suffix: safetensors or torch's.

    Raises:
        CheckpointError: it cannot be read, or is not well formed; the message says how.
    """
    return read_header(file) if file.suffix == ".safetensors" else read_torch(file)


def is_adapter(directory: Path) -> bool:
    """Whether a directory is a LoRA adapter's, rather than a full model with a note of one."""
    full = any((directory / name).is_file() for name in FULL)
    return (directory / ADAPTER).is_file() and not full


def find_weights(
    directory: Path,
) -> tuple[tuple[Path, ...], dict[str, str] | None, tuple[str, ...]]:
    """The weight files, the index's map from tensor to file where there is one, and notes.

    As transformers prefers: safetensors before torch files, a single file before shards.
    """
    torch_files = [name for name in (*TORCH_SINGLES, TORCH_INDEX) if (directory / name).is_file()]
    notes: tuple[str, ...] = ()
    if torch_files and any((directory / name).is_file() for name in (SINGLE, INDEX)):
        notes = (f"holds {torch_files[0]} beside safetensors weights; safetensors are read",)
    if (directory / SINGLE).is_file():
        return (directory / SINGLE,), None, notes
    if (directory / INDEX).is_file():
        return *_read_index(directory / INDEX), notes
    if TORCH_SINGLES[0] in torch_files:
        return (directory / TORCH_SINGLES[0],), None, notes
    if TORCH_INDEX in torch_files:
        return *_read_index(directory / TORCH_INDEX), notes
    if len(torch_files) == 1:
        return (directory / torch_files[0],), None, notes
    shards = any(directory.glob("*.safetensors"))  # they come before their index
    raise (UnfinishedError if shards else CheckpointError)(_why_no_weights(directory))


def unread_note(directory: Path, read: Collection[Path]) -> tuple[str, ...]:
    """What to say of weights in a directory that are not those of the model that is read."""
    others = [str(path) for path in weights_beside(directory, read) if not _same_again(path, read)]
    if not others:
        return ()
    names = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
    return (f"holds other weights, which are neither read nor copied: {names}",)


def _same_again(path: Path, read: Collection[Path]) -> bool:
    """Whether it is the other format's, of which ``find_weights`` has spoken."""
    is_torch = path.name in TORCH_SINGLES or fnmatch(path.name, "pytorch_model-*.bin")
    return is_torch and any(file.suffix == ".safetensors" for file in read)


def _read_index(index: Path) -> tuple[tuple[Path, ...], dict[str, str]]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(f"{index}: expected an object weight_map, from tensors to files")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} is not a plain file name")
        if not (index.parent / name).is_file():
            raise UnfinishedError(
                f"{index.parent / name}: missing, but the index lists it; "
                "is the checkpoint complete?"
            )
    return tuple(index.parent / name for name in names), weight_map


def _why_no_weights(directory: Path) -> str:
    names = sorted(entry.name for entry in directory.iterdir())
    for name in FULL:
        if (link := directory / name).is_symlink() and not link.exists():
            return f"{link}: a link to {link.readlink()}, which is not there; download it again"
    if (known := advice(directory)) is not None:
        return f"{directory}: {known}"
    if torch_files := [n for n in names if _is_torch(directory / n)]:
        return (
            f"{directory}: torch files ({', '.join(torch_files[:3])}), but no {SINGLE}, {INDEX}, "
            f"{TORCH_SINGLES[0]} or {TORCH_INDEX}; is the checkpoint complete?"
        )
    if found := [n for n in names if n.endswith(".safetensors")]:
        return (
            f"{directory}: {counted(len(found), 'safetensors file')} ({found[0]}, …) but neither "
            f"{SINGLE} nor {INDEX}; is the checkpoint complete?"
        )
    return f"{directory}: no {SINGLE} and no {INDEX}; expected a model directory"


def _is_torch(file: Path) -> bool:
    """Whether a file may hold weights, by its name: not a trainer's state."""
    state = any(fnmatch(file.name, pattern) for pattern in TRAINER_STATE)
    return file.suffix in (".bin", ".pt", ".pth") and file.is_file() and not state


def check_index(
    directory: Path, weight_map: dict[str, str], tensors: dict[str, TensorInfo]
) -> None:
    """Prove that an index and the shards speak of the same tensors in the same files.

    Raises:
        CheckpointError: names the first tensor that is elsewhere, nowhere, or not in the index.
    """
    last, last_name = None, ""
    for name, file in weight_map.items():
        info = tensors.get(name)
        if info is not None and info.file is not last:
            last, last_name = info.file, info.file.name
        if info is None or last_name != file:
            found = f"in {last_name}" if info is not None else "in no shard"
            raise CheckpointError(
                f"{directory}: by the index, tensor {name} should be in {file}, found {found}"
            )
    if len(tensors) == len(weight_map):
        return
    if extra := next((name for name in tensors if name not in weight_map), None):
        raise CheckpointError(
            f"{tensors[extra].file}: tensor {extra} is not in the index; is it from another save?"
        )
