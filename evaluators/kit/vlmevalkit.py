"""VLMEvalKit's benchmarks: the questions, and what its metrics make of the answers.

What is known of VLMEvalKit stands here and in ``importing.py`` (how it is imported), ``tables.py``
(its datasets), ``metrics.py`` (how its metrics run) and ``headlines.py`` (what of their reports
counts); of its wrappers in ``kit_wrapper.py`` and beside it.
"""

import csv
import importlib.metadata
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any

from soup import holding
from soup.errors import BenchmarkError, ScoringError, SoupError
from soup.evaluators.kit.apart import outcomes_apart
from soup.evaluators.kit.finished import keep_table, packed
from soup.evaluators.kit.headlines import headline_rule, outcomes
from soup.evaluators.kit.importing import (
    INFER_FAIL_MSG,
    YOrN_Extraction,
    image_mcq,
    image_vqa,
    image_yorn,
    prefetch_answer,
    words,
)
from soup.evaluators.kit.judge import Judge
from soup.evaluators.kit.metrics import EXACT, judge_arguments
from soup.evaluators.kit.own_tables import GROUPS
from soup.evaluators.kit.shown import Shown
from soup.evaluators.kit.suites import benchmark_name
from soup.evaluators.kit.tables import find_dataset, is_circular
from soup.evaluators.models.placeholders import without_marks, without_placeholders
from soup.evaluators.models.wrapper import Message, Wrapper
from soup.evaluators.writing import writing

ASKS_A_JUDGE = (
    image_mcq.ImageMCQDataset,
    image_yorn.ImageYORNDataset,
    image_vqa.MathVista,
    image_vqa.MMVet,
)
"""Classes whose metric can ask a judge, or must."""


AS_TSV: dict[str, Any] = {"sep": "\t", "index": False, "quoting": csv.QUOTE_ALL}
"""How predictions are written: a line break of any kind, inside a cell, begins no new row."""


@dataclass(frozen=True)
class Outcome:
    """What ``evaluate`` made of the answers; fields as in ``soup.choosing.scoring.Result``."""

    value: float
    unparsed: float
    outcomes: dict[str, float]
    unjudged: int = 0


@dataclass(frozen=True)
class _Evaluation:
    """VLMEvalKit's report, the rows with their answers, and more as in ``Outcome``."""

    report: Any
    frame: Any
    outcomes: dict[str, float]
    unjudged: int


