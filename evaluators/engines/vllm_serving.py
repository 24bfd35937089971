"""One vLLM in the worker's process: started, a blend swapped into it and proved fresh, asked.

Its weights come through ``vllm_swap``. What must not be trusted is its memory: it keeps image
embeddings and prefixes by what was asked, not by who answers. So at every swap all of that is
emptied and looked at, and each swap asks under names of its own besides.
"""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.errors import BY_NAME, ScoringError, SoupError
from soup.evaluators.engines.vllm_config import as_transformers
from soup.evaluators.engines.vllm_gaps import known_as, register
from soup.evaluators.engines.vllm_import import import_vllm, show_ourselves
from soup.evaluators.engines.vllm_options import VllmOptions, hint
from soup.evaluators.engines.vllm_questions import Request
from soup.evaluators.engines.vllm_swap import WATCHING, unused
from soup.events import Observer, ignore
from soup.words import counted

EXTENSION = "soup.evaluators.engines.vllm_swap.Swap"


class Serving:
    """A model of one kind, with whatever weights were swapped in last.

    Attributes:
        reference: whose files say what kind.
        loaded: names the blend that is in it; None where none is, or it is not known which.
        written: bytes that the last swap sent to each of vLLM's workers: what differed from what
            it held (``vllm_held``).
    """

    def __init__(
        self,
        reference: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        options: VllmOptions,
        trust_remote_code: bool,
        cache: Path | None,
    ) -> None:
        """Import vLLM; nothing is started.

        Raises:
            ScoringError: it is not there.
        """
        self.reference = reference
        self.loaded: str | None = None
        self.written = 0
        self._proven = False
        self.options = options
        self._device = device
        self._dtype = dtype
        self._trust = trust_remote_code
        self._cache = cache
        self._vllm = import_vllm(device, options)
        self._llm: Any = None
        self._limits = (0, 0)
        self._swaps = 0
        self._asked: set[str] = set()

    @property
    def version(self) -> str:
        """Of vLLM."""
        return str(self._vllm.__version__)

    @property
    def name(self) -> str:
        """The model and what serves it, for people."""
        return f"{self.reference.path}: vLLM {self.version}"

    @property
    def eager(self) -> bool:
        """Whether it goes without CUDA graphs."""
        return self.options.eager or self._device.type == "cpu"

    # --- up and down ----------------------------------------------------------------------

    def start(self, length: int, images: int) -> None:
        """Be there for questions of that many tokens and images; newly started, no blend is in it.

        Raises:
            ScoringError: vLLM cannot serve the model.
        """
        if self._llm is not None and length <= self._limits[0] and images <= self._limits[1]:
            return
        self.stop()
        most = self.options.max_length or max(256, 1 << (length - 1).bit_length())
        if (places := _places(self.reference.config)) is not None:
            most = min(most, max(length, places))
        on_gpu = self._device.type == "cuda"
        parallel = self.options.tensor_parallel
        arguments: dict[str, Any] = {
            "model": str(self.reference.path),
            "dtype": str(self._dtype).removeprefix("torch."),
            "trust_remote_code": self._trust,
            "max_model_len": most,
            "max_num_seqs": self.options.max_questions or (256 if on_gpu else 64),
            "max_num_batched_tokens": max(8192 if on_gpu else 4096, most),
            "limit_mm_per_prompt": {"image": images, "video": 0},
            "enforce_eager": self.eager,
            "hf_overrides": as_transformers,
            "tensor_parallel_size": parallel,
            "generation_config": "vllm",
            "mm_processor_cache_gb": 0,  # we keep what is made of questions
            "worker_extension_cls": EXTENSION,
            "seed": 0,
            "disable_log_stats": True,
        }
        if on_gpu:
            arguments["gpu_memory_utilization"] = self.options.memory_share
        kinds = [str(one) for one in self.reference.config.get("architectures") or ()]
        foreign = any(known_as(kinds, name) != name for name in self.reference.tensors)
        if foreign or not self.reference.by_itself:
            arguments["load_format"] = "dummy"  # what is swapped in is read by us
        if parallel > 1:
            show_ourselves()
        try:
            register(kinds)
            self._llm = self._vllm.LLM(**arguments)
        except (Exception, SystemExit) as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            raise ScoringError(
                f"{self.name} cannot serve this model ({text}); {hint(text)}"
            ) from error
        self._limits = most, images

    def stop(self) -> None:
        """Let go of it, if it is there."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            self._asked.clear()
            if self._device.type == "cuda":  # what it held is free for the next one only then
                gc.collect()
                torch.cuda.empty_cache()
        self.loaded, self._proven, self._limits = None, False, (0, 0)

    # --- weights --------------------------------------------------------------------------

    def swap(self, blend: Blend, digest: str | None, task: str, observe: Observer = ignore) -> None:
        """Stream a blend in; empty what remembers another; prove both.

        Args:
            blend: each of vLLM's workers opens its members' files.
            digest: is ``loaded`` from then on.
            task: the name of the work, for progress.
            observe: told of bytes streamed.

        Raises:
            ScoringError: vLLM does not hold the blend, or remembers another; it names what.
        """
        self.loaded = None
        anew, self._proven = not self._proven, False  # what it holds after a failure is not known
        self._abandon()
        self._swaps += 1
        parallel = self.options.tensor_parallel > 1
        sums = "" if parallel or self._cache is None else str(self._cache)
        WATCHING[task] = observe
        try:
            reports = self._llm.collective_rpc(
                "soup_swap", args=(pickle.dumps(blend), task, task, sums, anew)
            )
        except SoupError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ScoringError(f"{self.name} cannot load a blend ({text})") from error
        finally:
            WATCHING.pop(task, None)
        self._prove(reports, blend)
        self.forget()
        self.require_forgotten()
        self.loaded, self.written, self._proven = digest, int(reports[0]["written"]), True

    def distrust(self) -> None:
        """Take nothing for known of what it holds: the next swap sends all."""
        self._proven = False

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
                        f"{self.name}: {names[0]} {what} ({counted(len(names), 'such tensor')} in "
                        "the engine); nothing is scored; use --engine transformers"
                    )
        first = dict(reports[0])
        first["used"] = {
            name: sum(report["used"][name] for report in reports) for name in first["used"]
        }
        if names := unused(first, blend):
            raise ScoringError(
                f"{self.name} made no use of {names[0]} ({counted(len(names), 'such tensor')} in "
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
                f"{self.name}: its caches cannot be looked into ({error}); nothing is scored; "
                "use --engine transformers"
            ) from error
        for report in self._llm.collective_rpc("soup_caches"):
            for name, count in report.items():
                found[name] = found.get(name, 0) + count
        for name, count in found.items():
            if count:
                raise ScoringError(
                    f"{self.name} still remembers {name} of other weights ({count} entries); "
                    "nothing is scored"
                )

    # --- questions ------------------------------------------------------------------------

    @property
    def renderer(self) -> Any:
        """What makes tokens and tensors of a text and pictures."""
        return self._llm.llm_engine.renderer

    def words(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        return str(self._llm.get_tokenizer().decode(list(tokens)))

    def ask(self, requests: Iterable[tuple[str, Request, str]]) -> Iterator[tuple[str, Any]]:
        """Put questions to it, all at once, under names that no other weights were asked by.

        Args:
            requests: a name that comes back with the answer, the question, and where it is from,
                for people.

        Yields:
            By name, vLLM's output of each, as they end.

        Raises:
            ScoringError: one is not taken; then none is answered.
        """
        engine = self._llm.llm_engine
        self._abandon()
        for name, request, where in requests:
            self._add(name, request, where)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished and output.request_id in self._asked:
                    self._asked.discard(output.request_id)
                    (one,) = output.outputs
                    yield output.request_id, one

    def _abandon(self) -> None:
        """Where an earlier asking was broken off, its answers are nobody's."""
        self._llm.llm_engine.abort_request(list(self._asked))
        self._asked.clear()

    def _add(self, name: str, request: Request, where: str) -> None:
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
        self._asked.add(name)


def _places(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model has positions for; None where its config.json does not say."""
    parts = [config.get(name) for name in ("text_config", "llm_config")]
    for part in (*parts, config):
        found = part.get("max_position_embeddings") if isinstance(part, Mapping) else None
        if isinstance(found, int):
            return found
    return None
