"""Traps 6 and 7 of ``tests.kit.traps``: missing answers."""

from pathlib import Path
from typing import Any

import pytest

from soup.errors import BenchmarkError, ScoringError
from tests.kit.test_vlmevalkit import CHOICE, SHORT, YES_NO
from tests.kit.traps import dataset


def test_trap_6_partial_answers_are_not_scored(tmp_path: Path) -> None:
    """Trap 6: three answers to four questions are an error, not 100%."""
    for rows, right in ((CHOICE, "ABA"), (YES_NO, ["Yes", "No", "Yes"]), (SHORT, "012")):
        with pytest.raises(ScoringError, match="3 answers for 4 questions"):
            dataset(tmp_path, rows).evaluate(list(right), tmp_path / "kept.tsv")


def test_trap_6_rotations_without_their_question_are_an_error(tmp_path: Path) -> None:
    """Trap 6, in circular sets: what VLMEvalKit would leave out of the score is named."""
    rows = [{**row, "g_index": k} for k, row in enumerate(CHOICE)]
    rows[3]["g_index"] = 9
    with pytest.raises(BenchmarkError, match="1 question.*rotations but no first row.*index 9"):
        dataset(tmp_path, rows, "circular")


@pytest.mark.parametrize("rows", [CHOICE, YES_NO, SHORT])
@pytest.mark.parametrize("failed", [1, 4])
def test_trap_7_a_model_that_failed_is_not_scored_0(
    tmp_path: Path, rows: list[dict[str, Any]], failed: int
) -> None:
    """Trap 7: VLMEvalKit's own words for a failure are an error, never wrong answers."""
    answers = ["Failed to obtain answer via API."] * failed + ["A"] * (4 - failed)
    with pytest.raises(ScoringError, match=f"{failed} of 4 questions got no answer"):
        dataset(tmp_path, rows).evaluate(answers, tmp_path / "kept.tsv")


@pytest.mark.parametrize("rows", [CHOICE, YES_NO, SHORT])
def test_trap_7_a_model_that_says_nothing_is_known_by_its_rate(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    """Trap 7: empty answers are answers, but all of them count as unparsed."""
    outcome = dataset(tmp_path, rows).evaluate([""] * 4, tmp_path / "kept.tsv")
    assert (outcome.value, outcome.unparsed) == (0.0, 1.0)
