"""VLMEvalKit's reports: a benchmark's headline number, and how right each sample was."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from soup.errors import BenchmarkError, ScoringError
from soup.evaluators.kit.importing import image_mcq, image_vqa, image_yorn, mathvista
from soup.evaluators.kit.metrics import ALIAS, EXACT
from soup.evaluators.kit.tables import kit_class

Rule = Callable[[Any], float]
"""From a report to the headline number, 0–100."""


def headline_rule(dataset: Any, name: str) -> Rule:
    """How a benchmark's report becomes its one number, 0–100; scales differ, so none is guessed.

    Raises:
        BenchmarkError: no rule is known.
    """
    kind = type(dataset)
    if kind is image_vqa.OCRBench and kit_class(name):
        # a thousand questions: points are tenths of percent
        return lambda report: float(report["Final Score Norm"])
    if kind is image_vqa.OCRBench:
        return lambda report: 100 * report["Final Score"] / len(dataset.data)
    if name.startswith("HallusionBench"):
        return _hallusion
    if name == "MMMU_DEV_VAL":
        return lambda report: 100 * _cell(report, "split", "validation", "Overall")
    if kind is image_vqa.MathVista:
        return lambda report: _cell(report, "Task&Skill", "Overall", "acc")
    if kind is image_vqa.MMVet:
        return lambda report: _cell(report, "Category", "Overall", "acc")
    if name.startswith("POPE"):
        return lambda report: _cell(report, "split", "Overall", "Overall")
    special = ("MMT", "MMSci", "MMVP", "MME", "AMBER", "VSR", "MMMU")
    if not any(part in name for part in special):
        if isinstance(dataset, image_mcq.ImageMCQDataset) and _plain(kind):
            _require_one_split(dataset, name)
            return lambda report: 100 * _overall(report, name)
        if kind in (image_yorn.ImageYORNDataset, image_vqa.ImageVQADataset):
            return lambda report: _overall(report, name)
    raise BenchmarkError(
        f"{name}: which of its numbers is the headline is not known here; expected a multiple "
        "choice, yes/no or short-answer benchmark, OCRBench, HallusionBench, POPE, MMMU_DEV_VAL, "
        "MathVista or MMVet"
    )


def _plain(kind: Any) -> bool:
    base = image_mcq.ImageMCQDataset
    return kind.evaluate is base.evaluate and kind.evaluate_heuristic is base.evaluate_heuristic


def _hallusion(report: Any) -> float:
    return sum(_cell(report, "split", "Overall", key) for key in ("aAcc", "fAcc", "qAcc")) / 3


def _overall(report: Any, name: str) -> float:
    """The ``Overall`` column of a report with one row."""
    if len(report) != 1:
        raise ScoringError(f"{name}: a report of one row expected, found {len(report)}")
    return float(report["Overall"].iloc[0])


def _require_one_split(dataset: Any, name: str) -> None:
    """Multiple choice has an overall number for each split, and none for all."""
    data = getattr(dataset, "data", {})
    splits = sorted(set(map(str, data["split"]))) if "split" in data else []
    if len(splits) > 1:
        raise BenchmarkError(
            f"{name}: it has several splits ({', '.join(splits[:4])}), so no overall score; "
            "give one split per TSV"
        )


def _cell(report: Any, column: str, value: str, key: str) -> float:
    rows = report[report[column] == value]
    if len(rows) != 1:
        raise ScoringError(f"expected one row {column}={value} in the report, found {len(rows)}")
    return float(rows[key].iloc[0])


def outcomes(directory: Path) -> dict[str, float]:
    """How right each sample was, 0–1, from the detail file that evaluate leaves, if it does."""
    for pattern, column in (
        (f"*_{EXACT}_result.tsv", "hit"),
        (f"*_{ALIAS}_result.tsv", "hit"),
        ("*_auxmatch.tsv", "score"),
        (f"*_{ALIAS}.tsv", "score"),
        ("*_results.tsv", "eval_score"),
    ):
        for file in directory.glob(pattern):
            frame = pd.read_csv(file, sep="\t")
            if column not in frame:  # MathVista's: it decides when it counts
                lines = [frame.iloc[k] for k in range(len(frame))]
                frame[column] = [mathvista.post_check(line) for line in lines]
            pairs: Mapping[Any, Any] = dict(zip(frame["index"], frame[column], strict=True))
            return {str(index): float(value) for index, value in pairs.items()}
    return {}
