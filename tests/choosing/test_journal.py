"""soup/choosing/journal.py: what was done outlives crashes."""

import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path
from random import Random

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.choosing.records import encode, head_of, key_of_result
from soup.choosing.scoring import recorded
from soup.errors import JournalError
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make, show
from tests.conftest import make_checkpoint, random_tensors


def test_records_are_there_again_when_opened(tmp_path: Path) -> None:
    """Results by key, runs with their records in order."""
    journal = Journal.open(tmp_path / "work")
    run = journal.start("greedy", members=[])
    journal.append("result", key="k", result={"value": 1})
    journal.append("decision", run=run, tried="a")
    again = Journal.open(tmp_path / "work")
    assert again.results["k"]["result"] == {"value": 1}
    records = again.last_run()
    assert records is not None
    assert [record["kind"] for record in records] == ["run", "decision"]
    assert again.damaged == 0


def test_results_from_before_judges_are_read(tmp_path: Path) -> None:
    """A field that came later has its default."""
    journal = Journal.open(tmp_path)
    old = {"benchmark": "MMStar", "value": 50.0, "samples": 4, "unparsed": 0.25}
    journal.append("result", key="k", result={**old, "outcomes": {}, "settings": {}})
    found = recorded(Journal.open(tmp_path), "k")
    assert found is not None
    assert (found.value, found.unjudged) == (50.0, 0)


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_short_costs_only_itself(tmp_path: Path, cut: int) -> None:
    """After a crash in the middle of a write, earlier and later records count."""
    journal = Journal.open(tmp_path)
    journal.append("result", key="one", result={})
    journal.append("result", key="two", result={"value": 12345678901234567890})
    raw = journal.path.read_bytes()
    journal.path.write_bytes(raw[:-cut])
    again = Journal.open(tmp_path)
    again.append("result", key="three", result={})
    last = Journal.open(tmp_path)
    # losing nothing but the newline loses no record
    assert set(last.results) == {"one", "three"} | ({"two"} if cut == 1 else set())
    assert (again.damaged, last.damaged, last.lost) == ((0, 0, 0) if cut == 1 else (1, 0, 1))


APPEND = """
import sys
from soup.choosing.journal import Journal
journal = Journal.open(sys.argv[1])
for k in range(50):
    journal.append("result", key=f"{sys.argv[2]}{k}", result={"text": "x" * 5000})
"""


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    """Their lines do not mix."""
    commands = [[sys.executable, "-c", APPEND, str(tmp_path), name] for name in "ab"]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in processes] == [0, 0]
    journal = Journal.open(tmp_path)
    assert len(journal.results) == 100
    assert journal.damaged == 0


def test_digests_are_known_until_a_file_changes(tmp_path: Path) -> None:
    """A checkpoint is read once; touching a shard makes it unknown."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    checkpoint = open_checkpoint(path)
    journal = Journal.open(tmp_path / "work")
    assert journal.digest_of(checkpoint) is None
    journal.remember_digest(checkpoint)
    assert Journal.open(tmp_path / "work").digest_of(checkpoint) == checkpoint.digest
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert Journal.open(tmp_path / "work").digest_of(open_checkpoint(path)) is None


@pytest.mark.parametrize(("version", "which"), [(99, "a later"), (1, "an earlier")])
def test_another_version_is_refused(tmp_path: Path, version: int, which: str) -> None:
    """We do not guess what a newer journal means; an old one has no checksums."""
    (tmp_path / "journal.jsonl").write_text(f'{{"kind": "journal", "version": {version}}}\n')
    with pytest.raises(JournalError, match=f"written by {which} version.*move it away"):
        Journal.open(tmp_path)


def test_a_damaged_record_is_set_aside_said_and_never_used(tmp_path: Path) -> None:
    """Its line is kept elsewhere; what it held is as if it had never been measured."""
    journal = Journal.open(tmp_path)
    for key in "abc":
        journal.append("result", key=key, result={"value": 50.0})
    raw = journal.path.read_bytes()
    journal.path.write_bytes(raw.replace(b"50.0", b"90.0", 1))
    seen = Journal.open(tmp_path, create=False)
    assert set(seen.results) == {"b", "c"}
    assert "1 damaged record (line 2), not used" in str(seen.words())
    assert journal.path.read_bytes() != raw  # whoever only looks changes nothing
    found = Journal.open(tmp_path)
    assert f"set aside in {tmp_path / 'journal.damaged'}" in str(found.words())
    assert (tmp_path / "journal.damaged").read_bytes().count(b"90.0") == 1
    again = Journal.open(tmp_path)
    assert (set(again.results), again.words(), again.lost) == ({"b", "c"}, None, 1)


def test_a_record_that_somebody_made_is_refused_in_one_line(tmp_path: Path) -> None:
    """With a right checksum, and yet none of ours; or a result that cannot be."""
    journal = Journal.open(tmp_path)
    journal.append("result", key="a", result=["no", "result"])
    journal.append("result", key="b", result={"benchmark": "x", "value": 500.0})
    again = Journal.open(tmp_path)
    with pytest.raises(JournalError, match="none of ours"):
        recorded(again, "a")
    assert recorded(again, "b") is None
    assert "b" not in again.results


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a finished greedy run, scored by the fake."""
    place = tmp_path_factory.mktemp("run")
    paths = [make_checkpoint(place / name, random_tensors(k)) for k, name in enumerate("abc")]
    given = Settings(("x",), ("y",), out=place / "out", work=place / "work")
    make("greedy", Pool.open(*paths), FakeScorer(right=_right, samples=20), given)
    return place / "work"


