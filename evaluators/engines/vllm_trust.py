"""Whether a build of vLLM can be trusted with swapped weights: tried once for every model type."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.errors import ScoringError
from soup.evaluators.engines.vllm_questions import Request
from soup.evaluators.engines.vllm_serving import Serving
from soup.evaluators.writing import write_whole
from soup.events import Note, Observer

TESTED = "engine-tests.json"
"""Which builds of vLLM have passed, beside what else is cached."""


def self_test(
    serving: Serving,
    reference: Checkpoint,
    device: torch.device,
    request: Request,
    cache: Path | None,
    observe: Observer,
) -> None:
    """Once for each build of vLLM and kind of model: swapped weights answer, and no others.

    The reference's own weights, half of each, and again its own: the likelihood of the same word
    must change, and change back.

    Raises:
        ScoringError: it does not.
    """
    kind = [serving.version, torch.__version__, device.type,
            str((reference.config.get("architectures") or ["?"])[0])]  # fmt: skip
    known = _tested(cache)
    if kind in known:
        return
    whole = Blend((reference,), reference)
    half = Blend((reference,), reference, (0.5,))
    seen = []
    for blend in (whole, half, whole):
        serving.swap(blend, None, "test the engine")
        seen.append(_likelihood(serving, request))
    if seen[0] != seen[2] or seen[0] == seen[1]:
        raise ScoringError(
            f"{serving.name} fails its self-test: weights were swapped out and in again, and "
            f"the same question gave {seen[0]}, {seen[1]}, {seen[2]} (the first and the last "
            "must be equal, the second another); nothing is scored; use --engine transformers"
        )
    observe(Note(f"vLLM {kind[0]}: swapped weights out and in, and the answers followed"))
    if cache is not None:
        text = json.dumps([*known, kind])
        write_whole(cache / TESTED, lambda path: path.write_text(text))


def _tested(cache: Path | None) -> list[list[str]]:
    try:
        found = json.loads((cache / TESTED).read_text()) if cache else []
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


def _likelihood(serving: Serving, request: Request) -> list[tuple[int, float]]:
    """The first word of an answer: its likeliest tokens, and their logarithms, rounded."""
    once = Request(request.inputs, {**request.settings, "max_tokens": 1, "logprobs": 5})
    for _, output in serving.ask([("test", once, "the self-test")]):
        (first,) = output.logprobs
        return sorted((token, round(one.logprob, 3)) for token, one in first.items())
    raise ScoringError(f"{serving.name} gave no answer in its self-test")
