"""Seven nights in a row as CI plays them: the command's own processes, VLMEvalKit, real models.

The members are the demo's, some of which have forgotten kinds of answers: a model whose output
layer has lost the digits answers no question for one, on whatever machine it was trained. So what
is better than what is sure, and not by chance.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from safetensors.torch import load_file, save_file

from soup.choosing.journal import Journal
from tests.cli.test_cli import run
from tests.test_end_to_end import children

ROWS = 20
BENCH = ("parity", "compare", "digit")
HELD = "range"
ANSWERS = {"letters": "ABC", "digits": "0123456789", "words": ("Yes", "No")}
HEAD = "language_model.lm_head.weight"


class Place:
    """A directory in which nights are played; the demo's members land in it.

    Attributes:
        document: the last night's JSON.
        scored: how many blends were asked in the last night.
        said: its standard error.
    """

    def __init__(self, path: Path, demo: Path) -> None:
        self.path, self.demo = path, demo
        self.ckpts, self.shelf = path / "ckpts", path / "published"
        self.document: dict[str, Any] = {}
        self.scored = 0
        self.said = ""
        self.ckpts.mkdir()
        for file in (demo / "benchmarks").glob("*.tsv"):
            lines = file.read_text().splitlines(keepends=True)
            (path / file.name).write_text("".join(lines[: ROWS + 1]))

    def lands(self, name: str, trained: str, *forgets: str) -> Path:
        """A member of the demo, in a single file, that cannot say answers of some kinds."""
        there = self.ckpts / name
        shutil.copytree(self.demo / "ckpts" / trained, there)
        tensors = load_file(there / "model.safetensors")
        tokens = json.loads((there / "tokenizer.json").read_text())["model"]["vocab"]
        for kind in forgets:
            tensors[HEAD][[tokens[answer] for answer in ANSWERS[kind]]] = 0
        save_file(tensors, there / "model.safetensors", metadata={"format": "pt"})
        return there

    def begin(self) -> "subprocess.Popen[str]":
        """The command, as CI starts it."""
        tables = [word for name in BENCH for word in ("--bench", f"{name}.tsv")]
        options = ["--holdout", f"{HELD}.tsv", "--max-new-tokens", "4", "--device", "cpu"]
        options += ["--publish", "published", "--keep", "0", "--settle", "0", "--no-charts"]
        options += ["--no-worse", f"{HELD}:90"]
        options += ["--json", "night.json", "--junit", "night.xml", "--markdown", "night.md"]
        return subprocess.Popen(
            [sys.executable, "-m", "soup", "nightly", "ckpts/*", *tables, *options],
            cwd=self.path,
            env=os.environ | {"GITHUB_STEP_SUMMARY": str(self.path / "summary.md")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def night(self) -> int:
        """One night; its exit code."""
        before, log = self.results(), self.path / ".soup" / "worker.log"
        log.unlink(missing_ok=True)
        process = self.begin()
        self.said = process.communicate(timeout=300)[1]
        self.document = json.loads((self.path / "night.json").read_text())
        self.scored = len({blend for blend, _ in self.results() - before})
        assert log.exists() == (self.scored > 0), "no worker for nothing"
        return process.returncode

    def results(self) -> set[tuple[str, str]]:
        """What is recorded, as blend and benchmark; nothing stands there twice."""
        file = self.path / ".soup" / "journal.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        records = [json.loads(line) for line in lines if '"kind":"result"' in line]
        keys = [record["key"] for record in records]
        assert len(keys) == len(set(keys)), "something was asked twice"
        return {(record["blend"], record["benchmark"]) for record in records}

    def verdict(self) -> tuple[str, str]:
        """Its word, and why; all documents have the same."""
        found = self.document["verdict"]
        suite = ElementTree.parse(self.path / "night.xml").getroot()[0]
        failed = [case.get("name") for case in suite if case.find("failure") is not None]
        bad = found["word"] == "not better"
        assert failed == (["better than the published soup"] if bad else [])
        text = (self.path / "night.md").read_text()
        assert f"**{found['word']}**" in text
        assert (self.path / "summary.md").read_text().endswith(f"{text}\n")
        return found["word"], found["why"]

    def left_out(self) -> list[tuple[str, str]]:
        """Names, and how."""
        return [(one["name"], one["how"]) for one in self.document["left_out"]]

    @property
    def latest(self) -> str:
        """The soup in use."""
        return os.readlink(self.shelf / "latest")

    def lies_there(self) -> set[str]:
        """All that is published, and nothing else but the history."""
        return {path.name for path in self.shelf.iterdir()} - {".lock", "nights.jsonl", "latest"}


@pytest.fixture
def place(tmp_path: Path, demo: Path) -> Iterator[Place]:
    """Two members that know letters alone: a third of the questions."""
    there = Place(tmp_path, demo)
    there.lands("a", "parity", "digits", "words")
    there.lands("b", "parity-compare", "digits", "words")
    return there


def test_seven_nights_in_a_row(place: Place) -> None:
    """A good checkpoint, a diverged one, a half-written one, none, a deleted one, the same name
    with new content, and a night that is killed: what is asked, decided, published, deleted, told.
    """
    assert place.night() == 0, place.said  # the first
    first = place.latest
    assert place.verdict() == ("better", "nothing was published here before")
    assert place.scored == 3, "a, b, and both"
    assert place.document["published"] == str(place.shelf / first)

    place.lands("c", "digit", "words")  # a good one
    assert place.night() == 0, place.said
    second = place.latest
    assert place.verdict()[0] == "better"
    assert place.scored == 3, "c alone, and with what was there before"
    assert place.document["changes"] == ["new: c"]
    assert "c" in place.document["soup"]["members"]
    assert place.document["deleted"] == [first] and place.lies_there() == {second}
    better = place.document["soup"]["mean"]

    diverged = place.lands("d", "digit")  # a bad one
    tensors = load_file(diverged / "model.safetensors")
    tensors[HEAD][7, 7] = float("nan")
    save_file(tensors, diverged / "model.safetensors", metadata={"format": "pt"})
    assert place.night() == 3, place.said
    assert place.left_out() == [("d", "damaged")] and "NaN" in place.said
    assert place.verdict() == ("not better", f"the same soup is published already, {second}")
    assert place.scored == 0
    shutil.rmtree(diverged)

    file = place.lands("f", "digit-only") / "model.safetensors"  # a half-written one
    file.write_bytes(file.read_bytes()[:-1000])
    assert place.night() == 3, place.said
    assert place.left_out() == [("f", "not ready")] and "still being written" in place.said
    assert place.scored == 0
    shutil.rmtree(place.ckpts / "f")

    assert place.night() == 3, place.said  # none
    assert place.document["changes"] == ["no new checkpoint since the last night"]
    assert place.scored == 0

    shutil.move(place.ckpts / "c", place.path / "c")  # a deleted one
    assert place.night() == 3, place.said
    assert place.verdict()[0] == "not better" and place.document["verdict"]["gain"] < -20
    (change,) = place.document["changes"]
    assert change == "no longer there: c; what was scored of them is kept"
    assert place.scored == 0, "a and b were asked on the first night"
    shutil.move(place.path / "c", place.ckpts / "c")

    shutil.rmtree(place.ckpts / "b")  # the same name with new content, which knows all answers,
    place.lands("b", "parity-compare")
    place.lands("e", "parity", *ANSWERS)  # one that knows none, and a night that is killed
    known, diary = place.results(), (place.shelf / "nights.jsonl").read_text()
    process = place.begin()
    while len(place.results() - known) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    workers = children(process.pid)
    process.kill()
    place.said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL
    assert place.latest == second and place.lies_there() == {second}
    assert (place.shelf / "nights.jsonl").read_text() == diary
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.01)

    done = place.results() - known  # and is repeated
    assert place.night() == 0, place.said
    assert place.verdict()[0] == "better" and place.document["soup"]["mean"] > better + 10
    assert place.document["changes"] == [
        "new: e",
        "there before, back or renamed: c",
        "b has new content: it is a new member, the old one's scores stay",
    ]
    assert len({blend for blend, _ in place.results() - known}) == 5, "b, e, and three trials"
    assert done and done < place.results(), "what was answered before it was killed counts"
    assert place.lies_there() == {place.latest} != {second}
    assert place.document["deleted"] == [second]
    assert run(place.path, "verify", place.shelf / place.latest).returncode == 0

    lines = (place.shelf / "nights.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [night["verdict"] for night in told] == ["better"] * 2 + ["not better"] * 4 + ["better"]
    assert [night["nights"] for night in told] == [0, 1, 0, 0, 0, 2, 3], "soups compared so far"
    assert (place.path / "summary.md").read_text().count("## Nightly soup") == 7
    assert run(place.path, "report").returncode == 0
    page = (place.path / "report.html").read_text()
    assert f"; it was published as {place.latest}." in page
    assert len(Journal.open(place.path / ".soup").runs) == 8, "the killed one, too"
