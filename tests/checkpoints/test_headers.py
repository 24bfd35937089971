"""Headers of tens of thousands of tensors are read quickly, and as strictly as any."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soup.checkpoints.json_text import distinct, parse, parse_distinct
from soup.checkpoints.safetensors_format import read_header
from soup.errors import CheckpointError

NAME = st.text(alphabet='ab:" \\\n\u3a22', max_size=3)
VALUE = st.recursive(
    st.one_of(st.integers(0, 9), NAME),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.lists(st.tuples(NAME, inner), max_size=3).map(tuple)
    ),
    max_leaves=8,
)


def written(value: object, gap: str) -> str:
    """JSON with objects, given as tuples of pairs, in which names may stand twice."""
    if isinstance(value, tuple):
        pairs = (f"{json.dumps(name)}{gap}:{written(inner, gap)}" for name, inner in value)
        return "{" + f",{gap}".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(inner, gap) for inner in value) + "]"
    return json.dumps(value)


@given(
    pairs=st.lists(st.tuples(NAME, VALUE), max_size=4).map(tuple),
    gap=st.sampled_from(["", " ", "\n"]),
    encoding=st.sampled_from(["utf-8", "utf-16-le"]),
)
def test_a_name_that_stands_twice_is_found_however_it_is_written(
    pairs: tuple[tuple[str, object], ...], gap: str, encoding: str
) -> None:
    """The quick way says what the slow one says: of any names, spaces, depth and encoding."""
    text = written(pairs, gap).encode(encoding)
    try:
        expected = parse(text, distinct)
    except ValueError:
        with pytest.raises(ValueError, match="stands there twice"):
            parse_distinct(text)
    else:
        assert parse_distinct(text) == expected


def header_file(path: Path, header: object, size: int) -> Path:
    """A file with a header, and so many bytes of tensors."""
    raw = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(size))
    return path


def test_files_with_one_header_are_each_their_own(tmp_path: Path) -> None:
    """What is remembered of a header names no file: neither in what is found nor in errors."""
    fine = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    one, other = (header_file(tmp_path / name, fine, 8) for name in "ab")
    cut = header_file(tmp_path / "c", fine, 7)
    assert [info.file for path in (one, other) for info in read_header(path)] == [one, other]
    with pytest.raises(CheckpointError, match=f"{cut}: the header speaks of"):
        read_header(cut)
    wrong = {"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}
    for name in "de":
        bad = header_file(tmp_path / name, wrong, 8)
        with pytest.raises(CheckpointError, match=f"{bad}: tensor w has 8 bytes, expected 12"):
            read_header(bad)
