"""Directories that trainers leave: what each kind is, and the command that makes a model of it.

They hold a model's weights in pieces, or beside it, or one level down. Nothing in them is opened
but the file that names a hub cache's revision: names tell. ``advice`` is asked only where a
directory holds no weights that can be read.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from soup.checkpoints import hub
from soup.words import closest, counted, either, listed

LOOK_AT = 2000
"""Entries of a directory that are looked at, at most."""

LAST = 20
"""Directories inside one that are looked into, at most."""

NOT_HERE = "no weights here; "

MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
)
"""Any of these files beside each other make a directory a checkpoint, a full one or an adapter."""

TABLES = (".tsv", ".csv", ".jsonl", ".parquet", ".xlsx")
"""How the files of benchmarks end."""

OTHER_FORMATS = {
    ".gguf": "a GGUF file, quantised for llama.cpp; take the checkpoint that it was made from",
    ".ckpt": "a Lightning checkpoint; save its model with `model.save_pretrained(DIR)`",
    ".nemo": "a NeMo archive; export it with NeMo's converter to Hugging Face's format",
    ".msgpack": "Flax weights; load (`from_flax=True`) and save them with transformers 4",
    ".h5": "TensorFlow weights; load (`from_tf=True`) and save them with transformers 4",
    ".onnx": "an ONNX graph; take the checkpoint that it was exported from",
}


def advice(directory: Path) -> str | None:
    """What a directory without readable weights is, and what to do; None where it is no known kind.

    The text follows the directory's path and a colon.

    Raises:
        OSError: the directory cannot be listed.
    """
    names = sorted(entry.name for entry in islice(directory.iterdir(), LOOK_AT))
    return next(filter(None, (kind(directory, names) for kind in KINDS)), None)


def instead_of(path: Path) -> str:
    """What a path that is no directory may have been meant to be: ``; did you mean …?``."""
    if path.is_file():
        beside = path.parent / "config.json"
        if path.suffix.lower() in TABLES:
            return "; is it a benchmark? Give --bench before each"
        return f"; did you mean its directory, {path.parent}?" if beside.is_file() else ""
    try:
        names = [entry.name for entry in islice(path.parent.iterdir(), LOOK_AT) if entry.is_dir()]
    except OSError:
        return ""
    close = [str(path.parent / name) for name in closest(path.name, names)]
    return f"; did you mean {either(close)}?" if close else ""


def is_checkpoint(directory: Path) -> bool:
    """Whether a directory looks like one that can be opened; only names are looked at."""
    return any((directory / name).is_file() for name in MODEL_FILES)


def _folder_for_file(directory: Path, names: list[str]) -> str | None:
    """DeepSpeed's script makes a folder of the name that it was given for a file."""
    for name in (name for name in MODEL_FILES[:3] if name in names):
        inside = directory / name
        if not inside.is_dir():
            continue
        if (inside / "config.json").is_file():
            return f"{name} is a folder; did you mean {inside}?"
        if any(inside.iterdir()):
            aside = shlex.quote(str(directory / "weights"))
            here = shlex.quote(str(directory))
            return (
                f"{name} is a folder; did you mean {inside}? It has no config.json: move the "
                f"weights beside it, mv {shlex.quote(str(inside))} {aside} && mv {aside}/* {here}"
            )
    return None


def _deepspeed(directory: Path, names: list[str]) -> str | None:
    steps = [n for n in names if re.fullmatch(r"global_step_?\d+", n)]
    others = [n for n in names if n in ("pytorch_model", "checkpoint")]  # accelerate's, Lightning's
    pieces = ("*_model_states.pt", "*_optim_states.pt")
    tags = [n for n in [*steps, *others] if _holds(directory / n, *pieces)]
    if not tags and _holds(directory, "*_model_states.pt", "*_optim_states.pt"):
        return (
            f"a part of a DeepSpeed checkpoint; did you mean {directory.parent}, where "
            "zero_to_fp32.py makes a model of it?"
        )
    if not tags:
        return None
    script = "zero_to_fp32.py" if "zero_to_fp32.py" in names else "-m deepspeed.utils.zero_to_fp32"
    tag = "" if len(tags) == 1 and "latest" in names else f" --tag {shlex.quote(tags[-1])}"
    return (
        f"a DeepSpeed checkpoint ({tags[-1]}), whose weights lie in pieces; run there: "
        f"cd {shlex.quote(str(directory))} && python {script} . . --safe_serialization{tag}"
    )


def _fsdp(directory: Path, names: list[str]) -> str | None:
    if _holds(directory, "*.distcp"):
        if directory.name.startswith("optim"):
            return "the state of an FSDP optimizer, which holds no weights"
        beside = (directory / "config.json").is_file()
        inside, out = directory, directory if beside else directory.parent
    else:
        found = [n for n in names if _holds(directory / n, "*.distcp")]
        models = [n for n in found if not n.startswith("optim")]
        if not models:
            return None
        inside, out = directory / models[0], directory
    return (
        "an FSDP checkpoint, whose weights lie in pieces; run: "
        f"accelerate merge-weights {shlex.quote(str(inside))} {shlex.quote(str(out))}"
    )


