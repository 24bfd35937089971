"""VLMEvalKit: its datasets, prompts, metrics and headline numbers.

Only this file and ``metrics.py``, which it runs metrics by, know it.

Importing ``vlmeval`` turns gradients off, seeds torch, disables TLS checks, reconfigures logging
and sets environment variables, so this module is imported in a worker process only.
"""

import difflib
import hashlib
import importlib.metadata
import multiprocessing.dummy
import os
import shutil
import string
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from evaluators.judge import Judge
from evaluators.suites import ADD_A_JUDGE, NEEDS_JUDGE
from evaluators.workarounds import before_import
from evaluators.wrapper import Message, Wrapper
from soup.errors import BenchmarkError, ScoringError, SoupError

CHANGES_SCORES = (
    "VERBOSE",
    "USE_COT",
    "SPLIT_THINK",
    "SKIP_ERR",
    "PRED_FORMAT",
    "EVAL_FORMAT",
    "LOCAL_LLM",
    "FORCE_LOCAL",
    "PRINT_VANILLA",
)
"""Environment variables that change VLMEvalKit's prompts or scores: never taken from the user's."""


def _settle_environment() -> None:
    for name in CHANGES_SCORES:
        os.environ.pop(name, None)
    os.environ["PRED_FORMAT"] = "tsv"  # json is broken there, xlsx changes "=A" and cuts long text


_settle_environment()
before_import(importlib.metadata.version("transformers"))

import pandas as pd  # noqa: E402
import vlmeval.dataset as kit  # noqa: E402
from vlmeval.dataset import image_mcq, image_vqa, image_yorn  # noqa: E402
from vlmeval.dataset.utils import mathvista  # noqa: E402
from vlmeval.dataset.utils.multiple_choice import prefetch_answer  # noqa: E402
from vlmeval.dataset.utils.yorn import YOrN_Extraction  # noqa: E402
from vlmeval.smp import LMUDataRoot, md5  # noqa: E402
from vlmeval.smp.file import INFER_FAIL_MSG  # noqa: E402

from evaluators.metrics import ALIAS, EXACT, judge_arguments  # noqa: E402

_settle_environment()  # again: importing vlmeval reads a .env file of its own into the environment

# ImageVQADataset.evaluate forks 16 processes for string comparisons, and never ends them; a fork
# of a process that holds a model and threads can hang. Threads give the same results.
image_vqa.mp = multiprocessing.dummy

_read_csv = pd.read_csv

