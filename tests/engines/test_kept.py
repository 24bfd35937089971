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
