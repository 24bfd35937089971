"""Each workaround is still needed: without it, VLMEvalKit's wrapper goes wrong as it says.

A test here that fails after an update of VLMEvalKit is good news: the workaround can go.
"""

import ast
import importlib
import inspect
import json
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vlmeval")

import torch
import transformers
import vlmeval.vlm as kit

import soup.evaluators.kit.importing  # noqa: F401 - before VLMEvalKit's wrappers, as in a worker
from soup.checkpoints.opening import open_checkpoint
from soup.evaluators.models.families import FAMILIES, named
from soup.evaluators.models.kit_wrapper import KitWrapper, _Captured, _on, _Recorder
from soup.evaluators.models.loading import our_loading
from soup.evaluators.models.workarounds import EVERYWHERE, WORKAROUNDS, Making, before_import
from tests.models import tiny_families

CPU = torch.device("cpu")
TEXT = [{"type": "text", "value": "What is a fox?"}]


@contextmanager
def wrong(name: str, *errors: type[BaseException]) -> Iterator[None]:
    """Inside, one of ``errors`` is raised, as long as the workaround is needed."""
    try:
        yield
    except errors:
        return
    pytest.fail(f"VLMEvalKit has mended this: remove the workaround {name!r}")


def bare(kind: Any, **attributes: Any) -> Any:
    """A wrapper that was never constructed."""
    made = object.__new__(kind)
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2-VL, in a place whose path means something to VLMEvalKit."""
    return tiny_families.write("qwen2-vl", tmp_path_factory.mktemp("omnibus"))


def built(name: str, path: Path) -> Any:
    """A wrapper, built as always, with nothing between it and its model."""
    family = named(name)
    assert family is not None
    wrapper = KitWrapper(family, open_checkpoint(path, "m", None), max_new_tokens=4)
    model = wrapper.build(CPU, torch.float32)
    wrapper._kit.model = model
    return wrapper._kit


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, 'cuda' works")
def test_cuda(qwen: Path) -> None:
    """Inputs go to 'cuda' although the model is on the CPU."""
    unmended = built("qwen2-vl", qwen)
    with wrong("cuda", AssertionError, RuntimeError):
        unmended.generate(TEXT, "MMStar")
    with _on(CPU):
        unmended.generate(TEXT, "MMStar")


def test_loading(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructor insists on flash attention, wherever it runs."""
    module = importlib.import_module(kit.Qwen2VLChat.__module__)
    monkeypatch.setattr(module, "get_gpu_memory", lambda: [1])
    asked: dict[str, Any] = {}

    def take_down(*args: Any, **kwargs: Any) -> Any:
        asked.update(kwargs)
        raise _Captured(kwargs)

    monkeypatch.setattr(transformers.Qwen2VLForConditionalGeneration, "from_pretrained", take_down)
    with pytest.raises(_Captured):
        kit.Qwen2VLChat(str(qwen))
    if asked.get("attn_implementation") != "flash_attention_2" and "device_map" not in asked:
        pytest.fail("VLMEvalKit has mended this: remove the workaround 'loading'")


