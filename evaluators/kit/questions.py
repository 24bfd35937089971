"""What VLMEvalKit's questions have in common, and how its metrics make a number of their outcomes.

Said once for each benchmark, for the statistics; see ``soup.choosing.questions``. Whoever reads it
checks each recorded number against it, so a metric that is not as it is said here is found out.
"""

import hashlib
from typing import Any

from soup.choosing.questions import Questions, Term
from soup.evaluators.kit.tables import is_circular

CATEGORIES = ("category", "l2-category", "capability", "split")
"""Columns that say what kind of question it is; the first that there is counts."""


def questions_of(dataset: Any) -> Questions:
    """Of one ``soup.evaluators.kit.vlmevalkit.Dataset``.

    Rotations of a question have one outcome, under its first row's index.
    """
    data = dataset.rows
    if is_circular(dataset.kit_name):
        firsts = data["g_index"] if "g_index" in data else data["index"] % 1_000_000
        data = data[data["index"] == firsts]
    keys = [str(index) for index in data["index"]]
    positive, negative = _yes_and_no(dataset.name, data, keys)
    return Questions(
        _images(data, keys), _categories(data, keys), _terms(dataset.name, keys, data), positive,
        negative,
    )  # fmt: skip


def _images(data: Any, keys: list[str]) -> dict[str, str]:
    """By question a name of its image's content; of its file, where the table only names one."""
    column = next((name for name in ("image", "image_path") if name in data), None)
    if column is None:
        return {}
    found = {}
    for key, image in zip(keys, data[column], strict=True):
        if isinstance(image, float):  # none
            continue
        text = image if isinstance(image, str) else "\n".join(map(str, image))
        found[key] = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return found


def _categories(data: Any, keys: list[str]) -> dict[str, str]:
    column = next((name for name in CATEGORIES if name in data), None)
    if column is None:
        return {}
    pairs = zip(keys, data[column], strict=True)
    return {key: str(kind) for key, kind in pairs if not isinstance(kind, float)}


def _terms(name: str, keys: list[str], data: Any) -> tuple[Term, ...]:
    if name.startswith("HallusionBench"):  # aAcc, fAcc, qAcc: each question, figure, set alike
        figures, questions = {}, {}
        for key, kind in zip(keys, data["l2-category"], strict=True):
            _, _, _, together, figure, question, *_ = [*key.split("_"), "", "", "", "", "", ""]
            figures[key] = f"{kind}_{together}_{figure}"
            questions[key] = f"{kind}_{together}_{question}"
        return (Term(1 / 3), Term(1 / 3, figures), Term(1 / 3, questions))
    if name == "MMMU_DEV_VAL" and "split" in data:
        pairs = zip(keys, data["split"], strict=True)
        return (Term(1.0, {key: key for key, split in pairs if split == "validation"}),)
    return (Term(),)


def _yes_and_no(name: str, data: Any, keys: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """POPE's F1 counts a question once for each of its categories."""
    if not name.startswith("POPE"):
        return {}, {}
    times = [float(len(str(kinds).split(","))) for kinds in data["category"]]
    rows = list(zip(keys, data["answer"], times, strict=True))
    yes = {key: many for key, answer, many in rows if answer == "Yes"}
    return yes, {key: many for key, answer, many in rows if answer != "Yes"}
