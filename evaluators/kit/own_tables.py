"""A user's own table as VLMEvalKit will see it: words, answers that can be compared, images.

Here a table's columns get VLMEvalKit's names, its kind is found (multiple choice, yes/no, short
answers), answers are brought into the form that the metric of that kind compares with, and what
could never count is an error that names its row. Every other word stays as it is written.
"""

import ast
import json
import os
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from soup.errors import BenchmarkError
from soup.evaluators.kit.table_files import Cell, Table

KNOWN = ("index", "image", "image_path", "question", "answer", "hint", "category", "l2-category",
         "split", "g_index")  # fmt: skip
"""Columns that VLMEvalKit reads, besides the options."""

TAKEN = ("prediction", "hit", "log", "score", "extracted", "gt", "res", "tmp_flag", "eval_gt",
         "eval_pred", "eval_match", "eval_score")  # fmt: skip
"""Columns that its metrics write: a user's of that name would stand in their way."""

GROUPS = ("category", "l2-category")
"""Columns that only make parts of its report, which nobody sees; one of them may be "Overall"."""

NOTHING = ("", "None", "none", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "<NA>", "#N/A")
"""How a hint says that there is none; in any other column these are words."""

TEXT = 1_000_000
"""Characters of a question, an option or an answer, at most."""

IMAGES = 256
"""Of one question, at most."""

_IMAGE_FILE = re.compile(r"[^\n]{1,1000}\.(png|jpe?g|jfif|webp|bmp|gif|tiff?|jp2|avif)", re.I)
_DATA_URI = re.compile(r"data:(image/[\w.+-]+)?(;[\w=.+-]+)*;base64,", re.I)


@dataclass(frozen=True)
class Picture:
    """An image as a table holds it: ``data``, base64, or ``path``, as written."""

    data: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class OwnTable:
    """A user's table, read.

    Attributes:
        frame: one row per question, words or NaN where nothing stands; ``index`` is of whole
            numbers, if all of them are, else of words. No image is in it.
        pictures: the images of each question.
        kind: ``choice``, ``yes/no`` or ``short``.
        any_of: whether a question has several accepted answers.
        notes: what was read otherwise than it is written, for people.
    """

    frame: Any
    pictures: list[list[Picture]]
    kind: str
    any_of: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def words(self) -> frozenset[str]:
        """The columns that hold words."""
        whole = pd.api.types.is_integer_dtype(self.frame["index"])
        return frozenset(self.frame.columns) - ({"index", "g_index"} if whole else {"g_index"})


def understand(table: Table, source: str) -> OwnTable:
    """What a table asks.

    Args:
        table: as it is written.
        source: how the user called it.

    Raises:
        BenchmarkError: a column is missing, or a row would not count; the message names it.
    """
    names = _columns(table.columns, source)
    cells = {
        name: [row[k] for row in table.rows] for k, name in enumerate(names) if name is not None
    }
    _require_columns(cells, table.columns, source)
    if not table.rows:
        raise BenchmarkError(f"{source}: no question in it")
    where = _where(cells["index"], table.places)
    notes = list(table.notes)
    texts = {
        name: _texts(column, name, where, source)
        for name, column in cells.items()
        if name not in ("image", "image_path", "answer")
    }
    _require_filled(texts, ["index", "question"], where, source)
    pictures = _pictures(cells, where, source)
    letters = [name for name in texts if name in string.ascii_uppercase]
    answers, kind, any_of = _answers(cells["answer"], texts, letters, where, source, notes)
    frame = pd.DataFrame({name: _with_gaps(column) for name, column in texts.items()}
                         | {"answer": answers})  # fmt: skip
    frame["index"] = _index(texts["index"])
    if "g_index" in frame:
        frame["g_index"] = _group_index(texts["g_index"], where, source)
    if "hint" in frame:
        frame["hint"] = frame["hint"].mask(frame["hint"].isin(NOTHING))
    _tell_spelled_gaps(texts, letters, source, notes)
    return OwnTable(frame, pictures, kind, any_of, notes)


# --- columns -------------------------------------------------------------------------------


