"""Small data sets of our own in the format, and under the names, of VLMEvalKit's benchmarks.

Each has answers to go with it, and the headline number that they are worth.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEElEQVR4nGNgGAWjYBQMBgAAAggAAWq3nS4AAAAASUVORK5CYII="  # noqa: E501
WORDS = ("lorry", "parrot", "teapot")


class SmallSet(NamedTuple):
    """Rows with the columns that VLMEvalKit's class reads, and an answer to each.

    `value` is the headline number, 0–100: with a judge where the name needs one, else without.
    """

    kind: str
    rows: list[dict[str, Any]]
    answers: list[str]
    value: float

    def write(self, path: Path) -> Path:
        """As the TSV that VLMEvalKit would read."""
        columns = [{"index": k, "image": IMAGE, **row} for k, row in enumerate(self.rows)]
        pd.DataFrame(columns).to_csv(path, sep="\t", index=False)
        return path


def choice(answer: str, words: tuple[str, ...] = WORDS, **more: Any) -> dict[str, Any]:
    """A multiple-choice row."""
    options = dict(zip("ABC", words, strict=True))
    return {"question": "What is this?", **options, "answer": answer, **more}


def rolled(groups: int) -> list[dict[str, Any]]:
    """Questions as MMBench asks them: once for each order of the options, the right one moving."""
    rows = []
    for roll in range(3):
        for k in range(groups):
            words = WORDS[-roll:] + WORDS[:-roll]
            extra = {"split": "dev", "category": "attribute_reasoning", "l2-category": "x"}
            rows.append(choice("ABC"[roll], words, index=k + 1_000_000 * roll, **extra))
    return rows


def hallusion(figure: int, question: int, answer: str) -> dict[str, Any]:
    """A row of HallusionBench, whose index holds set, figure and question."""
    index = f"VD_illusion_1_0_{figure}_{question}"
    row = {"index": index, "question": "Is it so?", "answer": answer}
    return {**row, "category": "VD", "l2-category": "illusion"}


def math(kind: str, answer: str, option: str = "", choices: str = "") -> dict[str, Any]:
    """A row of MathVista."""
    question = "How many are there?" + (f"\nChoices: {choices}" if choices else "")
    return {
        "question": question,
        "answer": answer,
        "answer_option": option,
        "choices": choices,
        "question_type": "multi_choice" if choices else "free_form",
        "answer_type": kind,
        "task": "figure question answering",
        "skills": "['arithmetic reasoning']",
    }


def vet(answer: str, category: str) -> dict[str, Any]:
    """A row of MM-Vet."""
    return {"question": "What does it say?", "answer": answer, "category": category}


def ocr(answer: str, category: str) -> dict[str, Any]:
    """A row of OCRBench."""
    return {"question": "What is written?", "answer": repr([answer]), "category": category}


SETS = {
    "MMBench_DEV_EN": SmallSet(
        "ImageMCQDataset",
        rolled(3),
        # the second is wrong in one order, the third says nothing in one
        ["A", "A", "A", "B", "C", "the second", "C", "C", "C."],
        100 / 3,
    ),
    "MMStar": SmallSet(
        "ImageMCQDataset",
        [choice("ABC"[k % 3], category="c", l2_category="l") for k in range(4)],
        ["A", "a parrot, I think", "the third", "B"],
        50.0,
    ),
    "AI2D_TEST": SmallSet(
        "ImageMCQDataset", [choice("B") for _ in range(4)], ["B", "B.", "(B)", "second"], 75.0
    ),
    "MMMU_DEV_VAL": SmallSet(
        "MMMUDataset",
        [choice("A", split="dev") for _ in range(2)]
        + [choice("A", split="validation") for _ in range(4)]
        + [{"question": "How many? <image 1>", "answer": "7", "split": "validation"}],
        ["A", "A", "A", "B", "first", "C", "7"],
        40.0,
    ),
    "HallusionBench": SmallSet(
        "ImageYORNDataset",
        [hallusion(f, q, "Yes") for f in (0, 1) for q in (0, 1)],
        ["Yes", "yes.", "Yes, it is", "hardly"],
        (75 + 50 + 50) / 3,
    ),
    "MathVista_MINI": SmallSet(
        "MathVista",
        [
            math("integer", "14"),
            math("integer", "14"),
            math("float", "1.5"),
            math("text", "cat", "B", "['dog', 'cat', 'cow']"),
            math("integer", "3"),
        ],
        ["14", "There are 14 of them.", "It is 1.6 in all", "I should say (B) cat", "No idea"],
        60.0,
    ),
    "MMVet": SmallSet(
        "MMVet",
        [vet("apple", "rec,know,gen"), vet("open", "ocr,math"), vet("left", "spat")],
        ["an apple", "other", "hmm"],
        100 * (1.0 + 0.3 + 0.0) / 3,
    ),
    "OCRBench": SmallSet(
        "OCRBench",
        [
            ocr("stop", "Regular Text Recognition"),
            ocr("12", "Doc-oriented VQA"),
            ocr("x", "Key Information Extraction"),
        ],
        ["STOP", "12 pages", "none of it"],
        0.2,
    ),
}
"""By name; those of the POINTS table."""
