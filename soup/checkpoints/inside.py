"""LoRA factors inside a full checkpoint, as it is saved while PEFT is wrapped around the model.

Averaged as they stand, the means of A and of B would be multiplied, which is another change. Here
they are what an adapter's factors are: merged as they are read, where config.json says with which
scale. InternVL's trainer (``use_llm_lora``, ``use_backbone_lora``) has rank r and alpha 2·r.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.factors import Finder, Parts, lora_updates
from soup.checkpoints.json_text import read_object
from soup.checkpoints.known import file_states
from soup.checkpoints.tensors import TensorInfo
from soup.checkpoints.updates import Update
from soup.checkpoints.weights import ADAPTER
from soup.errors import CheckpointError
from soup.words import counted

_FACTOR = re.compile(r"(.+)\.lora_(A|B|magnitude_vector)(?:\.([^.]+))?(?:\.weight)?")
_EMBEDDING = re.compile(r"(.+)\.lora_embedding_(A|B)(?:\.([^.]+))?")

SWITCHES: Mapping[str, str] = {
    "use_llm_lora": "language_model",
    "use_backbone_lora": "vision_model",
}
"""InternVL's keys of config.json that hold a rank, and the module that PEFT is wrapped around."""

NESTED = ("lora_config", "peft_config")
"""Keys of config.json under which trainers put what is in an adapter's settings."""


_OTHERS = re.compile(r"\.base_layer\.|\.lora\.(down|up)\.|\.original_module\.")
"""What names hold where PEFT, or a tool that is like it, is wrapped around modules."""


def is_wrapped(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a model was saved with an adapter around its modules, of LoRA or another kind."""
    together = "\n".join(tensors)
    return ".lora_" in together or _OTHERS.search(together) is not None


def merged(model: Checkpoint) -> Checkpoint:
    """A full model whose LoRA factors are computed into the tensors that they change.

    Raises:
        CheckpointError: no rank and scale are known, the factors are of several adapters, or they
            do not fit; a tensor is named.
    """
    modules, adapters = _sorted(model)
    _require_factors(model, modules)
    if len(adapters) > 1 or any(f"{name}_lora" in model.config for name in adapters):
        raise CheckpointError(
            f"{model.path}: holds LoRA factors of adapters that the model switches on by its input "
            f"({', '.join(sorted(adapters))}): they cannot be merged, and averaged apart they "
            "would be another change; not supported"
        )
    plain: dict[str, TensorInfo] = {}
    for name, info in model.tensors.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        bare = _bare(name)
        if bare in plain:
            raise CheckpointError(
                f"{model.path}: {plain[bare].name} and {name} both stand for {bare}; one expected"
            )
        plain[bare] = info
    renamed = {bare: replace(info, name=bare) for bare, info in plain.items()}
    parent = replace(model, tensors=renamed)
    updates: dict[str, Update] = {}
    said_in = f"{ADAPTER} or config.json" if (model.path / ADAPTER).is_file() else "config.json"
    for settings, part in _by_settings(model, modules):
        for update in lora_updates(model.path, Finder(parent), settings, part, {}, said_in):
            updates[update.target.name] = update
    changes: dict[str, Any] = {key: 0 for key in SWITCHES if model.config.get(key)}
    changes |= {key: None for key in NESTED if model.config.get(key)}
    files = tuple(f for f in (model.path / ADAPTER, model.path / "config.json") if f.is_file())
    note = (
        f"holds LoRA factors inside ({counted(len(modules), 'module')}); they are merged, and the "
        "soup has none"
        if modules
        else "was saved with PEFT around it, without factors; the modules that it trained are taken"
    ) + (f"; its config.json says {', '.join(changes)}: off" if changes else "")
    return replace(
        parent,
        updates=updates,
        config={**model.config, **changes},
        rewritten={**model.rewritten, **changes},
        altered=True,
        kind="LoRA merged" if modules else "",
        notes=(*model.notes, note),
        settings=files,
        states=(*model.states, *file_states(files)),
    )


def _sorted(model: Checkpoint) -> tuple[dict[str, Parts], set[str]]:
    """The factors by their modules, and the names of the adapters that they are of."""
    modules: dict[str, Parts] = {}
    adapters = set()
    for name, info in model.tensors.items():
        if ".lora_" not in name:
            continue
        embedding = _EMBEDDING.fullmatch(name)
        found = embedding or _FACTOR.fullmatch(name)
        if found is None:
            raise CheckpointError(
                f"{model.path}: tensor {name} is LoRA's, of a kind that is not supported; merge it "
                "with the tool that trained it and blend the result"
            )
        module, role, adapter = found.groups()
        adapters.add("default" if adapter in (None, "weight") else adapter)
        parts = modules.setdefault(_bare(f"{module}.x").removesuffix(".x"), Parts())
        parts.tensors[role if role in "AB" else "m"] = info
        parts.embedding |= embedding is not None
    return modules, adapters


def _require_factors(model: Checkpoint, modules: Mapping[str, Parts]) -> None:
    """Every wrapped module is changed by factors of LoRA, not by what another method trained.

    LoHa, LoKr, OFT, IA3, VeRA and their like are no linear functions of what they store, either.
    """
    for name in model.tensors:
        if ".lora_" in name or not (found := _OTHERS.search(name)):
            continue
        module = name[: found.start()]
        if found[0] == ".original_module." and any(
            other.startswith(f"{module}.modules_to_save.") for other in model.tensors
        ):
            continue
        if found[0] == ".base_layer." and _bare(f"{module}.x").removesuffix(".x") in modules:
            continue
        around = [n for n in model.tensors if n.startswith(f"{module}.") and n != name]
        plain = (".weight", ".bias")
        inner = [n for n in around if not _OTHERS.search(n) and not n.endswith(plain)]
        beside = f", beside {inner[0]}" if inner else ""
        raise CheckpointError(
            f"{model.path}: tensor {name}{beside}: saved while an adapter that is not LoRA's, or "
            "whose factors are not there, was wrapped around the model; averaged apart, what it "
            "stores would be another change: merge it with the tool that trained it and blend the "
            "result"
        )


def _bare(name: str) -> str:
    """A name without what PEFT puts into it."""
    name = re.sub(r"(^|\.)base_model\.model\.", r"\1", name)
    name = name.replace(".base_layer.", ".")
    return re.sub(r"\.modules_to_save\.[^.]+\.", ".", name)


def _by_settings(
    model: Checkpoint, modules: Mapping[str, Parts]
) -> list[tuple[dict[str, Any], dict[str, Parts]]]:
    """Which settings hold for which modules."""
    config, left = model.config, dict(modules)
    found: list[tuple[dict[str, Any], dict[str, Parts]]] = []
    for key, top in SWITCHES.items():
        rank = config.get(key)
        if type(rank) is int and rank > 0:
            part = {name: left.pop(name) for name in list(left) if top in name.split(".")}
            found.append(({"r": rank, "lora_alpha": 2 * rank}, part))
    if not left:
        return found
    given = [config.get(key) for key in NESTED]
    if (model.path / ADAPTER).is_file():
        given.append(read_object(model.path / ADAPTER))
    for settings in given:
        if isinstance(settings, dict) and {"r", "lora_alpha"} <= settings.keys():
            return [*found, (settings, left)]
    name = next(iter(next(iter(left.values())).tensors.values())).name
    raise CheckpointError(
        f"{model.path}: tensor {name} is a LoRA factor inside a full model, and config.json says "
        "no rank and scale to merge it with; averaged apart, factors would be another change: "
        "merge it with the tool that trained it and blend the result"
    )
