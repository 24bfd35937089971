"""evaluators/kit/vlmevalkit.py: VLMEvalKit's datasets, prompts, metrics and headline numbers.

The traps that it avoids are in traps.py; that its numbers are theirs, in test_fidelity.py.
"""

from pathlib import Path

import pandas as pd
import pytest

from soup.errors import BenchmarkError, ScoringError

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
headlines = pytest.importorskip("soup.evaluators.kit.headlines")
importing = pytest.importorskip("soup.evaluators.kit.importing")


def tsv(path: Path, rows: list[dict[str, object]]) -> Path:
    """A benchmark file with one shared, very small image."""
    image = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEElEQVR4nGNgGAWjYBQMBgAAAggAAWq3nS4AAAAASUVORK5CYII="  # noqa: E501
    pd.DataFrame([{"index": k, "image": image, **row} for k, row in enumerate(rows)]).to_csv(
        path, sep="\t", index=False
    )
    return path


CHOICE = [{"question": "q?", "A": "even", "B": "odd", "answer": "AB"[k % 2]} for k in range(4)]
YES_NO = [{"question": "q?", "answer": ("Yes", "No")[k % 2]} for k in range(4)]
SHORT = [{"question": "q?", "answer": str(k)} for k in range(4)]


@pytest.mark.parametrize(
    ("rows", "kind", "answers", "value", "unparsed"),
    [
        (CHOICE, "CustomMCQDataset", ["A", "A", "A.", "what"], 50.0, 0.25),
        (YES_NO, "ImageYORNDataset", ["Yes", "yes!", "No", "No, yes"], 25.0, 0.25),
        (SHORT, "ImageVQADataset", ["0", "1", "3", ""], 50.0, 0.25),
    ],
)
def test_a_users_tsv_is_scored_by_the_class_that_fits_its_columns(
    tmp_path: Path,
    rows: list[dict[str, object]],
    kind: str,
    answers: list[str],
    value: float,
    unparsed: float,
) -> None:
    """Options, yes/no, short answers; 0–100, with the rate of unparsed answers."""
    dataset = vlmevalkit.Dataset(str(tsv(tmp_path / "set.tsv", rows)), tmp_path / "cache")
    assert dataset.settings["dataset"] == kind
    outcome = dataset.evaluate(answers, tmp_path / "kept.tsv")
    assert outcome.value == value
    assert outcome.unparsed == unparsed
    assert len(outcome.outcomes) == 4
    assert (tmp_path / "kept.tsv.gz").is_file()


def test_half_a_character_in_an_answer_is_no_end(tmp_path: Path) -> None:
    """A server's JSON may hold one; no file can, so the answer has another in its place."""
    dataset = vlmevalkit.Dataset(str(tsv(tmp_path / "set.tsv", SHORT)), tmp_path / "cache")
    answers = ["0", "\ud800", "2 \ud800", "3"]
    assert dataset.evaluate(answers, tmp_path / "kept.tsv").value == 50.0


@pytest.mark.parametrize("name", ["set", "MMStar"])
def test_an_image_path_that_no_file_can_have_is_named(tmp_path: Path, name: str) -> None:
    """A name too long for any file system, in a table of one's own and in VLMEvalKit's form."""
    rows = [{**row, "image_path": "x" * 3000} for row in CHOICE]
    file = tmp_path / f"{name}.tsv"
    pd.DataFrame([{"index": k, **row} for k, row in enumerate(rows)]).to_csv(
        file, sep="\t", index=False
    )
    with pytest.raises(BenchmarkError, match="the image of index 0 cannot be read"):
        vlmevalkit.Dataset(str(file), tmp_path / "cache")


