"""soup/remote/committing.py: the real client of the hub, against a hub on this machine."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from soup.errors import OutputError
from soup.events import Event, Progress, ignore
from soup.remote import committing
from soup.remote.address import parse
from soup.remote.committing import Commit, Told, commit
from soup.remote.sending import target_of
from tests.remote.servers import Web

LARGE = bytes(range(256)) * (3 << 12)


@pytest.fixture
def hub(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """One that takes what is sent with a token."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    web.token = "hf_hidden"
    return web


Send = Callable[..., list[Progress]]


@pytest.fixture
def send(tmp_path: Path) -> Send:
    """Sends three files; returns how far it said that it was."""

    def sent(to: str = "hf://team/x", large: bytes = LARGE) -> list[Progress]:
        files: dict[str, Path | bytes] = {"soup.json": b"{}"}
        for name, content in (("a.safetensors", large), ("b.safetensors", large[1:])):
            files[name] = tmp_path / name
            (tmp_path / name).write_bytes(content)
        told: list[Event] = []
        commit(Commit(parse(to), "x, a soup", files), told.append)
        return [event for event in told if isinstance(event, Progress)]

    return sent


@pytest.mark.parametrize("part", [0, 1_000_000])
def test_bytes_are_seen_to_move_within_one_commit(hub: Web, send: Send, part: int) -> None:
    """While they are read for their digests and while they are sent, whole or in parts; no step
    back, and all of it in the end.
    """
    hub.hub.part = part
    told = send()
    total = 2 * len(LARGE) - 1
    for task in ("read what goes to hf://team/x", "send to hf://team/x"):
        seen = [event.done for event in told if event.task == task]
        assert seen == sorted(seen) and (seen[0], seen[-1]) == (0, total)
        assert len({done for done in seen if 0 < done < total}) > 3
    model = hub.models["team/x"]
    assert model.private and model.titles == ["x, a soup"]
    assert model.files()["a.safetensors"] == LARGE


def test_what_a_hub_has_is_not_sent_again(hub: Web, send: Send) -> None:
    """The count is whole all the same; where nothing is new there is no second commit."""
    send()
    hub.asked.clear()
    told = send()
    assert (told[-1].done, told[-1].total) == (told[-1].total, 2 * len(LARGE) - 1)
    assert not [path for path, _ in hub.asked if path.startswith("/blob/")]
    assert len(hub.models["team/x"].titles) == 1


def test_folders_and_branches_are_sent_to(hub: Web, send: Send) -> None:
    """The branch is made, the folder's stale shards go, main and what is beside it stay."""
    send("hf://team/x@nightly/best")
    model = hub.models["team/x"]
    assert model.files() == {}
    there = model.files("nightly")
    assert set(there) == {"best/soup.json", "best/a.safetensors", "best/b.safetensors"}
    old = {"best/old.safetensors": b"1", "old.safetensors": b"2", "best/notes.txt": b"3"}
    model.put({**there, **old}, hub.root, "nightly")
    send("hf://team/x@nightly/best", LARGE[:-1])
    names = set(model.files("nightly"))
    assert names == {*there, "old.safetensors", "best/notes.txt"}


@pytest.mark.parametrize("many", [False, True])
def test_a_file_that_is_not_taken_is_one_line(
    hub: Web, tmp_path: Path, capfd: pytest.CaptureFixture[str], many: bool
) -> None:
    """Whatever words the client puts around it; no signed address, no token, nothing of its own."""
    files: dict[str, Path | bytes] = {}
    for number in range(1 + many):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(LARGE[number:])
        files[file.name] = file
    hub.hub.refused = "no room for hf_hidden"
    what = Commit(parse("hf://team/x"), "x", files)
    with pytest.raises(OutputError, match="^hf://team/x: .*no room for …") as caught:
        commit(what, lambda event: None)
    assert "\n" not in str(caught.value)
    hub.hub.refused, hub.hub.lost = "", True
    with pytest.raises(OutputError, match="^hf://team/x: the hub answered 403") as caught:
        commit(what, lambda event: None)
    assert "signature" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert hub.models["team/x"].titles == []


def test_whoever_stops_it_need_not_wait(hub: Web, send: Send) -> None:
    """Files that are being read end where they are, and nothing is committed."""
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        committing._aside(lambda: (_ for _ in ()).throw(KeyboardInterrupt), stop)
    assert stop.is_set()
    with Told(Path(__file__), stop) as file, pytest.raises(OutputError, match="stopped"):
        file.read(1)


def test_a_token_that_cannot_send_is_known_before_anything_is_made(
    hub: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None, one that nobody knows, one that may only read, and no network to ask over."""
    from huggingface_hub import constants

    target = target_of("hf://team/x")
    target.require_takeable(ignore)
    hub.hub.role = "read"
    with pytest.raises(OutputError, match="hf://team/x: the token of me may only read"):
        target.require_takeable(ignore)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(OutputError, match="hf://team/x: the hub answered 401.*; is HF_TOKEN set"):
        target.require_takeable(ignore)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OutputError, match="hf://team/x: no token to send with: set HF_TOKEN"):
        target.require_takeable(ignore)
    monkeypatch.setenv("HF_TOKEN", "hf_hidden")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OutputError, match="hf://team/x: HF_HUB_OFFLINE forbids to send"):
        target.require_takeable(ignore)
    assert hub.models == {}
