"""What vLLM would read in config.json otherwise than transformers does: said to it as it is meant.

How far a token is turned is no weight, so no proof of weights would find it; the answers would be
another model's.
"""

from __future__ import annotations

from typing import Any

INTERLEAVED = {
    "qwen2_vl": False,
    "qwen2_5_vl": False,
    "qwen3_vl": True,
    "qwen3_vl_moe": True,
}
"""By ``model_type``, whether transformers turns time, height and width in turns, or one by one.

It is in transformers' code of each of these, which does not ask the config for it; vLLM's does.
"""

SECTIONS = (24, 20, 20)
"""What transformers takes for Qwen3-VL where config.json does not say how a head is shared out."""


def as_transformers(config: Any) -> Any:
    """A transformers config, changed so that vLLM turns tokens as transformers would.

    Args:
        config: of the whole model; of a kind that is not in ``INTERLEAVED`` it is left alone.
    """
    interleaved = INTERLEAVED.get(getattr(config, "model_type", ""))
    text = getattr(config, "text_config", None)
    if interleaved is None or text is None:
        return config
    for name in ("rope_parameters", "rope_scaling"):  # since transformers 5, and before
        turning = getattr(text, name, None)
        if isinstance(turning, dict) and (interleaved or "mrope_section" in turning):
            sections = turning.get("mrope_section", list(SECTIONS))
            told = {"mrope_section": sections, "mrope_interleaved": interleaved}
            setattr(text, name, {**turning, **told})
            break
    return config
