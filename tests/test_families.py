"""The families that transformers ships, each through its real wrapper, on tiny random models."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vlmeval")

import numpy as np
import torch
from PIL import Image

import evaluators.vlmevalkit  # noqa: F401 - before transformers, as in a worker
from evaluators.batches import collate
from evaluators.families import family_of, named, read_config
from evaluators.kit_wrapper import KitWrapper
from evaluators.places import CopyIn, find_places
from soup.blend import Blend
from soup.checkpoint import Checkpoint
from soup.streaming import stream
from tests import tiny_families

DATASET = "MMStar"
SMALL = {
    "qwen2-vl": {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
    "qwen2.5-vl": {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
    "qwen3-vl": {"min_pixels": 64 * 64, "max_pixels": 128 * 128},
}
"""Options that keep images as small as these models."""

NATIVE = sorted(tiny_families.MAKERS)


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
        made.append(Checkpoint.open(path, path.name, None))
    return request.param, made[0], made[1]


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


@pytest.mark.parametrize("name", NATIVE)
def test_a_family_is_known_by_its_config(name: str, tmp_path: Path) -> None:
    """What the family's own config class writes is enough to recognise it."""
    tiny_families.write(name, tmp_path)
    assert family_of(read_config(tmp_path)) == name