def _columns(written: Sequence[str], source: str) -> list[str | None]:
    """Names as VLMEvalKit spells them; None for a column that is left out."""
    stripped = [name.strip() for name in written]
    lower = {name.lower() for name in stripped}
    small = {"a", "b"} <= lower and not {"A", "B"} & set(stripped)  # options in small letters
    names: list[str | None] = []
    for name in stripped:
        found: str | None = name.lower() if name.lower() in KNOWN else name
        if small and len(name) == 1 and name in string.ascii_lowercase:
            found = name.upper()
        if not name or name.lower() in TAKEN:
            found = None
        if found is not None and found in names:
            raise BenchmarkError(f"{source}: two columns are called {found!r}")
        names.append(found)
    return names


def _require_columns(cells: Mapping[str, Any], written: Sequence[str], source: str) -> None:
    linked = "image_path" in cells and "image" not in cells
    for column in ("index", "question", "answer", "image_path" if linked else "image"):
        if column not in cells:
            shown = ", ".join(name[:40] for name in written[:8])
            raise BenchmarkError(
                f"{source}: no column {column!r}; expected index, image, question, answer and, "
                f"for multiple choice, A, B, …; found {shown}"
            )
    letters = [name for name in cells if name in string.ascii_uppercase]
    if letters and not {"A", "B"} <= set(letters):
        raise BenchmarkError(
            f"{source}: multiple choice needs columns A and B at least; found {letters[0]}"
        )
    together = next((n for n in cells if n.lower() in ("options", "choices", "candidates")), None)
    if together and not letters and any(cells[together]):
        raise BenchmarkError(
            f"{source}: its options stand together in one column {together!r}; expected a column "
            "for each: A, B, …"
        )


def _where(index: Sequence[Cell], places: Sequence[str]) -> Callable[[int], str]:
    """What a row is called in a message: its index, or its place where it has none."""

    def named(row: int) -> str:
        found = index[row]
        return f"index {found[:80]}" if isinstance(found, str) and found else (
            f"data row {row + 1} ({places[row]})"
        )  # fmt: skip

    return named


def _texts(
    column: Sequence[Cell], name: str, where: Callable[[int], str], source: str
) -> list[str]:
    for row, cell in enumerate(column):
        if not isinstance(cell, str):
            raise BenchmarkError(f"{source}: {where(row)}: its {name} is a list; expected one text")
        if len(cell) > TEXT:
            raise BenchmarkError(
                f"{source}: {where(row)}: its {name} has {len(cell):,} characters; expected "
                f"{TEXT:,} at most"
            )
        if "\0" in cell:
            raise BenchmarkError(f"{source}: {where(row)}: its {name} holds a NUL character")
    return list(column)  # type: ignore[arg-type]


def _require_filled(
    texts: Mapping[str, Sequence[str]],
    names: Sequence[str],
    where: Callable[[int], str],
    source: str,
) -> None:
    """VLMEvalKit would fail on a gap when everything has been answered, or count it as wrong."""
    for name in [*names, *(name for name in (*GROUPS, "split") if name in texts)]:
        for row, text in enumerate(texts[name]):
            if not text.strip():
                raise _incomplete(source, where(row), name)


def _incomplete(source: str, row: str, column: str) -> BenchmarkError:
    return BenchmarkError(
        f"{source}: {row} has no {column}; fill it in, or leave the row (or the column) out"
    )


def _with_gaps(column: Sequence[str]) -> list[Any]:
    return [text if text.strip() else float("nan") for text in column]


def _index(texts: Sequence[str]) -> list[Any]:
    """Whole numbers, if every one is written as Python would; else the words."""
    if all(re.fullmatch(r"0|-?[1-9]\d{0,17}", text) for text in texts):
        return [int(text) for text in texts]
    return list(texts)


def _group_index(texts: Sequence[str], where: Callable[[int], str], source: str) -> list[int]:
    for row, text in enumerate(texts):
        if not re.fullmatch(r"-?\d{1,18}", text.strip()):
            raise BenchmarkError(
                f"{source}: {where(row)}: its g_index is {text[:40]!r}; expected a whole number"
            )
    return [int(text) for text in texts]


