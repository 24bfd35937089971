"""soup/choosing/reckoned.py: kept differences count while all that they came from is as it was."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing import reckoned
from soup.choosing.comparing import run_differences
from soup.choosing.journal import Journal
from soup.choosing.reckoned import FILE, differences_of
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make, score, show


def right(blend: Blend, benchmark: str, sample: int) -> float:
    """By content, as if at random."""
    return float(hashlib.sha256(f"{blend.key} {benchmark} {sample}".encode()).digest()[0] % 2)


@pytest.fixture
def work(tmp_path: Path, pool_paths: list[Path]) -> Path:
    """Of a greedy run that has ended, with a hold-out."""
    settings = Settings(["a", "b"], ["h"], out=tmp_path / "out", work=tmp_path / "work")
    make("greedy", Pool.open(*pool_paths), FakeScorer(samples=40, right=right), settings)
    return tmp_path / "work"


def test_what_is_kept_is_what_was_worked_out(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last digit, all of it, and without working it out again."""
    journal = Journal.open(work)
    records = journal.last_run()
    assert records is not None
    fresh = run_differences(journal, records)
    assert fresh.members and fresh.steps and fresh.soup and fresh.holdout and fresh.differ
    monkeypatch.setattr(reckoned, "run_differences", None)
    assert differences_of(journal, records) == fresh


def rescored(work: Path) -> None:
    """One result is another number by now, in the journal."""
    journal = Journal.open(work)
    records = journal.last_run()
    assert records is not None
    blend = records[0]["members"][0]["blend"]
    key = next(k for k in journal.results if journal.results[k]["blend"] == blend)
    record = journal.results[key]
    outcomes = dict.fromkeys(record["result"]["outcomes"], 1.0)
    result = record["result"] | {"value": 100.0, "outcomes": outcomes}
    journal.append(
        "result", **{k: v for k, v in record.items() if k != "kind"} | {"result": result}
    )


CHANGES: dict[str, Callable[[Path], object]] = {
    "rescored": rescored,
    "damaged": lambda work: (work / FILE).write_text("{"),
    "digit": lambda work: (work / FILE).write_text(
        re.sub(r'"gain": (-?)\d', r'"gain": \g<1>9', (work / FILE).read_text())
    ),
    "another's": lambda work: (work / FILE).write_text(json.dumps({"source": 1})),
    "gone": lambda work: (work / FILE).unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_they_are_worked_out_again_after_a_change(work: Path, change: str) -> None:
    """And looking writes nothing."""
    CHANGES[change](work)
    before = {path.name: path.read_bytes() for path in work.iterdir() if path.is_file()}
    journal = Journal.open(work)
    records = journal.last_run()
    assert records is not None
    assert differences_of(journal, records) == run_differences(journal, records)
    show(work)
    assert {path.name: path.read_bytes() for path in work.iterdir() if path.is_file()} == before


def test_each_run_has_its_own(work: Path, pool_paths: list[Path]) -> None:
    """Those of an earlier run are not those of the last."""
    greedy = show(work)
    settings = Settings(["a"], work=work)
    board = score(Pool.open(*pool_paths[:2]), FakeScorer(samples=40, right=right), settings)
    assert show(work) == board
    assert len(board.members) == 2 != len(greedy.members)
