"""Packed, quantised weights: known by their tensors, whatever config.json says of them.

A config may go on speaking of quantisation after an adapter was merged into dequantised weights,
and packed weights may be saved without a word. The tensors tell.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soup.checkpoints.tensors import TensorInfo
from soup.errors import QuantisedError
from soup.words import counted, shown

KEY = "quantization_config"
"""Where config.json speaks of it."""

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

WHOLE = (".weight", ".codes", ".Qidxs", ".qdata", "._data")
"""How matrices are called that hold whole numbers only where they are packed: int8 of several
tools, AQLM, QuIP#, torchao, quanto."""

MX = ("_blocks", "_scales")
"""Two halves of a parameter in microscaling formats (MXFP4), both bytes."""


def packed(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Those tensors that belong to packed weights, by their names and kinds."""
    return [name for name, info in tensors.items() if _is_packed(name, info, tensors)]


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
    return False


def method(config: Mapping[str, Any]) -> str | None:
    """How a ``config.json`` says that weights are quantised; None where it does not."""
    found = config.get(KEY)
    if not found:
        return None
    return shown(found.get("quant_method", "unknown") if isinstance(found, dict) else "unknown")


def settle(
    directory: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A config without words on quantisation that do not hold, and what to say of that.

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
        return dict(config), ()
    note = (
        f"its config.json has a {KEY} ({said}), but its weights are not quantised: it is left "
        "out, here and in the soup's config.json"
    )
    return {key: value for key, value in config.items() if key != KEY}, (note,)
