"""One model on one device: built once, its weights swapped in place, answers generated in batches.

Names in files and in memory may differ (transformers 5 renames and fuses on loading), so which
file tensor goes where is found out and proven before anything is swapped; see ``find_places``.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from evaluators.places import CopyIn, collect, find_places
from soup.blend import Blend
from soup.checkpoint import DTYPES, Checkpoint
from soup.errors import ScoringError
from soup.events import Observer, ignore
from soup.running import RunningSum
from soup.streaming import stream

CACHE_BYTES = 2 << 30
"""Prepared inputs kept in memory between candidates: questions do not change when weights do."""

Message = Sequence[dict[str, str]]
"""One question as VLMEvalKit builds it: items ``{"type": "image" or "text", "value": ...}``."""


@dataclass(frozen=True)
class Options:
    """How a resident model is built and asked.

    Attributes:
        device: a torch device; ``auto`` is the first GPU, else the CPU.
        compute_dtype: a torch dtype's name; ``auto`` is the checkpoint's on a GPU, float32 on CPU.
        batch_size: questions per batch; halved for good when the device's memory runs out.
        max_new_tokens: longest answer.
        trust_remote_code: whether Python code inside the checkpoint may run.
    """

    device: str = "auto"
    compute_dtype: str = "auto"
    batch_size: int = 32
    max_new_tokens: int = 1024
    trust_remote_code: bool = False


@dataclass
class _Batch:
    indices: list[int]
    inputs: Any


class Resident:
    """A model that stays on its device while its weights change."""

    def __init__(self, reference: Checkpoint, options: Options) -> None:
        """Read config and processor of ``reference``; the model is built at the first ``load``.

        For an adapter everything is read from its base; its own values come with each blend.

        Raises:
            ScoringError: transformers cannot use this directory; the message says why.
        """
        reference = reference.base or reference
        self.reference = reference
        self.options = options
        self.device = _device(options.device)
        self.dtype = _compute_dtype(options.compute_dtype, self.device, reference)
        self.batch_size = options.batch_size
        self.running: RunningSum | None = None
        self._loaded: str | None = None
        self._model: Any = None
        self._places: dict[str, torch.Tensor] | None = None
        self._prepared: dict[str, list[_Batch]] = {}
        with _clear_errors(reference.path):
            trust = options.trust_remote_code
            self.config = transformers.AutoConfig.from_pretrained(
                reference.path, trust_remote_code=trust
            )
            self.processor = transformers.AutoProcessor.from_pretrained(
                reference.path, trust_remote_code=trust
            )
        tokenizer = getattr(self.processor, "tokenizer", None)
        if tokenizer is None or not hasattr(self.processor, "apply_chat_template"):
            raise ScoringError(
                f"{reference.path}: no image-text processor found beside the weights "
                "(expected preprocessor and tokenizer files); copy the base model's there"
            )
        if not (getattr(self.processor, "chat_template", None) or tokenizer.chat_template):
            raise ScoringError(
                f"{reference.path}: its processor has no chat template, so questions cannot be "
                "put to it; add the base model's chat_template.jinja"
            )
        tokenizer.padding_side = "left"  # answers start at the right edge of every row
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def load(self, blend: Blend, digest: str, task: str, observe: Observer = ignore) -> None:
        """Make the model's weights those of ``blend``, as they would be written, and verify them.

        Args:
            blend: streamed from its members' files; nothing is written.
            digest: names the blend; when it is already loaded nothing is done.
            task: the name of the work, for progress.
            observe: told of bytes streamed.

        Raises:
            ScoringError: the model cannot be built, or a tensor did not arrive as sent.
        """
        if self._loaded == digest:
            return
        self._loaded = None
        with _clear_errors(self.reference.path):
            if self._model is None:
                self._build()
            if self._places is None:
                self._model = None  # make room first
                self._model = self._through_transformers(collect(blend, task, observe))
            else:
                copy_in = CopyIn(self._places)
                stream(blend, copy_in, task=task, observe=observe, running=self.running)
                copy_in.verify()
        self._loaded = digest

    @torch.inference_mode()
    def answer(
        self, key: str, messages: Sequence[Message], progress: Callable[[int], None]
    ) -> list[str]:
        """Greedy answers, in the order of the questions.

        Args:
            key: names the questions; inputs prepared for the same key are used again.
            messages: the questions.
            progress: called with the number of questions answered since the last call.

        Raises:
            ScoringError: a question cannot be put to this model, or does not fit its memory.
        """
        answers: list[str | None] = [None] * len(messages)
        with _clear_errors(self.reference.path):
            for batch in self._batches(key, messages):
                for part in self._generate(batch, messages):
                    for index, text in part.items():
                        answers[index] = text
                    progress(len(part))
        missing = [k for k, text in enumerate(answers) if text is None]
        if missing:
            raise ScoringError(f"{len(missing)} of {len(messages)} questions got no answer")
        return [text for text in answers if text is not None]

    def forget(self) -> None:
        """Drop prepared inputs."""
        self._prepared.clear()

    # --- building -------------------------------------------------------------------------

    def _build(self) -> None:
        """Load the reference the way transformers does, then prove where its tensors went."""
        weights = self.reference.shards[0]
        if weights.suffix == ".pt":
            raise ScoringError(
                f"{weights}: transformers does not load a file of this name; rename it to "
                "pytorch_model.bin, or name a member with safetensors first"
            )
        model, info = transformers.AutoModelForImageTextToText.from_pretrained(
            self.reference.path,
            dtype=self.dtype,
            trust_remote_code=self.options.trust_remote_code,
            output_loading_info=True,
            use_safetensors=weights.suffix == ".safetensors",
        )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ScoringError(
                f"{self.reference.path}: the weights lack {missing[0]} "
                f"({len(missing)} tensor(s) that the model needs); it would answer at random"
            )
        self._model = model.to(self.device).eval()
        self._places = find_places(self._model, self.reference, self.dtype)
        self._generation = _greedy_config(self._model, self.options.max_new_tokens)

    def _through_transformers(self, state: dict[str, torch.Tensor]) -> Any:
        """Load a state dict by transformers' own conversion; for models that fuse on loading."""
        kind = type_of(self.reference, self.config, self.options.trust_remote_code)
        model = kind.from_pretrained(None, config=self.config, state_dict=state, dtype=self.dtype)
        return model.to(self.device).eval()

    # --- answering ------------------------------------------------------------------------

    def _batches(self, key: str, messages: Sequence[Message]) -> Iterator[_Batch]:
        """Prepared batches: of similar length, with and without images apart."""
        if key in self._prepared:
            yield from self._prepared[key]
            return
        order = sorted(range(len(messages)), key=lambda k: _shape(messages[k]))
        kept: list[_Batch] = []
        size = sum(_nbytes(b.inputs) for batches in self._prepared.values() for b in batches)
        for indices in _groups(order, messages, self.batch_size):
            batch = _Batch(indices, self._prepare([messages[k] for k in indices]))
            size += _nbytes(batch.inputs)
            kept.append(batch)
            yield batch
        if size <= CACHE_BYTES:
            self._prepared[key] = kept

    def _prepare(self, messages: Sequence[Message]) -> Any:
        """Processor inputs, left-padded, on the CPU."""
        conversations = [[{"role": "user", "content": _content(m)}] for m in messages]
        texts = [
            self.processor.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
            )
            for conversation in conversations
        ]
        images = [
            [_image(item["value"]) for item in message if item["type"] == "image"]
            for message in messages
        ]
        bos = self.processor.tokenizer.bos_token
        return self.processor(
            text=texts,
            images=images if images[0] else None,
            padding=True,
            return_tensors="pt",
            # a template that writes the first token itself must not get a second one
            add_special_tokens=not (bos and texts[0].startswith(bos)),
        )

    def _generate(self, batch: _Batch, messages: Sequence[Message]) -> Iterator[dict[int, str]]:
        """Answers of one batch; in halves when the device's memory runs out."""
        pending = [batch]
        while pending:
            part = pending.pop(0)
            try:
                texts = self._decode(part)
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                if len(part.indices) == 1:
                    raise ScoringError(
                        f"{self.device}: out of memory at batch size 1; use a larger GPU, "
                        "--compute-dtype bfloat16 or fewer --max-new-tokens"
                    ) from error
                half = len(part.indices) // 2
                self.batch_size = max(1, min(self.batch_size, half))
                self._prepared.clear()
                pending[:0] = [
                    _Batch(indices, self._prepare([messages[k] for k in indices]))
                    for indices in (part.indices[:half], part.indices[half:])
                ]
                continue
            yield dict(zip(part.indices, texts, strict=True))

    def _decode(self, batch: _Batch) -> list[str]:
        inputs = {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in batch.inputs.items()
        }
        tokens = self._model.generate(**inputs, generation_config=self._generation)
        if not getattr(self._model.config, "is_encoder_decoder", False):
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]


