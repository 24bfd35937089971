"""What is wrong with VLMEvalKit's wrappers, why it matters here, and what mends it.

Each is looked for, unmended, by a test of its name in ``tests/test_workarounds.py``, so that it can
go when VLMEvalKit no longer needs it. Nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Making:
    """A wrapper about to be constructed, for a workaround to change.

    Attributes:
        kind: its class.
        path: the model directory, as the wrapper will see it.
        config: what config.json says.
    """

    kind: Any
    path: str
    config: Mapping[str, Any]

    @property
    def module(self) -> Any:
        """Where the wrapper looks names up."""
        return importlib.import_module(self.kind.__module__)

    def overrule(self, **methods: Any) -> None:
        """Put methods before the wrapper's own; its class stays as it is."""
        own = {"__module__": self.kind.__module__}
        self.kind = type(self.kind.__name__, (self.kind,), own | methods)


@dataclass(frozen=True)
class Workaround:
    """A defect and its mending.

    Attributes:
        reason: what goes wrong without it.
        mend: called before each construction.
        finish: called with the wrapper, once constructed.

    Those with neither are mended by ``models.kit_wrapper`` for every family, or in the table.
    """

    reason: str
    mend: Callable[[Making], None] = lambda making: None
    finish: Callable[[Any], None] = lambda kit: None


class Spelled(str):
    """A path that, asked for its lower case, says what a wrapper wants to find there.

    Wrappers read a model's kind off its directory's name; config.json knows it.
    """

    __slots__ = ("says",)
    says: str

    def lower(self) -> str:
        """Not this path in lower case."""
        return self.says


def _spelled(path: str, says: str) -> Spelled:
    made = Spelled(path)
    made.says = says
    return made


def _neutral_path(making: Making) -> None:
    making.path = _spelled(making.path, "")


def _gpu_memory(making: Making) -> None:
    making.module.get_gpu_memory = lambda: [1]


def _architectures(making: Making) -> None:
    def load(file: Any) -> Any:
        config = json.load(file)
        return {"architectures": [config.get("model_type")]} | config

    # the wrapper asks this name for nothing but config.json
    making.module.json = types.SimpleNamespace(load=load)


def _model_name(making: Making) -> None:
    utils = importlib.import_module("mplug_owl2.mm_utils")
    kind = str(making.config.get("model_type"))
    utils.get_model_name_from_path = lambda path: kind  # type: ignore[attr-defined]


def _yi(making: Making) -> None:
    language = making.config.get("llm_config")
    size = language.get("vocab_size") if isinstance(language, Mapping) else None
    making.path = _spelled(making.path, "yi" if size == 64000 else "")
    # the wrapper asks this name for nothing but the version
    making.module.transformers = types.SimpleNamespace(__version__="4.38.2")


def _missing_names(making: Making) -> None:
    for name, where in {"string": "string", "pd": "pandas", "Image": "PIL.Image"}.items():
        if not hasattr(making.module, name):
            setattr(making.module, name, importlib.import_module(where))


def _dataset_name(making: Making) -> None:
    kind = making.kind

    def generate_inner(self: Any, message: Any, dataset: Any = None) -> Any:
        return kind.generate_inner(self, message, dataset or "")

    def build_prompt(self: Any, line: Any, dataset: Any = None, **more: Any) -> Any:
        if isinstance(dataset, str):
            dataset = types.SimpleNamespace(dataset_name=dataset, MODALITY="IMAGE")
        return kind.build_prompt(self, line, dataset, **more)

    making.overrule(generate_inner=generate_inner, build_prompt=build_prompt)


class _Total(int):
    """A number of tiles to share among images, of which there may be none."""

    def __floordiv__(self, images: int) -> int:
        return int(self) // max(images, 1)


def _no_image(making: Making) -> None:
    kind = making.kind

    def set_max_num(self: Any, dataset: Any) -> None:
        kind.set_max_num(self, dataset)
        self.total_max_num = _Total(self.total_max_num)

    making.overrule(set_max_num=set_max_num)


class _Processor:
    """A processor for which no images are None, not an empty list."""

    def __init__(self, behind: Any) -> None:
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def __call__(self, *args: Any, images: Any = None, **kwargs: Any) -> Any:
        return self._behind(*args, images=images or None, **kwargs)


def _empty_images(kit: Any) -> None:
    kit.processor = _Processor(kit.processor)


def before_import(transformers: str) -> None:
    """What must be in place before VLMEvalKit is imported; see "cache-utils"."""
    if tuple(int(part) for part in transformers.split(".")[:2]) < (4, 36):
        stub = types.ModuleType("transformers.cache_utils")
        stub.DynamicCache = stub.Cache = stub.StaticCache = type(None)  # type: ignore[attr-defined]
        sys.modules[stub.__name__] = stub


WORKAROUNDS: Mapping[str, Workaround] = {
    "cuda": Workaround(
        "inputs go to 'cuda' by name, also where the model is on a CPU or on another GPU; while a "
        "wrapper works, 'cuda' means our device"
    ),
    "loading": Workaround(
        "device_map, dtype, flash attention and quantisation are wired into the loading of the "
        "model; ours are put in their place, so that weights can be swapped and proven"
    ),
    "cache-utils": Workaround(
        "wrappers that are imported with all others need a module that transformers has since "
        "4.36; where it is older, an empty one stands in"
    ),
    "greedy": Workaround(
        "sampling is switched on, or left to the checkpoint's generation_config, so that the same "
        "weights get another score each time; it is switched off"
    ),
    "path": Workaround(
        "the kind of model is read off its path: one that contains 'omni' takes another way",
        _neutral_path,
    ),
    "gpu-memory": Workaround(
        "asserts that nvidia-smi shows free memory, although nothing depends on it", _gpu_memory
    ),
    "architectures": Workaround(
        "a Qwen2.5-VL whose config.json lacks `architectures`, as some versions of transformers "
        "write it, is built as a Qwen2-VL",
        _architectures,
    ),
    "internvl-version": Workaround(
        "the constructor's own default version raises when asked; the table names the version"
    ),
    "no-image": Workaround("a question without an image divides by zero", _no_image),
    "empty-images": Workaround(
        "a question without an image gives the processor an empty list, which it refuses",
        finish=_empty_images,
    ),
    "missing-names": Workaround(
        "its module uses string, pd and Image without importing them", _missing_names
    ),
    "yi": Workaround(
        "a path with 'yi' in it asserts transformers 4.38.2 and takes the slow tokenizer, whatever "
        "the model; the language model's vocabulary decides instead, the assertion is passed",
        _yi,
    ),
    "model-name": Workaround(
        "the last part of the path must contain 'mplug_owl2', else another model is built",
        _model_name,
    ),
    "dataset-name": Workaround(
        "raises without a dataset, and takes a dataset's object where all others take its name",
        _dataset_name,
    ),
}
"""By name; ``soup.evaluators.models.families`` says which family needs which."""

EVERYWHERE = ("cuda", "loading", "greedy")
"""Those that ``soup.evaluators.models.kit_wrapper`` mends for every family."""
