"""One model on one device: built once, its weights swapped in place, answers generated in batches.

Names in files and in memory may differ (transformers 5 renames and fuses on loading), so which
file tensor goes where is found out and proven before anything is swapped; see ``find_places``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from soup.blending.blend import Blend
from soup.blending.common import held
from soup.blending.running import RunningSum
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.companions import Companions
from soup.checkpoints.dtypes import DTYPES
from soup.errors import ScoringError
from soup.evaluators.engines.answering import answered, silent
from soup.evaluators.engines.batches import (
    Limit,
    Question,
    Store,
    ahead,
    batches,
    by_length,
    collate,
)
from soup.evaluators.engines.dressing import dressed
from soup.evaluators.engines.kept import Kept
from soup.evaluators.engines.places import Unplaced, checksums, find_places, some, swap_in
from soup.evaluators.models.chat import ChatTemplate
from soup.evaluators.models.families import GENERIC, family_of, has_tokenizer, named, read_config
from soup.evaluators.models.loading import collect
from soup.evaluators.models.wrapper import (
    Message,
    Options,
    Prepared,
    QuestionError,
    Wrapper,
    about,
    clear_errors,
)
from soup.events import Note, Observer, ignore

AHEAD = 64
"""Questions prepared while earlier ones are answered."""


def open_wrapper(reference: Checkpoint, options: Options, served: bool = False) -> Wrapper:
    """How the reference's kind of model is asked.

    Args:
        reference: whose files say it.
        options: what else decides.
        served: whether vLLM is to answer.

    Raises:
        ScoringError: its directory cannot be used; the message says why.
    """
    if not has_tokenizer(reference.path):
        raise ScoringError(
            f"{reference.path}: no tokenizer beside the weights (expected tokenizer.json, "
            "tokenizer.model, vocab.json or the like); name the base model's directory with "
            "--processor DIR"
        )
    name = options.family or family_of(read_config(reference.path)) or GENERIC
    family = named(name)
    if family is None:
        return ChatTemplate(reference, options)
    from soup.evaluators.models.kit_wrapper import (
        KitWrapper,  # VLMEvalKit's wrappers take seconds to import
    )

    return KitWrapper(
        family,
        reference,
        trust_remote_code=options.trust_remote_code,
        max_new_tokens=options.max_new_tokens,
        given=options.families.get(name),
        served=served,
    )


class Resident:
    """A model that stays on its device while its weights change."""

    def __init__(
        self,
        reference: Checkpoint,
        options: Options,
        cache: Path | None = None,
        running: RunningSum | None = None,
    ) -> None:
        """Read config and processor of ``reference``; the model is built at the first ``load``.

        For an adapter everything is read from its base; its own values come with each blend.

        Args:
            reference: a member of the pool, whose kind of model is asked.
            options: device, dtype, batch size.
            cache: a directory for what does not fit memory.
            running: sums that equal averages start from.

        Raises:
            ScoringError: transformers cannot use this directory; the message says why.
        """
        companions = reference.companions
        reference = reference.base or reference
        self.reference = reference
        self.device = device_of(options.device)
        self.dtype = compute_dtype_of(options.compute_dtype, self.device, reference)
        self.limit = Limit.of(options.batch_size, self.device.type == "cpu")
        self.running = running
        self._options = options
        self._cache = cache
        self._wrappers: dict[str, Wrapper] = {}
        self._loaded: str | None = None
        self._model: Any = None
        self._places: dict[str, torch.Tensor] | None = None
        self._unplaced = ""
        self._held: dict[str, frozenset[str]] = {}
        self._sums: dict[str, int] = {}
        self.written = 0
        self._store = Store(cache)
        self._built = ""
        self._wear(companions)

    @property
    def settings(self) -> Mapping[str, Any]:
        """See ``Engine``."""
        return {
            "device": self.device.type,
            "compute_dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **self.wrapper.settings,
        }

    def load(self, blend: Blend, digest: str, task: str, observe: Observer = ignore) -> None:
        """See ``Engine``; where no copy in place is proven, the model is built anew.

        There is one model, and a wrapper for each set of companion files; the model is built anew
        where another config or code asks for it. Tensors that are known to have the blend's values
        already (``soup.blending.common.held``: a frozen tower, the base of adapters) are neither
        read nor written; ``written`` is how many bytes the others were.
        """
        self._wear(blend.companions)
        if self._loaded == digest and self._model is not None:
            return
        self._loaded = None
        before, self._held = self._held, {}  # nothing is known after an error
        noted = self.running.note if self.running else ""
        with clear_errors(self.reference.path):
            if self._model is None:
                self._model = self.wrapper.build(self.device, self.dtype)
                self._built = self._worn.architecture
                try:
                    self._places = find_places(self._model, self.reference, self.dtype)
                except Unplaced as reason:
                    self._unplaced = str(reason)
                else:
                    self._tell_ignored(self._places, observe)
                    before = held(Blend((self.reference,), self.reference))  # that is proven now
                    self._sums = checksums(self._places)
            if self._places is None:
                self._model = None  # make room first
                self._model = self._replaced(collect(blend, task, observe))
            else:
                now = held(blend)
                same = [name for name in self._places if _meets(before.get(name), now.get(name))]
                left = {name: self._sums[name] for name in same}
                swapped = swap_in(blend, self._places, task, observe, self.running, left)
                self.written, self._sums = swapped.written, swapped.sums
                self._held = now | {name: now[name] | before[name] for name in left}
        self._loaded = digest
        if self.running and self.running.note != noted:
            observe(Note(self.running.note))

    def close(self) -> None:
        """See ``Engine``."""
        self._loaded = self._model = self._places = None
        self._held = {}

    def _wear(self, companions: Companions) -> None:
        """Have the wrapper of these companion files ask the model; free one that it cannot ask."""
        if companions.digest in self._wrappers:
            wrapper = self._wrappers[companions.digest]
        else:
            clothed = dressed(self.reference, companions, self._cache)
            wrapper = open_wrapper(clothed, self._options)
            self._wrappers[companions.digest] = wrapper
        self._worn = companions
        before, self.wrapper = getattr(self, "wrapper", wrapper), wrapper
        if self._model is None or before is wrapper:
            return
        before.let_go()
        with clear_errors(self.reference.path):
            shared = companions.architecture == self._built
            if not (shared and wrapper.adopt(self._model, self.device, self.dtype)):
                self._model = self._places = self._loaded = None
                self._held = {}
                for each in self._wrappers.values():
                    each.let_go()

    def _tell_ignored(self, places: Mapping[str, torch.Tensor], observe: Observer) -> None:
        """Tensors that transformers ignores on loading are no part of what is scored: say so."""
        tied = {name for pair in self.reference.ties for name in pair}
        ignored = [name for name in self.reference.tensors if name not in {*places, *tied}]
        if ignored:
            text = f"{self.reference.name}: the model makes no use of {some(ignored)}"
            observe(Note(f"{text}; it is blended and written all the same"))

    def _replaced(self, state: dict[str, torch.Tensor]) -> Any:
        """A model from a blend in memory, where no copy in place is proven."""
        try:
            return self.wrapper.replace(state)
        except (ScoringError, ValueError, TypeError, RuntimeError, OSError, KeyError) as error:
            raise ScoringError(
                f"{self.reference.path}: a blend cannot be put into this model: {self._unplaced}; "
                f"and it cannot be loaded from memory ({' '.join(str(error).split())[:300]})"
            ) from error

    def answer(
        self,
        key: str,
        dataset: str,
        messages: Sequence[Message],
        progress: Callable[[int], None] = silent,
        only: Sequence[int] | None = None,
        kept: Kept | None = None,
    ) -> list[str]:
        """See ``Engine``."""

        def ask(missing: Sequence[int]) -> Iterator[tuple[int, str]]:
            return self._answers(key, dataset, messages, missing)

        return answered(ask, self.reference.path, messages, progress, only, kept)

    def _answers(
        self, key: str, dataset: str, messages: Sequence[Message], wanted: Sequence[int]
    ) -> Iterator[tuple[int, str]]:
        if not self.wrapper.batched:
            for index in wanted:
                with about(index):
                    text = self.wrapper.answer(messages[index], dataset)
                yield index, text
            return

        place = f"{self._worn.digest} {key}"  # what is made of a question depends on the files

        def prepared() -> Iterator[Question]:
            for index in by_length(messages, wanted):
                yield index, self._prepare(place, index, messages[index], dataset)

        for batch in batches(ahead(prepared(), AHEAD), self.limit):
            yield from self._generate(batch)

    def _prepare(self, key: str, index: int, message: Message, dataset: str) -> Prepared:
        found = self._store.get(key, index)
        if found is None:
            with about(index):
                made = self.wrapper.prepare(message, dataset)
            # in the model's own dtype already: the same bits, half the room
            inputs = {
                name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor
                for name, tensor in made.inputs.items()
            }
            found = Prepared(inputs, made.generation)
            self._store.put(key, index, found)
        return found

    def _generate(self, batch: list[Question]) -> Iterator[tuple[int, str]]:
        """Answers of one batch; in halves when the device's memory runs out, or one cannot be."""
        pending = [batch]
        while pending:
            part = pending.pop(0)
            half = len(part) // 2
            width = max(prepared.inputs["input_ids"].shape[1] for _, prepared in part)
            try:
                with about(part[0][0]):
                    inputs = collate([prepared for _, prepared in part], self.wrapper.pad_token)
                    texts = self._decode(inputs, part[0][1])
            except torch.OutOfMemoryError as error:
                torch.cuda.empty_cache()
                if len(part) == 1:
                    raise ScoringError(
                        f"{self.device}: out of memory at batch size 1; use a larger GPU, "
                        "--compute-dtype bfloat16 or fewer --max-new-tokens"
                    ) from error
                self.limit.shrink(len(part), width)
                pending[:0] = [part[:half], part[half:]]
                continue
            except QuestionError as error:
                if len(part) == 1:
                    raise
                if "CUDA error" in error.reason:  # after it the device does nothing more
                    raise QuestionError(
                        error.position, f"{error.reason} (this or one of {len(part) - 1} others)"
                    ) from error
                pending[:0] = [part[:half], part[half:]]  # until it is alone, and has a name
                continue
            yield from zip((index for index, _ in part), texts, strict=True)

    def _decode(self, inputs: dict[str, torch.Tensor], settings: Prepared) -> list[str]:
        rows, width = inputs["input_ids"].shape
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            held = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        there = {name: tensor.to(self.device) for name, tensor in inputs.items()}
        tokens = self._model.generate(**there, **settings.generation)
        if not getattr(self._model.config, "is_encoder_decoder", False):
            tokens = tokens[:, width:]
        tokens = tokens.cpu()
        if on_gpu:
            used = torch.cuda.max_memory_allocated(self.device) - held
            total = torch.cuda.get_device_properties(self.device).total_memory
            self.limit.grow(rows, width, used, total - held)
        return [self.wrapper.decode(row) for row in tokens]


