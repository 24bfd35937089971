"""Questions in the wrapper's own words, as vLLM takes them; the words are proven before the asking.

A wrapper is run up to its model, as for the transformers engine. What it gave its processor, a text
and pictures, is what vLLM is given. vLLM's own processing makes tokens and tensors of them, and
both must be the wrapper's, for every question.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from soup.errors import ScoringError
from soup.evaluators.engines.vllm_tiles import Run, runs_of
from soup.evaluators.models.wrapper import Message, Prepared, Wrapper

HEEDED = {
    "do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "use_cache",
    "pad_token_id", "bos_token_id", "output_attentions", "output_hidden_states", "output_scores",
    "output_logits", "return_dict_in_generate", "max_length", "generation_config",
    "transformers_version", "_from_model_config", "cache_implementation", "early_stopping",
    "length_penalty", "num_return_sequences", "tokenizer", "max_new_tokens", "eos_token_id",
    "repetition_penalty", "num_beams", "num_beam_groups", "epsilon_cutoff", "eta_cutoff",
    "diversity_penalty", "encoder_repetition_penalty", "remove_invalid_values",
    "decoder_start_token_id", "num_assistant_tokens", "num_assistant_tokens_schedule",
    "assistant_confidence_threshold", "prompt_lookup_num_tokens", "max_matching_ngram_size",
    "assistant_early_exit", "max_time", "assistant_lookbehind", "target_lookbehind", "is_assistant",
    "disable_compile", "cache_config", "low_memory", "prefill_chunk_size", "compile_config",
    "token_healing", "trust_remote_code", "penalty_alpha", "dola_layers", "_commit_hash",
    "renormalize_logits", "use_model_defaults",
}  # fmt: skip
"""Settings of ``generate`` that are heeded here, or that change no greedy answer."""


@dataclass(frozen=True)
class Heard:
    """What a wrapper gave its processor for one question, and what it made of it.

    Attributes:
        text: the prompt, with one placeholder for each picture.
        images: the pictures, as PIL images.
        special: whether the tokenizer was to add tokens of its own; None is its default.
        prepared: the tensors, and the settings of ``generate``; None where it was stopped before.
        runs: where the tokens of pictures are that the wrapper cut into tiles by itself, see
            ``vllm_tiles``; None where its processor was given the pictures.
    """

    text: str
    images: tuple[Any, ...]
    special: bool | None
    prepared: Prepared | None
    runs: Sequence[Run] | None = None

    @property
    def whole(self) -> Prepared:
        """What the wrapper made, of a question that was heard to the end."""
        assert self.prepared is not None
        return self.prepared

    @property
    def count(self) -> int:
        """Of pictures."""
        return len(self.images if self.runs is None else self.runs)


class _Enough(BaseException):  # no wrapper's `except Exception` may swallow it
    pass


class Ear:
    """Stands at a wrapper's processor and hears what it is called with."""

    def __init__(self, wrapper: Wrapper) -> None:
        """Needs a wrapper that was built.

        Raises:
            ScoringError: it has no processor of words and pictures.
        """
        self._wrapper = wrapper
        if not callable(wrapper.processor) or not wrapper.batched:
            raise ScoringError(
                "vLLM cannot be asked in this family's words: its wrapper has no processor of "
                "transformers' own; use --engine transformers"
            )

    def hear(self, message: Message, dataset: str, words_alone: bool = False) -> Heard:
        """Run a wrapper on one question, up to its model.

        Args:
            message: the question.
            dataset: the name by which the wrapper knows the benchmark.
            words_alone: stop at the processor, where it is asked about the pictures.

        Raises:
            ScoringError: the wrapper fails, or does not ask its processor.
        """
        calls: list[dict[str, Any]] = []
        kind = type(self._wrapper.processor)
        call = kind.__call__

        def listening(processor: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(dict(zip(("images", "text"), args, strict=False)) | kwargs)
            if words_alone:
                raise _Enough
            return call(processor, *args, **kwargs)

        prepared = None
        kind.__call__ = listening
        try:
            prepared = self._wrapper.prepare(message, dataset)
        except _Enough:
            pass
        finally:
            kind.__call__ = call
        if not calls and prepared is not None:
            runs = runs_of(prepared, self._wrapper.processor)
            if runs is not None:
                return Heard("", (), None, prepared, runs)
        if len(calls) != 1:
            raise ScoringError(
                "vLLM cannot be asked in this family's words: its wrapper makes tensors of "
                "pictures by itself; use --engine transformers"
            )
        (given,) = calls
        if given.get("videos") is not None:
            raise ScoringError("vLLM is not given videos here; use --engine transformers")
        text, images = given.get("text"), given.get("images")
        if isinstance(text, (list, tuple)):
            (text,) = text
        special = given.get("add_special_tokens")
        return Heard(str(text), tuple(_flat(images)), special, prepared)


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [one for item in images for one in _flat(item)]
    return [images]


@dataclass(frozen=True)
class Request:
    """One question as vLLM's engine takes it.

    Attributes:
        inputs: what vLLM's processing made: ``prompt_token_ids``, tensors and their places.
        settings: of vLLM's ``SamplingParams``.
    """

    inputs: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longest answer."""
        return len(self.inputs["prompt_token_ids"]) + int(self.settings["max_tokens"])

    @property
    def nbytes(self) -> int:
        """Of its tensors."""
        return sum(tensor.nbytes for tensor in tensors(self.inputs).values())


def tensors(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """By name, the tensors that vLLM's processing made of a question's pictures, flat, in order."""
    found: dict[str, list[torch.Tensor]] = {}
    for items in (inputs.get("mm_kwargs") or {}).values():
        for item in items:
            for name, element in (item or {}).items():
                data = element.data
                for one in data if isinstance(data, (list, tuple)) else [data]:
                    if isinstance(one, torch.Tensor):
                        found.setdefault(name, []).append(one.reshape(-1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def require_equal(inputs: Mapping[str, Any], heard: Heard, where: str, decode: Any) -> None:
    """Raises ScoringError, with the first difference, where vLLM asks something else.

    Args:
        inputs: what vLLM's processing made of the question.
        heard: the question, and what the wrapper made of it.
        where: the question, for people.
        decode: a function from token ids to text.
    """
    ours = heard.whole.inputs["input_ids"][0].tolist()
    theirs = list(inputs["prompt_token_ids"])
    if ours != theirs:
        at = next(
            (k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
            min(len(ours), len(theirs)),
        )
        raise ScoringError(
            f"{where}: vLLM would ask in other words than VLMEvalKit: token {at} is "
            f"{decode(theirs[at : at + 1])!r}, and {decode(ours[at : at + 1])!r} is the wrapper's "
            f"({len(theirs)} tokens, and {len(ours)}); use --engine transformers"
        )
    for name, theirs_flat in tensors(inputs).items():
        tensor = heard.whole.inputs.get(name)
        if tensor is None:
            continue
        ours_flat = tensor.reshape(-1).to(theirs_flat.dtype)
        if ours_flat.shape == theirs_flat.shape:
            differ = int((ours_flat != theirs_flat).sum())
            if not differ or (rounded(tensor, theirs_flat.dtype) and _near(tensor, theirs_flat)):
                continue
            count = f"{differ} of {ours_flat.numel()} values"
        else:
            count = f"{ours_flat.numel()} values, and {theirs_flat.numel()}"
        raise ScoringError(
            f"{where}: vLLM would show other pictures than VLMEvalKit: {name} differs "
            f"({count}); use --engine transformers"
        )


def rounded(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a wrapper has rounded a tensor to less than a model in ``dtype`` would be shown."""
    return tensor.is_floating_point() and tensor.dtype not in (torch.float32, dtype)


def _near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Whether two tensors of as many values differ in rounding alone."""
    most = 2 * max(torch.finfo(one.dtype).eps for one in (ours, theirs))
    return torch.allclose(ours.reshape(-1).float(), theirs.float(), rtol=most, atol=most / 64)


def show_own(inputs: Mapping[str, Any], heard: Heard) -> None:
    """Put tensors that the wrapper has rounded in place of those that vLLM's processing made.

    Args:
        inputs: what vLLM's processing made, and ``require_equal`` has let pass.
        heard: the question.
    """
    places: dict[str, int] = {}
    for items in (inputs.get("mm_kwargs") or {}).values():
        for item in items:
            for name, element in (item or {}).items():
                ours = heard.whole.inputs.get(name)
                theirs = element.data
                alone = isinstance(theirs, torch.Tensor)
                parts = [theirs] if alone else list(theirs)
                if ours is None or not parts or not rounded(ours, parts[0].dtype):
                    continue
                flat, shown = ours.reshape(-1), []
                for part in parts:
                    at = places.get(name, 0)
                    places[name] = at + part.numel()
                    shown.append(flat[at : places[name]].reshape(part.shape).to(part.dtype))
                element.data = shown[0] if alone else shown


def sampling(prepared: Prepared, default: Any, where: str) -> dict[str, Any]:
    """The wrapper's settings of ``generate``, as vLLM's.

    Args:
        prepared: the question, with its settings.
        default: the model's ``GenerationConfig``, for what the question does not set.
        where: the question, for people.

    Raises:
        ScoringError: a setting changes answers, and vLLM has none like it.
    """
    given = dict(prepared.generation)
    config = copy.deepcopy(given.pop("generation_config", None) or default)
    config.update(**{k: v for k, v in given.items() if hasattr(config, k)})
    if (config.num_beams or 1) > 1:
        raise ScoringError(
            f"{where}: asked with {config.num_beams} beams, and vLLM is asked greedily alone; "
            "use --engine transformers"
        )
    neutral = type(config)().to_dict()
    for name, value in config.to_dict().items():
        if name not in HEEDED and value is not None and value != neutral.get(name):
            raise ScoringError(
                f"{where}: {name} = {value!r} changes what transformers answers, and vLLM knows "
                "no such setting; use --engine transformers"
            )
    ends = config.eos_token_id
    longest = config.max_new_tokens
    if longest is None:  # transformers' default is of the prompt and the answer together
        longest = max(1, (config.max_length or 20) - prepared.inputs["input_ids"].shape[1])
    return {
        "temperature": 0.0,
        "max_tokens": int(longest),
        "repetition_penalty": float(config.repetition_penalty or 1.0),
        # transformers stops at these, and at no other
        "ignore_eos": True,
        "stop_token_ids": [ends] if isinstance(ends, int) else list(ends or ()),
        "detokenize": False,
    }
