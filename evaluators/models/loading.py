"""How transformers builds a model, whoever asks it to: on our terms, and with all of its weights.

Works with transformers 4.4x and 5.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from soup.blending.blend import Blend
from soup.blending.streaming import stream
from soup.checkpoints import describe, quantised
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.dtypes import DTYPES
from soup.errors import ScoringError
from soup.events import Observer, ignore
from soup.words import counted

NEW = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 56)
DTYPE = "dtype" if NEW else "torch_dtype"
"""What ``from_pretrained`` calls the dtype."""

FLASH = "flash_attention_2"

MOVES = ("to", "cuda", "half", "bfloat16", "float")
"""Methods with which a wrapper would move or cast a model that is already as it should be."""

OTHERS = ("device_map", "torch_dtype", "dtype", "quantization_config", "load_in_8bit")
"""What wrappers ask ``from_pretrained`` for, and what is for us to say."""


@contextmanager
def our_loading(
    reference: Checkpoint, device: torch.device, dtype: torch.dtype, there: Any = None
) -> Iterator[list[Any]]:
    """While inside, ``from_pretrained`` gives the reference's model as we want it.

    On ``device``, in ``dtype``, unquantised, with an attention that works there, in ``eval``; and
    the model stays so, whatever its new owner does, until the context ends. Yields the models that
    were given, in order; with ``there`` it is that one which is given, and nothing is loaded. On
    ``meta`` it has no weights: then another engine has them, and the model is there to be asked
    what it is.

    Raises:
        ScoringError: the weights lack a tensor that the model needs.
    """
    kept = transformers.PreTrainedModel.__dict__["from_pretrained"]
    kept_part = transformers.PreTrainedModel.__dict__["_from_config"]
    loaded: list[Any] = []
    inside = False

    def from_pretrained(cls: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside:  # a model that loads its parts
            return kept.__func__(cls, path, *args, **kwargs)
        if there is not None:
            return given(there)
        for name in OTHERS:
            kwargs.pop(name, None)
        if FLASH in (
            kwargs.get("attn_implementation"),
            # an Auto class has put it there already
            getattr(kwargs.get("config"), "_attn_implementation", None),
        ):
            kwargs["attn_implementation"] = _attention(cls, device)
        inside = True
        try:
            if device.type == "meta":
                config = kwargs.get("config") or cls.config_class.from_pretrained(path)
                attention = kwargs.get("attn_implementation")
                model, info = blank(cls, config, reference.path, dtype, attention), None
            elif not reference.by_itself:
                config = kwargs.pop("config", None) or cls.config_class.from_pretrained(path)
                model, info = from_files(cls, config, reference, dtype, **kwargs)
            else:
                kwargs |= {DTYPE: dtype, "use_safetensors": is_safetensors(reference)}
                model, info = with_info(partial(kept.__func__, cls, path, *args, **kwargs))
        finally:
            inside = False
        if info is not None:
            require_all(info, reference.path)
        return given(model.to(device).eval())

    def given(model: Any) -> Any:
        if not any(one is model for one in loaded):
            for name in MOVES:
                setattr(model, name, lambda *args, model=model, **kwargs: model)
        loaded.append(model)
        return model

    def part(cls: Any, /, config: Any, **kwargs: Any) -> Any:
        if kwargs.get("attn_implementation") == FLASH:
            kwargs["attn_implementation"] = _attention(cls, device)
        return kept_part.__func__(cls, config, **kwargs)

    transformers.PreTrainedModel.from_pretrained = classmethod(from_pretrained)
    transformers.PreTrainedModel._from_config = classmethod(part)
    try:
        with _no_gpu(device):
            yield loaded
    finally:
        transformers.PreTrainedModel.from_pretrained = kept
        transformers.PreTrainedModel._from_config = kept_part
        for model in {id(model): model for model in loaded}.values():
            for name in MOVES:
                delattr(model, name)


def own_generation(config: Any, path: Path) -> Any:
    """The generation settings that ``from_pretrained`` would give a model of this directory."""
    if (path / "generation_config.json").is_file():
        return transformers.GenerationConfig.from_pretrained(path)
    return transformers.GenerationConfig.from_model_config(config)


def blank(
    kind: Any, config: Any, path: Path, dtype: torch.dtype, attention: str | None = None
) -> Any:
    """A model of class ``kind`` without weights, which knows its config and how it generates."""
    given = {DTYPE: dtype} | ({"attn_implementation": attention} if attention else {})
    with torch.device("meta"):
        model = kind._from_config(config, **given)
    return _generating(model, path)


def _generating(model: Any, path: Path) -> Any:
    """The model, with what its directory says of generation."""
    if (path / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(path)
    return model


def from_state(
    kind: Any, config: Any, state: dict[str, torch.Tensor], dtype: torch.dtype, **more: Any
) -> Any:
    """A model of class ``kind`` from a state dict by file names, as transformers would load it."""
    config = copy.deepcopy(config)
    return kind.from_pretrained(None, config=config, state_dict=state, **{DTYPE: dtype}, **more)


def rebuilt(
    kind: Any,
    config: Any,
    state: dict[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype,
    path: Path,
) -> nn.Module:
    """A model from a blend in memory, for those whose weights cannot be swapped in place.

    Raises:
        ScoringError: the blend lacks a tensor that the model needs.
    """
    model, info = with_info(partial(from_state, kind, config, state, dtype))
    require_all(info, path)
    return model.to(device).eval()  # type: ignore[no-any-return]


def with_info(load: Callable[..., Any]) -> tuple[Any, Any]:
    """A model, and what transformers says of its loading.

    Where shapes differ, its error may not name a tensor; its report does, when told to go on.
    """
    try:
        model, info = load(output_loading_info=True)
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        model, info = load(output_loading_info=True, ignore_mismatched_sizes=True)
        if not info["mismatched_keys"]:
            raise
    return model, info


def require_all(info: Any, path: Path) -> None:
    """Raises ScoringError where a model that was just loaded lacks weights, or has no room for
    those that there are.
    """
    for name, found, expected in sorted(info["mismatched_keys"]):
        raise ScoringError(
            f"{path}: {name} is {list(found)} in the weights, but {list(expected)} by config.json "
            f"({counted(len(info['mismatched_keys']), 'such tensor')}); take the config.json that "
            "was written with them"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ScoringError(
            f"{path}: the weights lack {missing[0]} ({counted(len(missing), 'tensor')} that the "
            "model needs); it would answer at random"
        )


def is_safetensors(reference: Checkpoint) -> bool:
    """Which of the two formats that transformers finds by itself is to be read."""
    return reference.shards[0].suffix == ".safetensors"


def from_files(
    kind: Any, config: Any, reference: Checkpoint, dtype: torch.dtype, **more: Any
) -> tuple[Any, Any]:
    """The reference's model, read by us, and what transformers says of the loading.

    For weights that transformers does not find by itself, see ``Checkpoint.by_itself``.
    """
    config = copy.deepcopy(config)
    for key, value in reference.rewritten.items():
        if key in quantised.KEYS or isinstance(value, dict):
            describe.unquantised(config)
        else:
            setattr(config, key, value)
    state = collect(Blend((reference,), reference), "read", ignore)
    model, info = with_info(partial(from_state, kind, config, state, dtype, **more))
    return _generating(model, reference.path), info


def collect(blend: Blend, task: str, observe: Observer) -> dict[str, torch.Tensor]:
    """A whole blend in memory, by file names."""
    state = {
        name: torch.empty(info.shape, dtype=DTYPES[blend.dtype_of(info)])
        for name, info in blend.reference.tensors.items()
    }

    class Fill:
        def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
            state[info.name].view(-1)[start : start + len(values)] = values

    stream(blend, Fill(), task=task, observe=observe)
    return state


def _attention(kind: Any, device: torch.device) -> str:
    """What to use where a wrapper insists on flash attention."""
    if device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None:
        return FLASH
    return "sdpa" if getattr(kind, "_supports_sdpa", True) else "eager"


@contextmanager
def _no_gpu(device: torch.device) -> Iterator[None]:
    """The current GPU, for those who ask for one at all costs, is our device."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            yield
        return
    kept = torch.cuda.current_device
    torch.cuda.current_device = lambda: device  # type: ignore[assignment,return-value]
    try:
        yield
    finally:
        torch.cuda.current_device = kept
