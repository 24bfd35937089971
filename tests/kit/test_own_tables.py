"""A user's table: every cell a word, and what it asks; what could never count is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from soup.errors import BenchmarkError
from tests.kit.own_tables import CHOICE, SHORT, YES_NO, Column, lines, png, write
from tests.kit.small_sets import IMAGE

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
pd = pytest.importorskip("pandas")


def opened(file: Path) -> Any:
    """The data set of a table, its images beside it."""
    return vlmevalkit.Dataset(str(file), file.parent / "cache")


def prompts(dataset: Any) -> list[str]:
    """The text of every question."""
    return [message[-1]["value"] for message in dataset.messages()]


def right(dataset: Any, answers: list[str]) -> list[float]:
    """How right answers are, in the table's order; the score is their mean."""
    found = dataset.evaluate(answers, dataset.file.parent / "kept.tsv")
    index = [str(index) for index in dataset.own.frame["index"]]
    assert found.outcomes.keys() == set(index)
    assert found.value == pytest.approx(100 * sum(found.outcomes.values()) / len(index))
    return [found.outcomes[key] for key in index]


# --- words -------------------------------------------------------------------------------------

NUMBERS = ["1.10", "1.1", "007", "1e3"]
LOOKALIKES = [
    NUMBERS,
    ["1.10", "2.20", "3.30", "4.40"],
    ["007", "010", "1", "0"],
    ["1e3", "1e4", "1E3", "1000"],
    ["2024-01-02", "01/02/2024", "10:30", "1 Jan"],
    ["None", "NA", "null", "N/A"],
    ["nan", "NaN", "<NA>", "#N/A"],
    ["True", "False", "TRUE", "FALSE"],
    ["inf", "-inf", "1_000", "0x10"],
    ["1,000", "1 000", "+1", "-0"],
    ["½", "１２", "10%", "$5.00"],
    [" 7", "7 ", "7.", ".7"],
    ["12345678901234567890", "0.1000000000000000055", "1e400", "-1e-400"],
]


@pytest.mark.parametrize("words", LOOKALIKES, ids=lambda words: words[0])
def test_options_that_look_like_numbers_or_nothing_are_words(
    tmp_path: Path, words: list[str]
) -> None:
    """They are asked as they are written, and each is right by its own text alone."""
    others = words[1:] + words[:1]
    file = write(tmp_path / "t.tsv", {**CHOICE, "A": words, "B": others, "answer": "A"})
    dataset = opened(file)
    for text, first, second in zip(prompts(dataset), words, others, strict=True):
        assert f"Options:\nA. {first}\nB. {second}\n" in text
    assert right(dataset, ["A"] * 4) == [1.0] * 4
    assert right(dataset, ["B"] * 4) == [0.0] * 4
    frame = dataset.own.frame
    assert list(frame["A"]) == words
    # by text: where neither option is a part of the other, each is told from the other
    for word, other, hit in zip(words, others, right(dataset, words), strict=True):
        if word.lower() not in other.lower() and other.lower() not in word.lower():
            assert hit == 1.0, word


@pytest.mark.parametrize("words", LOOKALIKES, ids=lambda words: words[0])
def test_short_answers_that_look_like_numbers_or_nothing_are_words(
    tmp_path: Path, words: list[str]
) -> None:
    """Right is what reads alike, but for capitals and spaces around; 1.1 is not 1.10."""
    dataset = opened(write(tmp_path / "t.tsv", {"question": words, "answer": words}))
    assert dataset.settings["dataset"] == "ImageVQADataset"
    assert [text.split("\n")[0] for text in prompts(dataset)] == words
    assert right(dataset, words) == [1.0] * 4
    shifted = words[1:] + words[:1]
    same = [a.strip().lower() == b.strip().lower() for a, b in zip(words, shifted, strict=True)]
    assert right(dataset, shifted) == [float(one) for one in same]


ODD = [["0-1", "1-2", "2-3", "3-4"], ["../x", "/y", "a b", "é"], ["1.0", "2.0", "3.0", "10.0"]]