def _tell_spelled_gaps(
    texts: Mapping[str, Sequence[str]], letters: Sequence[str], source: str, notes: list[str]
) -> None:
    spelled = sum(text in ("nan", "NaN", "<NA>") for name in letters for text in texts[name])
    if spelled:
        notes.append(
            f"{source}: {spelled:,} options read 'nan', and are shown; leave a cell empty where "
            "there is no option"
        )


# --- answers -------------------------------------------------------------------------------


def _answers(
    column: Sequence[Cell],
    texts: Mapping[str, Sequence[str]],
    letters: Sequence[str],
    where: Callable[[int], str],
    source: str,
    notes: list[str],
) -> tuple[list[str], str, bool]:
    """The answers in the form that is compared, the kind of table, whether there are several."""
    for row, cell in enumerate(column):
        if not cell or not "".join(cell).strip():
            raise _incomplete(source, where(row), "answer")
    if letters:
        found = []
        for row, cell in enumerate(column):
            options = {name: texts[name][row] for name in letters if texts[name][row].strip()}
            found.append(_letter(cell, options, f"{source}: {where(row)}"))
        changed = [row for row, cell in enumerate(column) if found[row] != cell]
        if changed:
            notes.append(
                f"{source}: {len(changed):,} answers are not written as their option's letter "
                f"(the first: {where(changed[0])}, {str(column[changed[0]])[:40]!r}, read as "
                f"{found[changed[0]]})"
            )
        return found, "choice", False
    plain = [cell.strip().lower() if isinstance(cell, str) else None for cell in column]
    yes_no = [row for row, text in enumerate(plain) if text in ("yes", "no")]
    if len(yes_no) == len(plain):
        return [str(text).capitalize() for text in plain], "yes/no", False
    if 2 * len(yes_no) > len(plain):
        other = next(row for row in range(len(plain)) if row not in set(yes_no))
        notes.append(
            f"{source}: asked for short answers, not for yes or no, because the answer of "
            f"{where(other)} is {str(column[other])[:40]!r}"
        )
    elif all(text in ("true", "false") for text in plain):
        notes.append(
            f"{source}: answers are true or false: asked and compared as short answers, in "
            "capitals or not"
        )
    accepted = [_accepted(cell) for cell in column]
    for row, words in enumerate(accepted):
        if any(len(word) > TEXT or "\0" in word for word in words):
            raise BenchmarkError(
                f"{source}: {where(row)}: an answer of more than {TEXT:,} characters, or with NUL"
            )
    several = [
        row for row, words in enumerate(accepted) if len({w.strip().lower() for w in words}) > 1
    ]
    if several:
        notes.append(
            f"{source}: {len(several):,} questions have several accepted answers (the first: "
            f"{where(several[0])}); one of them is enough"
        )
    return [repr(words) for words in accepted], "short", bool(several)


def _letter(cell: Cell, options: Mapping[str, str], where: str) -> str:
    """The letter of the option that an answer means."""
    answer = cell[0] if isinstance(cell, list) and len(cell) == 1 else cell
    if not options:
        raise BenchmarkError(
            f"{where} has no options, and the answer {str(cell)[:40]!r}; expected options in every "
            "row: an open question belongs into a table of its own"
        )
    if isinstance(answer, list):
        raise _several(where, answer)
    if answer in options:
        return answer
    bare = answer.strip()
    texts = {letter: text.strip() for letter, text in options.items()}
    meant = {letter for letter, text in texts.items() if text == bare} or {
        letter for letter, text in texts.items() if text.casefold() == bare.casefold()
    }
    alone = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]?", bare)
    if alone and alone[1].upper() in options:
        meant |= {alone[1].upper()}
    led = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]+\s*(.+)", bare, re.S)
    if led and texts.get(led[1].upper(), "").casefold() == led[2].strip().casefold():
        meant |= {led[1].upper()}
    if len(meant) == 1:
        return meant.pop()
    if len(meant) > 1:
        raise BenchmarkError(
            f"{where}: the answer {bare[:40]!r} may mean {' or '.join(sorted(meant))}; expected "
            "the option's letter"
        )
    parts = [part for part in re.split(r"[\s,;/|&+'\"\[\]]+", bare.upper()) if part]
    if len(parts) > 1 and set(parts) <= set(options):
        raise _several(where, parts)
    source, _, row = where.rpartition(": ")
    raise BenchmarkError(
        f"{source}: the answer of {row} is {answer[:80]!r}; expected one of its options, "
        f"{', '.join(options)} (or the option's text)"
    )


