"""nights.jsonl: what is damaged is never used, and never makes the gate laxer."""

from pathlib import Path

from soup.publishing.diary import NIGHT, read, write_down


def written(file: Path) -> bytes:
    """Three nights, each with another soup."""
    for name in ("a", "b", "c"):
        write_down(file, NIGHT, time="t", candidate=name, nights=1, benchmarks=["x"])
    return file.read_bytes()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """In order; soups that were compared count once each, those of other questions not."""
    written(tmp_path / "n")
    found = read(tmp_path / "n")
    assert [record["candidate"] for record in found.records] == ["a", "b", "c"]
    assert found.words() is None
    assert (found.asked(["x"], "c"), found.asked(["x"], "d"), found.asked(["y"], "d")) == (3, 4, 1)
    assert read(tmp_path / "none").records == ()


def test_every_flipped_bit_is_found_and_counts_as_a_soup(tmp_path: Path) -> None:
    """Said with its line's number; the gate gets no laxer."""
    whole = written(tmp_path / "n")
    second = whole.index(b"\n") + 1
    for place in range(second, whole.index(b"\n", second)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        (tmp_path / "n").write_bytes(damaged)
        found = read(tmp_path / "n")
        assert {record["candidate"] for record in found.records} == {"a", "c"}
        assert found.asked(["x"], "c") >= 3
        assert found.damaged and "damaged line" in (found.words() or "")


def test_a_line_that_a_kill_cut_short_goes(tmp_path: Path) -> None:
    """At any byte, without a word: that night decides again; a whole one without an end stays."""
    file = tmp_path / "n"
    whole = written(file)
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start + 1, len(whole), 7):
        file.write_bytes(whole[:end])
        assert [record["candidate"] for record in read(file).records] == ["a", "b"]
        write_down(file, NIGHT, time="t", candidate="d")
        found = read(file)
        assert [record["candidate"] for record in found.records] == ["a", "b", "d"]
        assert not found.damaged
    file.write_bytes(whole[:-1])
    write_down(file, NIGHT, time="t", candidate="d")
    assert [record["candidate"] for record in read(file).records] == ["a", "b", "c", "d"]


def test_lines_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """They have no checksum."""
    (tmp_path / "n").write_text('{"time":"t","rollback":"r","from":"k","to":"l"}\n')
    assert read(tmp_path / "n").taken_back == {"k": "t"}
