"""evaluators/models/served.py: the words of a checkpoint with its own code, without running it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("vlmeval")

from soup.checkpoints.opening import open_checkpoint
from soup.errors import ScoringError
from soup.evaluators.engines.resident import open_wrapper
from soup.evaluators.engines.vllm_questions import Ear
from soup.evaluators.models.families import named
from soup.evaluators.models.kit_wrapper import KitWrapper
from soup.evaluators.models.wrapper import Options
from tests.models import tiny_families

SYSTEM = "seven wizards"
CONVERSATION = f"""
class Conversation:
    sep = "<|im_end|>\\n"
    roles = ("<|im_start|>user\\n", "<|im_start|>assistant\\n")

    def __init__(self):
        self.system_message, self.said = {SYSTEM!r}, []

    def append_message(self, role, text):
        self.said.append((role, text))

    def get_prompt(self):
        turns = [role + (text + self.sep if text else "") for role, text in self.said]
        return "".join(["<|im_start|>system\\n", self.system_message, self.sep, *turns])


def get_conv_template(name):
    return {{"plain": Conversation}}[name]()
"""
CONFIG = {
    "model_type": "internvl_chat", "architectures": ["InternVLChatModel"],
    "auto_map": {"AutoConfig": "gone.Config", "AutoModel": "gone.Model"},
    "vision_config": {"image_size": 448, "patch_size": 112, "hidden_size": 8},
    "llm_config": {"architectures": ["Qwen2ForCausalLM"], "repetition_penalty": 1.5},
    "template": "plain", "downsample_ratio": 0.5, "force_image_size": 448,
}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A directory whose modelling code is not even there."""
    made = tiny_families.tokenizer(
        ["<|im_start|>", "<img>", "</img>", "<IMG_CONTEXT>"],
        eos_token="<|im_end|>", pad_token="<|endoftext|>",
    )  # fmt: skip
    place = tmp_path / "m"
    made.save_pretrained(place)
    (place / "config.json").write_text(json.dumps(CONFIG))
    (place / "conversation.py").write_text(CONVERSATION)
    save_file({"w": torch.zeros(2, 2)}, place / "model.safetensors")
    return place


def built(path: Path) -> KitWrapper:
    """The wrapper as vLLM asks through it."""
    options = Options(device="cpu", max_new_tokens=4, trust_remote_code=True)
    wrapper = open_wrapper(open_checkpoint(path, "m", None), options, served=True)
    assert isinstance(wrapper, KitWrapper)
    wrapper.build(torch.device("meta"), torch.float32)
    return wrapper


def test_words_and_tiles_are_those_of_the_conversation(checkpoint: Path, tmp_path: Path) -> None:
    """System message, marks of turns, and as many places for the picture as its tiles take."""
    picture = tmp_path / "wide.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture)
    wrapper = built(checkpoint)
    asked = [{"type": "image", "value": str(picture)}, {"type": "text", "value": "What is in it?"}]
    heard = Ear(wrapper).hear(asked, "MMStar")
    tiles = heard.whole.inputs["pixel_values"]
    assert tiles.shape == (3, 3, 448, 448)  # two, and all of it once more
    tokenizer = wrapper._kit.tokenizer
    text = tokenizer.decode(heard.whole.inputs["input_ids"][0])
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
        f"<img>{'<IMG_CONTEXT>' * 12}</img>\nWhat is in it?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert heard.runs is not None
    assert [length for _, length in heard.runs] == [12]


def test_it_stops_and_is_read_as_its_code_would(checkpoint: Path) -> None:
    """At the end of a turn; what the language model's config says of generation holds, too."""
    wrapper = built(checkpoint)
    heard = Ear(wrapper).hear([{"type": "text", "value": "What?"}], "MMStar")
    tokenizer = wrapper._kit.tokenizer
    assert heard.whole.generation["eos_token_id"] == tokenizer.eos_token_id
    assert heard.whole.generation["max_new_tokens"] == 4
    assert wrapper._model.generation_config.repetition_penalty == 1.5
    tokens = torch.tensor(tokenizer(" fox jumps<|im_end|>")["input_ids"])
    assert wrapper.decode(tokens) == "fox jumps"


def test_other_words_are_named(checkpoint: Path) -> None:
    """A checkpoint that keeps them elsewhere is not asked in wrong ones."""
    (checkpoint / "conversation.py").unlink()
    with pytest.raises(ScoringError, match=r"its words are not to be had .* transformers"):
        built(checkpoint)


def test_its_code_runs_only_when_trusted(checkpoint: Path) -> None:
    """That of its conversations is code as well."""
    with pytest.raises(ScoringError, match="add --trust-remote-code"):
        open_wrapper(open_checkpoint(checkpoint, "m", None), Options(device="cpu"), served=True)


def test_vllm_needs_no_older_transformers() -> None:
    """Nor the packages of the checkpoint's code; transformers' engine does."""
    family = named("internvl-1.5")
    assert family is not None
    assert not family.runs_under("5.17")
    assert family.by("vllm").runs_under("5.17")
    assert not family.by("vllm").packages
    assert family.by("transformers") is family