def _numbers(document: str) -> dict[str, object]:
    found = json.loads(document)
    return {key: value for key, value in found.items() if key not in ("why", "likeness")}


def _right(blend: Blend, benchmark: str, sample: int) -> float:
    return zlib.crc32(f"{blend.digest} {benchmark} {sample}".encode()) % 3 / 2


def test_a_flipped_bit_never_changes_a_number_that_is_shown(run: Path, tmp_path: Path) -> None:
    """Every record is as it was or is not there; the table is as it was or one line says why."""
    whole = Journal.open(run, create=False)
    expected = show(run).to_json()
    raw = whole.path.read_bytes()
    random = Random(0)
    refused = 0
    places = [*range(0, 40, 2), *(random.randrange(len(raw)) for _ in range(60))]
    for k, place in enumerate(places):
        changed = bytearray(raw)
        changed[place] ^= 1 << (k % 8)
        work = tmp_path / str(k)
        work.mkdir()
        (work / "journal.jsonl").write_bytes(changed)
        found = Journal.open(work, create=False)
        assert found.damaged
        assert all(found.results[key] == whole.results[key] for key in found.results)
        for _ in range(2):  # as it is found, and once it is set aside
            try:
                said = show(work).to_json().replace(str(work), str(run))
            except JournalError as error:
                said = str(error)
                refused += 1
            if said != expected and said.startswith("{"):  # how alike members are is left out
                assert _numbers(said) == _numbers(expected)
            elif said != expected:
                assert re.search("(are|was|were) damaged|no run is recorded", said)
            Journal.open(work)
    assert 0 < refused < 2 * len(places)


def test_many_records_are_indexed_without_being_parsed(tmp_path: Path) -> None:
    """What nobody asks for costs no parsing: ten thousand records are opened at once."""
    journal = Journal.open(tmp_path)
    journal.append("result", key="0", benchmark="x", seconds=1.0, answered=2, result={})
    line = {"kind": "result", "key": "", "benchmark": "x", "seconds": 1.0, "answered": 2}
    with journal.path.open("ab") as file:
        for k in range(1, 10_000):
            file.write(encode({**line, "key": str(k), "result": {"outcomes": {"1": 1.0}}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soup.choosing.journal.decode", lambda line: pytest.fail("parsed"))
        found = Journal.open(tmp_path)
        assert len(found.results) == 10_000
        assert len(found.timed["x"]) == 10_000
    assert found.results["77"]["result"] == {"outcomes": {"1": 1.0}}


def test_the_short_way_to_results_says_what_the_long_one_says() -> None:
    """Whatever bit of a result's line is flipped, and of lines that are almost one."""
    key = "0123456789abcdef" * 4
    line = encode({"kind": "result", "key": key, "value": 1})[:-1]
    others = [
        encode({"kind": "result", "key": key[:-1], "value": 1})[:-1],
        encode({"kind": "result", "key": key[:-1] + '"', "value": 1})[:-1],
        encode({"kind": "result", "key": key + "0"})[:-1],
        encode({"kind": "trial", "key": key})[:-1],
        line[:-1],
        line[:100],
        line.upper(),
        b"",
    ]
    flipped = [
        line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :]
        for at in range(len(line))
        for bit in range(8)
    ]
    assert key_of_result(line + b"\n") == key
    for content in (*others, *flipped):
        found = key_of_result(content + b"\n")
        head = head_of(content)
        kind, name = (head[2], head[4] or b"") if head is not None else (b"", b"")
        assert found == (name.decode() if kind == b"result" and len(name) == 64 else None)


def test_a_run_whose_beginning_is_lost_is_not_told(tmp_path: Path) -> None:
    """Not even where its numbers are whole again, because somebody else has counted anew."""
    journal = Journal.open(tmp_path)
    run = journal.start("greedy", members=[])
    size = journal.path.stat().st_size
    journal.append("decision", run=run, members=["a"])
    lines = journal.path.read_bytes()
    journal.path.write_bytes(lines[:40] + b"\n" + lines[size:])  # as a disk does
    Journal.open(tmp_path, create=False).append("failed", run=run, error="x")
    found = Journal.open(tmp_path, create=False)
    assert run not in found.runs
    with pytest.raises(JournalError, match="records of the last run are damaged"):
        found.last_run()


def test_records_are_read_again_from_the_file_that_was_opened(tmp_path: Path) -> None:
    """Whoever has pruned it meanwhile; and what has been damaged since is not used."""
    journal = Journal.open(tmp_path)
    for key in ("long", "short"):
        journal.append("result", key=key, text=key * 5000)
    found = Journal.open(tmp_path)
    journal.rewrite(lambda line: None if b"result" in line else line)
    assert found.results["long"]["text"] == "long" * 5000
    assert len(Journal.open(tmp_path).results) == 0
    journal = Journal.open(tmp_path)
    journal.append("result", key="changed", value=50.0)
    found = Journal.open(tmp_path)
    with journal.path.open("r+b") as file:
        file.seek(journal.path.stat().st_size - 5)
        file.write(b"9")
    with pytest.raises(JournalError, match="damaged after it had been read"):
        found.results["changed"]


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file where the directory should be."""
    (tmp_path / "work").write_text("")
    with pytest.raises(JournalError, match="choose another --work"):
        Journal.open(tmp_path / "work")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "journal.jsonl")
    with pytest.raises(JournalError, match=r"expected a regular file; choose another --work"):
        Journal.open(tmp_path / "pipe")
