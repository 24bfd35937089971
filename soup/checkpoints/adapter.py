"""LoRA adapters as checkpoints: the base's tensors, some of them computed as they are read.

The files are those of PEFT (https://huggingface.co/docs/peft), which ms-swift, LLaMA-Factory and
TRL write, too. Whatever is no fixed change of the base's weights is refused by name.
"""

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint, TensorInfo, file_states, open_model
from soup.checkpoints.files import weights_beside
from soup.checkpoints.json_text import read_object
from soup.checkpoints.lora import LoraUpdate, Recent, Replacement
from soup.checkpoints.updates import Update
from soup.checkpoints.weights import ADAPTER, is_adapter, read_weights, unread_note
from soup.errors import CheckpointError

PREFIX = "base_model.model."
WEIGHTS = "adapter_model"

RENAMES = (
    ("model.language_model.", "language_model.model."),
    ("model.language_model.", "model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.visual.", "visual."),
    ("lm_head.", "language_model.lm_head."),
)
"""Prefixes in memory and in files: transformers renames some modules between the two, and an
adapter has the names of the version that it was trained with."""

MERGE = "merge it with the tool that trained it (peft: `merge_and_unload`) and blend the result"
REFUSED = {
    "lora_bias": "a bias beside B",
    "layer_replication": "layers that the base stores once and the adapter uses twice",
    "trainable_token_indices": "single trained rows of the embedding",
    "target_parameters": "LoRA on parameters rather than on modules",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA, which is active for some tokens only",
    "arrow_config": "Arrow, which chooses adapters for each token",
}
"""Settings whose adapters are no fixed change of the base's weights, or none that we compute."""

