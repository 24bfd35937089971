"""`soup rescore`: kept answers under another VLMEvalKit, and under a judge; the metrics are real.

The models are not: each says what a table holds.
"""

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.choosing.rescoring import Scored
from soup.choosing.scoring import Benchmark, Result, benchmark_digest, recorded, result_key
from soup.errors import BenchmarkError
from soup.evaluators.kit.finished import packed, rows_of, table_of
from soup.evaluators.workers.rescorer import rescore
from soup.events import Observer, ignore
from soup.run import Settings, make
from tests.cli.test_cli import fails, run
from tests.conftest import make_checkpoint, random_tensors
from tests.kit.judge_server import KEY, MODEL, serve
from tests.kit.small_sets import SmallSet, choice

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")

SIZE = 20
SAID = {  # by members: as the newer parser, too, reads it; in brackets; for a judge alone
    "a": (12, 0, 4),
    "b": (0, 14, 0),
    "a+b": (6, 10, 0),
}
TABLE = SmallSet("", [choice("ABC"[k % 3]) for k in range(SIZE)], [], 0.0)


def answers(members: str) -> list[str]:
    """What a blend says; the rest is wrong in any reading."""
    plain, brackets, meant = SAID[members]
    said = []
    for k in range(SIZE):
        right, word = "ABC"[k % 3], ("first", "second", "third")[k % 3]
        if k < plain:
            said.append(right)
        elif k < plain + brackets:
            said.append(f"({right})")
        else:
            said.append(f"the {word}" if k < plain + brackets + meant else "no idea")
    return said


