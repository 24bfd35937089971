"""evaluators/engines/resident.py: swapped weights are what would be written."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import ScoringError
from soup.evaluators.engines.batches import Store, by_length
from soup.evaluators.models.wrapper import Options
from soup.events import Note

transformers = pytest.importorskip("transformers")
resident = pytest.importorskip("soup.evaluators.engines.resident")

OPTIONS = Options(device="cpu", max_new_tokens=4)


@pytest.fixture
def pool(demo: Path) -> Pool:
    """The demo's members."""
    return Pool.open(str(demo / "ckpts" / "*"))


def questions(demo: Path, tmp_path: Path, count: int) -> list[list[dict[str, str]]]:
    """Questions of different lengths about different images, as VLMEvalKit builds them."""
    vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
    sets = [
        vlmevalkit.Dataset(str(demo / "benchmarks" / f"{name}.tsv"), tmp_path).messages()
        for name in ("parity", "compare", "digit", "range")
    ]
    return [sets[k % 4][k] for k in range(count)]


def parameters(model: Any) -> dict[str, torch.Tensor]:
    """Everything the model holds, buffers that are not saved included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def test_a_swapped_blend_is_what_would_be_written_and_loaded(pool: Pool, tmp_path: Path) -> None:
    """Bit for bit transformers' own loading of the written soup, in place, after other weights."""
    blend = Blend(pool.members, pool.reference)
    model = resident.Resident(pool.reference, OPTIONS)
    model.load(Blend((pool.members[2],), pool.reference), "one", "load")
    held = {name: tensor.data_ptr() for name, tensor in parameters(model._model).items()}
    model.load(blend, "average", "load")
    written = write(blend, tmp_path / "soup")
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(
        written.path, dtype=torch.float32
    )
    expected = parameters(loaded)
    found = parameters(model._model)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name
        assert tensor.data_ptr() == held[name], f"{name} was not swapped in place"


def test_places_are_found_where_transformers_renames(pool: Pool) -> None:
    """The demo's file names are not those in memory; the mapping is proven, not guessed."""
    model = resident.Resident(pool.reference, OPTIONS)
    model.load(Blend((pool.reference,), pool.reference), "x", "load")
    in_memory = set(model._model.state_dict())
    assert model._places is not None
    assert set(model._places) == set(pool.reference.tensors)
    if transformers.__version__.startswith("5"):
        assert set(pool.reference.tensors) - in_memory, "expected names that differ"


def moe(path: Path, seed: int) -> Path:
    """A tiny model whose experts transformers 5 fuses on loading: no one-to-one copy exists."""
    torch.manual_seed(seed)
    text = dict(
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        n_routed_experts=4,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        vocab_size=64,
        n_group=1,
        topk_group=1,
    )
    vision = dict(depth=1, hidden_size=16, num_heads=2, out_hidden_size=16, intermediate_size=16)
    config = transformers.Glm4vMoeConfig(text_config=text, vision_config=vision)
    model = transformers.Glm4vMoeForConditionalGeneration(config).to(torch.bfloat16)
    model.save_pretrained(path)
    return path