@pytest.mark.parametrize("name", ["t", "TextVQA_t", "circular_t"])
@pytest.mark.parametrize("words", [*LOOKALIKES, *ODD])
def test_an_index_is_a_word(tmp_path: Path, words: list[str], name: str) -> None:
    """Unless all are whole numbers: outcomes and samples go by it as it is written."""
    if name == "TextVQA_t" and words is not NUMBERS:
        pytest.skip("one is enough for another metric")
    columns: dict[str, Column] = {**(CHOICE if name != "TextVQA_t" else SHORT), "index": words}
    file = write(tmp_path / f"{name}.tsv", columns)
    if name == "circular_t":
        with pytest.raises(BenchmarkError, match="index must be whole numbers"):
            opened(file)
        return
    dataset = opened(file)
    answers = ["A", "B", "A", "A"] if name == "t" else ["0", "1", "2", "x"]
    found = dataset.evaluate(answers, tmp_path / "kept.tsv")
    assert set(found.outcomes) == set(words)
    if name == "t":
        assert [found.outcomes[word] for word in words] == [1.0, 1.0, 1.0, 0.0]
    assert dataset.positions([words[2], words[0]]) == [0, 2]
    assert dataset.outcomes([1, 3], [answers[1], answers[3]]).keys() == {words[1], words[3]}


def test_whole_numbers_stay_numbers_and_are_told_from_words(tmp_path: Path) -> None:
    """1 and 01 are two words; the same word twice is an error."""
    dataset = opened(write(tmp_path / "a.tsv", {**SHORT, "index": ["3", "-1", "0", "10"]}))
    assert list(dataset.own.frame["index"]) == [3, -1, 0, 10]
    opened(write(tmp_path / "b.tsv", {**SHORT, "index": ["1", "01", "1.0", " 1"]}))
    with pytest.raises(BenchmarkError, match="index 01 stands twice"):
        opened(write(tmp_path / "c.tsv", {**SHORT, "index": ["1", "01", "01", "2"]}))


def test_answers_of_a_model_may_hold_anything(tmp_path: Path) -> None:
    """Line breaks of all kinds, quotes, tabs: no answer moves another one."""
    dataset = opened(write(tmp_path / "t.tsv", SHORT))
    said = ["0\r", 'x"\r\n1', "2\n\n", "\u2028\x0b3"]
    assert right(dataset, said)[0] == 1.0
    assert right(dataset, ["x\ry\rz", "1", '"', "3"]) == [0.0, 1.0, 0.0, 1.0]


def test_columns_of_ones_own_change_no_score(tmp_path: Path) -> None:
    """Not those that VLMEvalKit's metrics write, nor a category called "Overall"."""
    extra: dict[str, Column] = {
        name: ["1.10", "9", "", "x"]
        for name in ("hit", "score", "Prediction", "log", "notes", "gt")
    }
    extra |= {"category": ["Overall", "a", "b", "split"], "l2-category": ["1", "2", "Overall", "4"]}
    for columns, answers in ((CHOICE, "A A A A"), (SHORT, "0 x x 3"), (YES_NO, "Yes Yes Yes Yes")):
        dataset = opened(write(tmp_path / "t.tsv", {**columns, **extra}))
        assert sum(right(dataset, answers.split())) == 2.0


