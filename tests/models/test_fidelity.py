"""VLMEvalKit's own path and ours, on the same model and benchmarks: the same numbers.

Theirs: ``kit_by_hand.py``, where nothing of ours is imported, on a soup that was written to disk.
Ours: the scorer, on the same soup streamed from its members, at three batch sizes.
"""

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.pool import Pool
from soup.choosing.scoring import Result, result_key
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.demo import WORD_TAIL
from soup.evaluators.kit.finished import rows_of, table_of
from soup.events import Event, Progress
from tests.models import tiny_families

pytest.importorskip("transformers")
csv.field_size_limit(1 << 24)

ROWS = 20  # more than the second batch size, fewer than the third
TOKENS = 8
SIZES = (1, 7, 64)


class Set(NamedTuple):
    """A benchmark made from one of the demo's.

    ``made`` turns its rows into new ones; ``kind`` and ``name`` are what VLMEvalKit calls it, and
    ``headline`` picks the number, 0–100, from its report on so many rows.
    """

    source: str
    made: Callable[[dict[str, str]], list[dict[str, str]]]
    kind: str
    name: str
    headline: Callable[[Any, int], float]


def circular(row: dict[str, str]) -> list[dict[str, str]]:
    """A question and its rotation, as MMBench numbers them; B stands in A's place."""
    other = {"index": str(int(row["index"]) + 1_000_000), "A": row["B"], "B": row["A"]}
    return [row, row | other | {"answer": {"A": "B", "B": "A"}[row["answer"]]}]


def ocr(row: dict[str, str]) -> list[dict[str, str]]:
    """A digit to be read, in two of OCRBench's categories."""
    kinds = ("Digit String Recognition", "Scene Text-centric VQA")
    question = row["question"] + WORD_TAIL  # OCRBench's prompt is the question as it stands
    return [row | {"question": question, "category": kinds[int(row["index"]) % 2]}]


def free(row: dict[str, str]) -> list[dict[str, str]]:
    """A question that no model was trained on: its answer goes on until the limit."""
    question = "Describe the image in a sentence, please: what is the digit like?"
    return [row | {"question": question, "answer": "['a digit, drawn by hand']"}]


def percent(report: Any, rows: int) -> float:
    """``Overall``, on 0–100."""
    return float(report[0]["Overall"])


SETS = {
    "choice": Set(
        "parity", lambda row: [row], "CustomMCQDataset", "choice",
        lambda report, rows: 100 * percent(report, rows),
    ),
    "circular": Set(
        "parity", circular, "CustomMCQDataset", "parity_circular",
        lambda report, rows: 100 * percent(report, rows),
    ),
    "yes/no": Set("compare", lambda row: [row], "ImageYORNDataset", "compare", percent),
    "exact": Set("digit", lambda row: [row], "ImageVQADataset", "GQA_digit", percent),
    "TextVQA": Set("digit", lambda row: [row], "ImageVQADataset", "TextVQA_digit", percent),
    "OCRBench": Set(
        "digit", ocr, "OCRBench", "OCRBench_digit",
        lambda report, rows: 100 * report["Final Score"] / rows,
    ),
    "free": Set("digit", free, "ImageVQADataset", "DocVQA_free", percent),
}  # fmt: skip


class Both(NamedTuple):
    """What either path made of each set; ours by batch size, with predictions by index."""

    theirs: dict[str, dict[str, Any]]
    ours: dict[int, dict[str, tuple[Result, dict[str, str]]]]
    data: Path


