"""--log: trackers are told of each night, and nothing that they do changes it.

Here a package of a tracker's name that is a fake and says so; the real ones are asked by
``test_trackers``.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from soup.errors import OutputError
from soup.publishing.tracking import log
from tests.cli.test_cli import fails
from tests.publishing.pool import member
from tests.publishing.test_nights import Place, place

__all__ = ["place"]

FAKE = """
'A fake: no tracker, it writes down what it is told.'
import json, os, sys
def Settings(**options): return str(options)
def init(**told): {}
"""

KEEPING = """
class Run:
    summary = {}
    def log(self, metrics): self.metrics = metrics
    def log_artifact(self, artifact): pass
    def finish(self):
        with open('told.jsonl', 'a') as file:
            file.write(json.dumps([self.told, self.metrics, self.summary]) + '\\n')
def init(**told):
    run = Run()
    run.told, run.metrics = told, {}
    return run
class Artifact:
    def __init__(self, name, type): pass
    def add_file(self, path): assert os.path.getsize(path)
"""


def fake(place: Place, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A package called wandb that is a fake."""
    there = place.path / "fakes" / "wandb"
    there.mkdir(parents=True, exist_ok=True)
    (there / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(str(there.parent))


def test_a_tracker_is_told_what_came_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, what was asked, the verdict; also of a night that fails."""
    fake(place, monkeypatch, FAKE + KEEPING)
    assert place.night("--log", "wandb").returncode == 0
    member(place.ckpts / "d", range(140, 200))
    done = place.night("--log", "wandb", "--log", "wandb")
    assert done.returncode == 0, done.stderr
    (place.ckpts / "c" / "config.json").write_text("{")
    assert place.night("--no-skip-bad", "--log", "wandb").returncode == 1
    told = [json.loads(line) for line in (place.path / "told.jsonl").read_text().splitlines()]
    assert len(told) == 3
    about, metrics, summary = told[1]
    assert (about["project"], about["config"]["benchmarks"]) == ("soup-nightly", "x, y")
    assert about["name"].endswith(" better") and about["config"]["kept"]
    assert (metrics["mean"], metrics["gain"], metrics["z"]) == (100.0, 25.0, 100.0)
    assert (metrics["published x"], metrics["members"], metrics["left out"]) == (75.0, 4.0, 0.0)
    assert summary["verdict"] == "better" and summary["published"] == place.latest
    assert told[2][2]["verdict"] == "failed" and "config.json" in told[2][2]["why"]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("raise ValueError('no\\nkey')", "ValueError: no key"),
        ("sys.stderr.write('broken\\n'); os._exit(7)", "broken"),
        ("os.kill(os.getpid(), 9)", "exit code -9"),
        ("sys.exit(5)", "exit code 5"),
    ],
)
def test_whatever_a_tracker_does_is_a_warning(
    place: Place, monkeypatch: pytest.MonkeyPatch, does: str, said: str
) -> None:
    """It fails, ends its process, is killed: the exit code is the verdict's."""
    fake(place, monkeypatch, FAKE.format(does))
    done = place.night("--log", "wandb")
    assert done.returncode == 0, done.stderr
    assert f"warning: --log wandb: {said}: not told" in done.stderr
    assert done.document["verdict"]["word"] == "better" and place.latest


def test_a_tracker_that_hangs_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that it has started."""
    fake(place, monkeypatch, FAKE.format("__import__('time').sleep(99)"))
    with pytest.raises(OutputError, match=r"--log wandb: no end after 0.5 s: not told"):
        log("wandb", {"name": "n", "metrics": {}, "params": {}}, 0.5)


def test_one_that_is_not_there_is_told_before_anything_is_scored(place: Place) -> None:
    """Exit code 2, with what to install."""
    assert "--log mlfow: no such tracker; did you mean mlflow?" in fails(
        place.night("--log", "mlfow"), 2
    )
    for name in ("mlflow", "wandb", "trackio"):
        if find_spec(name) is None:
            assert f"pip install 'vlm-soup[{name}]'" in fails(place.night("--log", name), 2)
    assert place.scorer.calls == []


def test_a_night_without_a_soup_is_told_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few good checkpoints: there is no mean."""
    fake(place, monkeypatch, FAKE + KEEPING)
    for name in ("a", "b"):
        (place.ckpts / name / "model.safetensors").write_bytes(b"\1\0")
    assert place.night("--log", "wandb").returncode == 4
    (told,) = [json.loads(line) for line in (place.path / "told.jsonl").read_text().splitlines()]
    assert "mean" not in told[1] and told[1]["left out"] == 2.0
    assert Path(place.path / "night.json").exists()
