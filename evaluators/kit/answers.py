"""Answers that are kept beside results: what was asked, what was said. Read without pandas."""

import csv
import gzip
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup.choosing.scoring import result_key
from soup.errors import JournalError

FIELD = 1 << 24  # characters of the longest field that is read


@dataclass(frozen=True)
class Answer:
    """One question and what a model said.

    Attributes:
        index: of the question.
        question: its words.
        options: by letter, where there are any.
        expected: the answer in the data.
        said: the model's.
        image: its file, where one is kept; several are named one after another.
    """

    index: str
    question: str
    options: Mapping[str, str]
    expected: str
    said: str
    image: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "options": dict(self.options)}


def kept_answers(
    work: Path, blend: str, benchmark: str, settings: Mapping[str, Any]
) -> dict[str, Answer]:
    """By index, the answers of a result.

    Args:
        work: the directory of journal and caches.
        blend: its digest.
        benchmark: its digest.
        settings: the result's, which say where its images are.

    Raises:
        JournalError: they are not there any more.
    """
    key = result_key(blend, benchmark)[:16]
    file = work / "predictions" / f"{key}.tsv"
    packed = file.with_name(f"{file.name}.gz")
    images = work / "cache" / "images" / str(settings.get("data", ""))[:16]
    csv.field_size_limit(FIELD)
    try:
        with gzip.open(packed, "rt", newline="") if packed.exists() else file.open(newline="") as f:
            rows = list(csv.DictReader(f, delimiter="\t"))
    except OSError as error:
        raise JournalError(
            f"{file}: the answers are not there ({error.strerror}); they were pruned, or scored in "
            "another --work"
        ) from error
    return {row["index"]: _answer(row, images) for row in rows}


def _answer(row: Mapping[str, str], images: Path) -> Answer:
    options = {k: v for k, v in row.items() if k in string.ascii_uppercase and len(k) == 1 and v}
    words = [row.get(name, "") for name in ("question", "answer", "prediction")]
    return Answer(row["index"], words[0], options, words[1], words[2], _image(row, images))


def _image(row: Mapping[str, str], images: Path) -> str:
    named = row.get("image_path", "")
    for file in (images / f"{row['index']}.png", images / named if named else images):
        if file.is_file():
            return str(file)
    several = sorted(images.glob(f"{row['index']}_[0-9]*.png"))
    return " ".join(map(str, several)) or named
