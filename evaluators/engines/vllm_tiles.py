"""Families whose wrapper cuts pictures into tiles by itself: vLLM is given its tokens and tiles.

Their processor is never asked about pictures, so there is nothing that vLLM's own processing could
be given and compared with. What the wrapper made goes in as it is instead, in the form in which
vLLM's processing would have left it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from soup.errors import ScoringError
from soup.evaluators.models.wrapper import Prepared

Run = tuple[int, int]
"""Where the tokens of one picture begin, and how many they are."""


def runs_of(prepared: Prepared, processor: Any) -> list[Run] | None:
    """The places of a question's pictures among its tokens.

    Args:
        prepared: what the wrapper made: ``pixel_values`` [tiles, 3, height, width], if any.
        processor: transformers' own, of InternVL's kind: it knows the token of a piece of a
            picture, and how many make a tile.

    Returns:
        None where the wrapper or its processor is of another kind.
    """
    tiles = prepared.inputs.get("pixel_values")
    place = getattr(processor, "image_token_id", None)
    each = getattr(processor, "image_seq_length", None)
    others = {*prepared.inputs} - {"input_ids", "attention_mask", "pixel_values"}
    if place is None or each is None or others or (tiles is not None and tiles.ndim != 4):
        return None
    runs: list[Run] = []
    for at, token in enumerate(prepared.inputs["input_ids"][0].tolist()):
        if token != place:
            continue
        start, length = runs[-1] if runs else (-1, 0)
        if start + length == at and runs:
            runs[-1] = start, length + 1
        else:
            runs.append((at, 1))
    count = 0 if tiles is None else len(tiles)
    if any(length % each for _, length in runs) or sum(n for _, n in runs) != each * count:
        raise ScoringError(
            f"the wrapper made {count} tiles of pictures, of {each} tokens each, and there are "
            f"{sum(n for _, n in runs)} such tokens in the question"
        )
    return runs


def inputs_of(
    processing: Any, prepared: Prepared, runs: Sequence[Run], dtype: torch.dtype, each: int
) -> Mapping[str, Any]:
    """A question as vLLM's own processing would leave it.

    Args:
        processing: vLLM's processor of the model.
        prepared: what the wrapper made.
        runs: see ``runs_of``.
        dtype: what the model computes in.
        each: tokens of a tile.
    """
    ids = prepared.inputs["input_ids"][0].tolist()
    if not runs:
        return {"type": "token", "prompt_token_ids": ids}
    tiles = prepared.inputs["pixel_values"].to(dtype)
    counts = [length // each for _, length in runs]
    kinds = import_module("vllm.multimodal.inputs")
    batch = import_module("transformers").BatchFeature(
        {
            "pixel_values": tiles,  # of -hf, and of InternVL with its own code
            "pixel_values_flat": tiles,
            "image_num_patches": torch.tensor(counts),
            "image_token_id": torch.tensor(ids[runs[0][0]]),
        }
    )
    fields = processing._get_mm_fields_config(batch, {})
    hashes = [
        hashlib.sha256(part.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for part in torch.split(tiles, counts)
    ]
    return {
        "type": "multimodal",
        "prompt_token_ids": ids,
        "mm_kwargs": kinds.MultiModalKwargsItems.from_hf_inputs(batch, fields),
        "mm_hashes": {"image": hashes},
        "mm_placeholders": {"image": [kinds.PlaceholderRange(*run) for run in runs]},
    }
