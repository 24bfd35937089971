"""Benchmarks as VLMEvalKit's dataset objects: its own by name, a user's TSV by what is in it."""

import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from soup.errors import BenchmarkError
from soup.evaluators.kit.importing import (
    MISSING,
    LMUDataRoot,
    image_mcq,
    image_vqa,
    image_yorn,
    kit,
    md5,
    read_csv,
)
from soup.evaluators.kit.judge import Judge
from soup.evaluators.kit.own_tables import OwnTable, understand
from soup.evaluators.kit.regular import Unreadable, read_regular
from soup.evaluators.kit.suites import ADD_A_JUDGE, NEEDS_JUDGE, is_table
from soup.evaluators.kit.table_files import BYTES, read_table
from soup.words import closest, either

METRIC_NAMES = ("TextVQA", "ChartQA", "OCRVQA", "GQA", "DocVQA", "InfoVQA")
"""Parts of a dataset's name by which VLMEvalKit chooses among its VQA metrics."""

CIRCULAR_NAMES = ("mmbench", "ccbench", "circular", "mmcr")
"""Parts of a dataset's name, in small letters, by which VLMEvalKit asks for all rotations."""

OCRBENCH_CATEGORIES = (
    "Regular Text Recognition",
    "Irregular Text Recognition",
    "Artistic Text Recognition",
    "Handwriting Recognition",
    "Digit String Recognition",
    "Non-Semantic Text Recognition",
    "Scene Text-centric VQA",
    "Doc-oriented VQA",
    "Key Information Extraction",
    "Handwritten Mathematical Expression Recognition",
)
"""Its metric counts right answers in these, and fails on any other."""

JUDGED_OTHERWISE = ("LLaVABench", "MathVerse", "MathVision", "WeMath", "MMDU")
"""Beginnings of names that need a judge and have no headline number that is known here."""


@dataclass(frozen=True)
class Found:
    """A benchmark.

    Attributes:
        kit: VLMEvalKit's dataset object.
        file: where it was read from.
        own: the user's table behind it; None for a benchmark of VLMEvalKit's.
        content: the bytes of the user's table.
    """

    kit: Any
    file: Path
    own: OwnTable | None = None
    content: bytes = b""


def find_dataset(source: str, name: str, judge: Judge | None) -> Found:
    """A benchmark's dataset object, and its file.

    Args:
        source: a VLMEvalKit name, or the path of a table.
        name: the benchmark's.
        judge: the one that there is; some benchmarks need one.

    Raises:
        BenchmarkError: unknown, missing, or nothing that can be asked; the message says what to do.
    """
    if not name.strip("."):
        raise BenchmarkError(
            f"{source!r}: no benchmark; expected a VLMEvalKit name, or the path of a TSV"
        )
    _require_judge(name, judge)
    found = (_from_file if is_table(source) else _by_name)(source, name)
    _require_usable(found, name, source)
    return found


def is_circular(kit_name: str) -> bool:
    """Whether VLMEvalKit takes the rotations of a question together."""
    return any(part in kit_name.lower() for part in CIRCULAR_NAMES)


def _by_name(source: str, name: str) -> Found:
    if name not in kit.SUPPORTED_DATASETS and not (_data_root() / f"{name}.tsv").is_file():
        close = closest(name, kit.SUPPORTED_DATASETS)
        hint = f"; did you mean {either(close)}?" if close else ""
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
            f"({_line(error)}); put the TSV there, or name it by its path"
        ) from error
    if dataset is None:
        raise BenchmarkError(f"{name}: VLMEvalKit cannot build it")
    return Found(dataset, Path(getattr(dataset, "data_path", file)))


def _from_file(source: str, name: str) -> Found:
    """A user's own table, by the class of VLMEvalKit that fits its columns."""
    file = Path(source).absolute()
    known = kit_class(name)
    if known is not None and file.suffix.lower() == ".tsv":
        return Found(_from_known(known, file, source, name), file)
    table, content = read_table(file, source)
    own = understand(table, source)
    cls, kit_name = _class_for(own, name)
    dataset = _made(cls, kit_name, own.frame, source)
    _register(cls, kit_name)
    return Found(dataset, file, own, content)


def _made(cls: Any, kit_name: str, frame: Any, source: str) -> Any:
    """VLMEvalKit's object of a class, with our data in the place of a file's."""
    loading = type(cls.__name__, (cls,), {"load_data": lambda self, dataset: frame.copy()})
    try:
        dataset = loading(dataset=kit_name)
    except Exception as error:
        raise BenchmarkError(
            f"{source}: VLMEvalKit cannot read it ({type(error).__name__}: {_line(error)})"
        ) from error
    dataset.__class__ = cls
    dataset.data["index"] = list(frame["index"])  # it takes 0x1 for a number
    dataset.meta_only = False  # it asks for images by their question
    return dataset


