"""What can be said to vLLM alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from soup.errors import UsageError
from soup.words import did_you_mean

ENGINES = ("auto", "transformers", "vllm")
"""Who may answer; ``auto`` is vLLM where it serves and there is a GPU, else transformers."""


HINTS = {
    "VLLM_CPU_KVCACHE_SPACE": "memory-gb",
    "gpu_memory_utilization": "memory-share",
    "tensor parallel": "tensor-parallel",
    "tensor_parallel": "tensor-parallel",
    "max_model_len": "max-length",
    "max_num_seqs": "max-questions",
}
"""Words of vLLM's errors, and our options that they are about."""


def hint(text: str) -> str:
    """What to do about an error of vLLM's: the option of ours that it is about, if it is."""
    named = list(dict.fromkeys(ours for word, ours in HINTS.items() if word in text))
    change = f"change [engine.vllm] {' or '.join(named)}, or " if named else ""
    return f"{change}use --engine transformers"


def require_engine(name: object, where: str) -> str:
    """The name of an engine.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in ENGINES:
        raise UsageError(f"{where} {name}: {did_you_mean(str(name), ENGINES)}")
    return str(name)


@dataclass(frozen=True)
class VllmOptions:
    """``[engine.vllm]`` in soup.toml.

    Attributes:
        memory_share: of a GPU's memory, for weights, caches and all.
        memory_gb: of main memory for the cache of keys and values, where there is no GPU.
        tensor_parallel: devices that share one model.
        max_length: tokens of the longest question and its answer; None measures the benchmarks.
        max_questions: in flight at once; None is 256 on a GPU, 64 without.
        eager: no CUDA graphs: a quicker start, slower answers.
        batch_invariant: answers that do not depend on what is asked beside; a GPU of compute
            capability 8.0 or more.
    """

    memory_share: float = 0.9
    memory_gb: float = 1.0
    tensor_parallel: int = 1
    max_length: int | None = None
    max_questions: int | None = None
    eager: bool = False
    batch_invariant: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> VllmOptions:
        """From what stands in soup.toml.

        Raises:
            UsageError: an option is unknown, or not of its kind.
        """
        known = {field.name: field for field in fields(cls)}
        for name, value in given.items():
            where = f"[engine.vllm] {name.replace('_', '-')}"
            if name not in known:
                names = [name.replace("_", "-") for name in known]
                hint = did_you_mean(name.replace("_", "-"), names)
                raise UsageError(f"{where}: no such option; {hint}")
            expected, fits = _expected(str(known[name].type), name)
            if not fits(value):
                raise UsageError(f"{where}: expected {expected}, found {value!r}")
        return cls(**given)


def _expected(kind: str, name: str) -> tuple[str, Callable[[Any], bool]]:
    """What an option of a kind may be: for people, and whether a value is that."""
    if kind == "bool":
        return "true or false", lambda value: isinstance(value, bool)
    if kind.startswith("int"):
        return "a whole number from 1 on", lambda value: type(value) is int and value >= 1
    share = name == "memory_share"
    text = "a share, more than 0 and at most 1" if share else "a number of GB, more than 0"
    return (
        text,
        lambda value: (
            type(value) in (int, float) and 0 < value < float("inf") and (value <= 1 or not share)
        ),
    )
