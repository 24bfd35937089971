"""Trap 11 of ``tests.kit.traps``: one at a time."""

from pathlib import Path
from typing import Any

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.opening import open_checkpoint
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from tests.kit.traps import counted_dumps, dataset

metrics = pytest.importorskip("soup.evaluators.kit.metrics")


def test_trap_11_questions_are_answered_in_batches(
    demo: Path, small_benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 11: forty questions, batches of twenty: two calls of `generate`."""
    from transformers import GenerationMixin

    checkpoint = open_checkpoint(demo / "ckpts" / "digit")
    generate, sizes = GenerationMixin.generate, []

    def counted(self: Any, *rest: Any, **inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return generate(self, *rest, **inputs)

    monkeypatch.setattr(GenerationMixin, "generate", counted)
    worker = Worker(lambda message: None)
    source = str(small_benchmarks / "digit.tsv")
    options = {"device": "cpu", "batch_size": 20, "max_new_tokens": 4}
    worker.handle(
        {
            "do": "open",
            "reference": encode_checkpoint(checkpoint),
            "options": options,
            "cache": str(tmp_path),
        }
    )
    worker.handle({"do": "benchmark", "source": source})
    result = worker.handle(
        {
            "do": "measure",
            "blend": encode_blend(Blend((checkpoint,), checkpoint)),
            "benchmark": source,
            "key": "a key",
            "keep": str(tmp_path / "kept.tsv"),
            "task": "task",
        }
    )
    assert result["samples"] == 40
    assert sizes == [20, 20]


def test_trap_11_answers_are_scored_without_a_file_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 11: `evaluate` without its file after each answer: few files, the same report."""
    from vlmeval.utils.mp_util import track_progress_rich

    rows = [
        {"question": "q?", "A": "even", "B": "odd", "C": "neither", "answer": "ABC"[k % 3],
         "category": "xy"[k % 2]}
        for k in range(60)
    ]  # fmt: skip
    said = ("A", "B.", "even", "odd, or even", "Answer: C", "", "A B", "Z", "what", "The answer")
    answers = [rows[k]["answer"] if k < 20 else said[k % len(said)] for k in range(60)]
    groups = [{**row, "g_index": k - k % 3} for k, row in enumerate(rows)]
    for name, made in (("choice", rows), ("circular", groups)):
        one = dataset(tmp_path, made, name)
        with monkeypatch.context() as patch:
            written = counted_dumps(patch)
            found = one.evaluate(answers, tmp_path / "kept.tsv")
            assert 0 < len(written) <= 2
            patch.setattr(metrics.multiple_choice, "track_progress_rich", track_progress_rich)
            assert one.evaluate(answers, tmp_path / "kept.tsv") == found
        assert 0 < found.value < 100
