"""LoRA's factors, and which of a base's tensors they change."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from soup.checkpoints.asking import stored_as
from soup.checkpoints.checkpoint import UNTIE, Checkpoint, TensorInfo
from soup.checkpoints.lora import LoraUpdate, Recent, Replacement
from soup.checkpoints.names import Cores
from soup.checkpoints.ranks import Ranks
from soup.checkpoints.weights import ADAPTER
from soup.errors import CheckpointError

MERGE = "merge it with the tool that trained it (peft: `merge_and_unload`) and blend the result"


@dataclass
class Parts:
    """What an adapter's file holds of one module, by role."""

    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    embedding: bool = False


class Finder:
    """A base's tensors by the names that an adapter gives them."""

    def __init__(self, parent: Checkpoint) -> None:
        self.parent = parent
        self._cores = Cores(parent.tensors)

    def find(self, name: str) -> TensorInfo | None:
        """The base's tensor of that name, or the one that it can be by all but its containers."""
        found = name if name in self.parent.tensors else self._cores.find(name)
        return None if found is None else self.parent.tensors[found]

    def asked(self, name: str) -> TensorInfo | None:
        """The base's tensor that transformers says is called so in memory; takes seconds, once."""
        called = stored_as(self.parent).names.get(name)
        return None if called is None else self.find(called)

    def require(self, name: str, info: TensorInfo) -> TensorInfo:
        """The same; ``info``, which is for it, is named where there is none.

        Raises:
            CheckpointError: the base has no such tensor.
        """
        found = self.find(name)
        if found is None:  # transformers renames more than what stands before
            found = self.asked(name)
        if found is None and (one := stored_as(self.parent).tied.get(name)):
            raise CheckpointError(
                f"{info.file}: tensor {info.name}: {name} and {one} are one tensor in its base "
                f"{self.parent.home}, which cannot have two changes; {UNTIE}"
            )
        if found is None and (several := self._cores.candidates(name)):
            raise CheckpointError(
                f"{info.file}: tensor {info.name} could belong to {several[0]} or to {several[1]} "
                f"of {self.parent.name}; expected one; {MERGE}"
            )
        if found is None:
            raise CheckpointError(
                f"{info.file}: tensor {info.name}: the base {self.parent.name} has no tensor "
                f"{name}; was it trained on another base?"
            )
        return found


def lora_updates(
    directory: Path,
    finder: Finder,
    settings: Mapping[str, Any],
    modules: Mapping[str, Parts],
    replaced: Mapping[str, Replacement],
    said_in: str = ADAPTER,
) -> Iterable[LoraUpdate]:
    """One update per module, its factors' shapes proven to fit the base's.

    Args:
        directory: of the adapter, for errors.
        finder: of the base.
        settings: ``adapter_config.json``, or what says the like.
        modules: factors by the path of their module.
        replaced: by the base's name, tensors that the adapter has whole.
        said_in: the file that has the settings, for errors.

    Raises:
        CheckpointError: names the factor that lacks, or does not fit.
    """
    parent = finder.parent
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
        target = finder.require(f"{module}.weight", some)
        if not parts.embedding:
            orientation.learn(target, parts)
        fitted.append((module, parts, target))
    ranks = Ranks(directory / ADAPTER, settings)
    for module, parts, target in fitted:
        down, up, magnitude = (parts.tensors.get(role) for role in "ABm")
        assert down is not None and up is not None
        transposed = parts.embedding or orientation.of(target, parts)
        _require_shapes(parent, target, down, up, magnitude, transposed)
        rank, scale = ranks.of(module)
        if down.shape[0] != rank:
            raise CheckpointError(
                f"{down.file}: tensor {down.name} has rank {down.shape[0]}, expected {rank} as "
                f"{said_in} says; are the two from the same run?"
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
    def _shapes(parts: Parts) -> tuple[int, int]:
        return parts.tensors["B"].shape[0], prod(parts.tensors["A"].shape[1:])

    def learn(self, target: TensorInfo, parts: Parts) -> None:
        out, into = self._shapes(parts)
        if out != into and target.shape in ((out, into), (into, out)):
            self.proven.add(target.shape == (into, out))

    def of(self, target: TensorInfo, parts: Parts) -> bool:
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
    shapes = (down.shape, up.shape, target.shape)
    flat = len(down.shape) == len(up.shape) == len(target.shape) == 2
    # A convolution's: A has the kernel's size, B is one by one.
    convolution = (
        3 <= len(target.shape) <= 5 and len(set(map(len, shapes))) == 1 and set(up.shape[2:]) <= {1}
    )
    if not flat and not convolution:
        raise CheckpointError(
            f"{where}: {list(down.shape)} and {list(up.shape)} on the base's "
            f"{list(target.shape)}: expected factors of a matrix or of a convolution; {MERGE}"
        )
    product = (up.shape[0], *down.shape[1:])
    expected = product[::-1] if transposed else product
    if down.shape[0] != up.shape[1] or expected != target.shape:
        grouped = convolution and down.shape[0] != up.shape[1]
        raise CheckpointError(
            f"{where}: B·A is {list(up.shape)}·{list(down.shape)}, expected the shape of the base "
            f"{parent.name}'s {target.name}, {list(target.shape)}; "
            + (
                "LoRA on a convolution in groups cannot be merged, not by PEFT either"
                if grouped
                else "were tokens added, or was it trained on another base?"
            )
        )
    if magnitude is not None and convolution:
        raise CheckpointError(f"{where}: DoRA on a convolution is not supported; {MERGE}")
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
