"""The families that transformers ships, each through its real wrapper, on tiny random models."""

import base64
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vlmeval")

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

import soup
from soup.blending.blend import Blend
from soup.blending.streaming import stream
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.opening import open_checkpoint
from soup.errors import ScoringError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.engines.batches import collate
from soup.evaluators.engines.places import CopyIn, find_places
from soup.evaluators.engines.resident import Resident
from soup.evaluators.kit.vlmevalkit import Dataset
from soup.evaluators.models.families import FAMILIES, family_of, named, read_config
from soup.evaluators.models.kit_wrapper import KitWrapper, greedy
from soup.evaluators.models.wrapper import Options
from soup.events import ignore
from tests.cli.test_cli import fails, run
from tests.models import tiny_families

DATASET = "MMStar"
ROOT = Path(soup.__file__).parent.parent
SMALL = {
    "qwen2-vl": {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
    "qwen2.5-vl": {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
    "qwen3-vl": {"min_pixels": 64 * 64, "max_pixels": 128 * 128},
}
"""Options that keep images as small as these models."""

NATIVE = sorted(tiny_families.MAKERS.keys() - {"internvl-hf with experts"})


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, str]]]:
    """Questions of unequal length, with images of unequal shape."""
    directory = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    paths = []
    for k, (width, height) in enumerate([(48, 48), (90, 40), (40, 80)]):
        pixels = noise.integers(0, 255, (height, width, 3), dtype=np.uint8)
        paths.append(str(directory / f"{k}.png"))
        Image.fromarray(pixels).save(paths[-1])
    texts = [
        "What is in the image?",
        "Question: Is the lazy dog even or odd?\nOptions:\nA. yes\nB. no\n",
        "Answer with a single word",
    ]
    asked = [
        [{"type": "image", "value": path}, {"type": "text", "value": question}]
        for path, question in zip(paths, texts, strict=True)
    ]
    two = {"type": "image", "value": paths[0]}
    return [*asked, [*asked[1], two, *asked[0]]]


@pytest.fixture(scope="module", params=NATIVE)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Checkpoint, Checkpoint]:
    """A family's name and two of its checkpoints."""
    directory = tmp_path_factory.mktemp("pair")
    made = []
    for seed in (1, 2):
        path = tiny_families.write(request.param, directory / f"seed-{seed}", seed)
        made.append(open_checkpoint(path, path.name, None))
    return request.param, made[0], made[1]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny Qwen2-VL."""
    path = tiny_families.write("qwen2-vl", tmp_path_factory.mktemp("one") / "m")
    return open_checkpoint(path, "m", None)


def wrapper(name: str, reference: Checkpoint, **given: Any) -> KitWrapper:
    """The wrapper of a family, for small images and short answers."""
    family = named(name)
    assert family is not None
    return KitWrapper(family, reference, max_new_tokens=8, given=SMALL.get(name, {}) | given)


def together(model: Any, wrapper: KitWrapper, messages: list[Any]) -> list[str]:
    """Answers to all questions in one batch."""
    made = [wrapper.prepare(message, DATASET) for message in messages]
    inputs = collate(made, wrapper.pad_token)
    tokens = model.generate(**inputs, **made[0].generation)[:, inputs["input_ids"].shape[1] :]
    return [wrapper.decode(row) for row in tokens]


def test_a_batch_is_answered_as_the_wrapper_answers_one_by_one(
    pair: tuple[str, Checkpoint, Checkpoint], messages: list[Any]
) -> None:
    """Prompts, images and reading are the wrapper's own: its own way gives the same answers."""
    name, reference, _ = pair
    batched, alone = wrapper(name, reference), wrapper(name, reference, batched=False)
    model = batched.build(torch.device("cpu"), torch.float32)
    alone.build(torch.device("cpu"), torch.float32)
    one_by_one = [alone.answer(message, DATASET) for message in messages]
    assert len(set(one_by_one)) == len(messages), "answers must differ to prove anything"
    assert together(model, batched, messages) == one_by_one


