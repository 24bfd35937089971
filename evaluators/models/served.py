"""Models that vLLM has by itself: how they are asked, without the code that checkpoints bring.

That code makes two things, a model and its words. vLLM has the model. Of the words, the checkpoint
keeps the part that differs from one to the next in a module of its own, ``conversation.py``, which
needs no library; the rest is said here. So what vLLM answers needs no older transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from soup.errors import ScoringError

EDGES = ("<img>", "</img>")
PLACE = "<IMG_CONTEXT>"
"""Tokens before, after, and in place of a picture's pieces."""

GENERATION = ("bos_token_id", "eos_token_id", "pad_token_id", "repetition_penalty", "num_beams")
"""What the language model's part of config.json says of generation."""


class Tiles:
    """What is known of the tokens of pictures that were cut into tiles; see ``vllm_tiles``."""

    def __init__(self, image_token_id: int, image_seq_length: int) -> None:
        self.image_token_id = image_token_id
        self.image_seq_length = image_seq_length

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Nobody asks it: the wrapper cuts pictures by itself."""
        raise NotImplementedError


class InternVL:
    """Stands where VLMEvalKit's wrapper expects an InternVL with its own code; has no weights.

    What it would generate is taken down by whoever stands in front of it.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        """Read how the checkpoint's conversations go.

        Args:
            path: of the model's directory, whose ``conversation.py`` is run.
            config: what its config.json says.

        Raises:
            ScoringError: the checkpoint says otherwise how it is asked.
        """
        try:
            get: Any = get_class_from_dynamic_module("conversation.get_conv_template", str(path))
            self._conversation: Callable[[], Any] = lambda: get(config["template"])
            begun = self._conversation()
            vision = config["vision_config"]
            side = (config.get("force_image_size") or vision["image_size"]) // vision["patch_size"]
            self.num_image_token = int(side**2 * config["downsample_ratio"] ** 2)
            language = config["llm_config"]
        except (OSError, KeyError, AttributeError, TypeError) as error:
            raise ScoringError(
                f"{path}: its words are not to be had ({type(error).__name__}: {error}); expected "
                "conversation.py and config.json as InternVL has them; use --engine transformers"
            ) from error
        self.system_message = config.get("system_message", begun.system_message)
        self.end = begun.sep.strip()
        told = {name: language[name] for name in GENERATION if language.get(name) is not None}
        self.generation_config = transformers.GenerationConfig(**told)
        self.config = SimpleNamespace(**config)

    def eval(self) -> InternVL:
        """As it is."""
        return self

    def tiles(self, tokenizer: Any) -> Tiles:
        """What ``vllm_tiles`` needs to know."""
        return Tiles(tokenizer.convert_tokens_to_ids(PLACE), self.num_image_token)

    def chat(
        self,
        tokenizer: Any,
        pixel_values: torch.Tensor | None,
        question: str,
        generation_config: dict[str, Any],
        num_patches_list: list[int] | None = None,
        verbose: bool = False,
    ) -> Any:
        """Ask one question about tiles [n, 3, height, width], the first of a conversation."""
        if pixel_values is not None and "<image>" not in question:
            question = f"<image>\n{question}"
        if num_patches_list is None:
            num_patches_list = [] if pixel_values is None else [len(pixel_values)]
        conversation = self._conversation()
        conversation.system_message = self.system_message
        conversation.append_message(conversation.roles[0], question)
        conversation.append_message(conversation.roles[1], None)
        words = conversation.get_prompt()
        for count in num_patches_list:
            places = PLACE * (self.num_image_token * count)
            words = words.replace("<image>", places.join(EDGES), 1)
        asked = tokenizer(words, return_tensors="pt")
        given = {**generation_config, "eos_token_id": tokenizer.convert_tokens_to_ids(self.end)}
        return self.generate(
            pixel_values=pixel_values,
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            **given,
        )

    def generate(self, **arguments: Any) -> Any:
        """Without weights there is nothing to say."""
        raise NotImplementedError

    def read(self, tokenizer: Any, tokens: torch.Tensor) -> str:
        """The answer that new tokens [n] spell."""
        text = tokenizer.batch_decode(tokens[None], skip_special_tokens=True)[0]
        return str(text.split(self.end)[0].strip())


SERVED = {"internvl": InternVL}
"""By the name that the table of families gives it."""


@contextmanager
def without_code() -> Iterator[None]:
    """While inside, Auto classes look for no code of a checkpoint.

    Whoever has taken ``from_pretrained`` of models over is asked at once.
    """
    autos = (transformers.AutoModel, transformers.AutoModelForCausalLM)
    kept = [auto.__dict__["from_pretrained"] for auto in autos]

    def from_pretrained(cls: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        return transformers.PreTrainedModel.from_pretrained(path)

    for auto in autos:
        auto.from_pretrained = classmethod(from_pretrained)
    try:
        yield
    finally:
        for auto, before in zip(autos, kept, strict=True):
            auto.from_pretrained = before