class Speaks:
    """A fake model in front of the real metrics; its answers are kept as a worker keeps them."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def benchmarks(
        self, reference: Checkpoint, names: Sequence[str], observe: Observer = ignore
    ) -> list[Benchmark]:
        """Tables, opened by VLMEvalKit."""
        self.datasets = {Path(n).stem: vlmevalkit.Dataset(n, self.work / "cache") for n in names}
        found = []
        for name, dataset in self.datasets.items():
            settings = {**dataset.settings, "transformers": "5", "max_new_tokens": 4}
            found.append(Benchmark(name, SIZE, benchmark_digest(settings), settings))
        return found

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """Said, and scored by VLMEvalKit."""
        members = "+".join(sorted(member.name for member in blend.members))
        table = table_of(self.work, result_key(blend.key, benchmark.digest))
        found = self.datasets[benchmark.name].evaluate(answers(members), table)
        fields: dict[str, Any] = vars(found)
        return Result(benchmark.name, samples=SIZE, settings=benchmark.settings, **fields)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished greedy run of b and a; the checkpoints are gone."""
    root = tmp_path_factory.mktemp("run")
    TABLE.write(root / "shapes.tsv")
    paths = [make_checkpoint(root / name, random_tensors(k)) for k, name in enumerate("ab")]
    settings = Settings((str(root / "shapes.tsv"),), out=root / "soup", work=root / ".soup")
    board = make("greedy", Pool.open(*paths), Speaks(root / ".soup"), settings)
    assert [(row.name, row.mean) for row in board.members] == [("b", 70.0), ("a", 60.0)]
    assert [(step.tried, step.kept) for step in board.path] == [("b", True), ("a", True)]
    for path in paths:
        shutil.rmtree(path)
    return root


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """The same to change."""
    shutil.copytree(finished / ".soup", tmp_path / ".soup")
    return tmp_path


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with a later VLMEvalKit, whose parser reads no brackets any more."""
    root = tmp_path_factory.mktemp("newer")
    (spec,) = importlib.util.find_spec("vlmeval").submodule_search_locations  # type: ignore[union-attr]
    shutil.copytree(spec, root / "vlmeval", copy_function=os.symlink)
    parser = root / "vlmeval" / "utils" / "matching_util.py"
    changed, count = re.subn(r"chars = '\.\(\)", "chars = '.", parser.read_text())
    assert count == 1
    parser.unlink()
    parser.write_text(changed)
    about = root / "ms_vlmeval-99.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ms-vlmeval\nVersion: 99.0\n")
    python = root / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def test_a_newer_parser_changes_numbers_and_the_soup(
    place: Path, newer: Path, finished: Path
) -> None:
    """Old, new, which questions; the leaderboard; another soup; recorded, and apart from others."""
    before = Journal.open(place / ".soup")
    command = ("rescore", "--worker-python", newer, "--flips", "1")
    done = run(place, *command, "--json", "found.json", "--markdown", "found.md")
    assert done.returncode == 0, done.stderr
    found = json.loads((place / "found.json").read_text())
    rows = {row["name"]: row for row in found["results"]}
    assert {name: (row["old"], row["new"]) for name, row in rows.items()} == {
        "a": (60.0, 60.0),
        "b": (70.0, 0.0),
        "b + a": (80.0, 30.0),
    }
    assert rows["b"]["worse"] == [str(k) for k in range(14)]
    assert (rows["a"]["worse"], rows["b"]["better"]) == ([], [])
    assert rows["b"]["flips"][1]["said"] == "(B)"
    assert (rows["b"]["flips"][1]["old"], rows["b"]["flips"][1]["new"]) == (1.0, 0.0)
    version = before.results[next(iter(before.results))]["result"]["settings"]["vlmeval"]
    assert found["ways"]["shapes"]["vlmeval"] == {"old": version, "new": "ms-vlmeval 99.0"}
    assert found["soup"] == {"was": ["b", "a"], "members": ["a"], "same": False}
    board = found["leaderboard"]
    assert [(m["name"], m["mean"]) for m in board["members"]] == [("a", 60.0), ("b", 0.0)]
    assert [step["mean"] for step in board["path"]] == [0.0, 30.0]
    assert (board["soup"]["mean"], board["soup"]["difference"]["gain"]) == (30.0, -30.0)
    text = (place / "found.md").read_text()
    assert "| b | shapes | 70.00 | 0.00 | -70.00 | 0/14 |" in text
    assert "the soup would be another: a instead of b + a" in text
    assert "vlmeval ms-vlmeval 0" in text
    assert text.count("| What is this? |") == 2  # one of b's, one of the trial's

    after = Journal.open(place / ".soup")
    added = {key: r for key, r in after.results.items() if key not in before.results}
    assert len(added) == 3
    for record in added.values():
        settings = record["result"]["settings"]
        assert (settings["vlmeval"], settings["answered_by"]) == ("ms-vlmeval 99.0", version)
        assert settings["max_new_tokens"] == 4
        assert record["benchmark"] == benchmark_digest(settings)
        said = [
            rows_of(table_of(place / ".soup", key)) for key in (record["key"], record["rescored"])
        ]
        assert said[0] == said[1]
    assert list(after.runs) == list(before.runs), "what was chosen stays what it was"


def test_a_judge_reads_what_no_rule_could(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its results are those of a run with that judge; of the same VLMEvalKit, said and recorded."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serve() as server:
        judge = ("--judge", MODEL, "--judge-url", server.url)
        done = run(place, "rescore", *judge, "--json", "-")
        asked = len(server.asked)
    assert done.returncode == 0, done.stderr
    assert asked > 0
    found = json.loads(done.stdout)
    rows = {row["name"]: row for row in found["results"]}
    assert (rows["a"]["new"], rows["a"]["better"]) == (80.0, ["12", "13", "14", "15"])
    assert found["soup"]["same"] is True or found["soup"]["members"] == ["a"]
    assert found["ways"]["shapes"] == {"judge": {"old": "exact_matching", "new": {"model": MODEL}}}
    journal = Journal.open(place / ".soup")
    (start, *_), *_ = journal.runs.values()
    measured = start["settings"]["measured_with"]["shapes"] | {"judge": {"model": MODEL}}
    blend = next(m["blend"] for m in start["members"] if m["name"] == "a")
    result = recorded(journal, result_key(blend, benchmark_digest(measured)))
    assert result is not None, "a run with that judge would find it"
    assert result.value == 80.0


def test_code_that_changed_under_the_same_version_is_told_and_not_recorded(
    place: Path, newer: Path, tmp_path: Path
) -> None:
    """As where VLMEvalKit is installed from a folder that somebody edits."""
    about = newer.parent / "ms_vlmeval-99.0.dist-info"
    away = tmp_path / "away"
    about.rename(away)
    before = Journal.open(place / ".soup").results
    try:
        done = run(place, "rescore", "--worker-python", newer, "--flips", "1")
    finally:
        away.rename(about)
    assert done.returncode == 0, done.stderr
    assert "shapes: the same VLMEvalKit and judge as before" in done.stdout
    assert "shapes: VLMEvalKit says that it is the version that it was, and scores" in done.stdout
    for words in ("b on shapes 0 What is this?", "said: (A)", "(right: 1 → 0)", "-70.00", "0/14"):
        assert words in done.stdout
    assert "the largest change: b on shapes, -70.00 points" in done.stdout
    assert "the soup would be another: a instead of b + a" in done.stdout
    assert Journal.open(place / ".soup").results == before


def test_answers_that_are_not_kept_are_named(place: Path) -> None:
    """Before a worker is started, with what to do."""
    journal = Journal.open(place / ".soup")
    gone, damaged, _ = (packed(table_of(place / ".soup", key)) for key in journal.results)
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-1])
    line = fails(run(place, "rescore"), 1)
    assert "the answers of 2 of 3 results are not kept, or are damaged (a on shapes, b on" in line
    assert "score these again in an empty directory (--work DIR)" in line
    assert not (place / ".soup" / "rescore.log").exists()


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["--bench", "other"], "--bench other: expected one of shapes", 2),
        (["--run", "zz"], "no run whose id begins with zz has results", 1),
        (["--judge", "x"], "give both --judge MODEL and --judge-url URL", 2),
        (["--worker-python", "nowhere"], "nowhere: no such Python interpreter", 1),
        (["--work", "nowhere"], "no run has results that could be scored again", 1),
    ],
)
def test_mistakes_are_one_line(place: Path, arguments: list[str], words: str, code: int) -> None:
    """What, where, what is there instead."""
    assert words in fails(run(place, "rescore", *arguments), code)


class Stub:
    """In a worker's place: every result has a new number, and evaluations are counted."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes
        self.calls: list[str] = []
        self.sources: list[str] = []

    def benchmarks(
        self, sources: Sequence[str], names: Sequence[str], observe: Observer = ignore
    ) -> dict[str, Benchmark]:
        """What a worker says of a benchmark."""
        self.sources = list(sources)
        dataset = vlmevalkit.Dataset(sources[0], Path(sources[0]).parent / "cache")
        return {n: Benchmark(n, SIZE, "", {**dataset.settings, **self.changes}) for n in names}

    def evaluate(self, scored: Scored, benchmark: Benchmark, observe: Observer = ignore) -> Result:
        """No outcomes: nothing can be said of questions."""
        self.calls.append(scored.name)
        return Result(benchmark.name, 50.0, SIZE, 0.0, settings=benchmark.settings)


def test_what_was_scored_again_once_is_known(place: Path) -> None:
    """Results in the new way are results: found by their keys, also after a stop."""
    stub: Any = Stub(vlmeval="ms-vlmeval 99.0")
    first = rescore(Journal.open(place / ".soup"), stub)
    assert sorted(stub.calls) == ["a", "b", "b + a"]
    assert first.recorded == ("shapes",)
    again = rescore(Journal.open(place / ".soup"), stub)
    assert len(stub.calls) == 3
    assert again.to_dict() == first.to_dict()
    assert rescore(Journal.open(place / ".soup"), stub, only=["shapes"]).changes == again.changes


def test_another_table_is_not_taken_for_the_one_that_was_answered(place: Path) -> None:
    """By its content; the table's place may be another."""
    moved = TABLE.write(place / "shapes.tsv")
    stub: Any = Stub()
    rescore(Journal.open(place / ".soup"), stub, only=[str(moved)])
    assert stub.sources == [str(moved)]
    moved.write_text(moved.read_text().replace("teapot", "kettle"))
    with pytest.raises(BenchmarkError, match="shapes: the table, or an image of it, is not the"):
        rescore(Journal.open(place / ".soup"), stub, only=[str(moved)])