def test_cache_utils(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some wrapper imports a module that old versions of transformers have not."""
    sources = Path(kit.__file__).parent.rglob("*.py")
    if not any("from transformers.cache_utils import" in path.read_text() for path in sources):
        pytest.fail("VLMEvalKit has mended this: remove the workaround 'cache-utils'")
    monkeypatch.setitem(sys.modules, "transformers.cache_utils", None)
    before_import("4.46.3")
    assert sys.modules["transformers.cache_utils"] is None, "it has its own"
    before_import("4.31.0")
    assert sys.modules["transformers.cache_utils"] is not None


def test_greedy(qwen: Path) -> None:
    """The wrapper samples, unless it is told not to."""
    unmended = built("qwen2-vl", qwen)
    unmended.model = _Recorder(unmended.model)
    with pytest.raises(_Captured) as captured, _on(CPU):
        unmended.generate(TEXT, "MMStar")
    if not captured.value.arguments.get("do_sample"):
        pytest.fail("VLMEvalKit has mended this: remove the workaround 'greedy'")


def test_path(qwen: Path) -> None:
    """A directory called 'omnibus' makes a model that hears and speaks of it."""
    unmended = built("qwen2-vl", qwen)
    assert "omni" not in unmended.model_path.lower()
    unmended.model_path = str(unmended.model_path)
    with wrong("path", ImportError), _on(CPU):
        unmended.generate(TEXT, "MMStar")


def test_gpu_memory(qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nvidia-smi, nothing is built."""
    module = importlib.import_module(kit.Qwen2VLChat.__module__)
    monkeypatch.setattr(module, "get_gpu_memory", list)
    reference = open_checkpoint(qwen, "m", None)
    with wrong("gpu-memory", AssertionError), our_loading(reference, CPU, torch.float32):
        kit.Qwen2VLChat(str(qwen))


def test_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word in config.json, a Qwen2.5-VL is taken for its predecessor."""
    path = tiny_families.write("qwen2.5-vl", tmp_path)
    config = json.loads((path / "config.json").read_text())
    config.pop("architectures", None)
    (path / "config.json").write_text(json.dumps(config))
    assert type(built("qwen2.5-vl", path).model).__name__.startswith("Qwen2_5")
    module = importlib.import_module(kit.Qwen2VLChat.__module__)
    monkeypatch.setattr(module, "json", json)
    asked: list[Any] = []
    for kind in ("Qwen2VL", "Qwen2_5_VL"):
        monkeypatch.setattr(
            getattr(transformers, f"{kind}ForConditionalGeneration"),
            "from_pretrained",
            lambda *args, kind=kind, **kwargs: asked.append(kind),
        )
    with pytest.raises(AttributeError):  # of None, which is no model
        kit.Qwen2VLChat(str(path))
    if asked != ["Qwen2VL"]:
        pytest.fail("VLMEvalKit has mended this: remove the workaround 'architectures'")


def test_internvl_version() -> None:
    """What the constructor takes for the version is none that can be asked."""
    version = inspect.signature(kit.InternVLChat).parameters["version"].default
    with wrong("internvl-version", ValueError):
        bare(kit.InternVLChat, version=version).generate_inner(TEXT, "MMStar")


def test_no_image() -> None:
    """Tiles are shared among no images."""
    model = types.SimpleNamespace(chat=lambda *args, **kwargs: "an answer")
    about = {"version": "V1.5", "kwargs": {}, "model": model, "tokenizer": None}
    with wrong("no-image", ZeroDivisionError):
        bare(kit.InternVLChat, **about).generate_inner(TEXT, "MMStar")
    making = Making(kit.InternVLChat, "", {})
    WORKAROUNDS["no-image"].mend(making)
    assert bare(making.kind, **about).generate_inner(TEXT, "MMStar") == "an answer"


def test_empty_images(tmp_path: Path) -> None:
    """The processor refuses an empty list of images."""
    unmended = built("llava-onevision", tiny_families.write("llava-onevision", tmp_path))
    unmended.processor = unmended.processor._behind
    with wrong("empty-images", IndexError, ValueError), _on(CPU):
        unmended.generate(TEXT, "MMStar")


def test_missing_names() -> None:
    """Names are used that the module never imports; with them, a prompt can be built."""
    module = importlib.import_module(kit.Ovis1_6.__module__)
    tree = ast.parse(inspect.getsource(module))
    imported = {
        alias.asname or alias.name
        for statement in tree.body
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        for alias in statement.names
    }
    if {"string", "pd", "Image"} <= imported:
        pytest.fail("VLMEvalKit has mended this: remove the workaround 'missing-names'")
    WORKAROUNDS["missing-names"].mend(Making(kit.Ovis1_6, "", {}))
    prompt = bare(kit.Ovis1_6).build_multi_choice_prompt({"question": "Which?", "A": "this"})
    assert prompt.startswith("Which?\nA. this\n")


def test_yi(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path with 'yi' in it is refused; afterwards the vocabulary says which model it is."""
    module = importlib.import_module(kit.POINTS.__module__)
    monkeypatch.setattr(module, "transformers", transformers)
    with wrong("yi", AssertionError):
        kit.POINTS("/models/yielding")
    for size, says in ((64000, "yi"), (152064, "")):
        making = Making(kit.POINTS, "/models/yielding", {"llm_config": {"vocab_size": size}})
        WORKAROUNDS["yi"].mend(making)
        assert making.path == "/models/yielding"
        assert making.path.lower() == says
    assert module.transformers.__version__ == "4.38.2"


def test_model_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is told the directory's name as the model's."""
    told = []

    def load(path: str, base: None, name: str, **more: Any) -> None:
        told.append(name)
        raise _Captured({})

    package = {
        "mplug_owl2": {},
        "mplug_owl2.mm_utils": {"get_model_name_from_path": lambda path: Path(path).name},
        "mplug_owl2.model": {},
        "mplug_owl2.model.builder": {"load_pretrained_model": load},
    }
    for name, content in package.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(_Captured):
        kit.mPLUG_Owl2("/models/best")
    if told != ["best"]:
        pytest.fail("VLMEvalKit has mended this: remove the workaround 'model-name'")
    making = Making(kit.mPLUG_Owl2, "/models/best", {"model_type": "mplug_owl2"})
    WORKAROUNDS["model-name"].mend(making)
    with pytest.raises(_Captured):
        making.kind(making.path)
    assert told == ["best", "mplug_owl2"]


def test_dataset_name() -> None:
    """A dataset's name, and none, both raise."""
    row = {"question": "What is this?"}
    inputs = types.SimpleNamespace(
        to=lambda device: None, update=lambda more: None, keys=lambda: [], __getitem__=None
    )
    asked = {
        "dump_image_func": lambda line: ["picture.png"],
        "processor": lambda *args, **kwargs: inputs,
        "tokenizer": None,
        "model": types.SimpleNamespace(generate=lambda **kwargs: ["an answer"]),
    }
    with wrong("dataset-name", UnboundLocalError):
        bare(kit.mPLUG_Owl3, **asked).build_prompt(row, dataset="MMVet")
    with wrong("dataset-name", TypeError):
        bare(kit.mPLUG_Owl3, **asked).generate_inner(TEXT)
    making = Making(kit.mPLUG_Owl3, "", {})
    WORKAROUNDS["dataset-name"].mend(making)
    prompt = bare(making.kind, **asked).build_prompt(row, dataset="MMVet")
    assert prompt[0]["value"] == "What is this?\nAnswer the question directly. "
    assert bare(making.kind, **asked).generate_inner(TEXT) == "an answer"


def test_every_workaround_is_needed_by_someone() -> None:
    """None is left in the list that no family names, none is named that is not in the list."""
    used = {name for family in FAMILIES for name in family.workarounds}
    assert used | set(EVERYWHERE) == set(WORKAROUNDS)
    for name in WORKAROUNDS:
        assert f"test_{name.replace('-', '_')}" in globals()
