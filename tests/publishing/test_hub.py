"""soup/publishing/hub.py against a local fake of the hub's HTTP interface."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.arriving import fetch
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import OutputError, UsageError
from soup.evaluators.kit.hub_names import HUB_DATASETS
from soup.evaluators.kit.known_names import NAMES
from soup.publishing.hub import RESULTS, files, foretell, push, require_repository
from tests.cli.test_cli import fails
from tests.publishing.test_nights import Place
from tests.remote.servers import Web, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A hub on this machine, which huggingface_hub takes for the real one."""
    from huggingface_hub import constants

    with serving(tmp_path / "hub") as found:
        found.token = "none"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", "none")
        monkeypatch.setenv("SOUP_CACHE", str(tmp_path / "cache"))
        yield found


@pytest.fixture
def soup(pool_paths: list[Path], tmp_path: Path) -> Path:
    """A soup that was scored."""
    pool = Pool.open(*pool_paths)
    facts = {"scores": {"MMStar": 61.25, "ours": 50.0}}
    return write(Blend(pool.members, pool.reference), tmp_path / "soup", facts=facts).path


def test_a_soup_arrives_whole_and_private(hub: Web, soup: Path) -> None:
    """Every file byte for byte, its scores as the hub reads them, in one commit."""
    from huggingface_hub import parse_eval_result_entries

    address = push(soup, "team/soup", HUB_DATASETS)
    assert address.startswith(f"{hub.address}/team/soup/commit/")
    assert hub.models["team/soup"].private
    there = hub.models["team/soup"].files()
    expected = {name: (soup / name).read_bytes() for name, _ in files(soup)}
    assert {name: there[name] for name in expected} == expected
    assert there.keys() - expected.keys() == {RESULTS}
    (entry,) = parse_eval_result_entries(yaml.safe_load(there[RESULTS]))
    assert (entry.dataset_id, entry.value) == ("Lin-Chen/MMStar", 61.25)
    assert len(hub.models["team/soup"].titles) == 1
    again = fetch(["hf://team/soup"])["hf://team/soup"]
    assert open_checkpoint(again).digest == open_checkpoint(soup).digest, "it can be a member"


def test_what_an_earlier_soup_left_goes(hub: Web, soup: Path) -> None:
    """Shards of another number would be loaded, too; other files that people put there stay."""
    push(soup, "team/soup", {})
    model, old = hub.models["team/soup"], "model-00001-of-00009.safetensors"
    model.put({**model.files(), old: b"old", "notes.md": b"ours"}, hub.root)
    push(soup, "team/soup", {})
    assert old not in model.files() and model.files()["notes.md"] == b"ours"


@pytest.mark.parametrize(("status", "hint"), [(403, "is HF_TOKEN set"), (500, "answered 500")])
def test_a_hub_that_refuses_is_one_line(hub: Web, soup: Path, status: int, hint: str) -> None:
    """With what to do about it."""
    hub.status = status
    with pytest.raises(OutputError, match=hint):
        push(soup, "team/soup", {})


def test_a_hub_that_is_not_there_is_one_line(
    hub: Web, soup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback of its client."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OutputError, match="--push team/soup: "):
        push(soup, "team/soup", {})


def test_a_dry_run_names_what_would_be_sent(hub: Web, soup: Path) -> None:
    """Nothing is."""
    lines = foretell(soup, "team/soup", HUB_DATASETS)
    assert any("model.safetensors (" in line for line in lines)
    assert any(RESULTS in line for line in lines)
    assert hub.models == {}


def test_a_night_sends_what_is_published_until_it_has_arrived(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that refuses changes neither result nor exit code; the next night sends it, once."""
    place = Place(tmp_path, monkeypatch)
    hub.status = 500
    done = place.night("--push", "team/soup")
    assert done.returncode == 0 and "warning: --push team/soup: the hub answered" in done.stderr
    hub.status = 0
    done = place.night("--push", "team/soup")
    assert done.returncode == 3 and f"sent {place.latest} to team/soup" in done.stderr
    assert place.night("--push", "team/soup").returncode == 3
    sent = hub.models["team/soup"]
    assert len(sent.titles) == 1
    model = (place.shelf / place.latest / "model.safetensors").read_bytes()
    assert sent.files()["model.safetensors"] == model
    assert "expected org/name" in fails(place.night("--push", "team"), 2)


@pytest.mark.parametrize("name", ["soup", "a/b/c", "a b/c", "-/-"])
def test_names_that_are_none_are_refused(name: str) -> None:
    """Before a night begins."""
    with pytest.raises(UsageError, match="expected org/name"):
        require_repository(name)


def test_the_hubs_names_are_of_benchmarks_that_there_are() -> None:
    """By VLMEvalKit's names."""
    assert HUB_DATASETS.keys() <= set(NAMES)
