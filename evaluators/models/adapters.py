"""Wrappers of our own, for families that VLMEvalKit has none for. Imported in a worker only."""

from __future__ import annotations

import importlib
from typing import Any

import torch
import transformers
from PIL import Image
from vlmeval.vlm.base import BaseModel
from vlmeval.vlm.internvl import InternVLChat, internvl_chat


class InternVL(InternVLChat):  # type: ignore[misc]
    """InternVL as transformers ships it, asked as VLMEvalKit asks the one with its own code.

    Words, tiles and resolution are ``InternVLChat``'s of version 2.0; only what ``model.chat`` did
    is done here, with the checkpoint's chat template.
    """

    model: Any

    def __init__(self, model_path: str, **kwargs: Any) -> None:
        """Load model and processor from a directory."""
        kept = internvl_chat.AutoModel
        # AutoModel is the model without its language head, where it is transformers' own
        internvl_chat.AutoModel = transformers.AutoModelForImageTextToText
        try:
            super().__init__(model_path, version="V2.0", **kwargs)
        finally:
            internvl_chat.AutoModel = kept
        self.processor = transformers.AutoProcessor.from_pretrained(model_path)

    def generate_v2(self, message: Any, dataset: Any = None) -> Any:
        """The base class's, with a model that can ``chat``."""
        model = self.model
        self.model = _Chat(model, self.processor)
        try:
            return super().generate_v2(message, dataset)
        finally:
            self.model = model


class _Chat:
    """What ``model.chat`` of the checkpoints' own code does, for a model without that method."""

    def __init__(self, model: Any, processor: Any) -> None:
        self._model = model
        self._processor = processor

    def chat(
        self,
        tokenizer: Any,
        *,
        pixel_values: torch.Tensor | None,
        num_patches_list: list[int],
        question: str,
        generation_config: dict[str, Any],
        verbose: bool,
    ) -> str:
        """The answer to one question; ``pixel_values`` [tiles, 3, height, width]."""
        one = self._processor
        text = one.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": question}]}],
            add_generation_prompt=True,
            tokenize=False,
        )
        for tiles in num_patches_list:
            shown = one.image_token * (one.image_seq_length * tiles)
            text = text.replace("<image>", one.start_image_token + shown + one.end_image_token, 1)
        inputs = dict(one.tokenizer([text], return_tensors="pt"))
        if pixel_values is not None:
            inputs["pixel_values"] = pixel_values
        inputs = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
        tokens = self._model.generate(**inputs, **generation_config)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return str(one.batch_decode(new, skip_special_tokens=True)[0]).strip()


class MPlugOwl(BaseModel):  # type: ignore[misc]
    """mPLUG-Owl, the first, by its public package ``mplug_owl``."""

    INTERLEAVE = True

    def __init__(self, model_path: str, **kwargs: Any) -> None:
        """Load model and processors from a directory; other arguments are ``generate``'s."""
        super().__init__()
        modeling = importlib.import_module("mplug_owl.modeling_mplug_owl")
        processing = importlib.import_module("mplug_owl.processing_mplug_owl")
        self.model = modeling.MplugOwlForConditionalGeneration.from_pretrained(model_path)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
        images = processing.MplugOwlImageProcessor.from_pretrained(model_path)
        self.processor = processing.MplugOwlProcessor(images, self.tokenizer)
        self.kwargs = {"max_new_tokens": 512, "do_sample": False, **kwargs}

    def generate_inner(self, message: Any, dataset: Any = None) -> str:
        """One answer, in the dialogue that the model was trained on."""
        lines = [
            "The following is a conversation between a curious human and AI assistant. The "
            "assistant gives helpful, detailed, and polite answers to the user's questions."
        ]
        paths = [item["value"] for item in message if item["type"] == "image"]
        lines += ["Human: <image>"] * len(paths)
        lines += [f"Human: {item['value']}" for item in message if item["type"] == "text"]
        images = [Image.open(path).convert("RGB") for path in paths]
        inputs = self.processor(
            text=["\n".join([*lines, "AI: "])], images=images or None, return_tensors="pt"
        )
        tokens = self.model.generate(**inputs, **self.kwargs)
        return str(self.tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()
