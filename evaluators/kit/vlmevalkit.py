"""VLMEvalKit's benchmarks: the questions, and what its metrics make of the answers.

What is known of VLMEvalKit stands here and in ``importing.py`` (how it is imported), ``tables.py``
(its datasets), ``metrics.py`` (how its metrics run) and ``headlines.py`` (what of their reports
counts); of its wrappers in ``kit_wrapper.py`` and beside it.
"""

import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from soup.errors import BenchmarkError, ScoringError, SoupError
from soup.evaluators.kit.apart import outcomes_apart
from soup.evaluators.kit.headlines import headline_rule, outcomes
from soup.evaluators.kit.images import digest_of_linked, file_digest, linked, unpack
from soup.evaluators.kit.importing import (
    INFER_FAIL_MSG,
    YOrN_Extraction,
    image_mcq,
    image_vqa,
    image_yorn,
    prefetch_answer,
)
from soup.evaluators.kit.judge import Judge
from soup.evaluators.kit.metrics import EXACT, judge_arguments
from soup.evaluators.kit.tables import find_dataset, is_circular
from soup.evaluators.models.wrapper import Message, Wrapper
from soup.evaluators.writing import write_whole, writing

ASKS_A_JUDGE = (
    image_mcq.ImageMCQDataset,
    image_yorn.ImageYORNDataset,
    image_vqa.MathVista,
    image_vqa.MMVet,
)
"""Classes whose metric can ask a judge, or must."""


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
            source: a VLMEvalKit name, or the path of a TSV in its format.
            cache: where images are unpacked, by content.
            judge: asked where VLMEvalKit's metric for this dataset can ask one.
            progress: called with the number of images unpacked, and of all.

        Raises:
            BenchmarkError: unknown, missing, not scorable; the message says what to do.
        """
        is_path = source.endswith(".tsv") or os.sep in source
        self.name = Path(source).stem if is_path else source
        self.kit, self.file = find_dataset(source, self.name, judge)
        self.judge = judge if isinstance(self.kit, ASKS_A_JUDGE) else None
        self.rule = headline_rule(self.kit, self.name)
        self.data_digest = file_digest(self.file)
        self.files = [os.path.abspath(self.file)]
        if "image" in self.kit.data:
            # Images are unpacked once and never looked at again, so each content has its place.
            place = cache / "images" / self.data_digest[:16]
            unpack(self.kit, self.name, place, progress)
        elif "image_path" in self.kit.data:
            both = f"{self.data_digest} {digest_of_linked(self.kit, self.name)}"
            self.data_digest = hashlib.sha256(both.encode()).hexdigest()
            self.files += sorted({os.path.abspath(file) for _, file in linked(self.kit)})
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
        try:
            return [build(self._data.iloc[k]) for k in range(len(self))]
        except (AssertionError, KeyError, ValueError, OSError) as error:
            raise BenchmarkError(
                f"{self.name}: a prompt cannot be built from {self.file} "
                f"({type(error).__name__}: {error}); is the TSV complete?"
            ) from error

    def evaluate(self, answers: Sequence[str], keep: Path) -> Outcome:
        """Score answers by ``dataset.evaluate``.

        Args:
            answers: one per question, in the order of ``messages``.
            keep: where to keep the predictions, as TSV.

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
        frame = data.drop(columns="image", errors="ignore").copy()
        frame["prediction"] = [text.replace("\t", " ").replace("\0", "") for text in answers]
        self.kit.data = data.copy()  # evaluate may change it
        # A fresh directory with neutral names: evaluate reuses whatever lies beside its input.
        arguments, case = judge_arguments(self.judge)
        with tempfile.TemporaryDirectory(prefix="soup-eval-") as fresh:
            file = Path(fresh) / "predictions.tsv"
            with writing(file):
                frame.to_csv(file, sep="\t", index=False)
            try:
                report = self.kit.evaluate(str(file), **arguments)
            except SoupError:
                raise
            except Exception as error:
                # A part may have nothing of a kind that the report divides by (MMVet's do); the
                # outcomes are there before it.
                if keep is not None or not outcomes(Path(fresh)):
                    raise ScoringError(
                        f"{self.name}: VLMEvalKit's evaluate failed ({type(error).__name__}: "
                        f"{error})" + (f"; predictions are in {keep}" if keep else "")
                    ) from error
                report = None
            finally:
                if keep is not None:
                    write_whole(keep, lambda path: frame.to_csv(path, sep="\t", index=False))
            found = outcomes(Path(fresh))
            if not found and isinstance(self.kit, image_vqa.OCRBench):
                found = outcomes_apart(self.kit, frame, Path(fresh), report["Final Score"])
            return _Evaluation(report, frame, found, case.unjudged if case else 0)

    def _unparsed(self, frame: Any) -> float:
        rows = frame.to_dict("records")
        if isinstance(self.kit, image_yorn.ImageYORNDataset):
            missed = sum(YOrN_Extraction(row["prediction"]) == "Unknown" for row in rows)
        elif isinstance(self.kit, image_mcq.ImageMCQDataset):
            missed = sum(not prefetch_answer(row) for row in rows)
        else:  # free text: whatever was said is the answer
            missed = sum(not row["prediction"].strip() for row in rows)
        return float(missed / len(rows))


def version() -> str:
    """VLMEvalKit's version; its answer extraction changes between versions, so it is recorded."""
    for distribution in ("ms-vlmeval", "vlmeval"):
        try:
            return f"{distribution} {importlib.metadata.version(distribution)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "vlmeval (unknown version)"
