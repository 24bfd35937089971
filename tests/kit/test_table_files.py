"""Kinds of files, and what is odd about people's: every cell arrives as it was written."""

import base64
import csv
import io
import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soup.errors import BenchmarkError, SoupError
from soup.evaluators.kit.regular import Unreadable, read_regular
from tests.kit.own_tables import CHOICE, SHORT, lines, write
from tests.kit.small_sets import IMAGE

table_files = pytest.importorskip("soup.evaluators.kit.table_files")
vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")

WORDS = ["1.10", "007", "1e3", "None"]


def read(file: Path) -> Any:
    """A table."""
    return table_files.read_table(file, file.name)[0]


def save(file: Path, rows: list[list[str]], encoding: str = "utf-8", **how: Any) -> Path:
    """A table, quoted where it must be."""
    stream = io.StringIO(newline="")
    csv.writer(stream, **{"delimiter": "\t", "lineterminator": "\n", **how}).writerows(rows)
    file.write_bytes(stream.getvalue().encode(encoding))
    return file


# --- as people have them -----------------------------------------------------------------------

SHAPES: dict[str, Any] = {
    "plain.tsv": {},
    "bom.tsv": {"encoding": "utf-8-sig"},
    "crlf.tsv": {"lineterminator": "\r\n"},
    "old-mac.tsv": {"lineterminator": "\r"},
    "utf16.tsv": {"encoding": "utf-16"},
    "all-quoted.tsv": {"quoting": csv.QUOTE_ALL},
    "comma.csv": {"delimiter": ","},
    "semicolon.csv": {"delimiter": ";", "encoding": "utf-8-sig", "lineterminator": "\r\n"},
    "tab.csv": {"delimiter": "\t"},
    "UPPER.TSV": {},
}


@pytest.mark.parametrize("name", SHAPES)
def test_exports_of_all_kinds_hold_the_same_words(tmp_path: Path, name: str) -> None:
    """Marks at the beginning, line ends, separators and quotes are no part of a cell."""
    broken = "a b" if name == "old-mac.tsv" else "a\nb"
    rows = lines({"question": ['say "é"?', broken, "a, b; c", " q "], "answer": WORDS})
    table = read(save(tmp_path / name, rows, **SHAPES[name]))
    assert [table.columns, *table.rows] == rows
    dataset = vlmevalkit.Dataset(str(tmp_path / name), tmp_path / "cache")
    assert dataset.evaluate(WORDS, tmp_path / "kept.tsv").value == 100.0


def test_columns_and_lines_without_anything_are_left_out(tmp_path: Path) -> None:
    """Excel ends lines, and files, with separators."""
    rows = lines(SHORT)
    text = "\n".join("\t".join(row) + "\t\t\t" for row in rows) + "\n\t\t\t\n\n\t\n"
    (tmp_path / "t.tsv").write_text("\n" + text)
    dataset = vlmevalkit.Dataset(str(tmp_path / "t.tsv"), tmp_path / "cache")
    assert len(dataset) == 4
    assert dataset.evaluate(list("0123"), tmp_path / "kept.tsv").value == 100.0


def test_records_of_json_and_parquet_are_words_too(tmp_path: Path) -> None:
    """Numbers as they are written in JSON; images as bytes; lists of accepted answers."""
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    raw = base64.b64decode(IMAGE)
    text = '{"index": %d, "image": "%s", "question": "q?", "A": 1.10, "B": 1.1, "answer": "A"}'
    body = [text % (k, IMAGE) for k in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(body) + "\n\n")
    (tmp_path / "b.json").write_text(f"[{','.join(body)}]")
    for name in ("a.jsonl", "b.json"):
        dataset = vlmevalkit.Dataset(str(tmp_path / name), tmp_path / "cache")
        assert "A. 1.10\nB. 1.1\n" in dataset.messages()[2][-1]["value"]
        assert dataset.evaluate(list("AAB"), tmp_path / "kept.tsv").outcomes == {
            "0": 1.0, "1": 1.0, "2": 0.0,
        }  # fmt: skip
    records = pyarrow.table(
        {
            "index": [10, 11, 12],
            "image": [{"bytes": raw, "path": None}] * 3,
            "question": ["q?"] * 3,
            "answer": [["7", "seven"], ["007"], ["None"]],
        }
    )
    parquet.write_table(records, tmp_path / "c.parquet")
    dataset = vlmevalkit.Dataset(str(tmp_path / "c.parquet"), tmp_path / "cache")
    found = dataset.evaluate(["Seven", "7", "none"], tmp_path / "kept.tsv")
    assert found.outcomes == {"10": 1.0, "11": 0.0, "12": 1.0}
    assert "not text" not in "".join(dataset.own.notes)
    numbers = records.drop_columns("answer").append_column("answer", pyarrow.array([1.10, 2, 3]))
    parquet.write_table(numbers, tmp_path / "d.parquet")
    (note,) = vlmevalkit.Dataset(str(tmp_path / "d.parquet"), tmp_path / "cache").own.notes
    assert "d.parquet: answer: not text but double" in note


