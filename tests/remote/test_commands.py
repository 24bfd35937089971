"""The commands with addresses, as they are typed."""

import json
import sys
from pathlib import Path

import pytest

from soup.checkpoints.opening import open_checkpoint
from soup.cli.app import main
from tests.remote.repositories import Model
from tests.remote.servers import Web
from tests.remote.test_web import snapshots

A = "a" * 40


@pytest.fixture
def run(
    web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):  # type: ignore[no-untyped-def]
    """A command's exit code, standard output and standard error, in a directory of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    web.models["org/name"] = Model({A: web.root / "runs" / "a"}, {"main": A})

    def command(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["soup", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return command


def test_check_average_and_cache(run, web: Web, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A member here, one of a hub and one of a server, in one command; the soup says whose."""
    here, there = str(web.root / "runs" / "b"), f"{web.address}/runs/a"
    place = tmp_path / "elsewhere"
    options = ["--cache", str(place)]
    code, out, _ = run("check", "hf://org/name", here, *options, "--no-model", "--json", "-")
    sources = [member["source"] for member in json.loads(out)["members"]]
    assert code == 0 and sources == [f"hf://org/name@{A}", None]
    assert snapshots(place) == []
    code, _, err = run("average", "hf://org/name", here, there, *options, "-o", "soup", "-q")
    assert code == 0 and "holds the same weights as" in err
    manifest = json.loads((tmp_path / "soup" / "soup.json").read_text())
    sources = [member.get("source") for member in manifest["members"]]
    assert len(sources) == 3 and f"hf://org/name@{A}" in sources and None in sources
    assert len(snapshots(place)) == 2
    code, out, _ = run("cache", *options, "--json", "-")
    assert {model["source"] for model in json.loads(out)["models"]} == {"hf://org/name", there}


def test_a_pool_that_does_not_fit_costs_no_download(run, web: Web, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """The base, too, is looked at before anything is fetched; the plan fetches nothing."""
    misfit = f"{web.address}/runs/misfit"
    for pool in (["hf://org/name", misfit], ["hf://org/name", "--base", misfit]):
        code, _, err = run("average", *pool, "-o", "soup")
        assert code == 1 and "the pool cannot be blended: misfit" in err
    code, out, _ = run("average", "hf://org/name", "--dry-run")
    assert code == 0 and "would write" in out
    assert snapshots(tmp_path / "cache") == [] and not (tmp_path / "soup").exists()
    code, _, err = run("average", "hf://org/none", "hf://org/name")
    assert code == 1 and err.startswith("error: hf://org/none: no such repository")
    assert open_checkpoint(web.root / "runs" / "a").name == "a"
