"""evaluators/engines/kept.py: answers outlive a crash, and are never another model's."""

from pathlib import Path

import pytest

from soup.errors import ScoringError
from soup.evaluators.engines.kept import Kept, write_whole


def test_answers_are_there_again(tmp_path: Path) -> None:
    """Any text, in any order."""
    file = tmp_path / "new" / "file.answers"
    first = Kept(file, "key")
    assert first.known == {}
    first.add(7, "tab\t, line\n and é ")
    first.add(0, "")
    # no close: the process was killed here
    second = Kept(file, "key")
    assert second.known == {7: "tab\t, line\n and é ", 0: ""}
    second.add(1, "B")
    second.close()
    third = Kept(file, "key")
    assert set(third.known) == {0, 1, 7}
    assert list(file.parent.iterdir()) == [file]


def test_answers_of_another_result_are_not_taken(tmp_path: Path) -> None:
    """Other weights, questions or settings: another key, so the file begins anew."""
    Kept(tmp_path / "file", "one").add(0, "A")
    assert Kept(tmp_path / "file", "two").known == {}
    assert Kept(tmp_path / "file", "one").known == {}


def test_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    """What stands before it is good; what comes after it begins a new line."""
    Kept(tmp_path / "file", "key").add(0, "A")
    with (tmp_path / "file").open("a") as stream:
        stream.write('[1, "B')
    again = Kept(tmp_path / "file", "key")
    assert again.known == {0: "A"}
    again.add(1, "C")
    assert Kept(tmp_path / "file", "key").known == {0: "A", 1: "C"}
    (tmp_path / "file").write_text("")
    assert Kept(tmp_path / "file", "key").known == {}


def test_a_disk_that_is_full_is_one_line(tmp_path: Path) -> None:
    """The file and what to do, when it is made and when an answer is added; the rest stays."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(ScoringError, match="taken/file: cannot be written: .*free some room"):
        Kept(tmp_path / "taken" / "file", "key")
    kept = Kept(tmp_path / "file", "key")
    kept.add(0, "A")
    kept._stream = open("/dev/full", "a", buffering=1)
    with pytest.raises(ScoringError, match="No space left on device; free some room"):
        kept.add(1, "B")
    assert Kept(tmp_path / "file", "key").known == {0: "A"}

    def half(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(ScoringError, match="No space left on device"):
        write_whole(tmp_path / "file", half)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]
    assert Kept(tmp_path / "file", "key").known == {0: "A"}


def test_a_flipped_bit_never_changes_an_answer(tmp_path: Path) -> None:
    """Wherever it is: the answer is as it was, or it is set aside and asked again."""
    good, file = tmp_path / "good.answers", tmp_path / "file.answers"
    kept = Kept(good, "key")
    answers = {0: "A", 1: "17", 12: "B"}
    for index, text in answers.items():
        kept.add(index, text)
    kept.close()
    content = good.read_bytes()
    for bit in range(0, 8 * len(content), 5):
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        file.write_bytes(spoilt)
        found = Kept(file, "key")
        assert found.known.items() <= answers.items()
        if bit // 8 < len(content) - 1:  # else the last line is one that was cut short
            assert found.damaged > 0
            assert found.aside.is_file()
        found.close()


def test_damaged_answers_are_set_aside_once(tmp_path: Path) -> None:
    """They can be looked at; the next start finds a whole file again."""
    kept = Kept(tmp_path / "file", "key")
    kept.add(0, "A")
    kept.add(1, "B")
    kept.close()
    file = tmp_path / "file"
    file.write_text(file.read_text().replace('"A"', '"C"'))
    again = Kept(file, "key")
    assert (again.known, again.damaged) == ({1: "B"}, 1)
    assert '"C"' in again.aside.read_text()
    assert (Kept(file, "key").known, Kept(file, "key").damaged) == ({1: "B"}, 0)
