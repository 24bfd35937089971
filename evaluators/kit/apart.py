"""How right each answer is where VLMEvalKit's report only counts: OCRBench.

Its metric takes every answer by itself and reports sums by kind of question. So it is given a few
answers at a time, each under a kind of its own, and its sums are the outcomes.
"""

from pathlib import Path
from typing import Any

MATHS = "Handwritten Mathematical Expression Recognition"
"""The one kind whose answers are compared in another way; the others differ in name alone."""

KINDS = {
    "Regular Text Recognition": "Text Recognition",
    "Scene Text-centric VQA": "Scene Text-centric VQA",
    "Doc-oriented VQA": "Doc-oriented VQA",
    "Key Information Extraction": "Key Information Extraction",
}
"""Kinds that the report counts apart, and what it calls their sums."""


def outcomes_apart(kit: Any, frame: Any, directory: Path, right: float) -> dict[str, float]:
    """By index whether an answer is right, 0 or 1; empty where they do not add up.

    Args:
        kit: VLMEvalKit's OCRBench.
        frame: its rows with predictions.
        directory: for files, which stay there.
        right: how many its report on all of them counted.
    """
    maths = frame["category"] == MATHS
    own, others = frame[maths], frame[~maths]
    names = list(KINDS)
    found: dict[str, float] = {}
    for number in range(max(len(own), -(-len(others) // len(names)))):
        part = others.iloc[number * len(names) : (number + 1) * len(names)].copy()
        part["category"] = names[: len(part)]
        counted = [(str(i), KINDS[name]) for i, name in zip(part["index"], names, strict=False)]
        one = own.iloc[number : number + 1]
        counted += [(str(index), MATHS) for index in one["index"]]
        file = directory / f"part-{number}.tsv"
        both = [rows.astype(object) for rows in (part, one) if len(rows)]
        _joined(both).to_csv(file, sep="\t", index=False)
        report = kit.evaluate(str(file))
        found |= {index: float(report[sums]) for index, sums in counted}
    return found if sum(found.values()) == right else {}


def _joined(parts: list[Any]) -> Any:
    import pandas as pd

    return pd.concat(parts)