MISSING = ("", "nan", "NaN", "-nan", "-NaN", "<NA>", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN")
"""How tables spell a cell without a value. What pandas also takes for one, people write."""


def _read_csv_as_written(file: Any, *args: Any, **kwargs: Any) -> Any:
    """``pd.read_csv`` that loses no words: an option, answer or prediction may be "None" or "NA".

    Otherwise these come back as NaN: an option "None" vanishes from the prompt and from the
    choices, and one empty prediction turns a column of "7" into 7.0, all of them wrong. Every
    other cell, and every truly empty one, is read as VLMEvalKit reads it.
    """
    frame = _read_csv(file, *args, **kwargs)
    if kwargs == {"sep": "\t"} and not args:  # VLMEvalKit's way to load data and predictions
        _restore_words(frame, file)
    return frame


def _restore_words(frame: Any, file: Any) -> None:
    """Put the words back that reading took for missing values, in the columns that hold words."""
    gaps = [name for name in frame if _holds_words(name) and frame[name].isna().any()]
    said = [name for name in ("prediction", "res") if name in frame]  # "res": a judge's words
    if not gaps + said:
        return
    written = _read_csv(file, sep="\t", usecols=gaps + said, dtype=str, keep_default_na=False)
    for name in gaps:
        lost = frame[name].isna() & ~written[name].isin(MISSING)
        if lost.any():
            if frame[name].dtype != written[name].dtype:  # numbers, too: they stay as they are
                frame[name] = frame[name].astype(object)
            frame.loc[lost, name] = written.loc[lost, name]
    for name in said:  # all of it, the empty ones, too
        frame[name] = written[name]


def _holds_words(column: str) -> bool:
    """Options, questions and answers. In others (hint, category) a "None" does mean nothing."""
    return column in list(string.ascii_uppercase) or column.lower() in ("question", "answer")


pd.read_csv = _read_csv_as_written

METRIC_NAMES = ("TextVQA", "ChartQA", "OCRVQA", "GQA", "DocVQA", "InfoVQA")
"""Parts of a dataset's name by which VLMEvalKit chooses among its VQA metrics."""

CIRCULAR_NAMES = ("mmbench", "ccbench", "circular", "mmcr")
"""Parts of a dataset's name, in small letters, by which VLMEvalKit asks for all rotations."""

JUDGED_OTHERWISE = ("LLaVABench", "MathVerse", "MathVision", "WeMath", "MMDU")
"""Beginnings of names that need a judge and have no headline number that is known here."""

CIRCULAR = ("mmbench", "ccbench", "circular", "mmcr")
"""Parts of a dataset's name by which VLMEvalKit takes the rotations of a question together."""

Rule = Callable[[Any], float]


@dataclass(frozen=True)
class Outcome:
    """What ``evaluate`` made of the answers; fields as in ``soup.scoring.Result``."""

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

    def __init__(self, source: str, cache: Path, judge: Judge | None = None) -> None:
        """Find and build a dataset; nothing is generated.

        Args:
            source: a VLMEvalKit name, or the path of a TSV in its format.
            cache: where images are unpacked, by content.
            judge: asked where VLMEvalKit's metric for this dataset can ask one.

        Raises:
            BenchmarkError: unknown, missing, not scorable; the message says what to do.
        """
        is_path = source.endswith(".tsv") or os.sep in source
        build = _from_file if is_path else _by_name
        self.name = Path(source).stem if is_path else source
        _require_judge(self.name, judge)
        self.kit, self.file = build(source, self.name)
        self.judge = judge if isinstance(self.kit, ASKS_A_JUDGE) else None
        _require_usable(self.kit, self.name, source)
        self.rule = _headline_rule(self.kit, self.name)
        self.data_digest = _file_digest(self.file)
        if "image" in self.kit.data:
            # Images are unpacked once and never looked at again, so each content has its place.
            images = cache / "images" / self.data_digest[:16]
            images.mkdir(parents=True, exist_ok=True)
            self.kit.img_root = str(images)
        self._data = self.kit.data.copy()

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
        if any(part in self.kit_name.lower() for part in CIRCULAR):
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
            frame.to_csv(file, sep="\t", index=False)
            try:
                report = self.kit.evaluate(str(file), **arguments)
            except SoupError:
                raise
            except Exception as error:
                # A part may have nothing of a kind that the report divides by (MMVet's do); the
                # outcomes are there before it.
                if keep is not None or not _outcomes(Path(fresh)):
                    raise ScoringError(
                        f"{self.name}: VLMEvalKit's evaluate failed ({type(error).__name__}: "
                        f"{error})" + (f"; predictions are in {keep}" if keep else "")
                    ) from error
                report = None
            finally:
                if keep is not None:
                    keep.parent.mkdir(parents=True, exist_ok=True)
                    frame.to_csv(file, sep="\t", index=False)  # evaluate may rewrite its input
                    shutil.copyfile(file, keep)
            return _Evaluation(report, frame, _outcomes(Path(fresh)), case.unjudged if case else 0)

    def _unparsed(self, frame: Any) -> float:
        rows = [frame.iloc[k] for k in range(len(frame))]
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


def _by_name(source: str, name: str) -> tuple[Any, Path]:
    if name not in kit.SUPPORTED_DATASETS and not (_data_root() / f"{name}.tsv").is_file():
        close = difflib.get_close_matches(name, kit.SUPPORTED_DATASETS, 3, 0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise BenchmarkError(
            f"{name}: not a VLMEvalKit benchmark, and no {name}.tsv in {_data_root()}{hint}"
        )
    _require_kind(kit.DATASET_MODALITY(name), name)
    file = _data_root() / f"{name}.tsv"
    if name not in kit.SUPPORTED_DATASETS:
        return _from_file(str(file), name)
    _require_same_file(file, name)
    try:
        dataset = kit.build_dataset(name)
    except Exception as error:
        raise BenchmarkError(
            f"{name}: no usable {file}, and it could not be downloaded "
            f"({' '.join(str(error).split())[:120]}); put the TSV there, or name it by its path"
        ) from error
    if dataset is None:
        raise BenchmarkError(f"{name}: VLMEvalKit cannot build it")
    return dataset, Path(getattr(dataset, "data_path", file))


def _from_file(source: str, name: str) -> tuple[Any, Path]:
    """A user's own TSV, by the class of VLMEvalKit that fits its columns."""
    file = Path(source).absolute()
    if not file.is_file():
        raise BenchmarkError(f"{source}: no such file; expected a TSV in VLMEvalKit's format")
    try:
        head = _read_csv(
            file,
            sep="\t",
            usecols=lambda c: c != "image",
            dtype=str,
            keep_default_na=False,
            na_values=list(MISSING),
        )
    except (ValueError, OSError) as error:
        raise BenchmarkError(f"{source}: not a readable TSV ({error})") from error
    for column in ("index", "question", "answer"):
        if column not in head:
            raise BenchmarkError(
                f"{source}: no column {column!r}; expected index, image, question, answer and, "
                f"for multiple choice, A, B, …; found {', '.join(head.columns[:8])}"
            )
    if not len(head):
        raise BenchmarkError(f"{source}: no question in it")
    known = _kit_class(name)
    _require_kind(getattr(known, "MODALITY", "IMAGE"), name)
    cls, kit_name = (known, name) if known else _class_for(head, name)
    with tempfile.TemporaryDirectory(prefix="soup-lmu-") as root:
        # VLMEvalKit finds data by name in one directory: give it one with just this file.
        os.symlink(file, Path(root) / f"{kit_name}.tsv")
        before = os.environ.get("LMUData")
        os.environ["LMUData"] = root
        # Of another file than the one it knows, VLMEvalKit would download its own in the place.
        expected = cls.DATASET_MD5.pop(kit_name, None)
        try:
            dataset = cls(dataset=kit_name)
        except Exception as error:
            raise BenchmarkError(
                f"{source}: VLMEvalKit cannot read it ({type(error).__name__}: {error})"
            ) from error
        finally:
            if expected is not None:
                cls.DATASET_MD5[kit_name] = expected
            if before is None:
                del os.environ["LMUData"]
            else:
                os.environ["LMUData"] = before
    if known is None:
        _register(cls, kit_name)
    if cls is image_vqa.ImageVQADataset and known is None:
        # VLMEvalKit takes a list of accepted answers; a single one is a list of one.
        answers = head["answer"].loc[dataset.data.index]  # questions without their image are gone
        dataset.data["answer"] = [_as_list(text) for text in answers]
    return dataset, file


def _kit_class(name: str) -> Any:
    """VLMEvalKit's class for one of its own benchmarks; None for any other name."""
    if name not in kit.SUPPORTED_DATASETS:  # those that were registered here are not its own
        return None
    return next((cls for cls in kit.DATASET_CLASSES if name in cls.supported_datasets()), None)


def _register(kind: Any, kit_name: str) -> None:
    """Tell VLMEvalKit of what kind a user's table is: wrappers choose their words by that.

    It knows kinds by name, and takes names that it does not know for multiple choice. Of two
    tables of one name the one that came last counts.
    """
    for other in (image_yorn.ImageYORNDataset, image_vqa.ImageVQADataset, image_vqa.OCRBench):
        if kit_name not in kit.SUPPORTED_DATASETS:
            other.DATASET_URL.pop(kit_name, None)
    if kind is not image_mcq.CustomMCQDataset:
        kind.DATASET_URL.setdefault(kit_name, "")


def _require_same_file(file: Path, name: str) -> None:
    """Refuse a file that VLMEvalKit would overwrite, because it is not the one that it knows."""
    expected = getattr(_kit_class(name), "DATASET_MD5", {}).get(name)
    if expected is None or not file.is_file():
        return
    found = md5(str(file))
    if found != expected:
        raise BenchmarkError(
            f"{name}: {file} is not the file that VLMEvalKit knows (md5 expected {expected}, found "
            f"{found}); delete it to have that one downloaded, or use this one by its path"
        )


def _class_for(head: Any, name: str) -> tuple[Any, str]:
    """VLMEvalKit's class for a TSV's columns, and the name under which its metric fits.

    Options mean multiple choice; answers that are all Yes or No, a yes/no set; anything else short
    answers, compared exactly (its GQA metric) unless the file's name chooses another.
    """
    if "A" in head and "B" in head:
        return image_mcq.CustomMCQDataset, name
    if name.startswith("OCRBench") and "category" in head:
        return image_vqa.OCRBench, name
    if set(head["answer"].dropna().unique()) <= {"Yes", "No"}:
        return image_yorn.ImageYORNDataset, name
    named = any(metric.lower() in name.lower() for metric in METRIC_NAMES)
    return image_vqa.ImageVQADataset, name if named else f"GQA_{name}"


def _as_list(text: Any) -> str:
    text = str(text)
    return text if text.startswith("[") and text.endswith("]") else repr([text])


def _data_root() -> Path:
    named = os.environ.get("LMUData")
    if named and not os.path.isdir(named):
        raise BenchmarkError(f"LMUData={named}: no such directory (VLMEvalKit would ignore it)")
    return Path(LMUDataRoot())


def _require_usable(dataset: Any, name: str, source: str) -> None:
    _require_kind(getattr(dataset, "MODALITY", "IMAGE"), name)
    if getattr(dataset, "TYPE", "") == "MT":
        raise BenchmarkError(f"{name}: a multi-turn benchmark; expected one question per sample")
    data = getattr(dataset, "data", None)
    if data is None or not len(data):
        raise BenchmarkError(f"{source}: no question in it")
    if data["index"].duplicated().any():
        twice = data["index"][data["index"].duplicated()].iloc[0]
        raise BenchmarkError(f"{source}: index {twice} stands twice; expected one row per index")
    if isinstance(dataset, image_mcq.CustomMCQDataset):
        _require_whole_groups(dataset, source)


def _require_whole_groups(dataset: Any, source: str) -> None:
    """A circular set asks each question in several rotations; those without the first are lost."""
    if not any(part in dataset.dataset_name.lower() for part in CIRCULAR_NAMES):
        return
    index = dataset.data["index"]
    if not pd.api.types.is_integer_dtype(index):
        raise BenchmarkError(
            f"{source}: its name makes it a circular benchmark, whose index must be whole numbers "
            f"(rotations of n are n + 1000000 …); found {index.iloc[0]!r}"
        )
    groups = dataset.data["g_index"] if "g_index" in dataset.data else index % 1_000_000
    alone = sorted(set(groups) - set(index))
    if alone:
        raise BenchmarkError(
            f"{source}: {len(alone)} question(s) of this circular benchmark have rotations but no "
            f"first row, so would not be scored; expected a row with index {alone[0]}"
        )


def _require_kind(modality: str, name: str) -> None:
    if modality not in ("IMAGE", "TEXT"):
        raise BenchmarkError(f"{name}: a {modality.lower()} benchmark; expected one of images")


def _require_judge(name: str, judge: Judge | None) -> None:
    if name in NEEDS_JUDGE and judge is None:
        raise BenchmarkError(f"{name}: scored by a judge model; {ADD_A_JUDGE}")
    if name.startswith(JUDGED_OTHERWISE):
        raise BenchmarkError(
            f"{name}: scored by a judge model, in a way that is not known here; leave it out"
        )


# --- headline numbers ----------------------------------------------------------------------


def _headline_rule(dataset: Any, name: str) -> Rule:
    """How a benchmark's report becomes its one number, 0–100; scales differ, so none is guessed.

    Raises:
        BenchmarkError: no rule is known.
    """
    kind = type(dataset)
    if kind is image_vqa.OCRBench and _kit_class(name):
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
            return lambda report: 100 * _overall(report, name)
        if kind in (image_yorn.ImageYORNDataset, image_vqa.ImageVQADataset):
            return lambda report: _overall(report, name)
    raise BenchmarkError(
        f"{name}: which of its numbers is the headline is not known here; expected a multiple "
        "choice, yes/no or short-answer benchmark, OCRBench, HallusionBench, POPE, MMMU_DEV_VAL, "
        "MathVista or MMVet"
    )


ASKS_A_JUDGE = (
    image_mcq.ImageMCQDataset,
    image_yorn.ImageYORNDataset,
    image_vqa.MathVista,
    image_vqa.MMVet,
)
"""Classes whose metric can ask a judge, or must."""


def _plain(kind: Any) -> bool:
    base = image_mcq.ImageMCQDataset
    return kind.evaluate is base.evaluate and kind.evaluate_heuristic is base.evaluate_heuristic


def _hallusion(report: Any) -> float:
    return sum(_cell(report, "split", "Overall", key) for key in ("aAcc", "fAcc", "qAcc")) / 3


def _overall(report: Any, name: str) -> float:
    """The ``Overall`` column of a report with one row."""
    if len(report) != 1:
        splits = sorted(map(str, report["split"])) if "split" in report else []
        raise ScoringError(
            f"{name}: one overall score expected, found one for each of {', '.join(splits)}; "
            "give one split per TSV"
        )
    return float(report["Overall"].iloc[0])


def _cell(report: Any, column: str, value: str, key: str) -> float:
    rows = report[report[column] == value]
    if len(rows) != 1:
        raise ScoringError(f"expected one row {column}={value} in the report, found {len(rows)}")
    return float(rows[key].iloc[0])


def _outcomes(directory: Path) -> dict[str, float]:
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


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
