"""`soup compare` and `soup answers` on a journal with kept answers."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.choosing.questions import Questions
from soup.choosing.scoring import Benchmark
from soup.evaluators.fake import FakeScorer
from soup.evaluators.kit.finished import keep_table, packed, table_of
from soup.events import Observer, ignore
from soup.run import Settings, make
from tests.cli.test_cli import fails, run
from tests.conftest import make_checkpoint, random_tensors

SIZE = 40
NEEDED = {"a": 20, "b": 22, "a+b": 30}


def right(blend: Blend, benchmark: str, sample: int) -> float:
    """The soup of both knows a few that neither does, and misses one of a's."""
    members = "+".join(sorted(member.name for member in blend.members))
    return float(sample < NEEDED[members] and (members, sample) != ("a+b", 3))


class Sorted(FakeScorer):
    """A fake whose questions have two categories."""

    def benchmarks(
        self, reference: Checkpoint, names: Sequence[str], observe: Observer = ignore
    ) -> list[Benchmark]:
        """Any name."""
        kinds = {str(k): "low" if k < 10 else "high" for k in range(SIZE)}
        found = super().benchmarks(reference, names, observe)
        return [replace(b, questions=Questions(categories=kinds)) for b in found]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a finished greedy run; answers of all but benchmark y are kept."""
    root = tmp_path_factory.mktemp("run")
    paths = [make_checkpoint(root / name, random_tensors(k)) for k, name in enumerate("ab")]
    settings = Settings(("x", "y"), out=root / "soup-greedy", work=root / ".soup")
    make("greedy", Pool.open(*paths), Sorted(right=right, samples=SIZE), settings)
    (root / ".soup" / "predictions").mkdir()
    for line in (root / ".soup" / "journal.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] != "result" or record["result"]["benchmark"] == "y":
            continue
        table = table_of(root / ".soup", record["key"])
        text = io.StringIO(newline="")
        rows = csv.writer(text, delimiter="\t")
        rows.writerow(["index", "question", "A", "B", "answer", "prediction"])
        for k, value in record["result"]["outcomes"].items():
            rows.writerow([k, f"What is {k}?", "one", "two", "A", "A" if value else "B [/]"])
        if int(hashlib.sha256(record["key"].encode()).hexdigest(), 16) % 2:
            keep_table(table, text.getvalue())
        else:  # as an earlier version left it
            table.write_text(text.getvalue())
    return root


def test_compare_shows_differences_categories_and_flips(place: Path) -> None:
    """Per benchmark and category, the mean, and questions with what both said."""
    done = run(place, "compare", "greedy", "b", "--flips", "2")
    assert done.returncode == 0, done.stderr
    assert "greedy soup" in done.stdout
    for words in ("x", "  low", "  high", "mean", "+17.50", "8/1"):
        assert words in done.stdout
    assert done.stdout.count("What is") == 3  # two won, one lost; of y no answers are kept
    assert "✓ greedy soup: A" in done.stdout
    assert "✗ b: B [/]" in done.stdout
    assert "(not kept)" in done.stdout


def test_compare_for_machines_has_every_flip(place: Path) -> None:
    """As JSON; as Markdown as many as the table has."""
    done = run(place, "compare", "soup", "b", "--bench", "x", "--json", "-")
    found = json.loads(done.stdout)
    (x,) = found["benchmarks"]
    assert (found["version"], found["first"], found["second"]) == (1, "greedy soup", "b")
    assert x["difference"]["gain"] == pytest.approx(17.5)
    assert x["difference"]["p"] == pytest.approx(2 * (1 + 9) / 2**9)
    assert x["won"] == [str(k) for k in range(22, 30)]
    assert x["lost"] == ["3"]
    assert {c["name"]: c["difference"]["gain"] for c in x["categories"]} == {
        "high": pytest.approx(100 * 8 / 30),
        "low": pytest.approx(-10),
    }
    assert [flip["index"] for flip in x["flips"]] == [*x["won"], "3"]
    last = x["flips"][-1]
    assert (last["winner"], last["first"], last["second"]) == ("second", "B [/]", "A")
    assert last["options"] == {"A": "one", "B": "two"}
    text = run(place, "compare", "soup", "b", "--markdown", "-", "--flips", "1").stdout
    assert "| x | 72.50 | 55.00 | +17.50 |" in text
    assert "| 3 | What is 3? | A | B [/] | A | b |" in text


@pytest.mark.parametrize(
    "name", ["a+b", "b+a", "a + b", "greedy", "soup", "soup-greedy", "greedy soup", "./soup-greedy"]
)
def test_a_blend_has_many_names(place: Path, name: str) -> None:
    """Trials by their members in any order; soups by kind or directory."""
    found = json.loads(run(place, "compare", name, "a", "--json", "-").stdout)
    assert found["mean"]["first"] == pytest.approx(72.5)


def test_answers_shows_what_was_said(place: Path) -> None:
    """All, or only the wrong; as many as asked for."""
    done = run(place, "answers", "greedy", "--bench", "x", "--wrong", "--limit", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("said: B [/]") == 3
    assert "x 3 What is 3? A. one B. two" in done.stdout
    assert "3 of 11 shown" in done.stdout
    found = json.loads(
        run(place, "answers", "a", "--bench", "x", "--limit", "0", "--json", "-").stdout
    )
    assert len(found["answers"]) == SIZE
    assert found["answers"][0]["right"] == 1.0
    assert (
        "| 3 | What is 3? | A | B [/] | 0.0 |"
        in run(place, "answers", "soup", "--bench", "x", "--wrong", "--markdown", "-").stdout
    )


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["compare", "a", "nobody"], "nobody: nothing scored is called so", 1),
        (["compare", "a", "b", "--bench", "z"], "--bench z: expected one of x, y", 2),
        (["compare", "a", "./a"], "a and a are the same: nothing to compare", 2),
        (["answers", "a"], "--bench x, y: expected one of x, y", 2),
        (["answers", "a", "--bench", "y"], "the answers are not there", 1),
        (["answers", "a", "--bench", "x", "--work", "nowhere"], "nothing is recorded yet", 1),
    ],
)
def test_mistakes_are_one_line(place: Path, arguments: list[str], words: str, code: int) -> None:
    """What, where, what is there instead."""
    assert words in fails(run(place, *arguments), code)


def test_soup_toml_does_not_narrow_a_comparison(place: Path) -> None:
    """Its benchmarks are those by which runs choose."""
    (place / "soup.toml").write_text('bench = ["benchmarks/x.tsv"]\n')
    try:
        found = json.loads(run(place, "compare", "a", "b", "--json", "-").stdout)
    finally:
        (place / "soup.toml").unlink()
    assert [one["name"] for one in found["benchmarks"]] == ["x", "y"]


def test_pruned_answers_are_those_of_older_runs(tmp_path: Path) -> None:
    """The newest run's stay, and every score; what cannot be meant is said."""
    paths = [make_checkpoint(tmp_path / name, random_tensors(k)) for k, name in enumerate("ab")]
    for name in ("x", "y"):
        settings = Settings((name,), out=tmp_path / "soup", work=tmp_path / ".soup")
        make("greedy", Pool.open(*paths), Sorted(right=right, samples=SIZE), settings)
    journal = Journal.open(tmp_path / ".soup")
    files = {key: packed(table_of(tmp_path / ".soup", key)) for key in journal.results}
    for key, file in files.items():
        keep_table(table_of(tmp_path / ".soup", key), key)
        os.utime(file, (1000, 1000))
    done = run(tmp_path, "answers", "--prune")
    assert "deleted the answers of 3 results (" in done.stdout
    assert "those of the newest run are kept" in done.stdout
    for key, file in files.items():
        assert file.exists() == (journal.results[key]["result"]["benchmark"] == "y")
    assert json.loads(run(tmp_path, "answers", "--prune", "--json", "-").stdout)["deleted"] == 0
    found = json.loads(run(tmp_path, "answers", "--prune", "--runs", "0", "--json", "-").stdout)
    assert found == {"version": 1, "runs": 0, "deleted": 3, "bytes": found["bytes"]}
    assert Journal.open(tmp_path / ".soup").results == journal.results
    assert "leave the name out" in fails(run(tmp_path, "answers", "a", "--prune"), 2)
    assert "whose answers?" in fails(run(tmp_path, "answers"), 2)
