"""Answers that are kept beside results: what was asked, what was said. Read without pandas."""

import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from soup.choosing.journal import Journal
from soup.choosing.naming import keys_of_runs
from soup.choosing.scoring import result_key
from soup.evaluators.kit.finished import Pruned, prune, rows_of, table_of


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
        JournalError: they are not there any more, or damaged.
    """
    images = work / "cache" / "images" / str(settings.get("data", ""))[:32]
    rows = rows_of(table_of(work, result_key(blend, benchmark)))
    return {row["index"]: _answer(row, images) for row in rows}


def prune_answers(work: Path, runs: int) -> Pruned:
    """Delete the answers of all results but those of the newest runs; no result is lost.

    Args:
        work: the directory of journal and caches.
        runs: how many runs keep theirs. What was answered since the newest of them began stays,
            too, whether or not it is recorded yet; with 0 nothing stays.

    Raises:
        JournalError: the journal cannot be read, or a file not be deleted.
    """
    journal = Journal.open(work, create=False)
    newest = journal.last_run()
    since = None
    if newest is not None and runs:
        since = datetime.fromisoformat(newest[0]["time"]).timestamp()
    return prune(work, keys_of_runs(journal, runs), since)


def _answer(row: Mapping[str, str], images: Path) -> Answer:
    options = {k: v for k, v in row.items() if k in string.ascii_uppercase and len(k) == 1 and v}
    words = [row.get(name, "") for name in ("question", "answer", "prediction")]
    return Answer(row["index"], words[0], options, words[1], words[2], _image(row, images))


def _image(row: Mapping[str, str], images: Path) -> str:
    """Files of a row that are still there: those that were unpacked, or that the table names."""
    named = row.get("image_files") or ""
    return " ".join(str(images / name) for name in named.split("\n") if (images / name).is_file())
