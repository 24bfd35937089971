"""LoRA adapters as checkpoints: the base's tensors, some of them computed as they are read.

The files are those of PEFT (https://huggingface.co/docs/peft), which ms-swift, LLaMA-Factory and
TRL write, too. Whatever is no fixed change of the base's weights is refused by name.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from soup.checkpoints import hub
from soup.checkpoints.bases import QUANTISED
from soup.checkpoints.checkpoint import (
    Checkpoint,
    TensorInfo,
    open_model,
    require_gathered,
)
from soup.checkpoints.experts import take_experts
from soup.checkpoints.factors import MERGE, Finder, Parts, lora_updates
from soup.checkpoints.files import require_plain, weights_beside
from soup.checkpoints.heads import require_both, with_head
from soup.checkpoints.inside import is_wrapped
from soup.checkpoints.json_text import read_object
from soup.checkpoints.known import file_states
from soup.checkpoints.lora import ExpertsUpdate, LoraUpdate, Replacement, RowsUpdate
from soup.checkpoints.names import unwrapped
from soup.checkpoints.origins import called
from soup.checkpoints.safe import require_safe
from soup.checkpoints.together import Together
from soup.checkpoints.updates import Update
from soup.checkpoints.weights import ADAPTER, is_adapter, read_weights, unread_note
from soup.errors import CheckpointError, QuantisedError

PREFIX = "base_model.model."
WEIGHTS = "adapter_model"

UNQUANTISED = "name the unquantised base, of the same model, with --base DIR"
REFUSED = {
    "lora_bias": "a bias beside B",
    "layer_replication": "layers that the base stores once and the adapter uses twice",
    "trainable_token_indices": "single trained rows of the embedding",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA, which is active for some tokens only",
    "arrow_config": "Arrow, which chooses adapters for each token",
}
"""Settings whose adapters are no fixed change of the base's weights, or none that we compute."""

