"""vLLM as an engine: all questions in flight, a blend's weights swapped into it and proved fresh.

vLLM runs in the worker's process (``vllm_serving``), and is imported there when it is opened. Its
questions come through ``vllm_asking``, and a build that is new is tried first (``vllm_trust``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.companions import Companions
from soup.errors import ScoringError
from soup.evaluators.engines.answering import answered, silent
from soup.evaluators.engines.batches import by_length
from soup.evaluators.engines.dressing import dressed
from soup.evaluators.engines.kept import Kept
from soup.evaluators.engines.resident import compute_dtype_of, device_of, open_wrapper
from soup.evaluators.engines.vllm_asking import Asking
from soup.evaluators.engines.vllm_options import VllmOptions
from soup.evaluators.engines.vllm_serving import Serving
from soup.evaluators.engines.vllm_trust import self_test
from soup.evaluators.models.wrapper import Message, Options
from soup.events import Observer, ignore


class VllmEngine:
    """See ``Engine``."""

    def __init__(
        self, reference: Checkpoint, options: Options, vllm: VllmOptions, cache: Path | None = None
    ) -> None:
        """Read config and processor; vLLM itself starts when the first question is known.

        Args:
            reference: a member of the pool, whose companion files are used.
            options: as for the transformers engine.
            vllm: what is for vLLM alone.
            cache: a directory for sums that do not fit memory, and what was tested.

        Raises:
            ScoringError: vLLM is not there, or cannot ask this kind of model.
        """
        companions = reference.companions
        reference = reference.base or reference
        self._bare = reference
        self.device = device_of(options.device)
        if self.device.type == "cuda" and (self.device.index or 0) > 0:
            raise ScoringError(
                f"--device {options.device}: vLLM takes the first GPU that it sees; set "
                f"CUDA_VISIBLE_DEVICES={self.device.index} and leave --device out"
            )
        self.dtype = compute_dtype_of(options.compute_dtype, self.device, reference)
        self._options = options
        self._cache = cache
        clothed = dressed(reference, companions, cache)
        self._worn = companions.digest
        self.wrapper = open_wrapper(clothed, options, served=True)
        self.serving = Serving(
            clothed, self.device, self.dtype, vllm, options.trust_remote_code, cache
        )
        self._asking: Asking | None = None
        self._wanted: tuple[Blend, str, str, Observer] | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """See ``Engine``."""
        return {
            "engine": "vllm",
            "vllm": self.serving.version,
            "device": self.device.type,
            "compute_dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tensor_parallel": self.serving.options.tensor_parallel,
            "eager": self.serving.eager,
            "batch_invariant": self.serving.options.batch_invariant,
            **self.wrapper.settings,
        }

    @property
    def asking(self) -> Asking:
        """How it is asked; there since the first ``load``."""
        assert self._asking is not None, "load comes first"
        return self._asking

    def load(self, blend: Blend, digest: str, task: str, observe: Observer = ignore) -> None:
        """See ``Engine``; what vLLM must hold is known with the questions, so it swaps then."""
        self._wear(blend.companions)
        if self._asking is None:
            self._asking = Asking(
                self.wrapper, self.serving, self.dtype, self.settings, self._worn, self._cache
            )
        self._wanted = blend, digest, task, observe

    def _wear(self, companions: Companions) -> None:
        """Other companion files: another wrapper, and vLLM anew, which read the earlier."""
        if companions.digest == self._worn:
            return
        self.close()
        self.serving.reference = dressed(self._bare, companions, self._cache)
        self.wrapper = open_wrapper(self.serving.reference, self._options, served=True)
        self._worn = companions.digest

    def swap(self) -> None:
        """Have vLLM, which is there, hold what was loaded last.

        Raises:
            ScoringError: see ``Serving.swap``.
        """
        assert self._wanted is not None, "load comes first"
        blend, digest, task, observe = self._wanted
        if self.serving.loaded != digest:
            self.serving.swap(blend, digest, task, observe)

    def close(self) -> None:
        """See ``Engine``."""
        self.serving.stop()
        self._asking = self._wanted = None

    def answer(
        self,
        key: str,
        dataset: str,
        messages: Sequence[Message],
        progress: Callable[[int], None] = silent,
        only: Sequence[int] | None = None,
        kept: Kept | None = None,
    ) -> list[str]:
        """See ``Engine``; the words of all questions are proven before any is asked."""

        def ask(missing: Sequence[int]) -> Iterator[tuple[int, str]]:
            return self._answers(key, dataset, messages, missing, progress)

        return answered(ask, self.serving.reference.path, messages, progress, only, kept)

    def _answers(
        self,
        key: str,
        dataset: str,
        messages: Sequence[Message],
        wanted: Sequence[int],
        progress: Callable[[int], None],
    ) -> Iterator[tuple[int, str]]:
        assert self._wanted is not None, "load comes first"
        _, digest, _, observe = self._wanted
        first = wanted[0]
        self.asking.ready(key, dataset, messages, first, observe)
        if self.serving.loaded != digest:
            request = self.asking.request(key, first, messages[first], dataset)
            reference = self.serving.reference
            self_test(self.serving, reference, self.device, request, self._cache, observe)
        self.swap()
        progress(0)  # from here on it answers: its speed is counted from here
        requests = (
            (
                str(index),
                self.asking.request(key, index, messages[index], dataset),
                f"{dataset}, question {index}",
            )
            for index in by_length(messages, wanted)
        )
        for name, output in self.serving.ask(requests):
            if output.finish_reason not in ("stop", "length"):
                raise ScoringError(f"question {name}: vLLM ended it early: {output.finish_reason}")
            tokens = torch.tensor(list(output.token_ids), dtype=torch.int64)
            yield int(name), self.wrapper.decode(tokens)
