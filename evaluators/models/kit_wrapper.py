"""VLMEvalKit's wrapper of a family, on our device, in our dtype, and batched where it can be.

A wrapper goes all the way from a question to an answer in one method. Where its model is one of
transformers' own, that way is cut in two at the model: the wrapper runs up to ``model.generate``,
whose arguments are taken down instead of run (``prepare``); they are put in batches elsewhere, and
the tokens are read as the wrapper reads them (``decode``). Words, images and settings stay its own.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import transformers
from torch import nn
from torch.overrides import TorchFunctionMode

from soup.checkpoints.checkpoint import Checkpoint
from soup.errors import ScoringError, SoupError
from soup.evaluators.models.families import Family, read_config
from soup.evaluators.models.loading import our_loading, own_generation, rebuilt
from soup.evaluators.models.placeholders import image_tokens
from soup.evaluators.models.served import SERVED, without_code
from soup.evaluators.models.workarounds import EVERYWHERE, WORKAROUNDS, Making
from soup.evaluators.models.wrapper import Message, Prepared

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p")
CPU = torch.device("cpu")
NEVER = ("self", "model_path", "kwargs", "verbose", "use_vllm", "use_lmdeploy", "load_in_8bit")
"""Parameters of constructors that are no options: ours to say, or no way to swapped weights."""


class KitWrapper:
    """One family's wrapper; see ``soup.evaluators.models.wrapper.Wrapper``."""

    def __init__(
        self,
        family: Family,
        reference: Checkpoint,
        *,
        trust_remote_code: bool = False,
        max_new_tokens: int | None = None,
        given: Mapping[str, Any] | None = None,
        served: bool = False,
    ) -> None:
        """Look up the wrapper and check what it needs; nothing is built.

        Args:
            family: the reference's.
            reference: whose files the model is built from.
            trust_remote_code: whether Python code inside the checkpoint may run.
            max_new_tokens: the longest answer; None leaves it to the wrapper.
            given: options of its constructor, before those of the table; ``batched = false`` asks
                one question at a time.
            served: whether vLLM is to answer; where the family is ``served``, its code is not run.

        Raises:
            ScoringError: an option is unknown, transformers is out of range, a package is missing,
                or code may not run; the message says what to do.
        """
        self._served = SERVED.get(family.served) if served else None
        if served:
            family = family.by("vllm")
        self.family = family
        self.reference = reference
        self.config = read_config(reference.path)
        self._max_new_tokens = max_new_tokens
        self._require(trust_remote_code)
        self._kind = _find(family.wrapper)
        self._require_known(given or {})
        options = dict(family.options) | dict(given or {})
        self.batched = options.pop("batched", True) and family.batched
        self._tiles: Any = None
        self._options = options
        self._require_unprocessed()
        self._kit: Any = None
        self._own: Any = None
        self._alone = False
        self._model: Any = None

    # --- what is needed -------------------------------------------------------------------

    def _require(self, trust_remote_code: bool) -> None:
        family, path = self.family, self.reference.path
        installed = transformers.__version__
        if not family.runs_under(installed):
            raise ScoringError(
                f"{path}: {family.title} runs under transformers {family.range}, and "
                f"{installed} is installed here; name an interpreter that has one in range"
            )
        for module, package in family.packages.items():
            if importlib.util.find_spec(module) is None:
                raise ScoringError(
                    f"{path}: {family.title} needs {module}, which is not installed here; "
                    f"install {package}"
                )
        if not trust_remote_code and (family.custom_code or _tokenizer_code(self.reference)):
            raise ScoringError(
                f"{path}: the checkpoint brings its own Python code; read it, then add "
                "--trust-remote-code to let it run"
            )

    def _require_known(self, given: Mapping[str, Any]) -> None:
        parameters = inspect.signature(self._kind.__init__).parameters
        known = sorted({*parameters, *self.family.accepts, "batched"} - set(NEVER))
        for name, value in given.items():
            where = f"[family.{self.family.name}] {name}"
            if name not in known:
                raise ScoringError(
                    f"{where}: not an option of VLMEvalKit's {self._kind.__name__}; expected one "
                    f"of {', '.join(known)}"
                )
            hidden = True if name == "batched" else 0
            default = parameters[name].default if name in parameters else hidden
            expected = _kind_of(self.family.options.get(name, default))
            if expected and _kind_of(value) != expected:
                raise ScoringError(f"{where}: expected {expected}, found {value!r}")

    def _require_unprocessed(self) -> None:
        if self.batched and self._options.get("post_process"):
            raise ScoringError(
                f"[family.{self.family.name}] post_process: answers to whole batches are not "
                "post-processed; add batched = false"
            )

    # --- what it is -----------------------------------------------------------------------

    @property
    def settings(self) -> Mapping[str, Any]:
        """See ``Wrapper``."""
        found = {
            "wrapper": self._kind.__name__,
            "wrapper_options": dict(self._options),
            "workarounds": [*EVERYWHERE, *self.family.workarounds],
            "decoding": "greedy",
            "max_new_tokens": self._max_new_tokens,
        }
        if self._served:
            found["served"] = self.family.served
        return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]

    @property
    def pad_token(self) -> int:
        """See ``Wrapper``."""
        tokenizer = _tokenizer(self._kit)
        found = tokenizer.pad_token_id
        return int(tokenizer.eos_token_id if found is None else found)

    @property
    def processor(self) -> Any:
        """See ``Wrapper``."""
        return self._tiles or getattr(self._kit, "processor", None)

    @property
    def image_tokens(self) -> tuple[str, ...]:
        """See ``Wrapper``."""
        return image_tokens(getattr(self._kit, "processor", None), _tokenizer(self._kit))

    # --- the model ------------------------------------------------------------------------

    def build(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """See ``Wrapper``."""
        if self._served is None:
            return self._construct(device, dtype, None)
        stands_in = self._served(self.reference.path, self.config)
        with without_code():
            model = self._construct(device, dtype, stands_in)
        self._tiles = stands_in.tiles(_tokenizer(self._kit))
        return model

    def adopt(self, model: Any, device: torch.device, dtype: torch.dtype) -> bool:
        """See ``Wrapper``: the wrapper is constructed around the model, as if it had loaded it.

        One that loads several models, or makes another of the one it loads, builds its own.
        """
        if self._kit is not None:
            if self._own is not None:
                model.generation_config = self._own
            self._use(model)
            return True
        before = getattr(model, "generation_config", None)
        if before is not None:
            with self._clear("cannot read its generation settings"):
                model.generation_config = own_generation(model.config, self.reference.path)
        self._construct(device, dtype, model)
        if not self._alone:
            self._kit = self._model = None
            model.generation_config = before
        return self._alone

    def let_go(self) -> None:
        """See ``Wrapper``."""
        self._model = None
        if self._kit is not None:
            self._kit.model = None

    def _construct(self, device: torch.device, dtype: torch.dtype, there: Any) -> nn.Module:
        making = Making(self._kind, str(self.reference.path), self.config)
        workarounds = [WORKAROUNDS[name] for name in self.family.workarounds]
        for each in workarounds:
            each.mend(making)
        with (
            self._clear("cannot be built"),
            our_loading(self.reference, device, dtype, there) as given,
        ):
            self._kit = making.kind(model_path=making.path, **self._options)
        for each in workarounds:
            each.finish(self._kit)
        self._device, self._dtype = device, dtype
        model = self._kit.model
        self._alone = len(given) == 1 and given[0] is model
        self._own = getattr(model, "generation_config", None)
        self._use(model)
        home = CPU if device.type == "meta" else device  # of tensors that the wrapper makes
        for name, value in (("device", home), ("dtype", dtype)):
            if hasattr(self._kit, name):
                setattr(self._kit, name, value)
        return self._model  # type: ignore[no-any-return]

    def replace(self, state: dict[str, torch.Tensor]) -> nn.Module:
        """See ``Wrapper``."""
        kind, config = type(self._model), self._model.config
        self._model = self._kit.model = None  # make room first
        with self._clear("cannot be built again"):
            model = rebuilt(kind, config, state, self._device, self._dtype, self.reference.path)
        self._use(model)
        return model

    def _use(self, model: Any) -> None:
        self._model = model
        self._kit.model = _Recorder(model) if self.batched else _AtHome(model)

    # --- questions ------------------------------------------------------------------------

    def use_custom_prompt(self, dataset: str) -> bool:
        """See ``Wrapper``."""
        return bool(self._kit.use_custom_prompt(dataset))

    def build_prompt(self, row: Any, dataset: str) -> Message:
        """See ``Wrapper``."""
        return self._kit.build_prompt(row, dataset=dataset)  # type: ignore[no-any-return]

    def set_dump_image(self, dump_image: Any) -> None:
        """See ``Wrapper``."""
        self._kit.set_dump_image(dump_image)

    def prepare(self, message: Message, dataset: str) -> Prepared:
        """See ``Wrapper``."""
        with self._clear("cannot put a question"), _quiet(), _on(CPU):
            try:
                self._kit.generate_inner([dict(item) for item in message], dataset)
            except _Captured as captured:
                return self._split(captured.arguments)
        raise ScoringError(
            f"{self.reference.path}: VLMEvalKit's {self._kind.__name__} answered without its "
            f"model; add batched = false under [family.{self.family.name}]"
        )

    def _split(self, arguments: Mapping[str, Any]) -> Prepared:
        inputs = {k: v for k, v in arguments.items() if isinstance(v, torch.Tensor)}
        rest = {k: v for k, v in arguments.items() if k not in inputs and v is not None}
        if self._model.generation_config.pad_token_id is None:
            rest.setdefault("pad_token_id", self.pad_token)
        return Prepared(inputs, greedy(rest, self._max_new_tokens))

    def decode(self, tokens: torch.Tensor) -> str:
        """See ``Wrapper``."""
        assert self.family.decode is not None
        return DECODE[self.family.decode](self._kit, tokens)

    def answer(self, message: Message, dataset: str) -> str:
        """See ``Wrapper``."""
        copied = [dict(item) for item in message]
        with (
            self._clear("cannot answer"),
            _quiet(),
            _on(self._device),
            _greedily(self._max_new_tokens),
        ):
            return str(self._kit.generate_inner(copied, dataset))

    @contextmanager
    def _clear(self, what: str) -> Iterator[None]:
        """One line for whatever a wrapper or a checkpoint's own code raises."""
        try:
            yield
        except (SoupError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ScoringError(
                f"{self.reference.path}: VLMEvalKit's {self._kind.__name__} {what} ({text})"
            ) from error


# --- the model as a wrapper sees it --------------------------------------------------------


class _Captured(BaseException):  # no wrapper's `except Exception` may swallow it
    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


class _Recorder:
    """Stands in for a model; takes down what it is asked to generate."""

    device = CPU

    def __init__(self, model: Any) -> None:
        self._behind = model

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._behind, name)
        # What a chat of the model's own would have generated is taken down, too.
        return MethodType(found.__func__, self) if name == "chat" else found

    def generate(self, **arguments: Any) -> None:
        raise _Captured(arguments)


class _AtHome:
    """A model that takes what its wrapper has wired in, and turns it to its device and dtype."""

    def __init__(self, model: Any) -> None:
        object.__setattr__(self, "_behind", model)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._behind, name)
        if name not in ("chat", "generate"):
            return found
        device, dtype = self._behind.device, self._behind.dtype
        return lambda *args, **kwargs: found(
            *_each(args, device, dtype), **_each(kwargs, device, dtype)
        )

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._behind, name, value)