def _fsdp_whole(directory: Path, names: list[str]) -> str | None:
    whole = next((n for n in names if re.fullmatch(r"pytorch_model_fsdp(_\d+)?\.bin", n)), None)
    if whole is None:
        return None
    pair = (directory / whole, directory / "pytorch_model.bin")
    return (
        "an FSDP checkpoint in one file, under a name that only its trainer reads; run: mv "
        + " ".join(shlex.quote(str(path)) for path in pair)
    )


def _verl(directory: Path, names: list[str]) -> str | None:
    for place in (directory, directory / "actor", *_steps(directory, names)):
        if not place.is_dir():
            continue
        fsdp = _holds(place, "model_world_size_*_rank_*.pt")
        if not fsdp and not (place / "dist_ckpt").is_dir():
            continue
        if is_checkpoint(ready := place / "huggingface"):
            return f"a verl checkpoint; did you mean the model in it, {ready}?"
        backend = "fsdp" if fsdp else "megatron"
        out = place.parent / f"{place.name}-merged"
        return (
            "a verl checkpoint, whose weights lie in pieces; run its model merger: "
            f"python -m verl.model_merger merge --backend {backend} "
            f"--local_dir {shlex.quote(str(place))} --target_dir {shlex.quote(str(out))}"
        )
    return None


def _steps(directory: Path, names: list[str]) -> Iterator[Path]:
    steps = [n for n in names if re.fullmatch(r"global_step_?\d+", n)]
    for step in sorted(steps, key=lambda name: -int(re.sub(r"\D", "", name))):
        yield directory / step / "actor"


def _megatron(directory: Path, names: list[str]) -> str | None:
    iterations = [n for n in names if re.fullmatch(r"iter_\d+", n)]
    if not iterations and not any(re.fullmatch(r"mp_rank_\d+(_\d+)*", n) for n in names):
        return None
    return (
        "a Megatron checkpoint, whose weights lie in pieces; convert it with the trainer's own "
        "converter (Megatron Bridge: `AutoBridge.export_ckpt`; ms-swift: "
        f"`swift export --mcore_model {shlex.quote(str(directory))} --to_hf true`)"
    )


def _original(directory: Path, names: list[str]) -> str | None:
    found = next(
        (n for n in names if re.fullmatch(r"consolidated(\.\d+)?\.(pth|safetensors)", n)), None
    )
    if found is None:
        return None
    return (
        f"weights as their maker trained them ({found}), not in Hugging Face's format; download "
        "that version of the model, or convert them with the script in transformers' folder of it"
    )


def _hub_cache(directory: Path, names: list[str]) -> str | None:
    if "snapshots" not in names or not (directory / "snapshots").is_dir():
        return None
    found = sorted(p for p in (directory / "snapshots").iterdir() if p.is_dir())
    try:
        main = directory / "snapshots" / hub.revision_of(directory / "refs" / "main")
    except (OSError, ValueError):
        main = directory
    choice = main if main in found else found[-1] if found else None
    return f"a model's place in the hub's cache; did you mean {choice}?" if choice else None


def _folder_of_checkpoints(directory: Path, names: list[str]) -> str | None:
    folders = [n for n in names if not n.startswith(".") and (directory / n).is_dir()]
    found = [name for name in folders if is_checkpoint(directory / name)]
    if not found:
        return None
    if len(found) == 1:
        return f"{NOT_HERE}did you mean {directory / found[0]}?"
    kind = "checkpoint"
    if all((directory / name / MODEL_FILES[-1]).is_file() for name in found):
        kind = "adapter"
    text = f"a folder of {counted(len(found), kind)}, none itself; did you mean "
    if found == folders:
        return f"{text}{directory}/*?"
    stem = re.match(r"[a-zA-Z]+[-_]?", found[0])
    if stem and [n for n in folders if n.startswith(stem.group())] == found:
        return f"{text}{directory}/{stem.group()}*?"
    return f"{text}{listed([directory / name for name in found], 10)}?"


def _run(directory: Path, names: list[str]) -> str | None:
    """The directory of a whole run: what its last checkpoint is that says what it is."""
    folders = [n for n in names if not n.startswith(".") and (directory / n).is_dir()]
    folders.sort(key=lambda name: [int(digits) for digits in re.findall(r"\d+", name)])
    for name in folders[: -LAST - 1 : -1]:
        inside = directory / name
        try:
            entries = sorted(entry.name for entry in islice(inside.iterdir(), LOOK_AT))
        except OSError:
            continue
        found = next(filter(None, (kind(inside, entries) for kind in KINDS if kind != _run)), None)
        if found is not None:
            found = found.removeprefix(NOT_HERE)
            return f"{NOT_HERE}in {name}: {found}"
    return None


def _other_format(directory: Path, names: list[str]) -> str | None:
    for suffix, meaning in OTHER_FORMATS.items():
        if found := [name for name in names if name.endswith(suffix)]:
            return f"no weights that can be read; {found[0]} is {meaning}"
    return None


def _holds(directory: Path, *patterns: str) -> bool:
    """Whether a directory, where it is one, has an entry of any of these names."""
    try:
        return any(next(directory.glob(pattern), None) is not None for pattern in patterns)
    except OSError:
        return False


KINDS: tuple[Callable[[Path, list[str]], str | None], ...] = (
    _folder_for_file,
    _verl,
    _deepspeed,
    _fsdp,
    _fsdp_whole,
    _megatron,
    _hub_cache,
    _folder_of_checkpoints,
    _original,
    _other_format,
    _run,
)
"""Each looks at a directory and its names, and says what it is; the first that knows it counts."""