def read(file: Path) -> list[dict[str, str]]:
    """The rows of a TSV, every cell as written."""
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def make_sets(demo: Path, data: Path) -> None:
    """Write all benchmarks into ``data``."""
    data.mkdir()
    for one in SETS.values():
        rows = read(demo / "benchmarks" / f"{one.source}.tsv")[:ROWS]
        made = [new for row in rows for new in one.made(row)]
        with (data / f"{one.name}.tsv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(made[0]), delimiter="\t", lineterminator="\n")
            table.writeheader()
            table.writerows(made)


@pytest.fixture(scope="module")
def both(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Both paths, side by side."""
    work = tmp_path_factory.mktemp("fidelity")
    data = work / "data"
    make_sets(demo, data)
    pool = Pool.open(demo / "ckpts" / "parity-compare", demo / "ckpts" / "digit-only")
    blend = Blend(pool.members, pool.reference)
    soup = write(blend, work / "soup").path
    (work / "kit").mkdir()
    with by_hand(soup, data, work) as theirs, scoring(work / "ours") as scorer:
        ours = {}
        for size in SIZES:  # the worker makes its engine anew, and nothing is known of the answers
            scorer._options["batch_size"] = size
            ours[size] = score(scorer, blend, pool, data)
    return Both(theirs, ours, data)


@contextmanager
def by_hand(model: Path, data: Path, work: Path, *options: str) -> Iterator[dict[str, Any]]:
    """VLMEvalKit alone, beside what is done inside; its results are there at the end."""
    script = Path(__file__).parent.parent / "kit" / "kit_by_hand.py"
    sets = [f"{one.kind}:{one.name}" for one in SETS.values()]
    arguments = [script, model, data, work / "kit", *sets, "--tokens", str(TOKENS), *options]
    with (work / "kit.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=log, text=True
        )
    found: dict[str, Any] = {}
    try:
        yield found
        printed = process.communicate()[0]
        assert process.returncode == 0, (work / "kit.log").read_text()[-2000:]
        found |= json.loads(printed)["sets"]
    finally:
        process.kill()


def scoring(work: Path, **options: Any) -> VLMEvalKitScorer:
    """Our scorer."""
    return VLMEvalKitScorer(work=work, device="cpu", max_new_tokens=TOKENS, **options)


def score(
    scorer: VLMEvalKitScorer, blend: Blend, pool: Pool, data: Path
) -> dict[str, tuple[Result, dict[str, str]]]:
    """Our results and predictions on all sets, every question asked."""
    found = {}
    paths = [str(data / f"{one.name}.tsv") for one in SETS.values()]
    benchmarks = scorer.benchmarks(pool.reference, paths)
    for name, benchmark in zip(SETS, benchmarks, strict=True):
        answered: list[int] = []

        def observe(event: Event, answered: list[int] = answered) -> None:
            if isinstance(event, Progress) and event.unit == "samples":
                answered.append(event.done)

        result = scorer.measure(blend, benchmark, name, observe)
        assert answered[0] == 0, "answers of before were taken"
        rows = rows_of(table_of(scorer.log.parent, result_key(blend.key, benchmark.digest)))
        found[name] = result, {row["index"]: row["prediction"] for row in rows}
    return found


@pytest.mark.parametrize("name", SETS)
def test_prompts_are_vlmevalkits(both: Both, tmp_path: Path, name: str) -> None:
    """The same items in the same order, the same words, the same image files, for every row."""
    vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
    dataset = vlmevalkit.Dataset(str(both.data / f"{SETS[name].name}.tsv"), tmp_path)
    ours = [
        [
            [item["type"], hashlib.sha256(Path(item["value"]).read_bytes()).hexdigest()]
            if item["type"] == "image"
            else [item["type"], item["value"]]
            for item in message
        ]
        for message in dataset.messages()
    ]
    assert ours == both.theirs[SETS[name].name]["prompts"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SETS)
def test_predictions_are_vlmevalkits_at_any_batch_size(both: Both, name: str, size: int) -> None:
    """In float32 on a CPU, text by text; and they are not all one text."""
    theirs = both.theirs[SETS[name].name]["predictions"]
    assert both.ours[size][name][1] == theirs
    assert len(set(theirs.values())) > 1


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SETS)
def test_headline_numbers_are_vlmevalkits(both: Both, name: str, size: int) -> None:
    """The number on the leaderboard is the one of VLMEvalKit's report, on 0–100."""
    report = both.theirs[SETS[name].name]["report"]
    assert both.ours[size][name][0].value == pytest.approx(SETS[name].headline(report, ROWS))


def test_the_sets_tell_right_from_wrong(both: Both) -> None:
    """Otherwise equal numbers would say little: some right, most of them not all."""
    values = {name: result.value for name, (result, _) in both.ours[1].items() if name != "free"}
    assert all(value > 0 for value in values.values()), str(values)
    assert sum(value < 100 for value in values.values()) >= 4, str(values)
    assert values["circular"] < values["choice"], "one wrong rotation makes a question wrong"


@pytest.mark.parametrize("name", SETS)
def test_outcomes_add_up_to_the_headline(both: Both, name: str) -> None:
    """Where VLMEvalKit leaves details per question, their mean is the score."""
    result = both.ours[7][name][0]
    assert len(result.outcomes) == ROWS
    if name != "free":  # ANLS counts what is below a half as nothing
        assert 100 * sum(result.outcomes.values()) / ROWS == pytest.approx(result.value)


PIXELS = {"min_pixels": 56 * 56, "max_pixels": 112 * 112}


def test_a_familys_numbers_are_those_of_its_own_wrapper_in_vlmevalkits_loop(
    demo: Path, tmp_path: Path
) -> None:
    """Qwen2VLChat, whose words depend on the kind of benchmark: predictions and headlines."""
    data = tmp_path / "data"
    make_sets(demo, data)
    model = tiny_families.write("qwen2-vl", tmp_path / "model", 1)
    (tmp_path / "kit").mkdir()
    pool = Pool.open(model)
    blend = Blend(pool.members, pool.reference)
    options = ("--wrapper", "Qwen2VLChat", "--options", json.dumps(PIXELS))
    own = scoring(tmp_path / "ours", batch_size=7, families={"qwen2-vl": PIXELS})
    with by_hand(model, data, tmp_path, *options) as theirs, own as scorer:
        ours = score(scorer, blend, pool, data)
    for name, one in SETS.items():
        result, predictions = ours[name]
        assert predictions == theirs[one.name]["predictions"], name
        assert len(set(predictions.values())) > ROWS // 4, name
        expected = one.headline(theirs[one.name]["report"], ROWS)
        assert result.value == pytest.approx(expected), name
    prompts = {name: theirs[one.name]["prompts"][0][-1][1] for name, one in SETS.items()}
    assert prompts["choice"].endswith("Please select the correct answer from the options above. \n")
    assert "Please try to answer the question with short words" in prompts["exact"]
