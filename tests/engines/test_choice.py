"""evaluators/engines/choice.py and vllm_import.py: what is asked for is had, or is an error."""

import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("vlmeval")

from soup.checkpoints.opening import open_checkpoint
from soup.errors import ScoringError, UsageError
from soup.evaluators.engines.choice import open_engine
from soup.evaluators.engines.vllm_import import import_vllm, shared_out
from soup.evaluators.engines.vllm_options import VllmOptions, hint
from soup.evaluators.models.wrapper import Options
from tests.models import tiny_families


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_batch_invariance_is_never_left_out_silently(tmp_path: Path, engine: str) -> None:
    """Without vLLM, answers may depend on what is asked beside: that is said, and nothing asked."""
    reference = open_checkpoint(tiny_families.write("qwen2-vl", tmp_path / "m"), "m", None)
    given = {"batch_invariant": True}
    with pytest.raises(ScoringError, match="use --engine vllm on a GPU, or leave --batch-inv"):
        open_engine(engine, reference, Options(device="cpu"), tmp_path, given)


def test_batch_invariance_needs_a_gpu() -> None:
    """VLLM has it for some alone; that is said before it is imported."""
    with pytest.raises(ScoringError, match="a GPU of compute capability 8.0 or more"):
        import_vllm(torch.device("cpu"), VllmOptions(batch_invariant=True))


def test_cores_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several processes has its own; there must be one for each."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 0, 1, 2, 7}, raising=False)
    assert shared_out(2) == "0,1|2,3"
    with pytest.raises(ScoringError, match="tensor-parallel is 6, and there are 5 cores"):
        shared_out(6)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("tensor_parallel", 1.5, "a whole number from 1 on, found 1.5"),
        ("max_length", 0, "a whole number from 1 on, found 0"),
        ("max_questions", True, "a whole number from 1 on, found True"),
        ("memory_share", 1.5, "a share, more than 0 and at most 1, found 1.5"),
        ("memory_gb", -1, "a number of GB, more than 0, found -1"),
        ("memory_gb", float("inf"), "a number of GB, more than 0, found inf"),
        ("eager", "yes", "true or false, found 'yes'"),
        ("memory_shares", 1, "no such option; did you mean memory-share"),
    ],
)
def test_options_that_cannot_be_are_named(name: str, value: object, expected: str) -> None:
    """Where it stands, what is expected there, and what was found."""
    with pytest.raises(UsageError) as caught:
        VllmOptions.of({name: value})
    assert f"[engine.vllm] {name.replace('_', '-')}: " in str(caught.value)
    assert expected in str(caught.value)


def test_an_error_of_vllm_names_our_option() -> None:
    """Its own options are not the user's; where it is about none, there is another engine."""
    told = "Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory"
    assert hint(told) == "change [engine.vllm] memory-gb, or use --engine transformers"
    assert hint("KeyError: 'w'") == "use --engine transformers"


def test_options_that_can_be_are_taken() -> None:
    """A share of one is whole."""
    given = {"memory_share": 1, "memory_gb": 0.5, "tensor_parallel": 2, "max_length": 8192}
    assert VllmOptions.of(given).max_length == 8192