def test_weights_are_swapped_under_the_wrapper(
    pair: tuple[str, Checkpoint, Checkpoint], messages: list[Any]
) -> None:
    """With another checkpoint's weights copied in, the wrapper answers as that checkpoint."""
    name, reference, other = pair
    asked = wrapper(name, reference)
    model = asked.build(torch.device("cpu"), torch.float32)
    places = find_places(model, reference, torch.float32)
    assert set(places) == set(reference.tensors)
    before = together(model, asked, messages)
    copy_in = CopyIn(places)
    stream(Blend((other,), reference), copy_in)
    copy_in.verify()
    swapped = together(model, asked, messages)
    fresh = wrapper(name, other)
    assert swapped == together(fresh.build(torch.device("cpu"), torch.float32), fresh, messages)
    assert swapped != before


def test_a_question_needs_no_image(
    pair: tuple[str, Checkpoint, Checkpoint],
) -> None:
    """Benchmarks have questions without an image; they are answered, too."""
    name, reference, _ = pair
    asked, alone = wrapper(name, reference), wrapper(name, reference, batched=False)
    question = [{"type": "text", "value": "What is a fox?"}]
    model = asked.build(torch.device("cpu"), torch.float32)
    alone.build(torch.device("cpu"), torch.float32)
    assert together(model, asked, [question, question]) == [alone.answer(question, DATASET)] * 2


# --- which family it is --------------------------------------------------------------------


@pytest.mark.parametrize("name", NATIVE)
def test_a_family_is_known_by_its_config(name: str, tmp_path: Path) -> None:
    """What the family's own config class writes is enough to recognise it."""
    tiny_families.write(name, tmp_path)
    assert family_of(read_config(tmp_path)) == name


def internvl(template: str, language: str) -> dict[str, Any]:
    """A config.json of InternVL with its own code."""
    return {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "template": template,
        "llm_config": {"architectures": [language]},
    }


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "points_chat", "architectures": ["POINTSChatModel"]}, "points"),
        ({"auto_map": {"AutoConfig": "configuration_points_chat.POINTSChatConfig"}}, "points"),
        ({"model_type": "pointsv1.5_chat"}, "points-1.5"),
        (internvl("internlm2-chat", "InternLM2ForCausalLM"), "internvl-1.5"),
        (internvl("phi3-chat", "Phi3ForCausalLM"), "internvl-1.5"),
        (internvl("Hermes-2", "Qwen2ForCausalLM"), "internvl-2"),
        (internvl("internvl2_5", "InternLM2ForCausalLM"), "internvl-2"),
        (
            {
                "model_type": "ovis",
                "disable_tie_weight": False,
                "visual_tokenizer_config": {"model_type": "siglip_visual_tokenizer"},
            },
            "ovis1.6",
        ),
        (
            {
                "model_type": "ovis",
                "disable_tie_weight": False,
                "visual_tokenizer_config": {"model_type": "aimv2_visual_tokenizer"},
            },
            None,
        ),
        ({"model_type": "mplug-owl"}, "mplug-owl"),
        ({"model_type": "mplug_owl2"}, "mplug-owl2"),
        ({"model_type": "mplugowl3"}, "mplug-owl3"),
        ({"model_type": "idefics3", "text_config": {"vocab_size": 128259}}, None),
        ({"model_type": "llava"}, None),
        ({"architectures": None, "auto_map": []}, None),
        ({}, None),
    ],
)
def test_custom_code_is_known_by_its_config(config: dict[str, Any], name: str | None) -> None:
    """Names of types and classes tell the family, and what versions of one family differ in."""
    assert family_of(config) == name


