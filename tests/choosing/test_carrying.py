"""soup/choosing/carrying.py: journals that are shown, pruned, exported and imported."""

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soup.checkpoints.pool import Pool
from soup.choosing.carrying import contents, export, prune, take_in
from soup.choosing.journal import Journal
from soup.choosing.naming import find_blend
from soup.choosing.records import VERSION, decode, encode
from soup.choosing.side_by_side import side_by_side
from soup.errors import JournalError, OutputError
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make, score, show
from tests.cli.test_cli import fails, run


def played(pool_paths: list[Path], tmp_path: Path) -> Path:
    """A journal of three runs: scores of two members, a greedy soup of all, one that failed."""
    work = tmp_path / "work"
    two = Settings(benchmarks=("old",), work=work)
    score(Pool.open(*pool_paths[:2]), FakeScorer(), two)
    every = Settings(benchmarks=("x", "y"), work=work, out=tmp_path / "out")
    make("greedy", Pool.open(*pool_paths), FakeScorer(), every)

    class Fails(FakeScorer):
        def measure(self, *_: object) -> object:  # type: ignore[override]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(Pool.open(*pool_paths), Fails(), Settings(benchmarks=("z",), work=work))
    return work


def test_what_a_journal_holds(pool_paths: list[Path], tmp_path: Path) -> None:
    """Runs with their ends, results by benchmark."""
    work = played(pool_paths, tmp_path)
    found = contents(Journal.open(work))
    assert [(r.command, r.members, r.end) for r in found.runs] == [
        ("score", 2, "finished"),
        ("greedy", 4, "finished"),
        ("score", 4, "failed: stopped"),
    ]
    assert found.results == {"old": 2, "x": 7, "y": 7}
    assert found.size == (work / "journal.jsonl").stat().st_size
    done = run(tmp_path, "journal", "show", "--work", "work", "--json", "-")
    assert json.loads(done.stdout)["results"] == {"old": 2, "x": 7, "y": 7}
    done = run(tmp_path, "journal", "show", "--work", "work")
    assert "failed: stopped" in done.stdout and "16 results" in done.stdout


