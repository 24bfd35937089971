"""evaluators/engines/vllm_config.py: vLLM is told of a config what transformers reads in it."""

from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from soup.evaluators.engines.vllm_config import as_transformers

TEXT = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 99}


def turning(kind: str, **said: Any) -> dict[str, Any]:
    """What vLLM reads of a config that says this of turning."""
    config = getattr(transformers, kind)(text_config={**TEXT, "rope_scaling": said or None})
    text = as_transformers(config).text_config
    found: dict[str, Any] = getattr(text, "rope_parameters", None) or text.rope_scaling
    return found


@pytest.mark.parametrize("said", [{}, {"mrope_interleaved": True}, {"mrope_interleaved": False}])
def test_qwen3_turns_in_turns_whatever_its_config_says(said: dict[str, Any]) -> None:
    """Transformers does not ask, vLLM does, and would answer otherwise."""
    found = turning("Qwen3VLConfig", rope_type="default", mrope_section=[8, 4, 4], **said)
    assert found["mrope_interleaved"] is True
    assert found["mrope_section"] == [8, 4, 4]


def test_sections_that_are_not_said_are_those_of_transformers() -> None:
    """VLLM would turn by one position where transformers turns by three."""
    found = turning("Qwen3VLConfig", rope_type="default")
    assert found["mrope_section"] == [24, 20, 20]
    assert found["mrope_interleaved"] is True


def test_qwen2_turns_one_by_one() -> None:
    """Though a config should say otherwise."""
    found = turning(
        "Qwen2VLConfig", rope_type="default", mrope_section=[4, 6, 6], mrope_interleaved=True
    )
    assert found["mrope_interleaved"] is False


def test_other_models_are_left_alone() -> None:
    """And what vLLM gives first is no config of a model at all."""
    other = transformers.LlavaOnevisionConfig()
    before = other.to_dict()
    assert as_transformers(other).to_dict() == before
    assert as_transformers(SimpleNamespace(model_type="dummy_qwen3_vl")).model_type