HARMLESS_INITS = ("true", "false", "none", "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base as it is."""


def open_adapter(
    directory: Path, name: str, base: "str | os.PathLike[str] | Checkpoint | None" = None
) -> Checkpoint:
    """Read an adapter's settings and headers, and its base's; no tensor is read.

    Args:
        directory: holds ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``);
            absolute.
        name: how the user knows it.
        base: the full model; by default the local directory that the settings name.

    Returns:
        The merged model: tensors, dtypes, shapes and order are the base's.

    Raises:
        CheckpointError: the base is unknown, the adapter is of a kind that is not supported, or a
            tensor of it does not fit the base; the message names it.
    """
    require_plain(directory)
    require_safe(directory / ADAPTER, directory.resolve())
    files = _adapter_files(directory)
    states = file_states((*files, directory / ADAPTER))
    settings = read_settings(directory)
    _require_supported(directory, settings)
    _require_nothing_beside(directory, files)
    parent = _open_base(directory, settings, base)
    modules: dict[str, Parts] = {}
    whole: dict[str, TensorInfo] = {}
    stored = [info for file in files for info in read_weights(file)]
    require_gathered(directory, stored)
    called = unwrapped(info.name for info in stored)
    for info in (replace(info, name=called[info.name]) for info in stored):
        _sort_in(info, modules, whole)
    if not stored:
        raise CheckpointError(f"{files[0]}: holds no tensor; is the checkpoint complete?")
    together = Together(Finder(parent))
    experts = take_experts(directory, Finder(parent), settings, modules, together)
    changed = (*whole, *(f"{module}.weight" for module in modules))
    headed, pairs = with_head(parent, changed)
    finder = Finder(headed)
    together.take(directory, settings, modules, finder)
    replaced = _replacements(finder, whole)
    updates: dict[str, Update] = dict(replaced)
    factored: list[LoraUpdate | ExpertsUpdate | RowsUpdate] = [
        *lora_updates(directory, finder, settings, modules, replaced),
        *experts,
        *together.updates(),
    ]
    for update in factored:
        other = updates.get(update.target.name)
        if other and not (isinstance(other, Replacement) and isinstance(update, LoraUpdate)):
            raise CheckpointError(
                f"{update.down.file}: {update.down.name} and another tensor both belong to "
                f"{update.target.name} of {parent.name}; one expected"
            )
        updates[update.target.name] = update
    opened = Checkpoint(
        directory,
        name,
        parent.tensors,
        (*parent.shards, *files),
        parent.config,
        sharded=parent.sharded,
        updates=updates,
        base=parent,
        settings=(directory / ADAPTER,),
        states=(*parent.states, *states),
        kind=_kind(updates.values(), parent),
        altered=parent.altered,
        rewritten=parent.rewritten,
        notes=unread_note(directory, files),
        stored=headed.tensors if pairs else None,
        ties=pairs,
    )
    require_both(directory, opened, pairs)
    return opened


def read_settings(directory: Path) -> dict[str, Any]:
    """``adapter_config.json`` of an adapter, parsed.

    Raises:
        CheckpointError: it cannot be read, or is no JSON object.
    """
    return read_object(directory / ADAPTER)


def _require_supported(directory: Path, settings: Mapping[str, Any]) -> None:
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise CheckpointError(f"{directory}: a {kind} adapter, expected LORA; {MERGE}")
    for key, meaning in REFUSED.items():
        if settings.get(key):
            raise CheckpointError(
                f"{directory}: the adapter uses {key} ({meaning}), which is not supported; {MERGE}"
            )
    init = str(settings.get("init_lora_weights", True)).lower()
    if init not in HARMLESS_INITS:
        raise CheckpointError(
            f"{directory}: init_lora_weights is {init!r}, which changes the base before training; "
            "convert the adapter first (peft: `save_pretrained` with "
            "`path_initial_model_for_weight_conversion`), or merge it"
        )


def _require_nothing_beside(directory: Path, read: Collection[Path]) -> None:
    """LLaVA's trainers keep a trained projector in a file of its own: a soup would lose it."""
    for path in weights_beside(directory, read):
        if path.parent == Path() and not path.name.startswith(WEIGHTS):
            raise CheckpointError(
                f"{directory / path}: weights beside a LoRA adapter, which would be lost; {MERGE}, "
                "or move the file away if it is not part of the model"
            )


def _adapter_files(directory: Path) -> tuple[Path, ...]:
    for suffix in ("safetensors", "bin"):
        if (single := directory / f"{WEIGHTS}.{suffix}").is_file():
            return (single,)
    parts = sorted(directory.glob(f"{WEIGHTS}-*-of-*.safetensors"))
    if parts:
        expected = parts[0].stem.rpartition("-")[2]
        if not expected.isdigit() or len(parts) != int(expected):
            raise CheckpointError(
                f"{directory}: expected {expected} parts of {WEIGHTS}, found {len(parts)}; "
                "is the checkpoint complete?"
            )
        return tuple(parts)
    raise CheckpointError(
        f"{directory}: {ADAPTER} without {WEIGHTS}.safetensors; is the checkpoint complete?"
    )


def _open_base(
    directory: Path,
    settings: Mapping[str, Any],
    base: "str | os.PathLike[str] | Checkpoint | None",
) -> Checkpoint:
    if base is None:
        named = settings.get("base_model_name_or_path")
        if not named:
            raise CheckpointError(
                f"{directory}: a LoRA adapter whose {ADAPTER} names no base; "
                "name the base's directory with --base DIR"
            )
        base = directory / str(named)  # an absolute path stays itself
        if not base.is_dir():
            revision = settings.get("revision")
            base = hub.cached(str(named), str(revision) if revision else None) or base
        if not base.is_dir():
            fetch = f", or fetch it: --base hf://{named}" if hub.is_id(str(named)) else ""
            packed = QUANTISED.search(str(named)) is not None
            raise CheckpointError(
                f"{directory}: a LoRA adapter whose base {str(named)!r} is no directory here, "
                "nor in the hub's local cache; "
                + (UNQUANTISED if packed else f"name the base's directory with --base DIR{fetch}")
            )
    if isinstance(base, Checkpoint):
        itself, found = base.base is not None, base.path
    else:
        itself, found = is_adapter(Path(base)), Path(base)
    if itself:
        raise CheckpointError(
            f"{directory}: expected a full model as its base, found the LoRA adapter {found}; "
            "merge that one first"
        )
    path = Path(os.path.abspath(found))
    if hub.is_root(path):
        path = hub.snapshot(path)
    if isinstance(base, Checkpoint):
        parent = base
    else:
        try:
            parent = open_model(path, called(path))
        except QuantisedError as error:
            raise QuantisedError(
                f"{directory}: a LoRA adapter on {path}, whose weights are quantised (QLoRA); "
                f"{UNQUANTISED}"
            ) from error
    if parent.updates or is_wrapped(parent.tensors):
        raise CheckpointError(
            f"{directory}: its base {path} holds LoRA factors of its own; merge those first"
        )
    return parent


def _sort_in(info: TensorInfo, modules: dict[str, Parts], whole: dict[str, TensorInfo]) -> None:
    """Put one stored tensor where it belongs: a module's factor, or a whole tensor's stand-in."""
    if not info.name.startswith(PREFIX):
        raise CheckpointError(
            f"{info.file}: tensor {info.name}: expected a name that begins with {PREFIX}"
        )
    path = info.name.removeprefix(PREFIX)
    factor = re.fullmatch(
        r"(.+)\.(?:(?:lora_(A|B)(?:\.default)?\.weight)|(?:lora_embedding_(A|B)(?:\.default)?)"
        r"|(lora_magnitude_vector)(?:\.default)?(?:\.weight)?)",
        path,
    )
    if factor:
        module, linear, embedding, _ = factor.groups()
        parts = modules.setdefault(module, Parts())
        role = linear or embedding or "m"
        if role in parts.tensors:
            raise CheckpointError(
                f"{info.file}: {parts.tensors[role].name} and {info.name} are the same factor of "
                f"{module}; one adapter per directory expected"
            )
        parts.tensors[role] = info
        parts.embedding |= embedding is not None
        return
    path = re.sub(r"\.modules_to_save(\.default)?\.(?=[^.]+$)", ".", path)
    path = re.sub(r"\.base_layer\.(?=[^.]+$)", ".", path)
    if path in whole:
        raise CheckpointError(
            f"{info.file}: {whole[path].name} and {info.name} both stand for {path}; one expected"
        )
    whole[path] = info


def _replacements(finder: Finder, whole: Mapping[str, TensorInfo]) -> dict[str, Replacement]:
    parent = finder.parent
    found: dict[str, Replacement] = {}
    for name, info in whole.items():
        target = finder.require(name, info)
        if target.name in found:
            other = found[target.name].stored.name
            raise CheckpointError(
                f"{info.file}: {other} and {info.name} both stand for {target.name} of "
                f"{parent.name}; one expected"
            )
        if info.shape != target.shape:
            rows = "; were tokens added? resize the base alike, and save it"
            embedding = info.shape[1:] == target.shape[1:]
            raise CheckpointError(
                f"{info.file}: tensor {info.name}: expected {list(target.shape)} as in the base "
                f"{parent.name}, found {list(info.shape)}{rows if embedding else ''}"
            )
        if not info.is_float or not target.is_float or target.name.endswith("inv_freq"):
            raise CheckpointError(
                f"{info.file}: tensor {info.name}: expected trained floating-point weights, found "
                f"{info.dtype} for the base's {target.dtype} {target.name}; {MERGE}"
            )
        found[target.name] = Replacement(target, info)
    return found


def _kind(updates: Iterable[Update], parent: Checkpoint) -> str:
    """What an adapter is, for people: ``LoRA r=8 on llava-7b``."""
    factors = [u for u in updates if isinstance(u, LoraUpdate | ExpertsUpdate | RowsUpdate)]
    if not factors:
        return f"tensors on {parent.name}"
    ranks = sorted({update.rank for update in factors})
    rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}–{ranks[-1]}"
    name = "DoRA" if any(getattr(update, "magnitude", None) for update in factors) else "LoRA"
    return f"{name} r={rank} on {parent.name}"
