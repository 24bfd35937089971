"""The wrapper for a model of no family in particular: its chat template, transformers' classes."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import transformers
from PIL import Image
from torch import nn

from soup.checkpoints.checkpoint import Checkpoint
from soup.errors import ScoringError
from soup.evaluators.models.loading import (
    DTYPE,
    blank,
    from_files,
    is_safetensors,
    own_generation,
    rebuilt,
    require_all,
    with_info,
)
from soup.evaluators.models.placeholders import image_tokens, without_placeholders
from soup.evaluators.models.wrapper import Message, Options, Prepared, clear_errors

MAX_NEW_TOKENS = 1024


class ChatTemplate:
    """Any checkpoint that transformers loads as image-text-to-text; see ``Wrapper``."""

    batched = True

    def __init__(self, reference: Checkpoint, options: Options) -> None:
        """Read config and processor; the model is built later.

        Raises:
            ScoringError: transformers cannot use this directory; the message says why.
        """
        self.reference = reference
        self._trust = options.trust_remote_code
        self._max_new_tokens = options.max_new_tokens or MAX_NEW_TOKENS
        self._own: Any = None
        with clear_errors(reference.path):
            self.config = transformers.AutoConfig.from_pretrained(
                reference.path, trust_remote_code=self._trust
            )
            self.processor = transformers.AutoProcessor.from_pretrained(
                reference.path, trust_remote_code=self._trust
            )
        tokenizer = getattr(self.processor, "tokenizer", None)
        if tokenizer is None or not hasattr(self.processor, "apply_chat_template"):
            raise ScoringError(
                f"{reference.path}: no image-text processor found beside the weights "
                "(expected preprocessor and tokenizer files); name the base model's directory with "
                "--processor DIR"
            )
        if not (getattr(self.processor, "chat_template", None) or tokenizer.chat_template):
            raise ScoringError(
                f"{reference.path}: its processor has no chat template, so questions cannot be "
                "put to it; add the base model's chat_template.jinja"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    @property
    def settings(self) -> Mapping[str, Any]:
        """See ``Wrapper``."""
        return {
            "wrapper": "chat template",
            "decoding": "greedy",
            "max_new_tokens": self._max_new_tokens,
        }

    @property
    def pad_token(self) -> int:
        """See ``Wrapper``."""
        return int(self.processor.tokenizer.pad_token_id)

    @property
    def image_tokens(self) -> tuple[str, ...]:
        """See ``Wrapper``."""
        return image_tokens(self.processor, self.processor.tokenizer)

    def build(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """See ``Wrapper``."""
        self._dtype, self._device = dtype, device
        if device.type == "meta":
            model = blank(self._kind(), self.config, self.reference.path, dtype)
            self._generation = _greedy_config(model, self._max_new_tokens)
            return model.eval()  # type: ignore[no-any-return]
        if not self.reference.by_itself:
            model, info = from_files(self._kind(), self.config, self.reference, dtype)
        else:
            load = partial(
                transformers.AutoModelForImageTextToText.from_pretrained,
                self.reference.path,
                trust_remote_code=self._trust,
                use_safetensors=is_safetensors(self.reference),
                **{DTYPE: dtype},
            )
            model, info = with_info(load)
        require_all(info, self.reference.path)
        self._own = model.generation_config
        self._generation = _greedy_config(model, self._max_new_tokens)
        return model.to(device).eval()  # type: ignore[no-any-return]

    def adopt(self, model: Any, device: torch.device, dtype: torch.dtype) -> bool:
        """See ``Wrapper``."""
        self._dtype, self._device = dtype, device
        with clear_errors(self.reference.path):
            if self._own is None:
                self._own = own_generation(self.config, self.reference.path)
        model.generation_config = self._own
        self._generation = _greedy_config(model, self._max_new_tokens)
        return True

    def let_go(self) -> None:
        """See ``Wrapper``: it holds none."""

    def replace(self, state: dict[str, torch.Tensor]) -> nn.Module:
        """See ``Wrapper``."""
        return rebuilt(
            self._kind(), self.config, state, self._device, self._dtype, self.reference.path
        )

    def _kind(self) -> Any:
        """The class of the model."""
        with torch.device("meta"):  # only to learn the class; no weights
            return type(
                transformers.AutoModelForImageTextToText.from_config(
                    self.config, trust_remote_code=self._trust
                )
            )

    def use_custom_prompt(self, dataset: str) -> bool:
        """See ``Wrapper``: the dataset's own words are used."""
        return False

    def build_prompt(self, row: Any, dataset: str) -> Message:
        """See ``Wrapper``; never asked."""
        raise NotImplementedError

    def set_dump_image(self, dump_image: Any) -> None:
        """See ``Wrapper``; not needed."""

    def prepare(self, message: Message, dataset: str) -> Prepared:
        """See ``Wrapper``."""
        message = without_placeholders(message, self.image_tokens)
        content = [
            {"type": "image"}
            if item["type"] == "image"
            else {"type": "text", "text": item["value"]}
            for item in message
        ]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        images = [_image(item["value"]) for item in message if item["type"] == "image"]
        bos = self.processor.tokenizer.bos_token
        inputs = self.processor(
            text=[text],
            images=[images] if images else None,
            return_tensors="pt",
            # a template that writes the first token itself must not get a second one
            add_special_tokens=not (bos and text.startswith(bos)),
        )
        return Prepared(dict(inputs), {"generation_config": self._generation})

    def decode(self, tokens: torch.Tensor) -> str:
        """See ``Wrapper``."""
        return str(self.processor.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def answer(self, message: Message, dataset: str) -> str:
        """See ``Wrapper``; never asked."""
        raise NotImplementedError


def _greedy_config(model: Any, max_new_tokens: int) -> Any:
    config = copy.deepcopy(model.generation_config)
    config.update(
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        max_new_tokens=max_new_tokens,
        max_length=None,
    )
    if config.pad_token_id is None:
        eos = config.eos_token_id
        config.pad_token_id = eos[0] if isinstance(eos, list) else eos
    return config


def _image(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
