"""evaluators/kit/questions.py: numbers are made again from outcomes, and images are told apart."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from soup.choosing.questions import Questions, Term
from soup.choosing.statistics import values_of
from soup.evaluators.kit.judge import Judge
from soup.evaluators.kit.questions import questions_of
from soup.evaluators.kit.vlmevalkit import Dataset
from tests.kit.judge_server import MODEL, serve
from tests.kit.small_sets import SETS, SmallSet


def png(shade: int) -> str:
    """A small image of one colour as base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def pope(question: int, answer: str) -> dict[str, object]:
    """A row of POPE: a question of one or two of its kinds."""
    kinds = "random,popular" if question % 2 else "adversarial"
    return {"question": "Is there one?", "answer": answer, "category": kinds}


POPE = SmallSet(
    "ImageYORNDataset",
    [pope(k, "Yes" if k < 4 else "No") for k in range(8)],
    ["Yes", "No", "Yes", "yes", "No", "Yes", "No", "no"],
    100 * 2 * 4 / (2 * 4 + 2 + 2),
)
MANY = SETS | {"POPE": POPE}


@pytest.mark.parametrize("name", [name for name in MANY if name != "OCRBench"])
def test_a_number_is_made_again_from_its_outcomes(tmp_path: Path, name: str) -> None:
    """Means, groups, parts and F1: as VLMEvalKit reports them."""
    small = MANY[name]
    with serve() as server:
        judge = Judge(MODEL, server.url, tmp_path) if name in ("MMVet", "MathVista_MINI") else None
        dataset = Dataset(str(small.write(tmp_path / f"{name}.tsv")), tmp_path, judge)
        found = dataset.evaluate(small.answers, tmp_path / "kept.tsv")
    keys = list(found.outcomes)
    made = values_of(questions_of(dataset), keys, np.array(list(found.outcomes.values()))[:, None])
    assert made[0] == pytest.approx(found.value)


def test_ocrbench_has_outcomes_though_its_report_only_counts(tmp_path: Path) -> None:
    """Each answer is right or wrong as it is by itself, also where spaces do not count."""
    small = SETS["OCRBench"]
    rows = [
        *small.rows * 3,
        {**small.rows[0], "answer": "['a b']", "category": "Artistic Text Recognition"},
        {
            **small.rows[0],
            "answer": "['x + y']",
            "category": "Handwritten Mathematical Expression Recognition",
        },
    ]
    many = small._replace(rows=rows, answers=[*small.answers * 3, "ab", "x+y"])
    dataset = Dataset(str(many.write(tmp_path / "OCRBench.tsv")), tmp_path)
    found = dataset.evaluate(many.answers, tmp_path / "kept.tsv")
    right = [1, 1, 0] * 3 + [0, 1]
    assert found.outcomes == {str(k): float(v) for k, v in enumerate(right)}
    assert found.value == pytest.approx(sum(right) / 10)


def test_questions_share_an_image_by_its_content_in_any_benchmark(tmp_path: Path) -> None:
    """Also where a row names another row's image; rotations are one question."""
    rows = [
        {"index": 1, "image": png(10)},
        {"index": 2, "image": png(20)},
        {"index": 1_000_001, "image": png(10)},
        {"index": 3, "image": png(10)},
    ]
    more = {"question": "?", "A": "a", "B": "b", "answer": "A", "category": "c"}
    clusters = []
    for name in ("mmbench_ours", "others"):
        file = tmp_path / f"{name}.tsv"
        pd.DataFrame([{**row, **more} for row in rows]).to_csv(file, sep="\t", index=False)
        clusters.append(questions_of(Dataset(str(file), tmp_path)).clusters)
    circular, plain = clusters
    assert list(circular) == ["1", "2", "3"]
    assert circular["1"] == circular["3"] == plain["1"] == plain["1000001"]
    assert circular["1"] != circular["2"]


def test_figures_and_question_sets_are_groups(tmp_path: Path) -> None:
    """HallusionBench's index holds them."""
    small = SETS["HallusionBench"]
    dataset = Dataset(str(small.write(tmp_path / "HallusionBench.tsv")), tmp_path)
    found = questions_of(dataset)
    assert isinstance(found, Questions)
    alone, figures, questions = found.terms
    assert alone == Term(1 / 3)
    assert figures.groups is not None
    assert questions.groups is not None
    assert len(set(figures.groups.values())) == len(set(questions.groups.values())) == 2
    assert figures.groups != questions.groups