class Dataset:
    """One VLMEvalKit dataset, its prompts and its headline number."""

    def __init__(
        self,
        source: str,
        cache: Path,
        judge: Judge | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Find and build a dataset, and unpack its images; nothing is generated.

        Args:
            source: a VLMEvalKit name, or the path of a table in its format.
            cache: where images are unpacked, by content.
            judge: asked where VLMEvalKit's metric for this dataset can ask one.
            progress: called with the number of images unpacked, and of all.

        Raises:
            BenchmarkError: unknown, missing, not scorable; the message says what to do.
        """
        self.name = benchmark_name(source)
        found = find_dataset(source, self.name, judge)
        self.kit, self.file, self.own = found.kit, found.file, found.own
        self.judge = judge if isinstance(self.kit, ASKS_A_JUDGE) else None
        self.rule = headline_rule(self.kit, self.name)
        self.notes = list(self.own.notes) if self.own else []
        images = self._images = Shown(found, self.name, cache, progress)
        self.data_digest = images.digest
        self.files = images.files
        self.notes += images.notes
        self.kit.dump_image = images.paths
        if self.own is not None:
            self.kit.data["image"] = images.contents
        # Accepted answers of which one is enough, where the metric would take their mean.
        self._any_of = (
            self.own is not None and self.own.any_of and self.kit_name == f"GQA_{self.name}"
        )
        self._data = self.kit.data

    def __len__(self) -> int:
        return len(self._data)

    @property
    def settings(self) -> dict[str, Any]:
        """What, besides the model, decides the score."""
        return {
            "benchmark": self.name,
            "data": self.data_digest,
            "dataset": type(self.kit).__name__,
            "dataset_name": self.kit.dataset_name,
            "judge": self.judge.settings if self.judge else EXACT,
            "vlmeval": version(),
            **({"table": "words"} if self.own else {}),
        }

    @property
    def rows(self) -> Any:
        """The data, one row per question."""
        return self._data

    @property
    def kit_name(self) -> str:
        """VLMEvalKit's name for it, on which prompts and image settings of wrappers depend."""
        return str(self.kit.dataset_name)

    def messages(self, wrapper: Wrapper | None = None) -> list[Message]:
        """The questions, in the order of the data; images as paths.

        Args:
            wrapper: may have words of its own for this dataset; without one they are the dataset's.
        """
        build = self.kit.build_prompt
        if wrapper is not None and not getattr(self.kit, "force_use_dataset_prompt", False):
            wrapper.set_dump_image(self.kit.dump_image)
            if wrapper.use_custom_prompt(self.kit_name):
                build = partial(wrapper.build_prompt, dataset=self.kit_name)
        tokens = wrapper.image_tokens if wrapper and self.own else ()
        marked = []
        found = []
        for position in range(len(self)):
            row = self._data.iloc[position]
            asked = self._without_marks(row, position, tokens) if self.own else row
            message = self._message(position, build, asked)
            try:
                found.append(without_placeholders(message, tokens) if self.own else message)
            except ValueError as error:
                raise BenchmarkError(
                    f"{self.name}: the question of index {self.index_of(position)}: {error}"
                ) from error
            if asked is not row or found[-1] is not message:
                marked.append(position)
        if marked:
            self.notes.append(
                f"{self.name}: marks of images, as <image>, were taken out of {len(marked):,} "
                f"questions (the first: index {self.index_of(marked[0])})"
            )
        return found

    def _without_marks(self, row: Any, position: int, tokens: Sequence[str]) -> Any:
        """A user's row with one image, without what a model would take for another one."""
        assert self.own is not None
        if len(self.own.pictures[position]) > 1:
            return row  # each may stand for one of them
        changed = {
            name: clean
            for name in self.own.words
            if isinstance(text := row[name], str)
            and name not in ("index", "answer")
            and (clean := without_marks(text, tokens)) != text
        }
        if not changed:
            return row
        asked = row.copy()
        for name, text in changed.items():
            asked[name] = text
        return asked

    def _message(self, position: int, build: Callable[[Any], Message], row: Any) -> Message:
        """One question."""
        try:
            return build(row)
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise BenchmarkError(
                f"{self.name}: the question of index {self.index_of(position)} cannot be built "
                f"({text}); see {self.file}"
            ) from error

    def index_of(self, position: int) -> str:
        """A question's index, to read."""
        return str(self._data["index"].iloc[position])

    def evaluate(self, answers: Sequence[str], keep: Path) -> Outcome:
        """Score answers by ``dataset.evaluate``.

        Args:
            answers: one per question, in the order of ``messages``.
            keep: where to keep the predictions: a TSV, compressed, see ``finished.py``.

        Raises:
            ScoringError: an answer is missing, the metric gave no number, or the judge is gone.
        """
        if len(answers) != len(self):
            raise ScoringError(f"{self.name}: {len(answers)} answers for {len(self)} questions")
        failed = sum(INFER_FAIL_MSG in text for text in answers)
        if failed:  # its metrics would count them as wrong, and score a model that is down 0
            raise ScoringError(
                f"{self.name}: {failed} of {len(self)} questions got no answer from the model "
                f"({INFER_FAIL_MSG!r}); nothing is scored"
            )
        found = self._evaluate(self._data, answers, keep)
        value = float(self.rule(found.report))
        if self._any_of:
            value = 100 * fsum(found.outcomes.values()) / len(found.outcomes)
        return Outcome(value, self._unparsed(found.frame), found.outcomes, found.unjudged)

    def positions(self, samples: Sequence[str]) -> list[int]:
        """The questions behind some keys of an ``Outcome``'s outcomes, in order.

        One each; in a circular set all the rotations of each.

        Raises:
            ScoringError: a key is not one of this benchmark's.
        """
        keys = self._data["index"]
        if is_circular(self.kit_name):
            keys = self._data["g_index"] if "g_index" in self._data else keys % 1_000_000
        behind: dict[str, list[int]] = {sample: [] for sample in samples}
        for position, key in enumerate(keys):
            if str(key) in behind:
                behind[str(key)].append(position)
        for sample, found in behind.items():
            if not found:
                raise ScoringError(f"{self.name}: no question has the index {sample}")
        return sorted(position for found in behind.values() for position in found)

    def outcomes(self, positions: Sequence[int], answers: Sequence[str]) -> dict[str, float]:
        """How right the answers to some questions are, 0–1, by ``dataset.evaluate``.

        What it makes of them as a whole is no score, and thrown away.

        Args:
            positions: as ``positions`` gives them.
            answers: one for each of these.

        Raises:
            ScoringError: the metric failed.
        """
        return self._evaluate(self._data.iloc[list(positions)], answers).outcomes

    def _evaluate(
        self, data: Any, answers: Sequence[str], keep: Path | None = None
    ) -> "_Evaluation":
        """Have VLMEvalKit evaluate answers to these rows, one to each."""
        left_out = ["image", "image_path"] if self.own else ["image"]
        frame = data.drop(columns=left_out, errors="ignore").copy()
        frame["prediction"] = [_written(text) for text in answers]
        self.kit.data = data.copy()  # evaluate may change it
        asked, columns = frame, frozenset[str]()
        if self.own is not None:
            asked, columns = frame.drop(columns=list(GROUPS), errors="ignore"), self.own.words
            if isinstance(self.kit, image_vqa.OCRBench):
                asked = frame
        # A fresh directory with neutral names: evaluate reuses whatever lies beside its input.
        arguments, case = judge_arguments(self.judge)
        with (
            holding.scratch("soup-eval-") as fresh,
            words(columns) if self.own else nullcontext(),
        ):
            file = fresh / "predictions.tsv"
            with writing(file):
                asked.to_csv(file, **AS_TSV)
            try:
                report = self.kit.evaluate(str(file), **arguments)
            except SoupError:
                raise
            except Exception as error:
                # A part may have nothing of a kind that the report divides by (MMVet's do); the
                # outcomes are there before it.
                if keep is not None or not outcomes(fresh):
                    raise ScoringError(
                        f"{self.name}: VLMEvalKit's evaluate failed ({type(error).__name__}: "
                        f"{error})" + (f"; predictions are in {packed(keep)}" if keep else "")
                    ) from error
                report = None
            finally:
                if keep is not None:
                    files = [self._images.names(index) for index in frame["index"]]
                    keep_table(keep, frame.assign(image_files=files).to_csv(None, **AS_TSV))
            right = outcomes(fresh)
            if not right and isinstance(self.kit, image_vqa.OCRBench):
                right = outcomes_apart(self.kit, frame, fresh, report["Final Score"])
            if self._any_of:
                right = {index: float(value > 0) for index, value in right.items()}
            return _Evaluation(report, frame, right, case.unjudged if case else 0)

    def _unparsed(self, frame: Any) -> float:
        rows = frame.to_dict("records")
        if isinstance(self.kit, image_yorn.ImageYORNDataset):
            missed = sum(YOrN_Extraction(row["prediction"]) == "Unknown" for row in rows)
        elif isinstance(self.kit, image_mcq.ImageMCQDataset):
            missed = sum(not prefetch_answer(row) for row in rows)
        else:  # free text: whatever was said is the answer
            missed = sum(not row["prediction"].strip() for row in rows)
        return float(missed / len(rows))


def _written(answer: str) -> str:
    """An answer as a TSV can hold it: no tab, no NUL, no half of a character."""
    return answer.replace("\t", " ").replace("\0", "").encode(errors="replace").decode()


def version() -> str:
    """VLMEvalKit's version; its answer extraction changes between versions, so it is recorded."""
    for distribution in ("ms-vlmeval", "vlmeval"):
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "vlmeval (unknown version)"
