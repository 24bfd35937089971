"""Packed, quantised weights: known by their tensors, whatever config.json says of them.

A config may go on speaking of quantisation after an adapter was merged into dequantised weights,
and packed weights may be saved without a word. The tensors tell.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soup.checkpoints.tensors import FLOATS, TensorInfo
from soup.errors import QuantisedError
from soup.words import counted, shown

KEYS = ("quantization_config", "compression_config")
"""Where config.json speaks of it, at its top or in a part of it (``text_config``)."""

PACKED = (
    ".qweight",  # GPTQ, AWQ
    ".qzeros",
    ".q_weight",  # EXL2
    ".W_q",  # HQQ
    ".SCB",  # bitsandbytes, 8 bits
    ".weight_format",
    ".absmax",  # bitsandbytes, 4 bits
    ".quant_map",
    ".weight_packed",  # compressed-tensors
)
"""How the names of tensors end that only packed, quantised weights have."""

NARROW = ("I8", "U8", "I16", "I32")
"""Types that packed weights are stored in; indices have 64 bits, in torch."""

INDICES = ("mask", "bias", "index", "ids", "position", "table", "map", "blocks", "scales")
"""What the names of buffers hold that are matrices of whole numbers and no weights."""

WHOLE = (".weight", ".codes", ".Qidxs", ".qdata", "._data")
"""How matrices are called that hold whole numbers only where they are packed: int8 of several
tools, AQLM, QuIP#, torchao, quanto."""

DEEPEST = 8  # parts of a config within each other that are looked into

MX = ("_blocks", "_scales")
"""Two halves of a parameter in microscaling formats (MXFP4), both bytes."""


def packed(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Those tensors that belong to packed weights, by their names and kinds."""
    return [
        name
        for name, info in tensors.items()
        if (info.dtype not in FLOATS or ".quant_state." in name or name.endswith(PACKED))
        and _is_packed(name, info, tensors)
    ]


def _is_packed(name: str, info: TensorInfo, tensors: Mapping[str, TensorInfo]) -> bool:
    if name.endswith(PACKED) or ".quant_state." in name:
        return True
    if info.is_float or info.dtype == "BOOL" or len(info.shape) < 2:
        return False
    if name.endswith(WHOLE):
        return True
    for one, other in (MX, MX[::-1]):
        pair = tensors.get(name.removesuffix(one) + other) if name.endswith(one) else None
        if pair is not None and info.dtype == pair.dtype == "U8":
            return True
    last = name.rpartition(".")[2]
    return info.dtype in NARROW and not any(word in last for word in INDICES)


def method(config: Mapping[str, Any]) -> str | None:
    """How a ``config.json`` says that weights are quantised; None where it does not."""
    found = next(_spoken(config, 0), None)
    if found is None:
        return None
    return shown(found.get("quant_method", "unknown") if isinstance(found, dict) else "unknown")


def _spoken(config: Mapping[str, Any], depth: int) -> Iterator[Any]:
    """What stands under one of ``KEYS``, and is something."""
    for key, value in config.items():
        if key in KEYS and value:
            yield value
        elif isinstance(value, dict) and depth < DEEPEST:
            yield from _spoken(value, depth + 1)


def _without(config: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    return {
        key: _without(value, depth + 1) if isinstance(value, dict) and depth < DEEPEST else value
        for key, value in config.items()
        if key not in KEYS
    }


def settle(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """A config without words on quantisation that do not hold, what of it is another (None: gone),
    and what to say of that.

    Raises:
        QuantisedError: the weights are packed.
    """
    said = method(config)
    if found := packed(tensors):
        by = f" ({said})" if said else ""
        raise QuantisedError(
            f"{directory}: tensor {shown(found[0])} belongs to packed, quantised weights{by}, "
            f"{counted(len(found), 'tensor')} in all; dequantise them first, packed integers "
            "cannot be averaged"
        )
    if said is None:
        return dict(config), {}, ()
    plain = _without(config)
    changed = {key: plain.get(key) for key in config if plain.get(key) != config[key]}
    where = next(key for key, value in changed.items() if value is None or key not in KEYS)
    named = where if where in KEYS else f"quantization_config in its {where}"
    note = (
        f"its config.json has a {named} ({said}), but its weights are not quantised: it is left "
        "out, here and in the soup's config.json"
    )
    return plain, changed, (note,)