# --- what it asks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "read"),
    [
        ("a b a b", "ABAB"),
        ("even odd even odd", "ABAB"),
        ("Even ODD even odd", "ABAB"),
        ("(A) B. [a] b)", "ABAB"),
        ("A.even B.odd A)Even B:ODD", "ABAB"),
    ],
)
def test_an_answer_may_be_written_otherwise_than_as_a_letter(
    tmp_path: Path, answers: str, read: str
) -> None:
    """In small letters, in brackets, as the option's text: it is read as the letter, and said."""
    dataset = opened(write(tmp_path / "t.tsv", {**CHOICE, "answer": answers.split()}))
    assert list(dataset.own.frame["answer"]) == list(read)
    (note,) = dataset.notes
    assert "answers are not written as their option's letter (the first: index 0" in note
    assert right(dataset, list("ABBB")) == [1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": ["A,B", "A", "A", "A"]}, "index 0: its answer names several options .A, B."),
        ({"answer": ["['A', 'B']", "A", "A", "A"]}, "index 0: its answer names several options"),
        ({"A": "B", "B": "A", "answer": "a"}, "index 0: the answer 'a' may mean A or B"),
        ({"A": "x", "B": "x", "answer": "x"}, "index 0: the answer 'x' may mean A or B"),
        ({"answer": ["A", "C", "A", "A"]}, "the answer of index 1 is 'C'; expected one of its opt"),
        (
            {"A": ["", *"xyz"], "B": ["", *"xyz"], "answer": ["42", "A", "B", "A"]},
            "index 0 has no options, and the answer '42'; .*a table of its own",
        ),
        ({"question": ["q", " ", "q", "q"]}, "index 1 has no question"),
        ({"answer": ["A", "A", "", "A"]}, "index 2 has no answer"),
        ({"image": [IMAGE, "https://example.com/a.png", IMAGE, IMAGE]}, "index 1: .*an address"),
        ({"image": [IMAGE, "s3://bucket/a.png", IMAGE, IMAGE]}, "index 1: its image is an address"),
        (
            {"image": [IMAGE, "data:image/svg+xml,<svg/>", IMAGE, IMAGE]},
            "index 1: .*without base64",
        ),
        ({"image": [IMAGE, "data:image/png;base64,", IMAGE, IMAGE]}, "image of index 1 cannot be"),
        ({"image": [IMAGE, "17", IMAGE, IMAGE]}, "index 1: its image, '17', is neither base64 nor"),
        ({"image": [IMAGE, "no/such.png", IMAGE, IMAGE]}, "index 1 cannot be read .no such file"),
        ({"A": "x" * 1_000_001}, "index 0: its A has 1,000,001 characters; expected 1,000,000"),
        ({"question": "a\0b"}, "t.tsv"),
        ({"a": "x", "Answer": "x"}, "two columns are called 'answer'"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(
    tmp_path: Path, changes: dict[str, Column], message: str
) -> None:
    """One line with its index, before anything is generated."""
    with pytest.raises(BenchmarkError, match=message) as caught:
        opened(write(tmp_path / "t.tsv", {**CHOICE, **changes}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("answers", ["yes no yes no", "YES NO Yes nO", "Yes No Yes No"])
def test_yes_and_no_may_be_written_in_any_case(tmp_path: Path, answers: str) -> None:
    """It is a yes/no set, scored as one."""
    dataset = opened(write(tmp_path / "t.tsv", {**YES_NO, "answer": answers.split()}))
    assert dataset.settings["dataset"] == "ImageYORNDataset"
    assert right(dataset, ["Yes", "No, it is not", "no", "?"]) == [1.0, 1.0, 0.0, 0.0]


def test_what_is_asked_otherwise_than_one_may_think_is_said(tmp_path: Path) -> None:
    """True and false, and a table that is almost a yes/no set, are asked for short answers."""
    dataset = opened(write(tmp_path / "t.tsv", {**SHORT, "answer": ["TRUE", "FALSE"] * 2}))
    assert "answers are true or false" in dataset.notes[0]
    assert right(dataset, ["True", "false", "yes", "no"]) == [1.0, 1.0, 0.0, 0.0]
    dataset = opened(write(tmp_path / "u.tsv", {**SHORT, "answer": ["yes", "no", "yes", "maybe"]}))
    assert "because the answer of index 3 is 'maybe'" in dataset.notes[0]


def test_of_several_accepted_answers_one_is_enough(tmp_path: Path) -> None:
    """A list in Python's or JSON's spelling; what only looks like a list is a word."""
    answers = ["['cat', 'kitty']", '["dog", "Dog", "hound"]', "[1, 2]", "[a]"]
    dataset = opened(write(tmp_path / "t.tsv", {**SHORT, "answer": answers}))
    assert right(dataset, ["Kitty", "hound", "[1, 2]", "[A]"]) == [1.0] * 4
    assert right(dataset, ["['cat', 'kitty']", "cat", "1", "a"]) == [0.0] * 4
    assert "2 questions have several accepted answers (the first: index 0)" in dataset.notes[0]


@pytest.mark.parametrize(
    "head", [("Index", "IMAGE", "Question", "Answer"), (" index ", "image", "question ", "ANSWER")]
)
def test_names_of_columns_may_be_written_in_any_case(tmp_path: Path, head: tuple[str, ...]) -> None:
    """And with spaces around, and options in small letters."""
    table = lines({"question": "q?", "answer": ["a", "b"] * 2, "a": "x", "b": "y"})
    table[0] = [*head, "a", "b"]
    (tmp_path / "t.tsv").write_text("".join("\t".join(row) + "\n" for row in table))
    dataset = opened(tmp_path / "t.tsv")
    assert dataset.settings["dataset"] == "CustomMCQDataset"
    assert right(dataset, list("ABAB")) == [1.0] * 4


def test_options_in_one_column_are_not_taken_for_no_options(tmp_path: Path) -> None:
    """Else it would be scored as a set of short answers, in silence."""
    with pytest.raises(BenchmarkError, match="stand together in one column 'options'"):
        opened(write(tmp_path / "t.tsv", {**SHORT, "options": "['even', 'odd']"}))


# --- images ------------------------------------------------------------------------------------


def test_images_may_be_uris_paths_lists_or_another_rows(tmp_path: Path) -> None:
    """A path begins in the table's own directory; each question shows what its cell says."""
    import base64

    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a b.PNG").write_bytes(base64.b64decode(png((48, 40))))
    cells = [
        f"data:image/png;base64,{png((33, 32))}",
        "pictures/a b.PNG",
        json.dumps([png((35, 32)), "data:image/jpeg;base64," + png((36, 32))]),
        "0",
    ]
    dataset = opened(write(tmp_path / "t.tsv", {**SHORT, "image": cells}))
    from PIL import Image

    sizes = [
        [Image.open(item["value"]).size for item in message if item["type"] == "image"]
        for message in dataset.messages()
    ]
    assert sizes == [[(33, 32)], [(48, 40)], [(35, 32), (36, 32)], [(33, 32)]]
    before = dataset.settings["data"]
    (tmp_path / "pictures" / "a b.PNG").write_bytes(base64.b64decode(png((40, 48))))
    assert opened(tmp_path / "t.tsv").settings["data"] != before


def test_kept_answers_know_their_images(tmp_path: Path) -> None:
    """Those that were unpacked and those that the table names, by index, to be looked at later."""
    import base64

    from soup.choosing.scoring import result_key
    from soup.evaluators.kit.answers import kept_answers
    from soup.evaluators.kit.finished import table_of

    (tmp_path / "a.png").write_bytes(base64.b64decode(png()))
    cells = [png(), "a.png", json.dumps([png((40, 40)), png((48, 48))]), png()]
    columns: dict[str, Column] = {**SHORT, "image": cells, "index": ["x/y", "007", "1e3", "é"]}
    work = tmp_path / "work"
    dataset = vlmevalkit.Dataset(str(write(tmp_path / "t.tsv", columns)), work / "cache")
    dataset.evaluate(list("0123"), table_of(work, result_key("blend", "benchmark")))
    found = kept_answers(work, "blend", "benchmark", dataset.settings)
    asked = {
        index: " ".join(item["value"] for item in message if item["type"] == "image")
        for index, message in zip(columns["index"], dataset.messages(), strict=True)
    }
    assert {index: answer.image for index, answer in found.items()} == asked
    assert [answer.said for answer in found.values()] == list("0123")


# --- names -------------------------------------------------------------------------------------


def test_tables_of_one_name_are_told_apart_by_their_folders() -> None:
    """As much of the folder as it takes; what is given twice is still one."""
    from soup.evaluators.kit.suites import distinct_names

    assert distinct_names(["a/x.tsv", "b/x.tsv", "MMStar"]) == ["a/x", "b/x", "MMStar"]
    assert distinct_names(["p/a/x.tsv", "q/a/x.tsv"]) == ["p/a/x", "q/a/x"]
    assert distinct_names(["x.tsv", "./x.tsv"]) == ["x", "x"]
    assert distinct_names(["x.csv", "y/x.tsv", "z.tsv"]) == ["x.csv", "x.tsv", "z"]
    assert distinct_names(["a/x.csv", "a/x.tsv"]) == ["x.csv", "x.tsv"]
    assert len(set(distinct_names(["MMStar", "a/MMStar.tsv", "b/MMStar.tsv"]))) == 3


# --- marks -------------------------------------------------------------------------------------


def test_marks_of_images_are_taken_out_of_a_users_questions(tmp_path: Path) -> None:
    """And said; with several images, a wrong number of marks is an error that names the index."""
    columns: dict[str, Column] = {"question": ["<image> q?", "q?", "q? <image>", "q?"]}
    dataset = opened(write(tmp_path / "t.tsv", {**SHORT, **columns}))
    assert [text.split("\n")[0].strip() for text in prompts(dataset)] == ["q?"] * 4
    assert "taken out of 2 questions (the first: index 0)" in dataset.notes[-1]
    two = json.dumps([png(), png()])
    file = write(tmp_path / "u.tsv", {**SHORT, "image": two, "question": "<image> then?"})
    with pytest.raises(
        BenchmarkError, match="u: the question of index 0: it has 2 images and 1 ma"
    ):
        opened(file).messages()
