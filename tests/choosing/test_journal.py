"""soup/choosing/journal.py: what was done outlives crashes."""

import multiprocessing
from pathlib import Path

import pytest

from soup.checkpoints.opening import open_checkpoint
from soup.choosing.journal import Journal
from soup.choosing.scoring import recorded
from soup.errors import JournalError
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
    assert last.damaged == (0 if cut == 1 else 1)


def _append(work: Path, name: str) -> None:
    journal = Journal.open(work)
    for k in range(50):
        journal.append("result", key=f"{name}{k}", result={"text": "x" * 5000})


def test_two_processes_may_write_at_once(tmp_path: Path) -> None:
    """Their lines do not mix."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_append, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
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


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    """We do not guess what a newer journal means."""
    (tmp_path / "journal.jsonl").write_text('{"kind": "journal", "version": 99}\n')
    with pytest.raises(JournalError, match="written by a later version"):
        Journal.open(tmp_path)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file where the directory should be."""
    (tmp_path / "work").write_text("")
    with pytest.raises(JournalError, match="choose another --work"):
        Journal.open(tmp_path / "work")