def test_a_sheet_is_read_where_it_is_certain_what_it_shows(tmp_path: Path) -> None:
    """Text and plain numbers; a number in a format of its own, or a date, is named by its cell."""
    openpyxl = pytest.importorskip("openpyxl")
    import datetime

    (tmp_path / "a.png").write_bytes(base64.b64decode(IMAGE))
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Index", "image_path", "question", "answer"])
    for index, answer in ((1, "1.10"), (2, 1.5), (3, 7), (4, True), (None, None)):
        sheet.append([index, index and "a.png", index and "q?", answer])
    book.save(tmp_path / "t.xlsx")
    dataset = vlmevalkit.Dataset(str(tmp_path / "t.xlsx"), tmp_path / "cache")
    assert dataset.evaluate(["1.10", "1.5", "7", "true"], tmp_path / "k.tsv").value == 100.0
    for value, style in ((1.1, "0.00"), (0.1, "0%"), (datetime.date(2024, 1, 2), "dd/mm/yyyy")):
        sheet["D3"] = value
        sheet["D3"].number_format = style
        book.save(tmp_path / "t.xlsx")
        with pytest.raises(BenchmarkError, match="row 3, column 4 .answer.: .*as a TSV"):
            read(tmp_path / "t.xlsx")


# --- quotes ------------------------------------------------------------------------------------


def quoted(position: int, text: str, rows: int = 6) -> str:
    """A table whose question of one row is written as ``text``, with no quotes added."""
    question = ["q?"] * rows
    question[position] = text
    made = lines({"question": question, "answer": "x", "category": "c"}, rows)
    return "".join("\t".join(row) + "\n" for row in made)


@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("text", ['"Who is it?', '"Stop" is it?', '"', '""" is it?'])
def test_a_quote_that_does_not_close_is_named(tmp_path: Path, text: str, position: int) -> None:
    """By the line of its row and what that begins with; never are rows swallowed."""
    (tmp_path / "t.tsv").write_text(quoted(position, text))
    with pytest.raises(BenchmarkError, match=f"begins in line {position + 2} .'{position}'.") as e:
        read(tmp_path / "t.tsv")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("end", ['3" long"', '5"', 'so "it" is"', '"'])