def test_fused_weights_go_through_transformers_own_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no one-to-one copy can be proven, a state dict is loaded, and equals the written."""
    paths = [moe(tmp_path / str(k), k) for k in range(2)]
    for path in paths:
        (path / "tokenizer.json").write_text("{}")
    pool = Pool.open(*paths)
    # its processor needs files that only a hub has; the weights are what this is about
    monkeypatch.setattr(
        transformers.AutoProcessor, "from_pretrained", lambda *a, **k: stand_in_processor()
    )
    model = resident.Resident(pool.reference, OPTIONS)
    blend = Blend(pool.members, pool.reference)
    model.load(blend, "average", "load")
    written = write(blend, tmp_path / "soup")
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(
        written.path, dtype=torch.float32
    )
    expected, found = parameters(loaded), parameters(model._model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    if transformers.__version__.startswith("5"):
        assert model._places is None, "expected fused experts"


def stand_in_processor() -> Any:
    """What Resident looks at when it opens a processor."""

    class Tokenizer:
        chat_template = "{{ x }}"
        pad_token = "<pad>"

    class Processor:
        tokenizer = Tokenizer()
        chat_template = "{{ x }}"

        def apply_chat_template(self) -> None: ...

    return Processor()


@pytest.mark.parametrize("size", [3, 7, 64])
def test_answers_do_not_depend_on_the_batch(
    demo: Path, pool: Pool, tmp_path: Path, size: int
) -> None:
    """In float32 on the CPU, any batch size gives the answers of batch size 1, in order."""
    messages = questions(demo, tmp_path, 40)
    blend = Blend((pool.members[1],), pool.reference)
    answers = []
    for batch_size in (1, size):
        model = resident.Resident(
            pool.reference, Options("cpu", batch_size=batch_size, max_new_tokens=4)
        )
        model.load(blend, "x", "load")
        counted: list[int] = []
        answers.append(model.answer("questions", "x", messages, counted.append))
        assert sum(counted) == 40
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 4


def test_questions_are_prepared_beside_the_model_the_short_ones_first(
    demo: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another thread, further than the batch at hand; neighbours in length share a batch."""
    messages = questions(demo, tmp_path, 40)
    model = resident.Resident(pool.reference, replace(OPTIONS, batch_size=5))
    model.load(Blend((pool.reference,), pool.reference), "x", "load")
    prepare, generate = model.wrapper.prepare, model._model.generate
    prepared: list[int] = []
    threads, ahead = set(), []

    def noted(message: Any, dataset: str) -> Any:
        threads.add(threading.get_ident())
        prepared.append(next(k for k, one in enumerate(messages) if one is message))
        return prepare(message, dataset)

    def slow(**inputs: Any) -> Any:
        if not ahead:
            time.sleep(0.5)
            ahead.append(len(prepared))
        return generate(**inputs)

    monkeypatch.setattr(model.wrapper, "prepare", noted)
    monkeypatch.setattr(model._model, "generate", slow)
    model.answer("questions", "x", messages)
    assert prepared == by_length(messages)
    assert threading.get_ident() not in threads
    assert ahead[0] > 10


def test_a_batch_ends_when_all_its_answers_have(demo: Path, pool: Pool, tmp_path: Path) -> None:
    """Not at the longest length allowed: this model says a word and stops."""
    messages = questions(demo, tmp_path, 12)
    messages = messages[::4]  # of a kind that it knows
    model = resident.Resident(pool.reference, replace(OPTIONS, max_new_tokens=500))
    parity = next(member for member in pool.members if member.name == "parity")
    model.load(Blend((parity,), pool.reference), "x", "load")
    steps: list[None] = []
    model._model.register_forward_hook(lambda *_: steps.append(None))
    assert set(model.answer("questions", "x", messages)) <= {"A", "B"}
    assert 1 <= len(steps) <= 4


def test_prepared_questions_are_used_again_with_new_weights(
    demo: Path, pool: Pool, tmp_path: Path
) -> None:
    """Cached inputs, other weights: other answers, and those of a fresh model."""
    messages = questions(demo, tmp_path, 40)
    model = resident.Resident(pool.reference, OPTIONS)
    found = []
    for k in (3, 5):
        model.load(Blend((pool.members[k],), pool.reference), str(k), "load")
        found.append(model.answer("questions", "x", messages))
    fresh = resident.Resident(pool.reference, OPTIONS)
    fresh.load(Blend((pool.members[5],), pool.reference), "5", "load")
    assert found[1] == fresh.answer("questions", "x", messages)
    assert found[0] != found[1]


def test_questions_spilled_to_disk_are_answered_the_same(
    demo: Path, pool: Pool, tmp_path: Path
) -> None:
    """Without memory for them they are read back from a file, and not prepared again."""
    messages = questions(demo, tmp_path, 20)
    model = resident.Resident(pool.reference, OPTIONS, tmp_path / "cache")
    model._store = Store(tmp_path / "cache", memory=0)
    model.load(Blend((pool.reference,), pool.reference), "x", "load")
    first = model.answer("questions", "x", messages)
    assert model._store._end > 0
    model.wrapper.prepare = None
    assert model.answer("questions", "x", messages) == first


