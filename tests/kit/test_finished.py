"""evaluators/kit/finished.py: answers are kept compressed, known by a checksum, and pruned."""

import gzip
import os
from pathlib import Path

import pytest

from soup.errors import JournalError, ScoringError
from soup.evaluators.kit.finished import Pruned, keep_table, packed, prune, rows_of, table_of

KEY = "0123456789abcdef" * 4
TEXT = '"index"\t"prediction"\n"7"\t"a ""word"", a\rbreak\r\nand another\nand é"\n"8"\t""\n'


def test_a_table_is_there_again_word_for_word(tmp_path: Path) -> None:
    """Quotes, line breaks of all kinds, empty cells; and any gzip can read the file."""
    table = table_of(tmp_path, KEY)
    keep_table(table, TEXT)
    first, second = rows_of(table)
    assert first == {"index": "7", "prediction": 'a "word", a\rbreak\r\nand another\nand é'}
    assert second["prediction"] == ""
    assert gzip.decompress(packed(table).read_bytes()).decode() == TEXT
    assert [file.name for file in table.parent.iterdir()] == ["0123456789abcdef.tsv.gz"]


def test_equal_answers_are_equal_bytes_and_much_smaller(tmp_path: Path) -> None:
    """No time, no name of a system in them."""
    table = table_of(tmp_path, KEY)
    text = TEXT + "".join(f'"{k}"\t"The answer is {k % 4}"\n' for k in range(1000))
    keep_table(table, text)
    first = packed(table).read_bytes()
    keep_table(table, text)
    assert packed(table).read_bytes() == first
    assert len(first) < len(text) / 4


def test_what_an_earlier_version_left_is_read_until_it_is_written_anew(tmp_path: Path) -> None:
    """Uncompressed; the compressed one takes its place."""
    table = table_of(tmp_path, KEY)
    table.parent.mkdir()
    table.write_text(TEXT, newline="")
    before = rows_of(table)
    keep_table(table, TEXT)
    assert rows_of(table) == before
    assert not table.exists()


def test_any_changed_byte_is_noticed(tmp_path: Path) -> None:
    """In head, body or end; a file cut short; another file by its name; another maker's."""
    table = table_of(tmp_path, KEY)
    keep_table(table, TEXT)
    file = packed(table)
    whole = file.read_bytes()
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(JournalError, match="it is not as it was written"):
            rows_of(table)
    for content in (b"", whole[:-9], gzip.compress(TEXT.encode())):
        file.write_bytes(content)
        with pytest.raises(JournalError, match="delete it"):
            rows_of(table)
    other = table_of(tmp_path, KEY[::-1])
    packed(other).write_bytes(whole)
    with pytest.raises(JournalError, match="it is not as it was written"):
        rows_of(other)


def test_what_is_not_there_says_why_it_may_be_gone(tmp_path: Path) -> None:
    """Pruned, or of another place."""
    with pytest.raises(JournalError, match="they were pruned, or scored in another --work"):
        rows_of(table_of(tmp_path, KEY))


def test_a_full_disk_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for every file of ours."""
    table = table_of(tmp_path, KEY)
    keep_table(table, TEXT)

    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ScoringError, match=r"\.tsv\.gz: cannot be written: No space left"):
        keep_table(table, "")
    assert len(rows_of(table)) == 2


def test_pruning_deletes_finished_answers_and_nothing_else(tmp_path: Path) -> None:
    """By key; new ones, answers on their way and files of others stay."""
    keys = [f"{k:064x}"[::-1] for k in range(4)]
    for key in keys:
        keep_table(table_of(tmp_path, key), TEXT)
        os.utime(packed(table_of(tmp_path, key)), (1000, 1000))
    plain = table_of(tmp_path, KEY)
    plain.write_text(TEXT)
    os.utime(plain, (1000, 1000))
    os.utime(packed(table_of(tmp_path, keys[3])), (2000, 2000))
    others = [plain.with_suffix(".answers"), plain.with_name("notes.tsv")]
    for other in others:
        other.write_text("")
    size = packed(table_of(tmp_path, keys[0])).stat().st_size
    found = prune(tmp_path, {keys[1]}, since=2000)
    assert found == Pruned(3, 2 * size + len(TEXT.encode()))
    left = {packed(table_of(tmp_path, key)) for key in (keys[1], keys[3])} | set(others)
    assert set(plain.parent.iterdir()) == left
    assert prune(tmp_path / "nowhere", ()) == Pruned(0, 0)
