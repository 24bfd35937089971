"""Trap 13 of ``tests.kit.traps``: files that were code."""

import importlib
from pathlib import Path

import pytest

from soup.errors import BenchmarkError, ScoringError
from tests.kit.small_sets import SETS
from tests.kit.test_vlmevalkit import CHOICE, SHORT, YES_NO
from tests.kit.traps import dataset

importing = pytest.importorskip("soup.evaluators.kit.importing")
metrics = pytest.importorskip("soup.evaluators.kit.metrics")

HALLUSION = SETS["HallusionBench"].rows


def test_trap_13_nothing_in_a_benchmark_file_is_run(tmp_path: Path) -> None:
    """Trap 13: fields that VLMEvalKit gives to `eval` are read as values, in every kind of set."""
    ran = tmp_path / "ran"
    code = f"[open({str(ran)!r}, 'w').close()]"
    for name, rows in (
        ("set", CHOICE), ("yes", YES_NO), ("short", SHORT), ("HallusionBench", HALLUSION),
        ("TextVQA_x", SHORT),
    ):  # fmt: skip
        for column in ("index", "answer", "question", "image_path", "image"):
            made = [dict(row) for row in rows]
            made[0][column] = code
            try:
                one = dataset(tmp_path, made, name)
                one.messages()
                one.evaluate([code] * 4, tmp_path / "kept.tsv")
            except (BenchmarkError, ScoringError):
                pass
            assert not ran.exists(), f"{name}, {column}"


def test_trap_13_modules_that_are_imported_to_evaluate_run_nothing(tmp_path: Path) -> None:
    """Trap 13, where a model's answer would be run: only numbers are worked out."""
    ran = tmp_path / "ran"
    for name in ("mathv", "qspatial", "lens"):
        module = importlib.import_module(f"vlmeval.dataset.utils.{name}")
        for code in (f"open({str(ran)!r}, 'w')", "9**9**9", "(1).__class__", "-" * 5000 + "1"):
            with pytest.raises(ValueError, match="not a value"):
                module.eval(code)
        assert module.eval("(1 + 2) * 8") == 24
        assert module.eval("-1/4") == -0.25
        assert module.eval("['a', 'b']") == ["a", "b"]
    assert not ran.exists()


def test_trap_13_scores_of_mathvista_run_nothing(tmp_path: Path) -> None:
    """Trap 13, where the metric itself evaluates fields: lists of choices and of skills."""
    ran = tmp_path / "ran"
    for module in (metrics.mathvista, metrics.image_vqa, importing.vqa_eval):
        with pytest.raises(ValueError, match="not a value"):
            module.eval(f"[open({str(ran)!r}, 'w').close()]")
        assert module.eval("['a', 'b']") == ["a", "b"]
    assert not ran.exists()
