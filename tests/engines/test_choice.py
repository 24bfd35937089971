"""evaluators/engines/choice.py and vllm_import.py: what is asked for is had, or is an error."""

import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("vlmeval")

from soup.checkpoints.opening import open_checkpoint
from soup.errors import ScoringError
from soup.evaluators.engines.choice import open_engine
from soup.evaluators.engines.vllm_import import import_vllm, shared_out
from soup.evaluators.engines.vllm_options import VllmOptions
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