def test_the_command_line_asks_without_transformers() -> None:
    """Which family a checkpoint is of is known without importing transformers or VLMEvalKit."""
    program = (
        "import sys, soup.evaluators.models.families as f\n"
        "assert f.family_of({'model_type': 'qwen2_vl'}) == 'qwen2-vl'\n"
        "assert not {'transformers', 'vlmeval'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_soup_families_lists_the_table(qwen: Checkpoint, tmp_path: Path) -> None:
    """Each family with its wrapper and range; one that is none is refused with the nearest."""
    done = run(tmp_path, "families")
    assert done.returncode == 0
    for family in FAMILIES:
        assert family.name in done.stdout
        assert family.range in done.stdout
    assert f"transformers {transformers.__version__} is installed here" in done.stdout
    text = fails(run(tmp_path, "score", qwen.path, "--family", "qwen25-vl"), 2)
    assert "did you mean qwen2.5-vl" in text
    (tmp_path / "soup.toml").write_text("[family.ovis]\nmax_partition = 4\n")
    text = fails(run(tmp_path, "score", qwen.path), 2)
    assert "[family.ovis]" in text
    assert "ovis1.6" in text
    (tmp_path / "soup.toml").write_text("[family.qwen2-vl]\nworker-python = 5\n")
    text = fails(run(tmp_path, "score", qwen.path), 2)
    assert "[family.qwen2-vl] worker-python: expected a path in quotes, found 5" in text


# --- what it needs -------------------------------------------------------------------------


def refused(name: str, reference: Checkpoint, *expected: str, **given: Any) -> None:
    """The wrapper says in one line what is missing."""
    with pytest.raises(ScoringError) as error:
        wrapper(name, reference, **given)
    for text in expected:
        assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_said_in_one_line(
    qwen: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option that is none, a transformers out of range, a package, trust: each by name."""
    refused("qwen2-vl", qwen, "[family.qwen2-vl] min_pixel", "min_pixels", min_pixel=1)
    refused("qwen2-vl", qwen, "[family.qwen2-vl] min_pixels: expected a number", min_pixels="a")
    refused("qwen2-vl", qwen, "top_p: expected a number, found True", top_p=True)
    refused("qwen2-vl", qwen, "batched: expected true or false, found 'no'", batched="no")
    refused("smolvlm", qwen, "max_new_tokens: expected a number, found '9'", max_new_tokens="9")
    refused("qwen2-vl", qwen, "batched = false", post_process=True)
    refused("ovis1.6", qwen, "4.44–4.46", transformers.__version__)
    monkeypatch.setattr(transformers, "__version__", "4.46.3")
    refused("mplug-owl", qwen, "mplug_owl", "X-PLUG/mPLUG-Owl")
    refused("ovis1.6", qwen, "--trust-remote-code")


def test_a_model_without_its_weights_is_refused(qwen: Checkpoint, tmp_path: Path) -> None:
    """A tensor that is missing would be random: it is named instead."""
    name = "visual.merger.mlp.0.weight"
    weights = load_file(qwen.path / "model.safetensors")
    del weights[name]
    shutil.copytree(qwen.path, tmp_path / "m")
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    lacking = wrapper("qwen2-vl", open_checkpoint(tmp_path / "m", "m", None))
    with pytest.raises(ScoringError, match="mlp.0.weight"):
        lacking.build(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("family", ["qwen2-vl", "chat-template"])
def test_weights_that_config_json_does_not_fit_are_named(
    qwen: Checkpoint, tmp_path: Path, family: str
) -> None:
    """A vocabulary resized in one of them, say: which tensor, found and expected."""
    name = "model.embed_tokens.weight"
    weights = load_file(qwen.path / "model.safetensors")
    weights[name] = torch.cat([weights[name], weights[name]])
    shutil.copytree(qwen.path, tmp_path / "m")
    save_file(weights, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    reference = open_checkpoint(tmp_path / "m", "m", None)
    model = Resident(reference, Options(device="cpu", family=family))
    with pytest.raises(ScoringError) as error:
        model.load(Blend((reference,), reference), "1", "load")
    rows, width = weights[name].shape
    shapes = f"is [{rows}, {width}] in the weights, but [{rows // 2}, {width}] by config.json"
    assert f"embed_tokens.weight {shapes} (1 such tensor)" in str(error.value)
    assert "\n" not in str(error.value)


def test_weights_in_a_pt_file_are_built_too(qwen: Checkpoint, tmp_path: Path) -> None:
    """Transformers does not look for such a file; the wrapper gets its model all the same."""
    shutil.copytree(qwen.path, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save(load_file(qwen.path / "model.safetensors"), tmp_path / "m" / "model.pt")
    reference = open_checkpoint(tmp_path / "m", "m", None)
    model = wrapper("qwen2-vl", reference).build(torch.device("cpu"), torch.float32)
    assert set(find_places(model, reference, torch.float32)) == set(qwen.tensors)
    assert model.generation_config.eos_token_id is not None


def experts(directory: Path, seed: int) -> Checkpoint:
    """A tiny InternVL with experts, which transformers 5 fuses when it loads them."""
    tiny_families.write("internvl-hf with experts", directory, seed)
    return open_checkpoint(directory, directory.name, None)


fuses = pytest.mark.skipif(
    transformers.__version__.startswith("4."), reason="transformers fuses experts since 5"
)


@fuses
def test_fused_weights_go_through_the_loading_of_transformers(
    messages: list[Any], tmp_path: Path
) -> None:
    """Where no copy in place is proven, the wrapper gets a model with the blend's weights."""
    first, second = experts(tmp_path / "a", 1), experts(tmp_path / "b", 2)
    model = Resident(first, Options(max_new_tokens=8))
    answers = []
    for member, digest in ((first, "1"), (second, "2")):
        model.load(Blend((member,), first), digest, "load")
        answers.append(model.answer(digest, DATASET, messages))
    assert "expert" in model._unplaced, "expected fused experts"
    alone = wrapper("internvl-hf", second, batched=False)
    alone.build(torch.device("cpu"), torch.float32)
    assert answers[1] == [alone.answer(message, DATASET) for message in messages]
    assert answers[0] != answers[1]


@fuses
def test_what_cannot_be_put_in_at_all_names_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in place nor through transformers: which tensor is in the way is said."""
    first = experts(tmp_path / "a", 1)
    model = Resident(first, Options())

    def fail(*args: Any) -> None:
        raise ValueError("no such way")

    monkeypatch.setattr(model.wrapper, "replace", fail)
    with pytest.raises(ScoringError, match=r"expert.*no such way"):
        model.load(Blend((first,), first), "1", "load")


def test_generation_is_greedy_and_no_longer_than_asked() -> None:
    """Sampling goes, what else the wrapper wants stays, the shorter of two lengths counts."""
    wanted = {"do_sample": True, "top_k": 1, "min_p": 0.1, "max_new_tokens": 2048, "num_beams": 3}
    made = greedy(wanted, None)
    assert made["do_sample"] is False
    assert made["top_k"] is None
    assert "min_p" not in made
    assert (made["max_new_tokens"], made["num_beams"]) == (2048, 3)
    assert greedy(wanted, 16)["max_new_tokens"] == 16
    assert greedy({"max_new_tokens": 10}, 16)["max_new_tokens"] == 10
    assert greedy({}, 16)["max_new_tokens"] == 16


def test_custom_code_that_samples_is_made_greedy(
    pair: tuple[str, Checkpoint, Checkpoint], messages: list[Any]
) -> None:
    """Asked one by one, too, the same weights give the same answers: these models sample."""
    name, reference, _ = pair
    alone = wrapper(name, reference, batched=False)
    alone.build(torch.device("cpu"), torch.float32)
    assert len({alone.answer(messages[0], DATASET) for _ in range(3)}) == 1


def test_a_table_of_ones_own_is_asked_as_its_kind(qwen: Checkpoint, tmp_path: Path) -> None:
    """VLMEvalKit takes names that it does not know for multiple choice; these questions are not."""
    table = tmp_path / "words.tsv"
    table.write_text(f"index\timage\tquestion\tanswer\n0\t{red()}\tWhich colour?\tred\n")
    asked = wrapper("qwen2-vl", qwen)
    asked.build(torch.device("cpu"), torch.float32)
    (message,) = Dataset(str(table), tmp_path).messages(asked)
    assert message[0]["type"] == "image"
    assert message[1]["value"].startswith("Which colour?\nPlease try to answer")


def red() -> str:
    """A picture as VLMEvalKit's tables hold it."""
    file = io.BytesIO()
    Image.new("RGB", (48, 48), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# --- the whole way -------------------------------------------------------------------------


def test_a_pool_is_scored_through_its_wrapper(qwen: Checkpoint, tmp_path: Path) -> None:
    """The worker finds the family, says so in what it measured with, and forgets it when told."""
    row = ["0", red(), "Which?", "this", "that", "A"]
    head = ["index", "image", "question", "A", "B", "answer"]
    table = tmp_path / "one.tsv"
    table.write_text("\t".join(head) + "\n" + "\t".join(row) + "\n")
    options = {"qwen2-vl": {"min_pixels": 3136, "max_pixels": 3136}}
    blend = Blend((qwen,), qwen)
    for family, expected in ((None, "Qwen2VLChat"), ("chat-template", "chat template")):
        with VLMEvalKitScorer(
            work=tmp_path / "work", max_new_tokens=2, family=family, families=options
        ) as scorer:
            (benchmark,) = scorer.benchmarks(qwen, [str(table)])
            assert benchmark.settings["wrapper"] == expected
            assert scorer.measure(blend, benchmark, "test", ignore).samples == 1