def test_pruning_keeps_what_the_newest_runs_have_used(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """And what a soup that is still there was scored; a run that stays measures nothing again."""
    work = played(pool_paths, tmp_path)
    before = (work / "journal.jsonl").read_bytes()
    would = prune(Journal.open(work), 2, dry=True)
    assert (work / "journal.jsonl").read_bytes() == before
    went = prune(Journal.open(work), 2)
    assert went == would and went.records["result"] == 2
    found = contents(Journal.open(work))
    assert found.results == {"x": 7, "y": 7} and len(found.runs) == 2
    assert found.size == len(before) - went.size
    fake = FakeScorer()
    every = Settings(benchmarks=("x", "y"), work=work, out=tmp_path / "out")
    make("greedy", Pool.open(*pool_paths), fake, every)
    assert fake.calls == []
    prune(Journal.open(work), 0)
    assert contents(Journal.open(work)).results == {"x": 1, "y": 1}, "the soup's own"
    late = Journal.open(work)
    Journal.open(work).start("score", members=[], benchmarks={}, holdouts={})
    prune(late, 0)
    assert len(contents(Journal.open(work)).runs) == 1, "one that has begun meanwhile"
    shutil.rmtree(tmp_path / "out")
    assert "went" in run(tmp_path, "journal", "prune", "--runs", "0", "--work", "work").stdout
    assert contents(Journal.open(work)).results == {}


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.jsonl.gz"])
def test_scores_are_carried_to_another_machine(
    pool_paths: list[Path], tmp_path: Path, name: str
) -> None:
    """Nothing is measured there again; runs and paths stay where they were."""
    work = played(pool_paths, tmp_path)
    file = tmp_path / name
    assert export(Journal.open(work), file)["result"] == 16
    export(Journal.open(work), again := tmp_path / f"again-{name}")
    assert file.read_bytes() == again.read_bytes()
    moved = [path.rename(tmp_path / f"there-{path.name}") for path in pool_paths]
    there = tmp_path / "there"
    assert take_in(Journal.open(there), file).added == {"result": 16}
    assert str(tmp_path).encode() not in (there / "journal.jsonl").read_bytes()
    assert contents(Journal.open(there)).runs == ()
    fake = FakeScorer()
    make(
        "greedy",
        Pool.open(*moved),
        fake,
        Settings(benchmarks=("x", "y"), work=there, out=tmp_path / "o"),
    )
    assert fake.calls == []
    again_taken = take_in(Journal.open(there), file)
    assert (again_taken.known, sum(again_taken.added.values())) == (16, 0)


def test_what_is_damaged_is_passed_over_and_what_differs_stays(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """A flipped bit is seen by its checksum; of two results of one key the one here stays."""
    work = played(pool_paths, tmp_path)
    file = tmp_path / "scores.jsonl"
    export(Journal.open(work), file)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"value"', b'"valve"')
    file.write_bytes(b"".join(lines))
    there = Journal.open(tmp_path / "there")
    taken = take_in(there, file)
    assert (taken.damaged, taken.added["result"]) == (1, 15)
    key, record = next(iter(there.results.items()))
    other = Journal.open(tmp_path / "other")
    changed = {**record["result"], "value": 1.0}
    fields = {name: value for name, value in record.items() if name != "kind"}
    other.append("result", **fields | {"result": changed})
    assert take_in(other, file).differing == 1
    assert Journal.open(tmp_path / "other").results[key]["result"]["value"] == 1.0


def _forged(work: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change one result of a journal, with a true checksum."""
    file = work / "journal.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    at = next(k for k, line in enumerate(lines) if b'"kind":"result"' in line)
    record = decode(lines[at])
    change(record)
    lines[at] = encode(record)
    file.write_bytes(b"".join(lines))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("result"),
        lambda record: record["result"].pop("benchmark"),
        lambda record: record["result"].update(outcomes={"0": "x"}),
        lambda record: record["result"].update(outcomes={"0": None}),
        lambda record: record["result"].update(value="90"),
        lambda record: record["result"].update(unparsed=None),
        lambda record: record["result"].update(outcomes={"0": 10**400}),
    ],
    ids=["none", "unnamed", "words", "null", "value", "unparsed", "huge"],
)
def test_results_that_cannot_be_are_none(
    pool_paths: list[Path], tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """Whoever made the checksum: looking shows no number of theirs, and ends in no traceback."""
    work = tmp_path / "work"
    pool = Pool.open(*pool_paths[:2])
    score(pool, FakeScorer(), Settings(benchmarks=("x", "y"), work=work))
    _forged(work, change)
    assert sum(contents(Journal.open(work)).results.values()) in (3, 4)
    assert any(row.mean is None for row in show(work).members)
    journal = Journal.open(work)
    first, second = (find_blend(journal, member.name) for member in pool.members)
    with pytest.raises(JournalError, match="cannot be one; run its command again"):
        side_by_side(journal, first, second)


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "result", "key": "a" * 64, "self": 1, "result": {}},
        {"kind": "result"},
        {"kind": "result", "key": "a" * 64},
        {"kind": "result", "key": "a" * 64, "result": []},
        {"kind": "trial", "key": "a" * 64},
        {"kind": "benchmark", "digest": "a" * 64, "questions": []},
    ],
)
def test_records_of_other_makings_are_passed_over(tmp_path: Path, record: dict[str, Any]) -> None:
    """An export is a stranger's file: what is no record of ours is not taken in, nor ends it."""
    file = tmp_path / "x"
    file.write_bytes(encode({"kind": "journal", "version": VERSION}) + encode(record))
    taken = take_in(Journal.open(tmp_path / "work"), file)
    assert taken.damaged + sum(taken.added.values()) == 1
    contents(Journal.open(tmp_path / "work"))


@pytest.mark.parametrize("how", ["pipe", "device", "huge", "packed", "damaged", "cut"])
def test_what_is_imported_has_bounds(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither waited for, nor read or unpacked without end; one line."""
    file = tmp_path / "x.gz"
    monkeypatch.setattr("soup.choosing.carrying.LARGEST", 1 << 20, raising=False)
    if how == "pipe":
        os.mkfifo(file)
    elif how == "device":
        file.symlink_to("/dev/null")
    elif how == "huge":
        with file.open("wb") as made:
            made.truncate(1 << 40)
    else:
        packed = gzip.compress(b"\0" * (2 << 20 if how == "packed" else 1000))
        content = {"packed": packed, "damaged": packed[:18] + b"\xff" * 9, "cut": packed[:-9]}
        file.write_bytes(content[how])
    with pytest.raises(JournalError, match=r"x\.gz: (cannot be read|expected)"):
        take_in(Journal.open(tmp_path / "work"), file)


def test_files_that_are_no_journal_are_refused(pool_paths: list[Path], tmp_path: Path) -> None:
    """One line each."""
    for content, found in [(b"", "found none"), (b"{}\n", "found none"), (b"\x1f\x8b0", "be read")]:
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(JournalError, match=found):
            take_in(Journal.open(tmp_path / "work"), tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        export(Journal.open(tmp_path / "work"), tmp_path / "nowhere" / "file")
    assert "no such action; did you mean export" in fails(run(tmp_path, "journal", "exports"), 2)
    assert "expected a FILE" in fails(run(tmp_path, "journal", "import"), 2)
    assert "there is no journal" in fails(run(tmp_path, "journal", "prune"), 1)