def test_questions_without_their_image_are_left_out_of_vlmevalkits_benchmarks(
    tmp_path: Path,
) -> None:
    """As it does itself: HallusionBench has some. The others keep their own answers."""
    rows: list[dict[str, object]] = [dict(row) for row in YES_NO]
    rows[1]["image"] = ""
    dataset = vlmevalkit.Dataset(str(tsv(tmp_path / "HallusionBench.tsv", rows)), tmp_path)
    assert len(dataset) == 3
    assert [message[1]["value"] for message in dataset.messages()] == ["q?"] * 3


SPLIT = [{**row, "split": "ab"[k % 2]} for k, row in enumerate(CHOICE)]
OCR = [{"question": "q?", "answer": "7", "category": "Doc-oriented VQA"} for _ in range(4)]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (SHORT, {"image": ""}, "index 1 has no image; fill it in"),
        (SHORT, {"question": ""}, "index 1 has no question"),
        (CHOICE, {"answer": ""}, "index 1 has no answer"),
        (YES_NO, {"answer": ""}, "index 1 has no answer"),
        (SHORT, {"index": ""}, "data row 2 .line 3. has no index"),
        (OCR, {"category": ""}, "index 1 has no category"),
        (OCR, {"category": "Pictures"}, "no category 'Pictures'; expected one of Regular Text"),
        (
            CHOICE,
            {"answer": "C"},
            "index 1 is 'C'; expected one of its options, A, B",
        ),
        (CHOICE, {"answer": "strange"}, "the answer of index 1 is 'strange'"),
        (CHOICE, {"B": ""}, "the answer of index 1 is 'B'; expected one of its options, A"),
        (SPLIT, {}, r"several splits \(a, b\), so no overall score; give one split per TSV"),
        ([{"question": "q?", "A": "x", "answer": "A"}] * 4, {}, "needs columns A and B at least"),
        (SHORT, {"image": "no base64"}, "neither base64 nor the index of a row that has one"),
    ],
)
def test_a_row_that_would_not_count_is_named(
    tmp_path: Path, rows: list[dict[str, object]], changes: dict[str, object], message: str
) -> None:
    """Before anything is generated: else it would fail the metric, or count as wrong for all."""
    made = [dict(row) for row in rows]
    made[1].update(changes)
    name = "OCRBench_own" if rows is OCR else "set"
    with pytest.raises(BenchmarkError, match=message) as caught:
        vlmevalkit.Dataset(str(tsv(tmp_path / f"{name}.tsv", made)), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"index\timage\tquestion\tanswer\n0\tx\tq\xe9?\ta\n", "expected tab-separated UTF-8"),
        (b"", "no columns in it: the file is empty"),
        (b"index,image,question,answer\n", "no column 'index'"),
        (b"index\tquestion\tanswer\n0\tq?\ta\n", "no column 'image'"),
        (
            b"index\timage\tquestion\tanswer\n0\tx\tq?\ta\n1\tx\tq?\ta\tb\tc\n",
            "line 3 .'1'. has 6 cells",
        ),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Another encoding, another format, rows of another length."""
    (tmp_path / "set.tsv").write_bytes(content)
    with pytest.raises(BenchmarkError, match=message) as caught:
        vlmevalkit.Dataset(str(tmp_path / "set.tsv"), tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(BenchmarkError, match="found a directory; expected a TSV"):
        vlmevalkit.Dataset(f"{tmp_path}/", tmp_path)


def test_a_split_without_public_answers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VLMEvalKit would have it answered, and then fail."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    rows = [{key: row[key] for key in ("question", "A", "B")} for row in CHOICE]
    tsv(tmp_path / "MMBench_TEST_EN.tsv", rows)
    monkeypatch.setattr(importing.image_mcq.ImageMCQDataset, "DATASET_MD5", {})
    with pytest.raises(BenchmarkError, match="MMBench_TEST_EN: it has no answers to compare with"):
        vlmevalkit.Dataset("MMBench_TEST_EN", tmp_path / "cache")


def test_short_answers_of_an_ocr_table_may_be_plain(tmp_path: Path) -> None:
    """VLMEvalKit takes lists of accepted answers, and evaluates them: "7" is a list of one."""
    dataset = vlmevalkit.Dataset(str(tsv(tmp_path / "OCRBench_own.tsv", OCR)), tmp_path)
    assert dataset.evaluate(["7", "it is 7", "8", ""], tmp_path / "kept.tsv").value == 50.0


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        (CHOICE, ["A", "A", "A.", "what"]),
        (YES_NO, ["Yes", "yes!", "No", "No, yes"]),
        (SHORT, ["0", "1", "3", ""]),
    ],
)
def test_parts_are_scored_as_in_the_whole(
    tmp_path: Path, rows: list[dict[str, object]], answers: list[str]
) -> None:
    """Each sample alone, and two together, in any order, have the outcomes of the full set."""
    dataset = vlmevalkit.Dataset(str(tsv(tmp_path / "set.tsv", rows)), tmp_path)
    whole = dataset.evaluate(answers, tmp_path / "kept.tsv").outcomes
    found: dict[str, float] = {}
    for samples in (["3", "1"], ["0"], ["2"]):
        positions = dataset.positions(samples)
        part = dataset.outcomes(positions, [answers[k] for k in positions])
        assert part.keys() == set(samples)
        found |= part
    assert found == whole
    assert dataset.evaluate(answers, tmp_path / "kept.tsv").outcomes == whole
    with pytest.raises(ScoringError, match="set: no question has the index 4"):
        dataset.positions(["0", "4"])


def test_the_rotations_of_a_circular_question_go_together(tmp_path: Path) -> None:
    """One outcome for all of them: a part has them all, and they are scored as in the whole."""
    rows = []
    for rotation in range(2):
        for k in range(3):
            options = dict(zip("AB", ("even", "odd")[:: 1 - 2 * rotation], strict=True))
            rows.append({"index": k + 1_000_000 * rotation, "question": f"{k}?", **options})
            rows[-1]["answer"] = "AB"[(k + rotation) % 2]
    path = tsv(tmp_path / "circular.tsv", rows)
    dataset = vlmevalkit.Dataset(str(path), tmp_path)
    answers = ["A", "A", "A", "B", "A", "A"]  # the second is wrong first, the third later
    whole = dataset.evaluate(answers, tmp_path / "kept.tsv")
    assert whole.outcomes == {"0": 1.0, "1": 0.0, "2": 0.0}
    assert whole.value == pytest.approx(100 / 3)
    assert dataset.positions(["2", "0"]) == [0, 2, 3, 5]
    assert dataset.outcomes([0, 2, 3, 5], ["A", "A", "B", "A"]) == {"0": 1.0, "2": 0.0}


def test_prompts_are_those_of_vlmevalkit(tmp_path: Path) -> None:
    """Image first, then the question in the dataset's own wording."""
    dataset = vlmevalkit.Dataset(str(tsv(tmp_path / "set.tsv", CHOICE)), tmp_path)
    image, text = dataset.messages()[0]
    assert image["type"] == "image"
    assert text["value"] == (
        "Question: q?\nOptions:\nA. even\nB. odd\n"
        "Please select the correct answer from the options above. \n"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such.tsv", "no such file"),
        ("MMBenchh_DEV_EN", "did you mean MMBench_DEV_EN"),
        ("MMBench-Video", "a video benchmark; expected one of images"),
        ("columns", "no column 'answer'; expected index, image, question"),
        ("empty", "no question in it"),
        ("twice", "index 0 stands twice"),
        ("circular", "circular benchmark, whose index must be whole numbers .*; found 'x0'"),
        ("MMVet", "scored by a judge model; add --judge MODEL --judge-url URL"),
        ("LLaVABench", "scored by a judge model, in a way that is not known here"),
        ("another file", "AI2D_TEST.tsv is not the file that VLMEvalKit knows .md5 expected 0f5"),
        ("MMStar", "no usable .*MMStar.tsv, and it could not be downloaded"),
    ],
)
def test_what_cannot_be_scored_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    """Before anything is generated."""
    (tmp_path / "lmu").mkdir()
    monkeypatch.setenv("LMUData", str(tmp_path / "lmu"))
    rows = [dict(row) for row in CHOICE]
    if source == "columns":
        rows = [{"question": "q?"}]
    elif source == "empty":
        rows = []
    elif source == "twice":
        rows = [{**row, "index": 0} for row in rows]
    elif source == "circular":
        rows = [{**row, "index": f"x{k}"} for k, row in enumerate(rows)]
    if source in ("columns", "twice", "circular"):
        source = str(tsv(tmp_path / f"{source}.tsv", rows))
    elif source == "another file":
        tsv(tmp_path / "lmu" / "AI2D_TEST.tsv", rows)
        source = "AI2D_TEST"
    elif source == "empty":
        (tmp_path / "set.tsv").write_text("index\timage\tquestion\tanswer\n")
        source = str(tmp_path / "set.tsv")
    with pytest.raises(BenchmarkError, match=message):
        vlmevalkit.Dataset(source, tmp_path / "cache")


