"""Benchmarks' questions as vLLM takes them; all are proven to be the wrapper's before any is asked.

How long they are decides how vLLM is started, and what vLLM makes of them is known only then: so
they are measured first, and proven after. What is proven is kept, see ``vllm_words``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from soup.errors import ScoringError
from soup.evaluators.engines.batches import MEMORY
from soup.evaluators.engines.vllm_questions import (
    Ear,
    Heard,
    Request,
    require_equal,
    rounded,
    sampling,
    show_own,
)
from soup.evaluators.engines.vllm_serving import Serving
from soup.evaluators.engines.vllm_tiles import inputs_of
from soup.evaluators.engines.vllm_words import PLACE, Words, name_of, read, write
from soup.evaluators.models.wrapper import Message, QuestionError, Wrapper, about, clear_errors
from soup.events import Observer, Progress


class Asking:
    """How one wrapper's questions come to one vLLM."""

    def __init__(
        self,
        wrapper: Wrapper,
        serving: Serving,
        dtype: torch.dtype,
        settings: Mapping[str, Any],
        companions: str,
        cache: Path | None,
    ) -> None:
        """Build the wrapper around a model without weights.

        Args:
            wrapper: of the model that is served.
            serving: what is asked.
            dtype: what the model computes in.
            settings: of the engine, see ``Engine``.
            companions: digest of the files beside the weights.
            cache: where it is kept what was proven; None for nowhere.

        Raises:
            ScoringError: its words are not to be had.
        """
        with clear_errors(serving.reference.path):
            model: Any = wrapper.build(torch.device("meta"), dtype)
        self.default = model.generation_config
        self._wrapper = wrapper
        self._serving = serving
        self._dtype = dtype
        self._settings = settings
        self._companions = companions
        self._cache = cache
        self._ear = Ear(wrapper)
        self._heard: dict[tuple[str, int], Heard] = {}
        self._measured: dict[str, Words] = {}
        self._proven: set[str] = set()
        self._requests: dict[tuple[str, int], Request] = {}
        self._room = MEMORY
        self._rounds = False

    def ready(
        self, key: str, dataset: str, messages: Sequence[Message], first: int, observe: Observer
    ) -> None:
        """Have vLLM there for these questions, which are proven to be the wrapper's.

        Args:
            key: names the questions.
            dataset: the name by which the wrapper knows the benchmark.
            messages: all of them.
            first: of what was proven by an earlier process, this one is looked at again.
            observe: told of progress.

        Raises:
            QuestionError: one is longer than may be.
            ScoringError: vLLM would ask otherwise; it shows the first difference.
        """
        name = ""
        if key not in self._proven:
            name = name_of(self._settings, self._companions, dataset, messages)
        known = read(self._cache, name, len(messages)) if name else None
        if key not in self._measured:
            self._measured[key] = known or self.measure(key, dataset, messages, observe)
        most, words = self._serving.options.max_length, self._measured[key]
        if most is not None and words.longest > most:
            raise QuestionError(
                words.at,
                f"it and its answer may take {words.longest} tokens, [engine.vllm] max-length is "
                f"{most}; raise it, or lower --max-new-tokens",
            )
        sizes = self._measured.values()
        self._serving.start(max(one.longest for one in sizes), max(one.images for one in sizes))
        if not name:
            return
        for done, index in enumerate([first] if known else range(len(messages)), 1):
            request = self.request(key, index, messages[index], dataset)
            if known and request.settings != known.settings(index):
                raise ScoringError(
                    f"{self._serving.name}: {dataset} is asked with other settings than before; "
                    f"remove {self._cache}/{PLACE}"
                )
            if not known:
                task = f"check the words of {dataset}"
                observe(Progress(task, done, len(messages), "questions"))
        self._heard.clear()
        self._proven.add(key)
        if not known:
            write(self._cache, name, self._measured[key])

    def measure(
        self, key: str, dataset: str, messages: Sequence[Message], observe: Observer
    ) -> Words:
        """How long questions are with their answers, and how they are asked."""
        images, room = 1, MEMORY
        asked, lengths = [], []
        for index, message in enumerate(messages):
            with about(index):
                heard = self.hear(message, dataset)
            size = sum(tensor.nbytes for tensor in heard.whole.inputs.values())
            size += sum(3 * image.width * image.height for image in heard.images)
            room -= size
            if room > 0:
                self._heard[key, index] = heard
            asked.append(sampling(heard.whole, self.default, f"question {index}"))
            lengths.append(heard.whole.inputs["input_ids"].shape[1] + asked[-1]["max_tokens"])
            images = max(images, heard.count)
            task = f"measure the questions of {dataset}"
            observe(Progress(task, index + 1, len(messages), "questions"))
        return Words.of(lengths, images, asked)

    def hear(self, message: Message, dataset: str, words_alone: bool = False) -> Heard:
        """See ``Ear.hear``."""
        return self._ear.hear(message, dataset, words_alone)

    def request(self, key: str, index: int, message: Message, dataset: str) -> Request:
        """A question as vLLM takes it, proven to be the wrapper's.

        Raises:
            ScoringError: it is not, or cannot be put.
        """
        found = self._requests.get((key, index))
        if found is not None:
            return found
        words_alone = key in self._proven and not self._rounds
        with about(index):
            heard = self._heard.get((key, index)) or self.hear(message, dataset, words_alone)
        where = f"{self._serving.reference.path}: {dataset}, question {index}"
        inputs = self._render(heard, where)
        if heard.prepared is None:
            made = Request(inputs, self._measured[key].settings(index))
        else:
            require_equal(inputs, heard, where, self._serving.words)
            if any(rounded(one, self._dtype) for one in heard.whole.inputs.values()):
                self._rounds = True  # its tensors are needed again
                show_own(inputs, heard)
            made = Request(inputs, sampling(heard.prepared, self.default, where))
        if made.nbytes <= self._room:
            self._room -= made.nbytes
            self._requests[key, index] = made
        return made

    def _render(self, heard: Heard, where: str) -> Mapping[str, Any]:
        renderer = self._serving.renderer
        if heard.runs is not None:
            each = self._wrapper.processor.image_seq_length
            processing = renderer.get_mm_processor()
            return inputs_of(processing, heard.whole, heard.runs, self._dtype, each)
        parameters = renderer.default_cmpl_tok_params
        if heard.special is not None:
            parameters = parameters.with_kwargs(add_special_tokens=heard.special)
        prompt: dict[str, Any] = {"prompt": heard.text}
        if heard.images:
            prompt["multi_modal_data"] = {"image": list(heard.images)}
        try:
            (inputs,) = renderer.render_cmpl([prompt], parameters)
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ScoringError(
                f"{where}: vLLM cannot take it ({text}); use --engine transformers"
            ) from error
        return dict(inputs)