def _each(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if type(value) in (list, tuple):
        return type(value)(_each(item, device, dtype) for item in value)
    if type(value) is dict:
        return {key: _each(item, device, dtype) for key, item in value.items()}
    return value


class _On(TorchFunctionMode):
    """While active, in this thread, 'cuda' means another device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cuda:
            return args[0].to(self._device)
        args = tuple(map(self._ours, args))
        return func(*args, **{name: self._ours(value) for name, value in (kwargs or {}).items()})

    def _ours(self, value: Any) -> Any:
        named = isinstance(value, str) and value.split(":")[0] == "cuda"
        meant = isinstance(value, torch.device) and value.type == "cuda"
        return self._device if named or meant else value


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    with torch.cuda.device(device) if device.type == "cuda" else _On(device):
        yield


# --- how it generates ----------------------------------------------------------------------


def greedy(settings: Mapping[str, Any], max_new_tokens: int | None) -> dict[str, Any]:
    """A wrapper's arguments of ``generate`` without sampling, and no longer than asked for."""
    made = dict(settings) | dict.fromkeys(SAMPLING[:3]) | {"do_sample": False}
    for name in SAMPLING[3:]:
        made.pop(name, None)
    if max_new_tokens is not None:
        made["max_new_tokens"] = min(max_new_tokens, made.get("max_new_tokens") or max_new_tokens)
    return made


@contextmanager
def _greedily(max_new_tokens: int | None) -> Iterator[None]:
    """All of transformers' generation is greedy: custom code has its own ways of asking for it."""
    kept = transformers.GenerationMixin.generate

    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        return kept(self, *args, **greedy(kwargs, max_new_tokens))

    transformers.GenerationMixin.generate = generate
    try:
        yield
    finally:
        transformers.GenerationMixin.generate = kept


# --- how answers are read ------------------------------------------------------------------


def _exact(kit: Any, tokens: torch.Tensor) -> str:
    read = kit.processor.tokenizer.batch_decode
    return str(read([tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False)[0])


def _plain(kit: Any, tokens: torch.Tensor) -> str:
    return str(kit.processor.decode(tokens, skip_special_tokens=True))


def _stripped(kit: Any, tokens: torch.Tensor) -> str:
    return str(kit.processor.batch_decode(tokens[None], skip_special_tokens=True)[0]).strip()


def _chat(kit: Any, tokens: torch.Tensor) -> str:
    return str(kit.model.read(kit.tokenizer, tokens))


DECODE: Mapping[str, Callable[[Any, torch.Tensor], str]] = {
    "exact": _exact,
    "plain": _plain,
    "stripped": _stripped,
    "chat": _chat,
}
"""What wrappers do with new tokens [n], by the name that the table gives it."""


# --- small things --------------------------------------------------------------------------


def _kind_of(value: Any) -> str:
    """What an option is, to read; empty where its default does not say what it should be."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "text in quotes" if isinstance(value, str) else ""


def _find(wrapper: str) -> Any:
    """A wrapper's class, by its name in VLMEvalKit or as ``module:class``."""
    # first of all: it keeps out of VLMEvalKit's sight what in the environment changes prompts
    importlib.import_module("soup.evaluators.kit.importing")
    module, _, name = wrapper.rpartition(":")
    # on being imported, VLMEvalKit's models seed torch and turn gradients off
    with torch.random.fork_rng(devices=[]), torch.set_grad_enabled(torch.is_grad_enabled()):
        return getattr(importlib.import_module(module or "vlmeval.vlm"), name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what wrappers print for every question, prompts and all."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _tokenizer(kit: Any) -> Any:
    processor = getattr(kit, "processor", None)
    return getattr(processor, "tokenizer", None) or getattr(kit, "tokenizer", None)


def _tokenizer_code(reference: Checkpoint) -> bool:
    """Whether the tokenizer is code: some wrappers let it run without being asked."""
    try:
        text = (reference.path / "tokenizer_config.json").read_text(encoding="utf-8")
    except OSError:
        return False
    return '"auto_map"' in text