@pytest.mark.parametrize("column", ["question", "category"])
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_a_quote_that_closes_in_another_row_is_named(
    tmp_path: Path, end: str, column: str, distance: int
) -> None:
    """However the rest of the rows fits: other rows inside a cell are no cell."""
    rows = lines({"question": "q?", "answer": "x", "category": "c"}, 6)
    rows[2][2] = '"Who is it?'
    rows[2 + distance][rows[0].index(column)] = end
    (tmp_path / "t.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    with pytest.raises(BenchmarkError, match="the row that begins in line 3 .'1'."):
        read(tmp_path / "t.tsv")


def test_a_row_swallowed_by_a_csv_is_named(tmp_path: Path) -> None:
    """Where commas in a text are common, other rows are known by their numbers and their count."""
    rows = lines({"question": "q?", "answer": "x"}, 6)
    rows[2][2], rows[4][2] = '"Who is it?', 'it is 5"'
    (tmp_path / "t.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    with pytest.raises(BenchmarkError, match="the row that begins in line 3 .'1'. goes on until"):
        read(tmp_path / "t.csv")
    fine = lines({"question": ["red, green,\nblue, or none?"] * 2, "answer": "x"}, 2)
    assert read(save(tmp_path / "u.csv", fine, delimiter=",")).rows == fine[1:]


def test_rows_that_are_not_lines_are_said(tmp_path: Path) -> None:
    """A count of rows that may surprise: cells with line breaks."""
    rows = lines({"question": ["a\nb\nc", "q", "q", "a\r\nb"], "answer": "x"})
    table = read(save(tmp_path / "t.tsv", rows))
    assert table.rows == rows[1:]
    assert table.notes == [
        "t.tsv: 4 rows in 7 lines, because cells of 2 rows hold line breaks "
        "(the first begins in line 2)"
    ]


# --- what is no table --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", b"index\timage\n0\tcaf\xe9\n", "line 2 is not UTF-8 .found the byte 0xe9"),
        ("t.tsv", b"index\tquestion\n0\ta\x00b\n", "t.tsv"),
        ("t.tsv", b"", "no columns in it"),
        ("t.tsv", b"\n\n\t\n", "no columns in it"),
        ("t.tsv", b"index\timage\n0\tx\ty\n", "has 3 cells; expected 2"),
        ("t.jsonl", b'{"index": 1}\n{"index": \n', "line 2 is no JSON"),
        ("t.jsonl", b"[1, 2]\n", "line 1 is no object"),
        ("t.jsonl", b'{"image": {"a": 1}}', "line 1, image: found an object"),
        ("t.jsonl", b"[" * 100_000, "line 1 is no JSON"),
        ("t.json", b'{"index": 1}', "expected a JSON list"),
        ("t.parquet", b"PAR1 no", "not a readable PARQUET"),
        ("t.xlsx", b"PK no", "not a readable XLSX"),
        ("t.txt", b"index", "expected a TSV in VLMEvalKit's format .or CSV, JSONL"),
        ("t.xls", b"index", "expected a TSV in VLMEvalKit's format .or CSV, JSONL"),
    ],
)
def test_what_is_no_table_is_one_short_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """With the line where it ends to be one, and what is expected."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BenchmarkError, match=message) as caught:
        vlmevalkit.Dataset(str(tmp_path / name), tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(tmp_path), "")) < 300


def test_a_table_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bytes, rows and columns; nothing larger is read."""
    file = write(tmp_path / "t.tsv", CHOICE)
    for name, most, message in (
        ("ROWS", 3, "4 rows; expected 3 at most"),
        ("COLUMNS", 5, "6 columns; expected 5 at most"),
        ("BYTES", 100, "bytes; expected 100 at most"),
        ("CELL", 60, "line 2: a cell of more than 60 characters"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(table_files, name, most)
            with pytest.raises(BenchmarkError, match=message):
                read(file)
    assert len(read(file).rows) == 4


# --- anything ----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@given(
    st.lists(st.lists(TEXT.map(lambda t: t or "x"), min_size=3, max_size=3), min_size=1, max_size=6)
)
def test_what_a_csv_writer_wrote_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    """Any text, quoted throughout; but for rows inside of cells, which are refused."""
    file = tmp_path_factory.mktemp("t") / "t.tsv"
    made = [["index", "question", "answer"], *rows]
    save(file, made, quoting=csv.QUOTE_ALL)
    try:
        table = read(file)
    except BenchmarkError:
        assert any("\t" in cell for row in rows for cell in row)
        return
    assert [table.columns, *table.rows] == made


def test_no_mutation_of_a_table_ends_in_anything_but_one_line(tmp_path: Path) -> None:
    """A few hundred damaged files of every kind: read, or one line of ours."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = lines({"question": ["a\nb", 'a "b"', "c", "d"], "answer": list("xyzx")})
    save(tmp_path / "t.tsv", rows)
    save(tmp_path / "t.csv", rows, delimiter=",")
    records = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, records)))
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "t.parquet")
    random.seed(7)
    messages = []
    for name in ("t.tsv", "t.csv", "t.jsonl", "t.parquet"):
        good = (tmp_path / name).read_bytes()
        file = tmp_path / f"damaged{name}"
        for _ in range(150):
            content = bytearray(good)
            for _ in range(random.randint(1, 4)):
                at = random.randrange(len(content))
                piece = random.choice(
                    [b'"', b"\t", b"\n", b"\0", b"\xff", struct.pack("<q", -1), b""]
                )
                content[at : at + random.choice([0, 1, 9])] = piece
            file.write_bytes(content)
            try:
                found = read(file)
            except SoupError as error:
                messages.append(str(error))
            else:
                assert all(len(row) == len(found.columns) for row in found.rows)
    assert len(messages) > 100
    assert not [text for text in messages if "\n" in text]


def test_no_more_room_is_asked_for_than_a_file_needs(tmp_path: Path) -> None:
    """Gigabytes may be read; a small table takes megabytes, also where memory is not lent."""
    (tmp_path / "x.tsv").write_text("index\tquestion\n")
    tracemalloc.start()
    try:
        assert read_regular(tmp_path / "x.tsv", 8 << 30) == b"index\tquestion\n"
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
        with pytest.raises(Unreadable, match="expected 4 at most"):
            read_regular(tmp_path / "x.tsv", 4)
    finally:
        tracemalloc.stop()
