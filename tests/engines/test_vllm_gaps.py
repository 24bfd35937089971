"""evaluators/engines/vllm_gaps.py: names that vLLM knows, and a newer transformers has not."""

from importlib import import_module

import pytest

from soup.evaluators.engines import vllm_gaps

LLAVA = "LlavaOnevisionForConditionalGeneration"


@pytest.mark.parametrize("prefix", ["", "model."])
def test_shortened_names_are_known_by_the_longer_ones(prefix: str) -> None:
    """Longer names and other architectures' are left as they are."""
    short, long = (f"{prefix}vision_tower.{part}encoder.w" for part in ("", "vision_model."))
    assert vllm_gaps.known_as([LLAVA], short) == long
    assert vllm_gaps.known_as([LLAVA], long) == long
    assert vllm_gaps.known_as(["Other"], short) == short
    assert vllm_gaps.known_as([LLAVA], f"{prefix}language_model.w") == f"{prefix}language_model.w"


def test_what_stands_in_for_a_name_fails_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be imported; using it says what is missing. A name that is there stays."""
    module = import_module(vllm_gaps.PLACE)
    there, gone = vllm_gaps.GONE
    monkeypatch.setattr(module, there, 5, raising=False)
    monkeypatch.delattr(module, gone, raising=False)
    assert vllm_gaps.fill() == [gone] == vllm_gaps.fill()
    assert getattr(module, there) == 5
    with pytest.raises(ImportError, match=gone):
        getattr(module, gone)()
    monkeypatch.delattr(module, gone)


def test_other_architectures_are_left_to_vllm() -> None:
    """Which is not even imported for them."""
    vllm_gaps.register(["Qwen2VLForConditionalGeneration"])
