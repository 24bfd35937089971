"""`soup nightly` with members from elsewhere: what cannot be had is left out, and named."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from soup.cli import nightly as command
from soup.errors import CheckpointError
from soup.publishing.landing import land
from tests.cli.test_cli import fails, run
from tests.publishing.pool import ReadingScorer, member
from tests.publishing.test_nights import Place
from tests.remote.repositories import Model
from tests.remote.servers import Web, serving

A = "a" * 40
NOBODY = "http://127.0.0.1:9/runs/x"


@pytest.fixture
def place(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Two members here, two on a server, of which one is org/name of its hub, too."""
    monkeypatch.setattr(command, "scorer_of", lambda *_: ReadingScorer())
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    found = Place(tmp_path, monkeypatch)
    shutil.rmtree(found.ckpts / "c")
    member(web.root / "runs" / "d", range(140, 180))
    member(web.root / "runs" / "e", range(150, 200))
    web.models["org/name"] = Model({A: web.root / "runs" / "e"}, {"main": A})
    return found


def left_out(done: Any) -> dict[str, str]:
    """How each is that is left out; each was told, too."""
    for one in done.document["left_out"]:
        assert f"{one['name']}: left out, {one['how']}: {one['why']}" in done.stderr
    return {one["name"]: one["how"] for one in done.document["left_out"]}


def test_what_cannot_be_reached_is_left_out(place: Place, web: Web) -> None:
    """No server, nothing there, private, gated, no such revision; the others make a soup. Another
    night, when all is there, they are new; and when one is away again, it is not said to be gone.
    """
    web.models["org/private"] = Model({A: web.root}, {"main": A}, private=True)
    web.models["org/gated"] = Model({A: web.root}, {"main": A}, gated=True)
    away = ("hf://org/private", "hf://org/gated", "hf://org/name@nope", "hf://org/none")
    there = f"{web.address}/runs/d"
    done = place.night(there, NOBODY, f"{web.address}/runs/nope", *away, "--junit", "night.xml")
    assert done.returncode == 0, done.stderr
    assert left_out(done) == {
        "x": "not reachable",
        "nope": "not reachable",
        "org/private": "not reachable",
        "org/gated": "not reachable",
        "org/name": "not reachable",
        "org/none": "not reachable",
    }
    assert {row["name"] for row in done.document["members"]} == {"a", "b", "d"}
    assert "not reachable: http://127.0.0.1:9/runs/x" in (place.path / "night.xml").read_text()
    done = place.night(there, "hf://org/name")
    assert done.document["changes"] == ["new: org/name"]
    assert left_out(done) == {}
    web.status = 503
    done = place.night(there, "hf://org/name")
    assert left_out(done) == {"d": "not reachable", "org/name": "not reachable"}
    assert done.document["changes"] == ["no new checkpoint since the last night"]
    assert {name for _, name in place.scorer.calls} <= {"z"}, "but for a hold-out all is known"


def test_what_is_still_uploaded_is_not_ready(place: Place, web: Web) -> None:
    """An index that lists what is not there; a file that changes while it is fetched; one that
    hangs up again and again.
    """
    (web.root / "runs" / "a" / "model-00002-of-00003.safetensors").unlink()
    file = web.root / "runs" / "d" / "model.safetensors"
    web.changes["model.safetensors"] = (1, file.read_bytes()[::-1])
    done = place.night(f"{web.address}/runs/a", f"{web.address}/runs/d")
    assert done.returncode == 0, done.stderr
    assert left_out(done) == {"a": "not ready", "d": "not ready"}
    web.cuts, web.cut_at = 99, 0
    done = place.night("hf://org/name")
    assert left_out(done) == {"org/name": "not reachable"}


def test_nothing_can_be_reached(place: Place, web: Web) -> None:
    """A verdict, not an error; a plan of it is one."""
    options = ("--bench", "x", "--publish", "published", "--json", "night.json")
    done = run(place.path, "nightly", NOBODY, "hf://org/none", *options)
    assert done.returncode == 4, done.stderr
    assert "cannot tell: 0 good checkpoints of 2, at least 2 are needed" in done.stdout
    done = run(place.path, "nightly", NOBODY, "hf://org/none", *options, "--dry-run")
    assert "0 good checkpoints: at least 2 are needed" in fails(done, 1)
    assert "warning: x: would be left out, not reachable: http://127.0.0.1:9" in done.stderr
    done = place.night(NOBODY, "--dry-run")
    assert done.returncode == 0 and "plan: greedy of 2 members" in done.stdout


def test_what_the_pool_cannot_do_without_is_an_error(
    place: Place, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that cannot be reached, an address that is none, a cache that cannot be written; and
    with --no-skip-bad a place without a model.
    """
    assert "cannot be reached" in fails(place.night("--base", NOBODY), 1)
    assert "expected hf://org/name" in fails(place.night("hf://a/../b"), 2)
    assert "no model there" in fails(place.night(f"{web.address}/runs", "--no-skip-bad"), 1)
    (place.path / "full").write_text("")
    done = place.night(f"{web.address}/runs/d", "--cache", "full")
    assert "full" in fails(done, 1) and "--cache DIR" in done.stderr
    with serving(web.root) as other:
        other.status = 500
        with pytest.raises(CheckpointError, match="the server answered 500"):
            land([place.ckpts / "a"], {"processor": f"{other.address}/runs/d"})


def test_every_other_command_ends(place: Place, web: Web) -> None:
    """One that was named is meant."""
    for name in ("check", "average", "score"):
        done = run(place.path, name, "ckpts/*", NOBODY)
        assert "127.0.0.1:9/runs/x: its listing: the server cannot be reached" in fails(done, 1)
