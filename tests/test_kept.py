"""evaluators/kept.py: answers outlive a crash, and are never another model's."""

from pathlib import Path

from evaluators.kept import Kept


def test_answers_are_there_again(tmp_path: Path) -> None:
    """Any text, in any order; they are gone once they have become a result."""
    file = tmp_path / "new" / "file.answers"
    first = Kept(file, "key")
    assert first.known == {}
    first.add(7, "tab\t, line\n and é ")
    first.add(0, "")
    # no close: the process was killed here
    second = Kept(file, "key")
    assert second.known == {7: "tab\t, line\n and é ", 0: ""}
    second.add(1, "B")
    second.close(remove=False)
    third = Kept(file, "key")
    assert set(third.known) == {0, 1, 7}
    third.close(remove=True)
    assert list(file.parent.iterdir()) == []


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