HARMLESS_INITS = ("true", "false", "none", "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base as it is."""


@dataclass
class _Parts:
    """What an adapter's file holds of one module, by role."""

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    embedding: bool = False


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
    files = _adapter_files(directory)
    states = file_states((*files, directory / ADAPTER))
    settings = read_settings(directory)
    _require_supported(directory, settings)
    _require_nothing_beside(directory, files)
    parent = _open_base(directory, settings, base)
    modules: dict[str, _Parts] = {}
    whole: dict[str, TensorInfo] = {}
    for info in (info for file in files for info in read_weights(file)):
        _sort_in(info, modules, whole)
    if not modules and not whole:
        raise CheckpointError(f"{files[0]}: holds no tensor; is the checkpoint complete?")
    replaced = _replacements(parent, whole)
    updates: dict[str, Update] = dict(replaced)
    for update in _lora_updates(directory, parent, settings, modules, replaced):
        if isinstance(updates.get(update.target.name), LoraUpdate):
            raise CheckpointError(
                f"{update.down.file}: {update.down.name} and another tensor both belong to "
                f"{update.target.name} of {parent.name}; one expected"
            )
        updates[update.target.name] = update
    return Checkpoint(
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
        notes=unread_note(directory, files),
    )


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
            raise CheckpointError(
                f"{directory}: a LoRA adapter whose base {str(named)!r} is no directory here; "
                "name the base's directory with --base DIR"
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
    if isinstance(base, Checkpoint):
        return base
    path = Path(os.path.abspath(base))
    return open_model(path, path.name)


def _sort_in(info: TensorInfo, modules: dict[str, _Parts], whole: dict[str, TensorInfo]) -> None:
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
        parts = modules.setdefault(module, _Parts())
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


def _find(parent: Checkpoint, name: str, info: TensorInfo) -> TensorInfo:
    """The base's tensor of that name, or of the one other name that it can have there."""
    if name in parent.tensors:
        return parent.tensors[name]
    swaps = [*RENAMES, *((file, memory) for memory, file in RENAMES)]
    candidates = {new + name.removeprefix(old) for old, new in swaps if name.startswith(old)}
    found = sorted(candidates & parent.tensors.keys())
    if len(found) == 1:
        return parent.tensors[found[0]]
    if found:
        raise CheckpointError(
            f"{info.file}: tensor {info.name} could belong to {found[0]} or to {found[1]} of "
            f"{parent.name}; expected one; {MERGE}"
        )
    tied = name.endswith("lm_head.weight") and parent.config.get("tie_word_embeddings", True)
    hint = f"tied to the embedding there? {MERGE}" if tied else "was it trained on another base?"
    raise CheckpointError(
        f"{info.file}: tensor {info.name}: the base {parent.name} has no tensor {name}; {hint}"
    )


def _replacements(parent: Checkpoint, whole: Mapping[str, TensorInfo]) -> dict[str, Replacement]:
    found: dict[str, Replacement] = {}
    for name, info in whole.items():
        target = _find(parent, name, info)
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


def _lora_updates(
    directory: Path,
    parent: Checkpoint,
    settings: Mapping[str, Any],
    modules: Mapping[str, _Parts],
    replaced: Mapping[str, Replacement],
) -> Iterable[LoraUpdate]:
    """One update per module, its factors' shapes proven to fit the base's."""
    recent = Recent()
    orientation = _Orientation(bool(settings.get("fan_in_fan_out")))
    fitted = []
    for module, parts in modules.items():
        some = next(iter(parts.tensors.values()))
        lacking = [role for role in "AB" if role not in parts.tensors]
        if settings.get("use_dora") and "m" not in parts.tensors:
            lacking.append("magnitude vector")
        if lacking:
            raise CheckpointError(
                f"{some.file}: {module} has no LoRA {lacking[0]}; is the checkpoint complete?"
            )
        target = _find(parent, f"{module}.weight", some)
        if not parts.embedding:
            orientation.learn(target, parts)
        fitted.append((module, parts, target))
    for module, parts, target in fitted:
        down, up, magnitude = (parts.tensors.get(role) for role in "ABm")
        assert down is not None and up is not None
        transposed = parts.embedding or orientation.of(target, parts)
        _require_shapes(parent, target, down, up, magnitude, transposed)
        rank, scale = _scale(directory, settings, module)
        if down.shape[0] != rank:
            raise CheckpointError(
                f"{down.file}: tensor {down.name} has rank {down.shape[0]}, expected {rank} as "
                f"{ADAPTER} says; are the two from the same run?"
            )
        stored = replaced[target.name].stored if target.name in replaced else target
        yield LoraUpdate(
            target, stored, down, up, scale, transposed, magnitude, module, parts.embedding, recent
        )


@dataclass
class _Orientation:
    """Whether weights are stored as ``[in, out]``: what shapes prove, and the setting elsewhere.

    PEFT changes ``fan_in_fan_out`` while it wraps modules of both kinds, so it alone proves
    nothing.
    """

    setting: bool
    proven: set[bool] = field(default_factory=set)

    @staticmethod
    def _shapes(parts: _Parts) -> tuple[int, int]:
        return parts.tensors["B"].shape[0], parts.tensors["A"].shape[-1]

    def learn(self, target: TensorInfo, parts: _Parts) -> None:
        out, into = self._shapes(parts)
        if out != into and target.shape in ((out, into), (into, out)):
            self.proven.add(target.shape == (into, out))

    def of(self, target: TensorInfo, parts: _Parts) -> bool:
        out, into = self._shapes(parts)
        if out != into:
            return target.shape == (into, out)
        if len(self.proven) == 2:
            raise CheckpointError(
                f"{parts.tensors['A'].file}: {target.name} is square, and the adapter changes both "
                f"[out, in] and [in, out] weights: which one it is cannot be told; {MERGE}"
            )
        return next(iter(self.proven), self.setting)


def _require_shapes(
    parent: Checkpoint,
    target: TensorInfo,
    down: TensorInfo,
    up: TensorInfo,
    magnitude: TensorInfo | None,
    transposed: bool,
) -> None:
    where = f"{down.file}: tensor {down.name}"
    if len(down.shape) != 2 or len(up.shape) != 2 or len(target.shape) != 2:
        raise CheckpointError(
            f"{where}: {list(down.shape)} on the base's {list(target.shape)}: LoRA on convolutions "
            f"is not supported; {MERGE}"
        )
    product = (up.shape[0], down.shape[1])
    expected = product[::-1] if transposed else product
    if down.shape[0] != up.shape[1] or expected != target.shape:
        raise CheckpointError(
            f"{where}: B·A is {list(up.shape)}·{list(down.shape)}, expected the shape of the base "
            f"{parent.name}'s {target.name}, {list(target.shape)}; were tokens added, or was it "
            "trained on another base?"
        )
    if magnitude is not None and transposed:
        raise CheckpointError(
            f"{where}: DoRA on weights stored as [in, out] or on an embedding is not supported; "
            f"{MERGE}"
        )
    if magnitude is not None and magnitude.numel != target.shape[0]:
        raise CheckpointError(
            f"{where}: DoRA's magnitude vector has {magnitude.numel} values, expected "
            f"{target.shape[0]}, one for each row of {target.name}"
        )
    if not all(info.is_float for info in (target, down, up, magnitude or up)):
        raise CheckpointError(f"{where}: expected floating-point factors and weights")


def _scale(directory: Path, settings: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Rank and scale of a module, by its path in the adapter's names, as PEFT matches it."""

    def of(pattern: str, default: Any) -> Any:
        for key, value in (settings.get(pattern) or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default

    try:
        rank = int(of("rank_pattern", settings.get("r", 8)))
        alpha = float(of("alpha_pattern", settings.get("lora_alpha", 8)))
        scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    except (ValueError, TypeError, AttributeError, ArithmeticError, re.error) as error:
        raise CheckpointError(
            f"{directory / ADAPTER}: rank or alpha of {module} cannot be told ({error})"
        ) from error
    return rank, scale


def _kind(updates: Iterable[Update], parent: Checkpoint) -> str:
    """What an adapter is, for people: ``LoRA r=8 on llava-7b``."""
    factors = [update for update in updates if isinstance(update, LoraUpdate)]
    if not factors:
        return f"tensors on {parent.name}"
    ranks = sorted({update.rank for update in factors})
    rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]}–{ranks[-1]}"
    name = "DoRA" if any(update.magnitude is not None for update in factors) else "LoRA"
    return f"{name} r={rank} on {parent.name}"