def test_running_out_of_memory_halves_the_batch_and_loses_no_answer(
    demo: Path, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake out-of-memory above four questions (a real one needs a GPU): same answers."""
    messages = questions(demo, tmp_path, 23)
    model = resident.Resident(pool.reference, OPTIONS)
    model.load(Blend((pool.reference,), pool.reference), "x", "load")
    expected = model.answer("first", "x", messages)
    generate = model._model.generate

    sizes = []

    def limited(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(model._model, "generate", limited)
    assert model.answer("second", "x", messages) == expected
    assert max(sizes) > 4
    sizes.clear()
    assert model.answer("third", "x", messages) == expected
    assert max(sizes) <= 5, "what did not fit once is not tried again"


def changed(demo: Path, path: Path, **config: Any) -> Path:
    """A copy of a member with changes to its config."""
    shutil.copytree(demo / "ckpts" / "digit", path)
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**content, **config}))
    return path


def opened(path: Path) -> Any:
    """A resident model with the checkpoint's own weights."""
    checkpoint = open_checkpoint(path)
    model = resident.Resident(checkpoint, OPTIONS)
    model.load(Blend((checkpoint,), checkpoint), "x", "load")
    return model


def test_weights_that_the_model_needs_must_be_there(demo: Path, tmp_path: Path) -> None:
    """A missing tensor would be random; it is an error."""
    path = changed(demo, tmp_path / "m")
    tensors = load_file(path / "model.safetensors")
    name = next(name for name in tensors if "down_proj" in name)
    del tensors[name]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ScoringError, match="the weights lack .*down_proj"):
        opened(path)


def test_what_the_model_does_not_use_is_said(demo: Path, tmp_path: Path) -> None:
    """A tensor that transformers ignores on loading: named once, and no obstacle."""
    path = changed(demo, tmp_path / "m")
    tensors = load_file(path / "model.safetensors") | {"spare.weight": torch.ones(3)}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = open_checkpoint(path)
    model = resident.Resident(checkpoint, OPTIONS)
    heard: list[Any] = []
    for digest in ("x", "y"):
        model.load(Blend((checkpoint,), checkpoint), digest, "load", heard.append)
    notes = [event.text for event in heard if isinstance(event, Note)]
    assert notes == [
        "m: the model makes no use of spare.weight; it is blended and written all the same"
    ]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_torch_weights_are_scored_as_safetensors_are(demo: Path, tmp_path: Path, name: str) -> None:
    """The same model, also from a file that transformers would not find."""
    path = changed(demo, tmp_path / "m")
    expected = opened(path)._model
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    torch.save(tensors if name.endswith("bin") else {"state_dict": tensors}, path / name)
    model = opened(path)
    assert model._places is not None  # weights are swapped in place, too
    found = parameters(model._model)
    assert found.keys() == parameters(expected).keys()
    assert all(torch.equal(found[name], t) for name, t in parameters(expected).items())
    settings = model._model.generation_config.to_dict(), expected.generation_config.to_dict()
    assert settings[0] == settings[1]
    del tensors[next(iter(tensors))]
    torch.save(tensors, path / name)
    with pytest.raises(ScoringError, match="the weights lack"):
        opened(path)


def test_a_checkpoint_without_chat_template_is_named(demo: Path, tmp_path: Path) -> None:
    """Known when it is opened, before anything is generated."""
    path = changed(demo, tmp_path / "m")
    (path / "chat_template.jinja").unlink()
    with pytest.raises(ScoringError, match="no chat template"):
        opened(path)


def test_code_in_a_checkpoint_does_not_run_unasked(demo: Path, tmp_path: Path) -> None:
    """--trust-remote-code is named, and nothing of the file ran."""
    path = changed(
        demo,
        tmp_path / "m",
        model_type="mine",
        auto_map={"AutoConfig": "mine.Config", "AutoModelForImageTextToText": "mine.Model"},
    )
    (path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ScoringError, match="--trust-remote-code"):
        opened(path)
    assert not (tmp_path / "ran").exists()


def test_devices_and_dtypes_are_checked(pool: Pool) -> None:
    """A device that is not there, a dtype that is none."""
    for options, message in (
        (Options(device="cuda:9"), "sees no CUDA GPU|expected"),
        (Options(device="abacus"), "--device abacus: expected auto, cpu or cuda"),
        (Options(device="meta"), "--device meta: torch cannot compute there .*; expected auto"),
        (Options("cpu", compute_dtype="float7"), "expected float32, bfloat16 or float16"),
    ):
        if "cuda" in options.device and torch.cuda.is_available():
            continue
        with pytest.raises(ScoringError, match=message):
            resident.Resident(pool.reference, options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_the_swap_is_exact_too(pool: Pool) -> None:
    """The checkpoint's own dtype, on the device, bit for bit."""
    model = resident.Resident(pool.reference, Options(device="cuda"))
    blend = Blend(pool.members, pool.reference)
    model.load(blend, "average", "load")
    host = resident.Resident(pool.reference, Options("cpu", compute_dtype="bfloat16"))
    host.load(blend, "average", "load")
    found = parameters(model._model)
    for name, tensor in parameters(host._model).items():
        assert torch.equal(found[name].cpu(), tensor), name
