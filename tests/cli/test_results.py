"""cli/results.py: what a run leaves for machines and for other days, also when it fails."""

import json
import os
from pathlib import Path

from safetensors.torch import save_file

from soup.checkpoints.pool import Pool
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make
from tests.cli.test_cli import fails, run
from tests.conftest import random_tensors


def test_json_says_which_run_it_is_of(pool_paths: list[Path], tmp_path: Path) -> None:
    """Its id, when it began, with which versions, and what it was asked to do."""
    done = run(tmp_path, "average", "ckpts/*", "--dtype", "float32", "--json", "-")
    document = json.loads(done.stdout)
    assert len(document["run"]) == 12
    assert document["time"].startswith("20")
    assert {"soup", "python"} <= document["versions"].keys()
    assert document["settings"]["dtype"] == "F32"
    assert (document["finished"], document["error"]) == (True, None)
    again = json.loads(run(tmp_path, "leaderboard", "--json", "-").stdout)
    assert again == document


def test_a_failed_run_is_not_mistaken_for_yesterdays(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """Its documents and the leaderboard say that it failed, and why; not what there was before."""
    asked = ["average", "ckpts/*", "--json", "b.json", "--markdown", "b.md"]
    assert run(tmp_path, *asked).returncode == 0
    (pool_paths[1] / "model.safetensors.index.json").write_text("{")
    message = fails(run(tmp_path, *asked), 1).removeprefix("error: ")
    document = json.loads((tmp_path / "b.json").read_text())
    assert (document["finished"], document["soup"]) == (False, None)
    assert message in document["error"]
    assert f"**This run failed:** {message}" in (tmp_path / "b.md").read_text()
    shown = run(tmp_path, "leaderboard")
    assert shown.returncode == 0
    assert f"this average run failed: {message}" in shown.stdout
    assert "4 of 4 members" not in shown.stdout


def test_a_run_that_fails_in_the_middle_keeps_what_it_has(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """Members that are in the journal stand there, with the error."""
    save_file({"a": random_tensors(0)["scale"] * float("nan")}, tmp_path / "nan.safetensors")
    bad = pool_paths[0] / "model.safetensors"
    tensors = random_tensors(0)
    tensors["norm.weight"] = tensors["norm.weight"] * float("nan")
    save_file(tensors, bad, metadata={"format": "pt"})
    message = fails(run(tmp_path, "average", "ckpts/*", "--json", "b.json"), 1)
    document = json.loads((tmp_path / "b.json").read_text())
    assert document["finished"] is False
    assert document["error"] in message
    if document["members"]:
        assert [member["name"] for member in document["members"]] == ["a", "b", "c", "d"]


def test_a_first_command_that_fails_leaves_only_what_was_asked_for(tmp_path: Path) -> None:
    """No journal is made for a name that was misspelt."""
    message = fails(run(tmp_path, "average", "nowhere", "--json", "b.json"), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
    assert json.loads((tmp_path / "b.json").read_text())["error"] in message


def test_markdown_is_added_to_the_step_summary_alone(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """Other steps have written there; any other file is replaced."""
    summary = tmp_path / "summary.md"
    summary.write_text("## Tests\n\nfine\n\n")
    asked = ["average", "ckpts/*", "--markdown", "summary.md", "--quiet"]
    assert run(tmp_path, *asked, GITHUB_STEP_SUMMARY=str(summary)).returncode == 0
    assert summary.read_text().startswith("## Tests\n\nfine\n\n## average soup of 4 members on ")
    assert run(tmp_path, *asked, GITHUB_STEP_SUMMARY=str(tmp_path / "other")).returncode == 0
    assert summary.read_text().startswith("## average soup of 4 members on ")


def test_the_leaderboard_moves_with_its_folder(pool_paths: list[Path], tmp_path: Path) -> None:
    """What lies beside the journal is found where it is now."""
    old = tmp_path / "old"
    old.mkdir()
    (tmp_path / "ckpts").rename(old / "ckpts")
    assert run(old, "average", "ckpts/*").returncode == 0
    new = old.rename(tmp_path / "new")
    document = json.loads(run(new, "leaderboard", "--json", "-").stdout)
    assert document["soup"]["out"] == str(new / "soup-average")
    paths = sorted(member["path"] for member in document["members"])
    assert paths == [str(new / "ckpts" / name) for name in "abcd"]
    assert str(new / "soup-average") in run(new, "leaderboard").stdout


def test_a_pipe_is_not_folded(pool_paths: list[Path], tmp_path: Path) -> None:
    """Each thing that is said is one line, however long."""
    parent = tmp_path / ("a-long-directory-name-" * 4)
    parent.mkdir()
    done = run(tmp_path, "average", "ckpts/*", "-o", str(parent / "soup"))
    assert f"average soup: 4 of 4 members, written to {parent / 'soup'}" in done.stdout.splitlines()


def test_a_dry_run_says_when_nobody_can_know(pool_paths: list[Path], tmp_path: Path) -> None:
    """Without a worker, where these benchmarks were never looked up."""
    settings = Settings(("MMStar",), out=tmp_path / "out", work=tmp_path / ".soup")
    make("max", Pool.open(*pool_paths), FakeScorer(), settings)
    before = sorted(os.listdir(tmp_path / ".soup"))
    for path in pool_paths:
        (path / "tokenizer.json").write_text("{}")
    done = run(tmp_path, "greedy", "ckpts/*", "--bench", "MMStar", "--dry-run")
    assert "how many results are known, only a run can tell" in done.stdout, done.stderr
    assert "(4 recorded in .soup in all; those that fit are reused)" in done.stdout
    assert sorted(os.listdir(tmp_path / ".soup")) == before