def _several(where: str, answers: Sequence[str]) -> BenchmarkError:
    return BenchmarkError(
        f"{where}: its answer names several options ({', '.join(answers)[:60]}); expected one"
    )


def _accepted(cell: Cell) -> list[str]:
    """The answers that count as right: those of a list of texts, else the cell itself.

    As often as they stand there: VQA's score counts how many people gave an answer.
    """
    found = cell if isinstance(cell, list) else _list(cell)
    return list(found) if found else [str(cell)]


def _list(text: str) -> list[str] | None:
    """The texts of a list in Python's or JSON's spelling; None where it is none."""
    bare = text.strip()
    if not (bare.startswith("[") and bare.endswith("]")) or len(bare) > 1 << 30:
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(bare)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and found and all(isinstance(item, str) for item in found):
            return found
    return None


# --- images --------------------------------------------------------------------------------


def _pictures(
    cells: Mapping[str, Sequence[Cell]], where: Callable[[int], str], source: str
) -> list[list[Picture]]:
    """The images of every row; a short cell names another row that has one."""
    rows = range(len(cells["index"]))
    column, linked = cells.get("image"), cells.get("image_path")
    held: dict[Cell, int] = {}
    if column is not None:
        held = {
            cells["index"][row]: row for row in rows if isinstance(cells["index"][row], str)
            and len(column[row]) > 64
        }  # fmt: skip
    found = []
    for row in rows:
        cell = column[row] if column is not None else ""
        if isinstance(cell, str) and 0 < len(cell.strip()) <= 64 and cell.strip() in held:
            assert column is not None
            cell = column[held[cell.strip()]]
        items = _items(cell)
        made = [_picture(item, f"{source}: {where(row)}") for item in items]
        if not made and linked is not None:
            made = [_link(item, f"{source}: {where(row)}") for item in _items(linked[row])]
        if not made:
            raise _incomplete(source, where(row), "image" if column is not None else "image_path")
        if len(made) > IMAGES:
            raise BenchmarkError(
                f"{source}: {where(row)} has {len(made)} images; expected {IMAGES} at most"
            )
        found.append(made)
    return found


def _items(cell: Cell) -> list[str]:
    items = cell if isinstance(cell, list) else _list(cell) or [cell]
    return [item.strip() for item in items if item.strip()]


def _picture(item: str, where: str) -> Picture:
    uri = _DATA_URI.match(item[:200])
    if uri:
        return Picture(data=item[uri.end() :])
    _require_local(item, where)
    if _IMAGE_FILE.fullmatch(item[:2000]):
        return _link(item, where)
    if len(item) <= 64:
        raise BenchmarkError(
            f"{where}: its image, {item!r}, is neither base64 nor the index of a row that has one; "
            "for an image's path the column is image_path"
        )
    return Picture(data=item)


def _link(item: str, where: str) -> Picture:
    _require_local(item, where)
    path = item.removeprefix("file://")
    if "\0" in path or len(path) > 4096:
        raise BenchmarkError(f"{where}: its image_path is no path ({path[:40]!r}…)")
    return Picture(path=path)


def _require_local(item: str, where: str) -> None:
    if re.match(r"(?i)[a-z][a-z0-9+.-]{1,9}://", item) and not item.startswith("file://"):
        raise BenchmarkError(
            f"{where}: its image is an address ({item[:80]}), and nothing is downloaded; download "
            "it, and name the file in a column image_path"
        )
    if item[:5].lower() == "data:":
        raise BenchmarkError(
            f"{where}: its image is a data: URI without base64; expected data:image/…;base64,…"
        )


def resolve(picture: Picture, folder: Path) -> Path:
    """Where a path in a table leads: from the table's own folder, else from where we are."""
    assert picture.path is not None
    beside = folder / picture.path
    # A name may be too long for any file, which is an error to Path.
    return beside if os.path.exists(beside) else Path(picture.path).absolute()
