"""soup/watching/state.py: what a run is doing, for whoever asks from another terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from soup.checkpoints.pool import Pool
from soup.cli.status import status
from soup.errors import ScoringError
from soup.evaluators.fake import FakeScorer
from soup.events import Evaluation, Event, Note, Progress
from soup.run import Settings, make, score
from soup.watching import state
from soup.watching.state import FOLDER, running, stated
from tests.test_run import Stops


def test_a_run_says_what_it_does_until_it_ends(tmp_path: Path) -> None:
    """Progress in words and numbers, from another process; nothing is left in the end."""
    events: list[Event] = []
    with stated(events.append, tmp_path, "greedy") as told:
        told(Evaluation(4, 11, "ckpt-4", "MMStar", "ckpt-4 on MMStar", 1500))
        state_before = running(tmp_path)
        assert [s.evaluation for s in state_before] == [4]
        file = next((tmp_path / FOLDER).glob("*.json"))
        told(Progress("ckpt-4 on MMStar", 1240, 1500, "samples"))
        assert json.loads(file.read_text())["evaluation"] == 4, "not written again so soon"
        done = subprocess.run(
            [sys.executable, "-m", "soup", "status", "--work", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        first, second, last = done.stdout.splitlines()
        assert first.startswith("greedy: for ")
        assert first.endswith(f"process {os.getpid()} on {running(tmp_path)[0].host}")
        assert second == "  evaluation 4 of 11 (ckpt-4) · MMStar · 0 of 1,500"
        assert last.startswith("  as of ")
    assert running(tmp_path) == []
    assert not (tmp_path / FOLDER).exists()
    assert len(events) == 2


def test_it_is_written_again_when_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And holds the tasks of all workers, and the newest note."""
    monkeypatch.setattr(state, "EVERY", 0.0)
    with stated(lambda event: None, tmp_path, "score") as told:
        told(Progress("a on x", 1, 10, "samples", "one"))
        told(Progress("b on x", 2, 10, "samples", "two"))
        told(Note("a warning"))
        (now,) = running(tmp_path)
        assert now.words == ("one: a on x: 1 of 10 samples", "two: b on x: 2 of 10 samples")
        assert (now.note, now.alive) == ("a warning", True)


def test_a_killed_run_is_told_from_one_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its process, and by when that began; the next run cleans up. A broken file is none."""
    with stated(lambda event: None, tmp_path, "greedy") as told:
        told(Note("hello"))
        file = next((tmp_path / FOLDER).glob("*.json"))
        content = json.loads(file.read_text())
    (tmp_path / FOLDER).mkdir()
    left = tmp_path / FOLDER / "left.json"
    left.write_text(json.dumps(content | {"born": "1"}))
    (tmp_path / FOLDER / "broken.json").write_text("{")
    assert [s.alive for s in running(tmp_path)] == [False]
    status(tmp_path)
    assert "that process is gone: run its command again" in capsys.readouterr().out
    far = tmp_path / FOLDER / "far.json"
    far.write_text(json.dumps(content | {"host": "elsewhere"}))
    assert {s.host: s.alive for s in running(tmp_path)} == {
        content["host"]: False,
        "elsewhere": None,
    }
    with stated(lambda event: None, tmp_path, "greedy"):
        assert not left.exists()
        assert far.exists()


def test_runs_state_themselves(
    pool_paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While they score; afterwards the journal says how the last one ended."""
    seen = []

    def look(event: Event) -> None:
        seen.extend((s.command, s.evaluation) for s in running(tmp_path / "work"))

    settings = Settings(benchmarks="x", work=tmp_path / "work", out=tmp_path / "out")
    status(tmp_path / "work")
    assert "nothing runs in" in (said := capsys.readouterr().out)
    assert "no run is recorded there" in said
    pool = Pool.open(*pool_paths)
    score(pool, FakeScorer(), settings, look)
    assert ("score", None) in seen or ("score", 1) in seen
    status(tmp_path / "work")
    assert "the last run: score of 4 members" in (said := capsys.readouterr().out)
    assert said.endswith(": done\n")
    settings = Settings(benchmarks="y", work=tmp_path / "work", out=tmp_path / "out")
    with pytest.raises(ScoringError):
        make("greedy", pool, Stops(1), settings)
    status(tmp_path / "work", Path("-"))
    document = json.loads(capsys.readouterr().out)
    assert (document["running"], document["last"]["state"]) == ([], "failed: stopped")
