"""Mistakes in a benchmark's name or table that can be told at once, before anything is imported.

Of a table only the first line is read. What it takes VLMEvalKit to know is left to it.
"""

import csv
import importlib.metadata
import os
from collections.abc import Iterable
from pathlib import Path

from soup.errors import BenchmarkError
from soup.evaluators.kit.known_names import NAMES, VERSION, VIDEO
from soup.evaluators.kit.suites import SUITES, TABLES, is_table
from soup.words import closest, either, shown

HEAD = 1 << 20
"""Bytes of a table that are looked at, at most: its first line is shorter."""

PACKAGE = "ms-vlmeval"


def require_sources(sources: Iterable[str]) -> None:
    """Names that VLMEvalKit knows, and tables that are there, with the columns they need.

    Raises:
        BenchmarkError: one is not; the message says what was meant, perhaps, or what is missing.
    """
    for source in sources:
        if is_table(source):
            _require_table(source)
        else:
            _require_name(source)


def _require_table(source: str) -> None:
    file = Path(source)
    if not file.is_file():
        found = "found a directory" if file.is_dir() else "no such file"
        raise BenchmarkError(
            f"{source}: {found}; expected a TSV in VLMEvalKit's format{_meant(file)}"
        )
    try:
        with file.open("rb") as stream:
            head = stream.read(HEAD)
    except OSError as error:
        raise BenchmarkError(f"{source}: cannot be read: {error.strerror}") from error
    if not head:
        raise BenchmarkError(f"{source}: no question in it; the file is empty")
    if file.suffix.lower() == ".tsv" and file.stem not in NAMES:
        _require_columns(source, head)


def _require_columns(source: str, head: bytes) -> None:
    line = head.partition(b"\n")[0]
    try:
        first = line.decode("utf-8-sig").rstrip("\r")
    except UnicodeDecodeError:
        return  # perhaps UTF-16; who reads it whole says so
    if "\0" in first:
        return
    written = [name.strip() for name in next(csv.reader([first], delimiter="\t"), [])]
    columns = {name.lower() for name in written}
    for wanted in ("index", "question", "answer", "image"):
        if wanted in columns or (wanted == "image" and "image_path" in columns):
            continue
        hint = ""
        if len(written) == 1 and "," in first:
            hint = "; is it separated by commas? Then call it .csv"
        raise BenchmarkError(
            f"{source}: no column {wanted!r}; expected index, image, question, answer and, "
            f"for multiple choice, A, B, …; found {', '.join(shown(n, 40) for n in written[:8])}"
            f"{hint}"
        )


def _meant(file: Path) -> str:
    """What a path that is not there may have been meant to be."""
    try:
        beside = [p.name for p in file.parent.iterdir() if p.suffix.lower() in TABLES]
    except OSError:
        return ""
    close = [str(file.parent / name) for name in closest(file.name, beside)]
    return f"; did you mean {either(close)}?" if close else ""


def _require_name(name: str) -> None:
    if name in NAMES or not name.strip("."):
        return
    if name in VIDEO:
        raise BenchmarkError(f"{name}: a video benchmark; expected one of images")
    if name in SUITES:
        raise BenchmarkError(f"{name}: a suite, not a benchmark; name it with --suite {name}")
    try:
        version = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return
    if version != VERSION or _has_table(name):
        return
    close = closest(name, NAMES)
    hint = f"did you mean {either(close)}?" if close else "expected e.g. MMStar, or a TSV's path"
    raise BenchmarkError(
        f"{name}: not a benchmark of VLMEvalKit, and no {name}.tsv in {_data()}; {hint}"
    )


def _data() -> Path:
    """Where VLMEvalKit looks for tables."""
    named = os.environ.get("LMUData", "")
    return Path(named) if os.path.isdir(named) else Path.home() / "LMUData"


def _has_table(name: str) -> bool:
    return (_data() / f"{name}.tsv").is_file()
