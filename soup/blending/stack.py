"""Several LoRA adapters of one base as one adapter, whose change of the base is their blend's.

``Σ c_i·s_i·(B_i·A_i)`` is ``[c_1·s_1·B_1 | c_2·s_2·B_2 | …]`` times the A_i above each other: one
pair of factors, whose rank is the sum of the members' ranks and whose scale is 1. The mean of the
factors would be another change.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from typing import Any

from soup.blending.blend import Blend
from soup.checkpoints.adapter import PREFIX, read_settings
from soup.checkpoints.checkpoint import Checkpoint, same_bytes
from soup.checkpoints.lora import ExpertsUpdate, LoraUpdate, RowsUpdate
from soup.errors import PoolError, UsageError

TARGETS = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
"""Settings that together say which modules PEFT wraps."""


@dataclass(frozen=True)
class Share:
    """What one member adds to a module's change.

    Attributes:
        member: the member's name.
        update: its change of the module.
        factor: its coefficient times its scale; float64, multiplied into B.
    """

    member: str
    update: LoraUpdate
    factor: float


@dataclass(frozen=True)
class Factor:
    """A tensor of the new adapter.

    Attributes:
        name: as in PEFT's files.
        shape: A is ``[Σr, in]``, B is ``[out, Σr]``.
        shares: the members' factors that it is stacked of.
        up: whether it is B, whose parts are multiplied by the shares' factors.
    """

    name: str
    shape: tuple[int, int]
    shares: tuple[Share, ...]
    up: bool


@dataclass(frozen=True)
class Stack:
    """An adapter before it is written.

    Attributes:
        settings: its ``adapter_config.json``.
        factors: its tensors, float32, in the order of the base's.
    """

    settings: dict[str, Any]
    factors: tuple[Factor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(4 * factor.shape[0] * factor.shape[1] for factor in self.factors)


def stack(blend: Blend) -> Stack:
    """Plan the adapter that changes the base as ``blend`` does; headers suffice.

    Float32 holds a member's A exactly (float64 ones are rounded); B times coefficient and scale
    is rounded once, from float64.

    Raises:
        UsageError: the blend is not a sum with coefficients that add up to 1, or has a dtype.
        PoolError: a member is no plain LoRA adapter, or is one of another base; it is named.
    """
    if blend.method != "linear" or abs(fsum(blend.weights) - 1) > 1e-9:
        raise UsageError(
            "--as-adapter needs an average: expected method linear and coefficients that add up to "
            f"1, found {blend.method} and {fsum(blend.weights):.6g}"
        )
    if blend.dtype is not None:
        raise UsageError("--as-adapter writes float32 factors; leave --dtype out")
    shares: dict[str, list[Share]] = {}
    for member, weight in zip(blend.members, blend.weights, strict=True):
        for name, update in _plain_updates(blend.reference, member).items():
            share = Share(member.name, update, weight * update.scale)
            shares.setdefault(name, []).append(share)
    factors: list[Factor] = []
    ranks: dict[str, int] = {}
    for name in blend.reference.tensors:
        if name in shares:
            first = _same_module(name, shares[name])
            ranks[first.module] = sum(share.update.rank for share in shares[name])
            factors += _factors(first, tuple(shares[name]), ranks[first.module])
    return Stack(_settings(blend, ranks), tuple(factors))


def _plain_updates(reference: Checkpoint, member: Checkpoint) -> dict[str, LoraUpdate]:
    def refuse(why: str) -> PoolError:
        return PoolError(f"{member.name}: {why}; leave --as-adapter out to write a full model")

    if member.base is None:
        raise refuse("expected a LoRA adapter, found a full model")
    if reference.base is None or member.base.files_key != reference.base.files_key:
        raise refuse(f"expected an adapter of {reference.home}, found one of {member.home}")
    plain = {}
    for name, update in member.updates.items():
        if isinstance(update, ExpertsUpdate):
            raise refuse(
                f"tensor {name} holds experts that LoRA changes one by one (target_parameters), "
                "which is not stacked"
            )
        if isinstance(update, RowsUpdate):
            raise refuse(f"tensor {name} holds several modules' weights, which are not stacked")
        if not isinstance(update, LoraUpdate):
            raise refuse(f"tensor {name} is stored whole (modules_to_save or a bias)")
        if len(update.down.shape) != 2:
            raise refuse(f"tensor {name} is a convolution's, whose factors are not stacked")
        if update.magnitude is not None:
            raise refuse(f"tensor {name} is changed by DoRA, whose sum is no DoRA")
        # PEFT saves a copy of the base's own embedding beside factors of it.
        if update.stored is not update.target and not same_bytes(update.stored, update.target):
            raise refuse(f"tensor {name} brings a base layer of its own")
        plain[name] = update
    return plain


def _same_module(name: str, shares: list[Share]) -> LoraUpdate:
    first, update = shares[0].member, shares[0].update
    for share in shares[1:]:
        if (share.update.module, share.update.transposed) != (update.module, update.transposed):
            raise PoolError(
                f"{share.member}: calls the module of {name} {share.update.module}, expected "
                f"{update.module} as in {first}: they were trained with different versions; leave "
                "--as-adapter out to write a full model"
            )
    return update


def _factors(update: LoraUpdate, shares: tuple[Share, ...], rank: int) -> tuple[Factor, Factor]:
    names = ("lora_A.weight", "lora_B.weight")
    if update.embedding:
        names = ("lora_embedding_A", "lora_embedding_B")
    path = f"{PREFIX}{update.module}."
    return (
        Factor(path + names[0], (rank, update.down.shape[1]), shares, up=False),
        Factor(path + names[1], (update.up.shape[0], rank), shares, up=True),
    )


def _settings(blend: Blend, ranks: Mapping[str, int]) -> dict[str, Any]:
    """The reference's settings with the new ranks, and alpha = r everywhere, so that scale is 1."""
    every = [read_settings(member.path) for member in blend.members]
    own = read_settings(blend.reference.path)
    modules = {update.module for update in _loras(blend.reference)}
    same = modules == set(ranks) and all(
        all(settings.get(key) == own.get(key) for key in TARGETS) for settings in every
    )
    settings = dict(own)
    if not same or not own.get("target_modules"):
        settings |= dict.fromkeys(TARGETS)
        # a pattern rather than a list, which would match modules that end alike, too
        settings["target_modules"] = "|".join(re.escape(module) for module in sorted(ranks))
    top = max(ranks.values(), default=1)
    # PEFT takes the first key that a module's path ends with: the longest must come first.
    uneven = len(set(ranks.values())) > 1
    keys = sorted(ranks, key=lambda module: (-len(module), module)) if uneven else []
    pattern = {re.escape(key): ranks[key] for key in keys}
    settings |= {
        "base_model_name_or_path": _base_name(blend.reference, own),
        "r": top,
        "lora_alpha": top,
        "rank_pattern": pattern,
        "alpha_pattern": dict(pattern),
        "use_rslora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "bias": "none",
        "inference_mode": True,
    }
    return settings


def _loras(member: Checkpoint) -> list[LoraUpdate]:
    return [update for update in member.updates.values() if isinstance(update, LoraUpdate)]


def _base_name(reference: Checkpoint, settings: Mapping[str, Any]) -> str:
    """What the new adapter calls its base: what the reference does, where that means the same."""
    named = str(settings.get("base_model_name_or_path") or "")
    hub = re.fullmatch(r"[\w.-]+/[\w.-]+", named) and not os.path.isdir(reference.path / named)
    if named and (hub or (os.path.isabs(named) and os.path.isdir(named))):
        return named
    return str(reference.home)