def test_a_file_of_ones_own_is_used_as_it_is_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a name of VLMEvalKit's, by its path: that class, and no download over it."""
    monkeypatch.setenv("LMUData", str(tmp_path))
    file = tsv(tmp_path / "HallusionBench.tsv", YES_NO)
    before = file.read_bytes()
    dataset = vlmevalkit.Dataset(str(file), tmp_path / "cache")
    assert type(dataset.kit).__name__ == "ImageYORNDataset"
    assert dataset.rule is headlines._hallusion
    assert file.read_bytes() == before
    with pytest.raises(BenchmarkError, match="or use this one by its path"):
        vlmevalkit.Dataset("HallusionBench", tmp_path / "cache")
    assert file.read_bytes() == before


def test_a_data_directory_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VLMEvalKit would silently use another one."""
    monkeypatch.setenv("LMUData", str(tmp_path / "absent"))
    with pytest.raises(BenchmarkError, match="no such directory"):
        vlmevalkit.Dataset("MMStar", tmp_path)


def frame(**columns: list[object]) -> pd.DataFrame:
    """A report as `evaluate` returns it."""
    return pd.DataFrame(columns)


HEADLINES = {
    "MMStar": (frame(split=["none"], Overall=[0.5], CP=[0.1]), 50.0),
    "MMMU_DEV_VAL": (frame(split=["dev", "validation"], Overall=[0.1, 0.4]), 40.0),
    "HallusionBench": (
        frame(split=["VD", "Overall"], aAcc=[0, 60.0], fAcc=[0, 30.0], qAcc=[0, 30.0]),
        40.0,
    ),
    "OCRBench": ({"Final Score": 812, "Final Score Norm": 81.2}, 81.2),
    "POPE": (frame(split=["random", "Overall"], Overall=[1.0, 88.0], acc=[2.0, 87.0]), 88.0),
}


@pytest.mark.parametrize("name", HEADLINES)
def test_headline_numbers_are_those_of_the_table(name: str) -> None:
    """Chosen by value, never by position, and on 0–100 whatever the report's scale."""
    report, expected = HEADLINES[name]
    kit = importing.kit
    cls = next(c for c in kit.DATASET_CLASSES if name in c.supported_datasets())
    rule = headlines.headline_rule(cls.__new__(cls), name)
    assert rule(report) == pytest.approx(expected)
    if not isinstance(report, dict):
        assert rule(report.iloc[::-1]) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["MME", "AMBER", "MathVerse_MINI", "LLaVABench"])
def test_numbers_without_a_rule_are_not_guessed(name: str) -> None:
    """Another scale, or another number: an error."""
    kit = importing.kit
    cls = next(c for c in kit.DATASET_CLASSES if name in c.supported_datasets())
    with pytest.raises(BenchmarkError, match="headline is not known"):
        headlines.headline_rule(cls.__new__(cls), name)
