"""vLLM as an engine: all questions in flight, a blend's weights swapped into it and proved fresh.

vLLM runs in the worker's process, and is imported there when it is opened. Its weights come through
``vllm_swap``, its questions through ``vllm_questions``. What must not be trusted is its memory: it
keeps image embeddings and prefixes by what was asked, not by who answers. So at every swap all of
that is emptied and looked at, and each swap asks under names of its own besides.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.companions import Companions
from soup.errors import BY_NAME, ScoringError, SoupError
from soup.evaluators.engines.batches import MEMORY, by_length
from soup.evaluators.engines.dressing import dressed
from soup.evaluators.engines.kept import Kept
from soup.evaluators.engines.resident import compute_dtype_of, device_of, open_wrapper
from soup.evaluators.engines.vllm_import import import_vllm, show_ourselves
from soup.evaluators.engines.vllm_options import VllmOptions
from soup.evaluators.engines.vllm_questions import Ear, Heard, Request, require_equal, sampling
from soup.evaluators.engines.vllm_swap import WATCHING, unused
from soup.evaluators.engines.vllm_tiles import inputs_of
from soup.evaluators.engines.vllm_words import PLACE, Words, name_of, read, write
from soup.evaluators.models.wrapper import Message, Options, about, clear_errors
from soup.evaluators.writing import write_whole
from soup.events import Note, Observer, Progress, ignore
from soup.words import counted

EXTENSION = "soup.evaluators.engines.vllm_swap.Swap"
TESTED = "engine-tests.json"
"""Which builds of vLLM have passed their self-test, beside what else is cached."""


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
        self.reference = dressed(reference, companions, cache)
        self._worn = companions.digest
        self.device = device_of(options.device)
        if self.device.type == "cuda" and (self.device.index or 0) > 0:
            raise ScoringError(
                f"--device {options.device}: vLLM takes the first GPU that it sees; set "
                f"CUDA_VISIBLE_DEVICES={self.device.index} and leave --device out"
            )
        self.dtype = compute_dtype_of(options.compute_dtype, self.device, reference)
        self.options = vllm
        self._options = options
        self.wrapper = open_wrapper(self.reference, options)
        self._trust = options.trust_remote_code
        self._cache = cache
        self._vllm = import_vllm(self.device, vllm)
        self._default: Any = None
        self._ear: Ear | None = None
        self._llm: Any = None
        self._limits = (0, 0)
        self._wanted: tuple[Blend, str, str, Observer] | None = None
        self._loaded: str | None = None
        self._swaps = 0
        self._heard: dict[tuple[str, int], Heard] = {}
        self._measured: dict[str, Words] = {}
        self._proven: set[str] = set()
        self._requests: dict[tuple[str, int], Request] = {}
        self._room = MEMORY

    @property
    def settings(self) -> Mapping[str, Any]:
        """See ``Engine``."""
        return {
            "engine": "vllm",
            "vllm": self._vllm.__version__,
            "device": self.device.type,
            "compute_dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tensor_parallel": self.options.tensor_parallel,
            "eager": self._eager,
            "batch_invariant": self.options.batch_invariant,
            **self.wrapper.settings,
        }

    @property
    def _eager(self) -> bool:
        return self.options.eager or self.device.type == "cpu"

    # --- weights --------------------------------------------------------------------------

    def load(self, blend: Blend, digest: str, task: str, observe: Observer = ignore) -> None:
        """See ``Engine``; what vLLM must hold is known with the questions, so it swaps then."""
        self._wear(blend.companions)
        if self._loaded == digest:
            self._wanted = None
            return
        if self._ear is None:
            with clear_errors(self.reference.path):
                model = self.wrapper.build(torch.device("meta"), self.dtype)
            self._default = model.generation_config
            self._ear = Ear(self.wrapper)
        self._wanted = blend, digest, task, observe

    def _wear(self, companions: Companions) -> None:
        """Other companion files: another wrapper, and vLLM anew, which read the earlier."""
        if companions.digest == self._worn:
            return
        self.close()
        self.reference = dressed(self._bare, companions, self._cache)
        self.wrapper = open_wrapper(self.reference, self._options)
        self._worn, self._ear = companions.digest, None
        self._measured.clear()
        self._proven.clear()
        self._room, self._limits = MEMORY, (0, 0)

    def _swap(self) -> None:
        if self._wanted is None:
            return
        blend, digest, task, observe = self._wanted
        self._loaded = None
        self.swap(blend, task, observe)
        self._loaded, self._wanted = digest, None

    def swap(self, blend: Blend, task: str, observe: Observer = ignore) -> None:
        """Stream a blend in; empty what remembers another; prove both.

        Raises:
            ScoringError: vLLM does not hold the blend, or remembers another; it names what.
        """
        self._swaps += 1
        parallel = self.options.tensor_parallel > 1
        sums = "" if parallel or self._cache is None else str(self._cache)
        WATCHING[task] = observe
        try:
            reports = self._llm.collective_rpc(
                "soup_swap", args=(pickle.dumps(blend), task, task, sums)
            )
        except SoupError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ScoringError(f"{self._name} cannot load a blend ({text})") from error
        finally:
            WATCHING.pop(task, None)
        self._prove(reports, blend)
        self.forget()
        self.require_forgotten()

    @property
    def _name(self) -> str:
        return f"{self.reference.path}: vLLM {self._vllm.__version__}"

    def _prove(self, reports: Sequence[Mapping[str, Any]], blend: Blend) -> None:
        for report in reports:
            if "error" in report:
                name, text = report["error"]
                raise BY_NAME.get(name, ScoringError)(text)
        for report in reports:
            for what, names in (("was not filled", report["missing"]),
                                ("is not what was sent", report["unequal"])):  # fmt: skip
                if names:
                    raise ScoringError(
                        f"{self._name}: {names[0]} {what} ({counted(len(names), 'such tensor')} in "
                        "the engine); nothing is scored; use --engine transformers"
                    )
        first = dict(reports[0])
        first["used"] = {
            name: sum(report["used"][name] for report in reports) for name in first["used"]
        }
        if names := unused(first, blend):
            raise ScoringError(
                f"{self._name} made no use of {names[0]} ({counted(len(names), 'such tensor')} in "
                "the files); nothing is scored; use --engine transformers"
            )

    def forget(self) -> None:
        """Empty every cache that holds what other weights made, on both sides."""
        engine = self._llm.llm_engine
        for reset in (self._llm.reset_prefix_cache, engine.reset_mm_cache,
                      engine.reset_encoder_cache):  # fmt: skip
            reset()

    def require_forgotten(self) -> None:
        """Raises ScoringError where a cache is not empty, or cannot be looked into."""
        try:
            core = self._llm.llm_engine.engine_core.engine_core
            manager = core.scheduler.encoder_cache_manager
            found = {
                "prefixes": len(
                    core.scheduler.kv_cache_manager.block_pool.cached_block_hash_to_block
                ),
                "image embeddings (scheduler)": len(manager.cached) + len(manager.freeable),
            }
        except AttributeError as error:
            raise ScoringError(
                f"{self._name}: its caches cannot be looked into ({error}); nothing is scored; "
                "use --engine transformers"
            ) from error
        for report in self._llm.collective_rpc("soup_caches"):
            for name, count in report.items():
                found[name] = found.get(name, 0) + count
        for name, count in found.items():
            if count:
                raise ScoringError(
                    f"{self._name} still remembers {name} of other weights ({count} entries); "
                    "nothing is scored"
                )

    # --- the engine -----------------------------------------------------------------------

    def _start(self, length: int, images: int) -> None:
        """Have an engine for questions of that many tokens and images, in which no blend is."""
        if self._llm is not None and length <= self._limits[0] and images <= self._limits[1]:
            return
        self._stop()
        most = self.options.max_length or max(256, 1 << (length - 1).bit_length())
        if length > most:
            raise ScoringError(
                f"a question and its answer may take {length} tokens, [engine.vllm] max-length is "
                f"{most}; raise it, or lower --max-new-tokens"
            )
        on_gpu = self.device.type == "cuda"
        parallel = self.options.tensor_parallel
        arguments: dict[str, Any] = {
            "model": str(self.reference.path),
            "dtype": str(self.dtype).removeprefix("torch."),
            "trust_remote_code": self._trust,
            "max_model_len": most,
            "max_num_seqs": self.options.max_questions or (256 if on_gpu else 64),
            "max_num_batched_tokens": max(8192 if on_gpu else 4096, most),
            "limit_mm_per_prompt": {"image": images},
            "enforce_eager": self._eager,
            "tensor_parallel_size": parallel,
            "generation_config": "vllm",
            "mm_processor_cache_gb": 0,  # we keep what is made of questions
            "worker_extension_cls": EXTENSION,
            "seed": 0,
            "disable_log_stats": True,
        }
        if on_gpu:
            arguments["gpu_memory_utilization"] = self.options.memory_share
        if not self.reference.by_itself:
            arguments["load_format"] = "dummy"
        if parallel > 1:
            show_ourselves()
        try:
            self._llm = self._vllm.LLM(**arguments)
        except (Exception, SystemExit) as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            raise ScoringError(
                f"{self._name} cannot serve this model ({text}); use --engine transformers"
            ) from error
        self._limits = most, images
        self._loaded = None

    def _stop(self) -> None:
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        self._loaded = None

    def close(self) -> None:
        """See ``Engine``."""
        self._stop()
        self._heard.clear()
        self._requests.clear()

    # --- questions ------------------------------------------------------------------------

    def answer(
        self,
        key: str,
        dataset: str,
        messages: Sequence[Message],
        progress: Callable[[int], None] = lambda count: None,
        only: Sequence[int] | None = None,
        kept: Kept | None = None,
    ) -> list[str]:
        """See ``Engine``; the words of all questions are proven before any is asked."""
        wanted = range(len(messages)) if only is None else only
        answers = {} if kept is None else dict(kept.known)
        missing = [index for index in wanted if index not in answers]
        with clear_errors(self.reference.path), torch.inference_mode():
            if missing:
                for index, text in self._answers(key, dataset, messages, missing, progress):
                    answers[index] = text
                    if kept is not None:
                        kept.add(index, text)
                    progress(1)
        unanswered = sum(index not in answers for index in wanted)
        if unanswered:
            raise ScoringError(f"{unanswered} of {len(wanted)} questions got no answer")
        return [answers[index] for index in wanted]

    def _answers(
        self,
        key: str,
        dataset: str,
        messages: Sequence[Message],
        wanted: Sequence[int],
        progress: Callable[[int], None],
    ) -> Iterator[tuple[int, str]]:
        observe = self._wanted[3] if self._wanted else ignore
        name = ""
        if key not in self._proven:
            name = name_of(self.settings, self._worn, dataset, messages)
        known = read(self._cache, name, len(messages)) if name else None
        if key not in self._measured:
            self._measured[key] = known or self._measure(key, dataset, messages, observe)
        sizes = self._measured.values()
        self._start(max(one.longest for one in sizes), max(one.images for one in sizes))
        if name:
            # Of what was proven before, one question is looked at again.
            for done, index in enumerate([wanted[0]] if known else range(len(messages)), 1):
                request = self._request(key, index, messages[index], dataset)
                if known and request.settings != known.settings(index):
                    raise ScoringError(f"{self._name}: {dataset} is asked with other settings than "
                                       f"before; remove {self._cache}/{PLACE}")  # fmt: skip
                if not known:
                    task = f"check the words of {dataset}"
                    observe(Progress(task, done, len(messages), "questions"))
            self._heard.clear()
            self._proven.add(key)
            if not known:
                write(self._cache, name, self._measured[key])
        if self._wanted is None and self._loaded is None:
            raise ScoringError("vLLM was started again, and holds no blend")  # load comes first
        if self._wanted is not None:
            self._self_test(self._request(key, wanted[0], messages[wanted[0]], dataset), observe)
        self._swap()
        progress(0)  # from here on it answers: its speed is counted from here
        yield from self._generate(key, dataset, messages, by_length(messages, wanted))

    def _measure(
        self, key: str, dataset: str, messages: Sequence[Message], observe: Observer
    ) -> Words:
        """How long questions are with their answers, and how they are asked."""
        longest, images, room = 1, 1, MEMORY
        asked = []
        for index, message in enumerate(messages):
            with about(index):
                heard = self._hear(message, dataset)
            size = sum(tensor.nbytes for tensor in heard.whole.inputs.values())
            size += sum(3 * image.width * image.height for image in heard.images)
            room -= size
            if room > 0:
                self._heard[key, index] = heard
            asked.append(sampling(heard.whole, self._default, f"question {index}"))
            tokens = heard.whole.inputs["input_ids"].shape[1] + asked[-1]["max_tokens"]
            longest, images = max(longest, tokens), max(images, heard.count)
            task = f"measure the questions of {dataset}"
            observe(Progress(task, index + 1, len(messages), "questions"))
        return Words.of(longest, images, asked)

    def _hear(self, message: Message, dataset: str, words_alone: bool = False) -> Heard:
        assert self._ear is not None, "load comes first"
        return self._ear.hear(message, dataset, words_alone)

    def _request(self, key: str, index: int, message: Message, dataset: str) -> Request:
        """A question as vLLM takes it, proven to be the wrapper's."""
        found = self._requests.get((key, index))
        if found is not None:
            return found
        with about(index):
            heard = self._heard.get((key, index)) or self._hear(
                message, dataset, key in self._proven
            )
        where = f"{self.reference.path}: {dataset}, question {index}"
        inputs = self._render(heard, where)
        if heard.prepared is None:
            made = Request(inputs, self._measured[key].settings(index))
        else:
            require_equal(inputs, heard, where, self._decode)
            made = Request(inputs, sampling(heard.prepared, self._default, where))
        if made.nbytes <= self._room:
            self._room -= made.nbytes
            self._requests[key, index] = made
        return made

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._llm.get_tokenizer().decode(list(tokens)))

    def _render(self, heard: Heard, where: str) -> Mapping[str, Any]:
        renderer = self._llm.llm_engine.renderer
        if heard.runs is not None:
            each = self.wrapper.processor.image_seq_length
            processing = renderer.get_mm_processor()
            return inputs_of(processing, heard.whole, heard.runs, self.dtype, each)
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

    def _generate(
        self, key: str, dataset: str, messages: Sequence[Message], order: Sequence[int]
    ) -> Iterator[tuple[int, str]]:
        engine = self._llm.llm_engine
        for index in order:
            request = self._request(key, index, messages[index], dataset)
            self._add(str(index), request, f"{dataset}, question {index}")
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    (one,) = output.outputs
                    yield int(output.request_id), self._read(one, output.request_id)

    def _read(self, one: Any, index: str) -> str:
        if one.finish_reason not in ("stop", "length"):
            raise ScoringError(f"question {index}: vLLM ended it early: {one.finish_reason}")
        return self.wrapper.decode(torch.tensor(list(one.token_ids), dtype=torch.int64))

    def _add(self, name: str, request: Request, where: str) -> None:
        """Put a question to the engine, under names that no other weights were asked by."""
        mark = f"soup-{self._swaps}"
        inputs = dict(request.inputs) | {"cache_salt": mark}
        if inputs.get("mm_hashes"):
            inputs["mm_hashes"] = {
                kind: [f"{one}-{mark}" for one in hashes]
                for kind, hashes in inputs["mm_hashes"].items()
            }
        sampled = self._vllm.SamplingParams(**request.settings)
        sampled.output_kind = import_module("vllm.sampling_params").RequestOutputKind.FINAL_ONLY
        try:
            self._llm.llm_engine.add_request(name, inputs, sampled)
        except ValueError as error:
            text = " ".join(str(error).split())[:300]
            raise ScoringError(f"{where}: vLLM cannot take it ({text})") from error

    # --- whether a build of vLLM can be trusted -------------------------------------------

    def _self_test(self, request: Request, observe: Observer) -> None:
        """Once for each build of vLLM and kind of model: swapped weights answer, and no others.

        The reference's own weights, half of each, and again its own: the likelihood of the same
        word must change, and change back.

        Raises:
            ScoringError: it does not.
        """
        kind = [self._vllm.__version__, torch.__version__, self.device.type,
                str((self.reference.config.get("architectures") or ["?"])[0])]  # fmt: skip
        known = self._tested()
        if kind in known:
            return
        whole = Blend((self.reference,), self.reference)
        half = Blend((self.reference,), self.reference, (0.5,))
        seen = []
        for blend in (whole, half, whole):
            self.swap(blend, "test the engine")
            seen.append(self._likelihood(request))
        if seen[0] != seen[2] or seen[0] == seen[1]:
            raise ScoringError(
                f"{self._name} fails its self-test: weights were swapped out and in again, and "
                f"the same question gave {seen[0]}, {seen[1]}, {seen[2]} (the first and the last "
                "must be equal, the second another); nothing is scored; use --engine transformers"
            )
        observe(Note(f"vLLM {kind[0]}: swapped weights out and in, and the answers followed"))
        if self._cache is not None:
            text = json.dumps([*known, kind])
            write_whole(self._cache / TESTED, lambda path: path.write_text(text))

    def _tested(self) -> list[list[str]]:
        try:
            found = json.loads((self._cache / TESTED).read_text()) if self._cache else []
        except (OSError, ValueError):
            return []
        return found if isinstance(found, list) else []

    def _likelihood(self, request: Request) -> list[tuple[int, float]]:
        """The first word of an answer: its likeliest tokens, and their logarithms, rounded."""
        once = Request(request.inputs, {**request.settings, "max_tokens": 1, "logprobs": 5})
        self._add("test", once, "the self-test")
        engine = self._llm.llm_engine
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    (first,) = output.outputs[0].logprobs
                    return sorted((token, round(one.logprob, 3)) for token, one in first.items())
        raise ScoringError(f"{self._name} gave no answer in its self-test")