# --- small things --------------------------------------------------------------------------


def type_of(reference: Checkpoint, config: Any, trust_remote_code: bool) -> Any:
    """The model class that transformers picks for a config, found without any weights."""
    with torch.device("meta"):
        skeleton = transformers.AutoModelForImageTextToText.from_config(
            config, trust_remote_code=trust_remote_code
        )
    return type(skeleton)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ScoringError(f"--device {name}: expected auto, cpu or cuda[:N]") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ScoringError(f"--device {name}: torch sees no CUDA GPU here; use --device cpu")
    return device


def _compute_dtype(name: str, device: torch.device, reference: Checkpoint) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else DTYPES[reference.dtypes[0]]
    dtype = getattr(torch, name, None)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ScoringError(f"--compute-dtype {name}: expected float32, bfloat16 or float16")
    return dtype  # type: ignore[no-any-return]


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


def _content(message: Message) -> list[dict[str, str]]:
    return [
        {"type": "image"} if item["type"] == "image" else {"type": "text", "text": item["value"]}
        for item in message
    ]


def _image(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _shape(message: Message) -> tuple[int, int]:
    """Images and characters of a question: what its length depends on, before tokenizing."""
    images = sum(item["type"] == "image" for item in message)
    return images, sum(len(item["value"]) for item in message if item["type"] == "text")


def _groups(order: list[int], messages: Sequence[Message], size: int) -> Iterator[list[int]]:
    group: list[int] = []
    for index in order:
        with_images = _shape(messages[index])[0] > 0
        if group and (len(group) >= size or (_shape(messages[group[0]])[0] > 0) != with_images):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _nbytes(inputs: Any) -> int:
    return sum(v.nbytes for v in inputs.values() if isinstance(v, torch.Tensor))


class _clear_errors:
    """Turn what transformers raises for a user's checkpoint into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (ValueError, OSError, ImportError, KeyError)):
            text = " ".join(str(error).split())
            if "trust_remote_code" in text:
                raise ScoringError(
                    f"{self.path}: the checkpoint brings its own Python code; read it, then add "
                    "--trust-remote-code to let it run"
                ) from error
            raise ScoringError(f"{self.path}: {text[:400]}") from error
