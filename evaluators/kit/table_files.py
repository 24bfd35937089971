"""A user's table, whatever kind of file it is: columns and cells, every cell as it was written.

TSV and CSV (UTF-8, or UTF-16 with a mark), JSON Lines, JSON, Parquet, XLSX. No cell is taken for a
number, a date or for nothing: ``1.10``, ``007`` and ``None`` are words. What is not clear (a quote
that does not close, a number that Excel shows in a format of its own) is an error that names the
row, never a guess.
"""

import base64
import csv
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soup.errors import BenchmarkError
from soup.evaluators.kit.regular import Unreadable, read_regular

BYTES = 8 << 30
"""Of a table's file, at most."""
ROWS = 1_000_000
"""Of a table, at most."""
COLUMNS = 1_000
"""Of a table, at most."""
CELL = 512 << 20
"""Characters of one cell, at most; images are in cells."""

Cell = str | list[str]
"""A list only where the format has lists: JSON, Parquet."""


@dataclass(frozen=True)
class Table:
    """What stands in a file.

    Attributes:
        columns: their names as written.
        rows: their cells, as many as columns; an empty one is ``""``.
        places: where each row begins, for people, e.g. ``line 7``.
        notes: what a user should know of how it was read.
    """

    columns: list[str]
    rows: list[list[Cell]]
    places: list[str]
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, source: str) -> tuple[Table, bytes]:
    """A table, and the bytes that it was read from.

    Args:
        path: its file; the end of its name says what kind it is.
        source: how the user called it.

    Raises:
        BenchmarkError: it cannot be read, or not without guessing; the message names the row.
    """
    try:
        content = read_regular(path, BYTES)
    except Unreadable as why:
        raise BenchmarkError(
            f"{source}: {why}; expected a TSV in VLMEvalKit's format (or {OTHERS})"
        ) from why
    kind = path.suffix.lower()
    if kind not in READERS:
        raise BenchmarkError(f"{source}: expected a TSV in VLMEvalKit's format (or {OTHERS})")
    try:
        table = READERS[kind](content, source)
    except BenchmarkError:
        raise
    except Exception as error:  # of a library that reads the format
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise BenchmarkError(
            f"{source}: not a readable {kind[1:].upper()} ({text}); a TSV would do, too"
        ) from error
    _require_bounds(table, source)
    return table, content


def _require_bounds(table: Table, source: str) -> None:
    for count, most, what in (
        (len(table.rows), ROWS, "rows"),
        (len(table.columns), COLUMNS, "columns"),
    ):
        if count > most:
            raise BenchmarkError(f"{source}: {count:,} {what}; expected {most:,} at most")


# --- lines of text -------------------------------------------------------------------------


def _text(content: bytes, source: str) -> str:
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # Excel's "Unicode text"
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BenchmarkError(
            f"{source}: line {line} is not UTF-8 (found the byte 0x{content[error.start]:02x}, as "
            "Latin-1 and Windows files have); expected tab-separated UTF-8: save it so"
        ) from error


def _tsv(content: bytes, source: str) -> Table:
    return _delimited(_text(content, source), "\t", source)


def _csv(content: bytes, source: str) -> Table:
    text = _text(content, source)
    head = text[:10_000].partition("\n")[0]
    return _delimited(text, max(",;\t", key=head.count), source)  # Excel's, in half of Europe: ;


def _delimited(text: str, delimiter: str, source: str) -> Table:
    rows: list[list[Cell]] = []
    lines: list[int] = []
    columns: list[str] = []
    broken: list[int] = []
    for line, last, cells in _records(text, delimiter, source):
        if not any(cells):
            continue  # an empty line, or one of Excel's of delimiters alone
        if not columns:
            columns = cells
            continue
        _require_whole(cells, columns, delimiter, source, line, last)
        rows.append(_fitted(cells, len(columns)))
        lines.append(line)
        if last > line:
            broken.append(line)
        if len(rows) > ROWS:
            break
    if not columns:
        raise BenchmarkError(f"{source}: no columns in it: the file is empty")
    notes = []
    if broken:
        notes.append(
            f"{source}: {len(rows):,} rows in {last - 1:,} lines, because cells of "
            f"{len(broken):,} rows hold line breaks (the first begins in line {broken[0]})"
        )
    return Table(columns, rows, [f"line {line}" for line in lines], notes)