def _from_known(cls: Any, file: Path, source: str, name: str) -> Any:
    """A file under the name of one of VLMEvalKit's benchmarks: read as that is."""
    try:
        content = read_regular(file, BYTES)
        columns = list(read_csv(io.BytesIO(content), sep="\t", nrows=0).columns)
        head = read_csv(
            io.BytesIO(content), sep="\t", usecols=lambda c: c != "image", dtype=str,
            keep_default_na=False, na_values=list(MISSING),
        )  # fmt: skip
    except Unreadable as why:
        raise BenchmarkError(f"{source}: {why}; expected a TSV in VLMEvalKit's format") from why
    except (ValueError, OSError) as error:
        raise BenchmarkError(
            f"{source}: not a readable TSV ({_line(error)}); expected tab-separated UTF-8"
        ) from error
    linked = "image_path" in columns and "image" not in columns
    for column in ("index", "question", "answer", "image_path" if linked else "image"):
        if column not in columns:
            raise BenchmarkError(
                f"{source}: no column {column!r}; expected the columns of VLMEvalKit's {name}; "
                f"found {', '.join(columns[:8])}"
            )
    if not len(head):
        raise BenchmarkError(f"{source}: no question in it")
    for index in head["index"]:  # of a large table VLMEvalKit makes files of these names
        if pd.notna(index) and ("/" in index or index.startswith(".")):
            raise BenchmarkError(f"{source}: index {index!r} is part of a path; expected a word")
    _require_kind(getattr(cls, "MODALITY", "IMAGE"), name)
    with tempfile.TemporaryDirectory(prefix="soup-lmu-") as root:
        # VLMEvalKit finds data by name in one directory: give it one with just this file.
        os.symlink(file, Path(root) / f"{name}.tsv")
        before = os.environ.get("LMUData")
        os.environ["LMUData"] = root
        # Of another file than the one it knows, VLMEvalKit would download its own in the place.
        expected = cls.DATASET_MD5.pop(name, None)
        try:
            return cls(dataset=name)
        except Exception as error:
            text = _line(error) or "an image is neither base64 nor the index of a row that has one"
            raise BenchmarkError(
                f"{source}: VLMEvalKit cannot read it ({type(error).__name__}: {text})"
            ) from error
        finally:
            if expected is not None:
                cls.DATASET_MD5[name] = expected
            if before is None:
                del os.environ["LMUData"]
            else:
                os.environ["LMUData"] = before


def kit_class(name: str) -> Any:
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
    expected = getattr(kit_class(name), "DATASET_MD5", {}).get(name)
    if expected is None or not file.is_file():
        return
    found = md5(str(file))
    if found != expected:
        raise BenchmarkError(
            f"{name}: {file} is not the file that VLMEvalKit knows (md5 expected {expected}, found "
            f"{found}); delete it to have that one downloaded, or use this one by its path"
        )


def _class_for(own: OwnTable, name: str) -> tuple[Any, str]:
    """VLMEvalKit's class for a table's kind, and the name under which its metric fits.

    Short answers are compared exactly (its GQA metric) unless the file's name chooses another.
    """
    if own.kind == "choice":
        return image_mcq.CustomMCQDataset, name
    if name.startswith("OCRBench") and "category" in own.frame:
        other = sorted(set(own.frame["category"]) - set(OCRBENCH_CATEGORIES))
        if other:
            raise BenchmarkError(
                f"{name}: OCRBench has no category {other[0]!r}; expected one of "
                f"{', '.join(OCRBENCH_CATEGORIES)}; or choose a name that does not begin with it"
            )
        return image_vqa.OCRBench, name
    if own.kind == "yes/no":
        return image_yorn.ImageYORNDataset, name
    named = any(metric.lower() in name.lower() for metric in METRIC_NAMES)
    return image_vqa.ImageVQADataset, name if named else f"GQA_{name}"


def _line(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200]


def _data_root() -> Path:
    named = os.environ.get("LMUData")
    if named and not os.path.isdir(named):
        raise BenchmarkError(f"LMUData={named}: no such directory (VLMEvalKit would ignore it)")
    return Path(LMUDataRoot())


def _require_usable(found: Found, name: str, source: str) -> None:
    dataset = found.kit
    _require_kind(getattr(dataset, "MODALITY", "IMAGE"), name)
    if getattr(dataset, "TYPE", "") == "MT":
        raise BenchmarkError(f"{name}: a multi-turn benchmark; expected one question per sample")
    data = getattr(dataset, "data", None)
    if data is None or not len(data):
        raise BenchmarkError(f"{source}: no question in it")
    if data["index"].duplicated().any():
        twice = data["index"][data["index"].duplicated()].iloc[0]
        raise BenchmarkError(f"{source}: index {twice} stands twice; expected one row per index")
    if "answer" not in data or data["answer"].isna().all():
        raise BenchmarkError(
            f"{name}: it has no answers to compare with; expected a split whose answers are public"
        )
    if found.own is None:
        _require_kept_index(data, source)
    if isinstance(dataset, image_mcq.CustomMCQDataset):
        _require_whole_groups(dataset, source)


def _require_kept_index(data: Any, source: str) -> None:
    """Predictions are kept in a TSV, which VLMEvalKit reads again in its own way."""
    written = io.StringIO()
    data[["index"]].to_csv(written, sep="\t", index=False)
    written.seek(0)
    for index, again in zip(data["index"], read_csv(written, sep="\t")["index"], strict=True):
        if index != again:
            raise BenchmarkError(
                f"{source}: index {index!r} is read back from a TSV as {again!r}; expected whole "
                "numbers, or words"
            )


def _require_whole_groups(dataset: Any, source: str) -> None:
    """A circular set asks each question in several rotations; those without the first are lost."""
    if not is_circular(dataset.dataset_name):
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