def _meets(one: frozenset[str] | None, other: frozenset[str] | None) -> bool:
    """Whether two tensors are known to be the same, by any name of their values."""
    return one is not None and other is not None and not one.isdisjoint(other)


def device_of(name: str) -> torch.device:
    """The torch device that an option names.

    Raises:
        ScoringError: no such device, or torch cannot compute there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ScoringError(f"--device {name}: expected auto, cpu or cuda[:N]") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ScoringError(f"--device {name}: torch sees no CUDA GPU here; use --device cpu")
    try:
        torch.zeros(1, device=device).item()
    except RuntimeError as error:
        text = str(error).splitlines()[0][:200]
        raise ScoringError(
            f"--device {name}: torch cannot compute there ({text}); expected auto, cpu or cuda[:N]"
        ) from error
    return device


def compute_dtype_of(name: str, device: torch.device, reference: Checkpoint) -> torch.dtype:
    """The dtype that an option names, see ``Options``.

    Raises:
        ScoringError: none that models are computed in.
    """
    if name == "auto":
        return torch.float32 if device.type == "cpu" else DTYPES[reference.dtypes[0]]
    dtype = getattr(torch, name, None)
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ScoringError(f"--compute-dtype {name}: expected float32, bfloat16 or float16")
    return dtype  # type: ignore[no-any-return]
