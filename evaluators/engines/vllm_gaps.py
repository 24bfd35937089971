"""Where a newer transformers has other names than vLLM knows: in its code, and in files it writes.

vLLM imports its LLaVA models together with Pixtral, whose tower they have only where config.json
says so. Where Pixtral's names are gone, others of LLaVA's kind cannot be imported, either. So
something stands in for these names that fails when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

PLACE = "transformers.models.pixtral.modeling_pixtral"
GONE = ("PixtralRotaryEmbedding", "position_ids_in_meshgrid")
"""In transformers up to 5.5; vLLM 0.24 allows for newer ones, and imports these."""

MODULES = {
    "LlavaOnevisionForConditionalGeneration": "vllm.model_executor.models.llava_onevision",
}
"""Architectures that need none of them, and where vLLM's code of these is."""


def fill() -> list[str]:
    """Have something stand where a name is gone; needed in every process that has a model of it.

    Returns:
        The names that were gone, now or at an earlier call.
    """
    module = import_module(PLACE)
    for name in GONE:
        if not hasattr(module, name):
            setattr(module, name, _stand_in(name))
    return [name for name in GONE if getattr(getattr(module, name), "stands_in", False)]


def _stand_in(name: str) -> Any:
    def gone(*_: Any, **__: Any) -> Any:
        raise ImportError(f"{PLACE}.{name}: this version of transformers has no such name")

    gone.stands_in = True  # type: ignore[attr-defined]
    return gone


def register(architectures: Iterable[str]) -> None:
    """Have vLLM take its own code of these as it is in this process, where names are gone.

    It would look at it in a fresh process otherwise, where nothing stands in for them.

    Args:
        architectures: as config.json names them; of no interest unless in ``MODULES``.

    Raises:
        ImportError: its code cannot be imported.
    """
    wanted = [one for one in architectures if one in MODULES]
    if not wanted or not fill():
        return
    registry = import_module("vllm.model_executor.models.registry").ModelRegistry
    for name in wanted:
        registry.register_model(name, getattr(import_module(MODULES[name]), name))


SHORT = {
    "LlavaOnevisionForConditionalGeneration": (
        re.compile(r"(^|\.)vision_tower\.(?!vision_model\.)"), r"\1vision_tower.vision_model."
    ),
}  # fmt: skip
"""By architecture, what transformers 5 has shortened in the names that it writes, and how it was:
vLLM knows the longer ones, which published files have."""


def known_as(architectures: Iterable[str], name: str) -> str:
    """The name by which vLLM knows a file's tensor."""
    for one in architectures:
        if one in SHORT:
            name = SHORT[one][0].sub(SHORT[one][1], name)
    return name