def _fitted(cells: Sequence[str], count: int) -> list[Cell]:
    """Cells that are missing at the end of a row are empty."""
    return [*cells[:count], *[""] * (count - len(cells))]


def _records(
    text: str, delimiter: str, source: str
) -> Iterator[tuple[int, int, list[str]]]:  # fmt: skip
    """Each record's first and last line, and its cells."""
    csv.field_size_limit(CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _unclosed(text, delimiter, source, line, str(error)) from error
        yield line, reader.line_num, cells


def _unclosed(text: str, delimiter: str, source: str, line: int, why: str) -> BenchmarkError:
    if "larger than field limit" in why:
        return BenchmarkError(f"{source}: line {line}: a cell of more than {CELL:,} characters")
    start = io.StringIO(text, newline="").readlines()[line - 1][:40].partition(delimiter)[0].strip()
    return BenchmarkError(
        f"{source}: in the row that begins in line {line} ({start!r}) a cell begins with a quote "
        "that does not close at its end; expected it doubled inside a quoted cell "
        '("""Stop"" is it?"), or no quote at the beginning'
    )


def _require_whole(
    cells: Sequence[str],
    columns: Sequence[str],
    delimiter: str,
    source: str,
    line: int,
    last: int,
) -> None:
    """Refuse a row with cells too many, or with other rows inside a cell."""
    where = f"{source}: the row that begins in line {line} ({cells[0][:40]!r})"
    for cell in cells if last > line else ():
        if _holds_rows(cell, len(columns), delimiter) or len(cells) < len(columns):
            raise BenchmarkError(
                f"{where} goes on until line {last}, as if other rows stood in its cell "
                f"{cell[:30]!r}; expected a quote that closes where the cell ends"
            )
    if any(cells[len(columns) :]):
        raise BenchmarkError(
            f"{where} has {len(cells)} cells; expected {len(columns)}, one for each column"
        )


def _holds_rows(cell: str, columns: int, delimiter: str) -> bool:
    """Whether a cell looks like the end of one row and the beginning of another, or more."""
    breaks = cell.replace("\r\n", "\n").count("\n")
    count = cell.count(delimiter)
    if not breaks or columns < 3:
        return False
    if delimiter == "\t":  # nobody types a tab
        return count >= columns - 1
    pieces = cell.splitlines()[1:]
    return count == breaks * (columns - 1) and all(
        piece.partition(delimiter)[0].strip().isdigit() for piece in pieces
    )


# --- records of JSON and of Parquet --------------------------------------------------------


def _jsonl(content: bytes, source: str) -> Table:
    found, places = [], []
    for number, line in enumerate(_text(content, source).split("\n"), 1):
        if line.strip():
            found.append(_json(line, source, f"line {number}"))
            places.append(f"line {number}")
    return _from_records(found, places, source)


def _json_list(content: bytes, source: str) -> Table:
    found = _json(_text(content, source), source, "it")
    if not isinstance(found, list):
        raise BenchmarkError(f"{source}: expected a JSON list of questions")
    return _from_records(found, [f"question {k + 1}" for k in range(len(found))], source)


def _json(text: str, source: str, place: str) -> Any:
    try:  # numbers stay as they are written
        return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", "too deep")
        raise BenchmarkError(f"{source}: {place} is no JSON ({why})") from error


def _from_records(records: Sequence[Any], places: list[str], source: str) -> Table:
    columns: dict[str, None] = {}
    for record, place in zip(records, places, strict=True):
        if not isinstance(record, Mapping):
            raise BenchmarkError(f"{source}: {place} is no object; expected one per question")
        columns.update(dict.fromkeys(record))
    rows = [
        [_cell(record.get(name), f"{source}: {place}, {name}") for name in columns]
        for record, place in zip(records, places, strict=True)
    ]
    return Table(list(columns), rows, places)


def _cell(value: Any, where: str) -> Cell:
    """A value as a word; a list as a list of words, an image's bytes as base64."""
    if isinstance(value, (list, tuple)):
        made = [_cell(item, where) for item in value]
        return [item if isinstance(item, str) else repr(item) for item in made]
    if isinstance(value, Mapping):  # as the datasets library stores an image
        held = value.get("bytes") or value.get("path")
        if not isinstance(held, (bytes, str)) or set(value) - {"bytes", "path"}:
            raise BenchmarkError(f"{where}: found an object; expected text, or a list of texts")
        return _cell(held, where)
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return value if isinstance(value, str) else str(value)


def _parquet(content: bytes, source: str) -> Table:
    parquet = _library("pyarrow.parquet", "pyarrow", source)
    file = parquet.ParquetFile(io.BytesIO(content))
    count, names = file.metadata.num_rows, file.schema_arrow.names
    if count > ROWS or file.metadata.num_row_groups > ROWS:
        raise BenchmarkError(f"{source}: {count:,} rows; expected {ROWS:,} at most")
    size = sum(file.metadata.row_group(k).total_byte_size for k in range(file.num_row_groups))
    if size > BYTES:
        raise BenchmarkError(f"{source}: {size:,} bytes unpacked; expected {BYTES:,} at most")
    if len(set(names)) < len(names):
        raise BenchmarkError(f"{source}: two columns have one name")
    records = file.read().to_pylist()
    table = _from_records(records, [f"row {k + 1}" for k in range(len(records))], source)
    # Python's names of arrow's types, which stand for numbers and dates whose writing is lost.
    lost = [
        column.name
        for column in file.schema_arrow
        if re.match(r"half|float|double|date|time|bool", str(column.type))
    ]
    if lost:
        table.notes.append(
            f"{source}: {', '.join(lost[:5])}: not text but {file.schema_arrow.field(lost[0]).type}"
            ": asked and compared as Python writes it (1.1, never 1.10); save it as text where "
            "that matters"
        )
    return table


# --- cells of a sheet ----------------------------------------------------------------------


def _xlsx(content: bytes, source: str) -> Table:
    openpyxl = _library("openpyxl", "openpyxl", source)
    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        if sum(part.file_size for part in parts.infolist()) > BYTES:
            raise BenchmarkError(f"{source}: more than {BYTES:,} bytes unpacked")
    book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    sheet = book.worksheets[0]
    columns: list[str] = []
    rows: list[list[Cell]] = []
    places: list[str] = []
    for number, line in enumerate(sheet.iter_rows(), 1):
        cells = [_shown(cell, f"{source}: row {number}, column {k + 1}", columns[k : k + 1])
                 for k, cell in enumerate(line)]  # fmt: skip
        if not any(cells):
            continue
        if not columns:
            columns = cells
            continue
        rows.append(_fitted(cells, len(columns)))
        places.append(f"row {number}")
        if len(rows) > ROWS:
            break
    others = [other.title for other in book.worksheets[1:]]
    notes = [f"{source}: its first sheet, {sheet.title}, is read"] if others else []
    return Table(columns, rows, places, notes)


def _shown(cell: Any, where: str, column: Sequence[str]) -> str:
    """A sheet's cell as Excel shows it, where that is certain."""
    value = cell.value
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool):
        return str(value).upper()
    style = str(cell.number_format)
    if isinstance(value, (int, float)) and style in ("General", "@", "0"):
        if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
            return str(int(value))
        if style != "0":
            return repr(value)
    name = f" ({column[0]})" if column else ""
    raise BenchmarkError(
        f"{where}{name}: a number or a date that Excel shows in a format of its own ({style}); "
        "format the column as text and type it again, or save the sheet as a TSV"
    )


def _library(module: str, package: str, source: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BenchmarkError(
            f"{source}: {package} is not installed here; install it, or save the table as a TSV"
        ) from error


READERS: Mapping[str, Callable[[bytes, str], Table]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".json": _json_list,
    ".parquet": _parquet,
    ".xlsx": _xlsx,
}
"""By the end of a file's name."""

OTHERS = ", ".join(kind[1:].upper() for kind in READERS if kind != ".tsv")
