"""Whatever fails while a question is prepared or answered, its benchmark and index are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vlmeval")

import torch

from soup.blending.blend import Blend
from soup.checkpoints.opening import open_checkpoint
from soup.errors import BenchmarkError, ScoringError
from soup.evaluators.engines import resident
from soup.evaluators.kit.finished import rows_of
from soup.evaluators.models.wrapper import QuestionError, about
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from tests.kit.own_tables import CHOICE, Column, png, write
from tests.models import tiny_families

SMALL = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each family that is asked here."""
    root = tmp_path_factory.mktemp("models")
    return {
        name: tiny_families.write(name, root / name, 1)
        for name in ("qwen2-vl", "llava-onevision", "smolvlm")
    }


def measure(
    model: Path,
    columns: dict[str, Column],
    work: Path,
    family: str | None = None,
    act: Callable[[Worker], None] = lambda worker: None,
) -> dict[str, Any]:
    """What the worker says of a table; notes are under ``notes``."""
    notes: list[str] = []
    worker = Worker(lambda message: notes.append(message["note"]) if "note" in message else None)
    checkpoint = open_checkpoint(model)
    options: dict[str, Any] = {"device": "cpu", "batch_size": 4, "max_new_tokens": 2}
    options |= {"family": family, "families": {"qwen2-vl": SMALL}}
    worker.handle(
        {"do": "open", "reference": encode_checkpoint(checkpoint), "options": options,
         "cache": str(work)}
    )  # fmt: skip
    act(worker)
    source = str(write(work / "mine.tsv", {"image": png(), **columns}))
    worker.handle({"do": "benchmark", "source": source})
    blend = encode_blend(Blend((checkpoint,), checkpoint))
    found = worker.handle(
        {"do": "measure", "blend": blend, "benchmark": source, "key": "k",
         "keep": str(work / "kept.tsv"), "task": "task"}
    )  # fmt: skip
    return found | {"notes": notes}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("qwen2-vl", "chat-template"),
        ("qwen2-vl", None),
        ("llava-onevision", None),
        ("smolvlm", None),
    ],
)
def test_marks_of_images_in_questions_are_answered_as_questions_without(
    models: dict[str, Path], tmp_path: Path, name: str, family: str | None
) -> None:
    """LLaVA's ``<image>`` and the model's own token: the same answers as without them."""
    own = {"qwen2-vl": "<|image_pad|>", "llava-onevision": "<image>", "smolvlm": "<image>"}[name]
    marked = ["<image>\nEven?".replace("\n", " "), f"{own} Even?", f"Even? {own}", "Even?"]
    found = []
    for k, question in enumerate((marked, "Even?")):
        columns = {**CHOICE, "question": question}
        found.append(measure(models[name], columns, tmp_path / str(k), family))
    with_marks, without = found
    assert with_marks["outcomes"] == without["outcomes"]
    tables = [rows_of(tmp_path / k / "kept.tsv") for k in "01"]
    assert any("<image>" in row["question"] for row in tables[0])
    said = [[row["prediction"] for row in table] for table in tables]
    assert said[0] == said[1]
    assert any("marks of images" in note and "index 0" in note for note in with_marks["notes"])


@pytest.mark.parametrize("family", ["chat-template", None])
@pytest.mark.parametrize("index", ["2", "q 2"])
def test_an_image_that_a_model_cannot_take_names_its_question(
    models: dict[str, Path], tmp_path: Path, family: str | None, index: str
) -> None:
    """An aspect ratio over 200: refused by Qwen's processor, which knows no index."""
    columns: dict[str, Column] = {
        **CHOICE, "image": [png(), png(), png((1200, 4)), png()], "index": ["0", "1", index, "3"]
    }  # fmt: skip
    with pytest.raises(ScoringError, match=f"^mine: the question of index {index}: .*ratio") as e:
        measure(models["qwen2-vl"], columns, tmp_path, family)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("family", ["chat-template", None])
@pytest.mark.parametrize(
    "error", [StopIteration(), AssertionError(), RuntimeError("a\nb"), KeyError("x"), OSError(5)]
)
def test_whatever_a_library_raises_names_the_question(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception,
    family: str | None,
) -> None:  # fmt: skip
    """Also an exception that says nothing, or would end a generator."""

    def act(worker: Worker) -> None:
        assert worker._engine is not None
        wrapper = worker._engine.wrapper
        prepare = wrapper.prepare

        def failing(message: Any, dataset: str) -> Any:
            if "three" in message[-1]["value"]:
                raise error
            return prepare(message, dataset)

        monkeypatch.setattr(wrapper, "prepare", failing)

    columns = {**CHOICE, "question": ["one", "two", "three", "four"]}
    kind = type(error).__name__
    with pytest.raises(ScoringError, match=f"^mine: the question of index 2: {kind}") as caught:
        measure(models["qwen2-vl"], columns, tmp_path, family, act)
    assert "\n" not in str(caught.value)


def test_of_a_batch_the_question_that_fails_is_found(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model refuses the batch; asked again in halves, one is left that it refuses alone."""
    collate = resident.collate
    longest = 0

    def refusing(batch: Any, pad: int) -> Any:
        nonlocal longest
        widths = [prepared.inputs["input_ids"].shape[1] for prepared in batch]
        longest = max(longest, *widths)
        if longest in widths:
            raise IndexError("index out of range in self")
        return collate(batch, pad)

    monkeypatch.setattr(resident, "collate", refusing)
    columns = {**CHOICE, "question": ["a", "a b c d e f", "a b", "a b c"]}
    with pytest.raises(ScoringError, match="^mine: the question of index 1: IndexError: index out"):
        measure(models["qwen2-vl"], columns, tmp_path)


def test_an_image_that_is_gone_names_its_question(models: dict[str, Path], tmp_path: Path) -> None:
    """Between look-up and question its file was taken away or exchanged for none."""
    from soup.evaluators.engines.batches import by_length

    message = [{"type": "image", "value": str(tmp_path / "gone.png")}]
    with pytest.raises(QuestionError, match="question 1: FileNotFoundError"):
        by_length([[], message])


def test_out_of_memory_is_not_a_questions_fault() -> None:
    """It is tried again with fewer; an error of ours keeps its words."""
    with pytest.raises(torch.OutOfMemoryError), about(3):
        raise torch.OutOfMemoryError
    with pytest.raises(QuestionError, match="^question 3: no words of ours are lost$"), about(3):
        raise BenchmarkError("no words of ours are lost")


def test_several_images_and_another_number_of_marks_is_named(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Before anything is answered."""
    two = json.dumps([png(), png()])
    columns: dict[str, Column] = {**CHOICE, "image": [png(), two, png(), png()]}
    columns["question"] = ["<image> q?", "<image> q?", "q?", "q?"]
    with pytest.raises(BenchmarkError, match="mine: the question of index 1: it has 2 images and"):
        measure(models["qwen2-vl"], columns, tmp_path)
