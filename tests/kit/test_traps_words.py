"""Trap 10 of ``tests.kit.traps``: words that pandas takes for nothing."""

from pathlib import Path
from typing import Any

import pytest

from tests.kit.test_vlmevalkit import tsv
from tests.kit.traps import dataset

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")

WORDS = ("None", "NA", "N/A", "n/a", "null", "NULL")


@pytest.mark.parametrize("word", WORDS)
def test_trap_10_an_option_that_reads_none_is_an_option(tmp_path: Path, word: str) -> None:
    """Trap 10: it stands in the prompt, can be chosen by letter or by text, and be right."""
    rows = [
        {"question": "How many?", "A": "one dog", "B": word, "C": "a cat", "answer": "B"},
        {"question": "How many?", "A": "one", "B": "two", "C": "", "answer": "A"},
        {"question": word, "A": "7", "B": "8", "C": "9", "answer": "C"},
    ]
    one = dataset(tmp_path, rows)
    texts = [message[-1]["value"] for message in one.messages()]
    assert texts[0].splitlines()[2:5] == ["A. one dog", f"B. {word}", "C. a cat"]
    assert texts[1].splitlines()[2:4] == ["A. one", "B. two"]
    assert "C." not in texts[1], "a cell without text is no option"
    assert texts[2].startswith(f"Question: {word}\n")
    outcome = one.evaluate(["B", "A", "C"], tmp_path / "kept.tsv")
    assert (outcome.value, outcome.unparsed) == (100.0, 0.0)
    outcome = one.evaluate([word, "C", "9"], tmp_path / "kept.tsv")
    assert outcome.outcomes == {"0": 1.0, "1": 0.0, "2": 1.0}


def test_trap_10_hints_are_read_as_vlmevalkit_reads_them(tmp_path: Path) -> None:
    """Trap 10: a hint "None" is none; options keep their words: 2 does not become 2.0."""
    rows: list[dict[str, Any]] = [
        {"hint": "None", "question": "q?", "A": 7, "B": "nan", "C": 1.5, "D": "", "answer": "A"},
        {"hint": "look", "question": "q?", "A": 8, "B": 2, "C": "", "D": "", "answer": "A"},
        {"hint": "", "question": "q?", "A": 9, "B": "", "C": "None", "D": "", "answer": "C"},
    ]
    path = tsv(tmp_path / "set.tsv", rows)
    one = vlmevalkit.Dataset(str(path), tmp_path / "cache")
    texts = [message[-1]["value"].split("Please")[0] for message in one.messages()]
    assert texts == [
        "Question: q?\nOptions:\nA. 7\nB. nan\nC. 1.5\n",
        "Hint: look\nQuestion: q?\nOptions:\nA. 8\nB. 2\n",
        "Question: q?\nOptions:\nA. 9\nC. None\n",
    ]
    assert "1 options read 'nan', and are shown" in one.notes[0]


def test_trap_10_answers_that_look_like_missing_values_stay_answers(tmp_path: Path) -> None:
    """Trap 10, beyond options: predictions and short answers; and 7 does not become 7.0."""
    rows = [{"question": "q?", "answer": text} for text in ("None", "NA", "7", "8")]
    one = dataset(tmp_path, rows)
    assert one.evaluate(["None", "NA", "7", "8"], tmp_path / "k.tsv").value == 100.0
    assert one.evaluate(["nan", "nan", "7", "8"], tmp_path / "k.tsv").value == 50.0
    rows = [{"question": "q?", "answer": "None"} for _ in range(2)]
    assert dataset(tmp_path, rows, "all").settings["dataset"] == "ImageVQADataset"
    rows = [{"question": "q?", "answer": str(k)} for k in range(4)]
    one = dataset(tmp_path, rows, "numbers")
    assert one.evaluate(["0", "1", "2", ""], tmp_path / "k.tsv").value == 75.0
