"""Members of a model hub: one commit each, its token, its offline mode, its own cache."""

import hashlib
import json
from pathlib import Path

import pytest

from soup.checkpoints.arriving import fetch
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, inspect
from soup.errors import CheckpointError, SoupError, UsageError
from soup.remote.address import parse
from tests.checkpoints.test_hub import snapshot
from tests.conftest import make_checkpoint, random_tensors
from tests.remote.repositories import Model
from tests.remote.servers import Web
from tests.remote.test_web import contents, snapshots, strays

A, B = "a" * 40, "b" * 40


@pytest.fixture
def hub(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The repository org/name, with two commits."""
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    runs = web.root / "runs"
    web.models["org/name"] = Model({A: runs / "a", B: runs / "b"}, {"main": A, "next": B})
    return web


def failure(address: str) -> str:
    """The one line that an address ends in."""
    with pytest.raises(SoupError) as raised:
        fetch([address])
    text = str(raised.value)
    assert "\n" not in text and address in text, text
    return text


def test_a_revision_is_one_commit(hub: Web, cache: Path) -> None:
    """Branches and commits; the directory, and so the manifest, says which."""
    pool = Pool.open("hf://org/name", "hf://org/name@next", f"hf://org/name@{B}")
    assert [member.path.name for member in pool.members] == [A, B, B]
    names = [member.name for member in pool.members]
    assert names == ["org/name@aaaaaaaa", "org/name@bbbbbbbb", "org/name@bbbbbbbb#2"]
    assert contents(pool.members[0].path) == contents(hub.root / "runs" / "a")
    asked = len(hub.asked)
    fetch([f"hf://org/name@{B}"])
    assert len(hub.asked) == asked, "a commit that is here never changes"
    hub.models["org/name"].refs["main"] = B
    assert open_checkpoint(fetch(["hf://org/name"])["hf://org/name"]).name == "org/name"
    assert len(snapshots(cache)) == 2 and not strays(cache)


def test_a_check_of_the_hub_reads_headers_alone(hub: Web, cache: Path) -> None:
    """And leaves nothing that could be taken for the model."""
    report = inspect(["hf://org/name"])
    assert [member.name for member in report.members] == ["org/name"]
    assert snapshots(cache) == []


def test_a_folder_of_a_repository(hub: Web) -> None:
    """What trainers upload: checkpoint-500 beside others."""
    whole = hub.root / "whole"
    made = make_checkpoint(whole / "checkpoint-500", random_tensors(5))
    (whole / "README.md").write_text("x")
    hub.models["org/many"] = Model({A: whole}, {"main": A})
    pool = Pool.open("hf://org/many@main/checkpoint-500")
    assert pool.members[0].name == "org/many/checkpoint-500"
    assert contents(pool.members[0].path) == contents(made)
    assert "no model there" in failure("hf://org/many")
    assert failure("hf://org/many").endswith("did you mean hf://org/many/checkpoint-500")
    assert "no such folder" in failure("hf://org/many@main/nope")


def test_who_may_not_read(hub: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown, private, gated, another revision; and a token that opens it is never shown."""
    assert "no such repository, or a private one" in failure("hf://org/nope")
    assert "the repository has no revision nope" in failure("hf://org/name@nope")
    hub.models["org/name"].gated = True
    assert "gated: accept its terms on the hub, and set HF_TOKEN" in failure("hf://org/name")
    hub.models["org/name"].gated, hub.models["org/name"].private = False, True
    assert "a private one that HF_TOKEN may not read" in failure("hf://org/name")
    hub.token = "hf_sesame"
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: "hf_sesame")
    there = fetch(["hf://org/name"])["hf://org/name"]
    assert contents(there) == contents(hub.root / "runs" / "a")
    hub.status = 500
    assert "the hub answered 500, 3 times" in failure("hf://org/name@next")
    assert parse("hf://org/name").scrubbed("with hf_sesame in it") == "with … in it"


def test_offline_takes_what_is_here(hub: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last state of a branch, or a snapshot of the hub's own cache; nothing is asked."""
    there = fetch(["hf://org/name"])["hf://org/name"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.asked)
    assert fetch(["hf://org/name"])["hf://org/name"] == there
    text = failure("hf://org/name@next")
    assert "not whole in the cache, and HF_HUB_OFFLINE forbids to fetch it" in text
    assert len(hub.asked) == asked


def test_the_hubs_own_cache_is_used(hub: Web, tmp_path: Path) -> None:
    """What its client has fetched whole is not fetched again; what it has in part is."""
    theirs = snapshot(tmp_path / "hub-cache", "org/name", B, 1)
    (theirs / "code").mkdir()
    (theirs / "code" / "extra.py").write_text("x = 1\n")
    (theirs / "code" / "__init__.py").write_text("")
    assert fetch(["hf://org/name@next"])["hf://org/name@next"] == theirs
    (theirs / "model.safetensors").unlink()
    assert fetch(["hf://org/name@next"])["hf://org/name@next"] != theirs


def test_what_arrives_damaged_is_refused(
    hub: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the hub's SHA-256; the next time it is fetched again."""
    right = hashlib.sha256
    content = (hub.root / "runs" / "b" / "model.safetensors").read_bytes()
    monkeypatch.setattr(
        "tests.remote.servers.hashlib.sha256",
        lambda data=b"": right(b"other") if data == content else right(data),
    )
    assert "model.safetensors: arrived damaged" in _damaged("hf://org/name@next")
    assert snapshots(cache) == []
    monkeypatch.undo()


def _damaged(address: str) -> str:
    with pytest.raises(CheckpointError) as raised:
        fetch([address])
    return str(raised.value)


def test_addresses() -> None:
    """What they may look like; a page of the hub is told how to write it."""
    pull = parse("hf://org/name@refs/pr/3/sub/folder")
    assert (pull.place, pull.revision, pull.folder) == ("org/name", "refs/pr/3", "sub/folder")
    assert str(parse(Path("hf://org/name@v1"))) == "hf://org/name@v1"
    assert str(parse("https://me:pw@host:8/x/?a=b")) == "https://host:8/x"
    for wrong in ("hf://a/../b", "hf://org/name@"):
        with pytest.raises(UsageError, match="expected hf://org/name"):
            parse(wrong)
    with pytest.raises(UsageError, match="write hf://org/name@v1"):
        parse("https://huggingface.co/org/name/tree/v1")
    assert json.dumps(str(parse("s3://bucket/run/"))) == '"s3://bucket/run"'
