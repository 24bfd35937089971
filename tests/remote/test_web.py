"""Members on a web server: whole, by headers alone, and whatever a server may do wrong."""

import json
import re
from pathlib import Path

import pytest
import torch

import soup
from soup.checkpoints.arriving import fetch
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, inspect
from soup.choosing.journal import Journal
from soup.errors import CheckpointError, PoolError, SoupError, UsageError
from soup.events import Event, Progress
from soup.publishing.sifting import sift
from soup.remote import download
from soup.remote.address import parse
from tests.conftest import make_adapter, make_checkpoint, make_torch_checkpoint, random_tensors
from tests.remote.servers import Web, serving


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a directory by name."""
    files = [file for file in directory.rglob("*") if file.is_file()]
    return {file.relative_to(directory).as_posix(): file.read_bytes() for file in files}


def failure(address: str) -> str:
    """The one line that an address ends in; it names it."""
    with pytest.raises(SoupError) as raised:
        fetch([address])
    text = str(raised.value)
    assert "\n" not in text and str(parse(address)) in text, text
    return text


def snapshots(cache: Path) -> list[Path]:
    """Whole models in the cache."""
    return sorted(cache.glob("models--*/snapshots/*"))


def strays(cache: Path) -> list[Path]:
    """What is not whole, in the cache."""
    hidden = [*cache.rglob(".*")]
    return [*cache.glob("models--*/partial/*"), *(p for p in hidden if p.name != ".outline")]


def test_members_are_fetched_as_they_are(web: Web, cache: Path) -> None:
    """The same files and digests as here, with progress; a second time nothing is sent."""
    events: list[Event] = []
    given = [f"{web.address}/runs/a", f"{web.address}/runs/b/"]
    pool = Pool.open(*given, observe=events.append)
    for member in pool.members:
        here = open_checkpoint(web.root / "runs" / member.name)
        assert member.digest == here.digest
        assert contents(member.path) == contents(here.path)
    bars = [event for event in events if isinstance(event, Progress)]
    assert {bar.task.partition(" (")[0] for bar in bars} == {
        f"fetch {web.address}/runs/{n}" for n in "ab"
    }
    assert bars[-1].done == bars[-1].total > 0
    sent = web.sent
    again = Pool.open(*given, reference=given[1])
    assert [m.path for m in again.members] == [m.path for m in pool.members]
    assert again.reference.name == "b"
    assert web.sent - sent < 4000, "listings and first bytes"
    assert len(snapshots(cache)) == 2 and not strays(cache)


def test_a_check_reads_headers_alone(web: Web, cache: Path) -> None:
    """No tensor is sent; and what was checked cannot be taken for weights."""
    big = {"w.weight": torch.zeros(1 << 20, dtype=torch.bfloat16)}
    for name in ("x", "y"):
        make_checkpoint(web.root / "runs" / name, big)
    report = inspect([f"{web.address}/runs/x", f"{web.address}/runs/y"])
    assert not report.problems and report.members[0].nbytes == 1 << 21
    assert web.sent < 20_000
    assert snapshots(cache) == []
    with pytest.raises(CheckpointError, match="ended inside tensor w.weight"):
        _ = report.members[0].digest


def test_a_pool_that_does_not_fit_is_refused_before_weights_flow(web: Web, cache: Path) -> None:
    """The problem is the one that members here would have."""
    given = [str(web.root / "runs" / "a"), f"{web.address}/runs/misfit"]
    with pytest.raises(PoolError, match=r"misfit: all .* tensors"):
        Pool.open(*given)
    assert snapshots(cache) == []


def test_a_soup_says_where_its_members_are_from(web: Web, tmp_path: Path) -> None:
    """Address and revision in the manifest and the leaderboard; a moved member is told."""
    given = [f"{web.address}/runs/a", f"{web.address}/runs/b"]
    settings = soup.Settings(out=tmp_path / "out", work=tmp_path / "work")
    board = soup.make("average", Pool.open(*given), settings=settings)
    manifest = json.loads((tmp_path / "out" / "soup.json").read_text())
    sources = [member["source"] for member in manifest["members"]]
    assert [source.partition(" (")[0] for source in sources] == given
    assert {row.source for row in board.members} == set(sources)
    file = web.root / "runs" / "b" / "model.safetensors"
    made = make_checkpoint(tmp_path / "new", random_tensors(7))
    (made / "model.safetensors").rename(file)
    notes: list[Event] = []
    board = soup.make("average", Pool.open(*given), settings=settings, observe=notes.append)
    told = [getattr(note, "text", "") for note in notes]
    assert any(re.search(r"b: .*/runs/b is at \w+ now, .*: a new member", text) for text in told)
    assert {row.source for row in board.members} != set(sources)


def test_a_night_need_not_wait_for_what_was_fetched(web: Web, tmp_path: Path) -> None:
    """It is there only when it is whole, however young its files are."""
    address = f"{web.address}/runs/a"
    there = fetch([address])[address]
    sifted = sift([there], Journal.open(tmp_path / "work"), settle=60)
    assert sifted.ready == (there,)
    assert open_checkpoint(address).path == there


def test_a_page_that_is_no_listing(web: Web) -> None:
    """A folder's own page with links of its own hides no model."""
    web.listing = False
    (web.root / "runs" / "a" / "about.html").write_text("x")
    web.page = '<a href="about.html">about</a>'
    address = f"{web.address}/runs/a"
    assert contents(fetch([address])[address]) == contents(web.root / "runs" / "a")


def test_a_server_that_knows_no_ranges(web: Web) -> None:
    """Headers are read from the beginning of the answer; downloads are whole."""
    web.ranges = False
    report = inspect([f"{web.address}/runs/b"])
    assert report.members[0].nbytes > 0
    there = fetch([f"{web.address}/runs/b"])[f"{web.address}/runs/b"]
    assert contents(there) == contents(web.root / "runs" / "b")


def test_a_server_that_lists_nothing(web: Web) -> None:
    """Files of well-known names, and the shards that the index names."""
    web.listing = False
    address = f"{web.address}/runs/a"
    assert contents(fetch([address])[address]) == contents(web.root / "runs" / "a")


def test_a_server_that_tells_no_versions_is_read_anew(web: Web, cache: Path) -> None:
    """Nothing of an earlier time is taken for what is there now."""
    web.versions = False
    address = f"{web.address}/runs/b"
    first = fetch([address])[address]
    file = web.root / "runs" / "b" / "config.json"
    file.write_text(file.read_text().replace("tiny", "tinx"))
    second = fetch([address])[address]
    assert "tinx" in (second / "config.json").read_text()
    assert "tiny" in (first / "config.json").read_text()


def test_a_transfer_that_is_cut_goes_on_where_it_was(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, each cut several times: no byte is sent twice."""
    monkeypatch.setattr(download, "PART", 1 << 16)
    weights = {f"w{k}.weight": torch.rand(1 << 15) for k in range(8)}
    made = make_checkpoint(web.root / "big", weights)
    web.cuts, web.cut_at = 30, 20_000
    address = f"{web.address}/big"
    assert contents(fetch([address])[address]) == contents(made)
    size = (made / "model.safetensors").stat().st_size
    assert web.cuts == 0 and size < web.sent < size + 10_000


def test_a_server_that_always_hangs_up(web: Web, cache: Path) -> None:
    """An error after some tries that bring nothing, whether it knows ranges or not."""
    web.cuts, web.cut_at = 10**6, 0
    assert "the transfer was cut off" in failure(f"{web.address}/runs/b")
    web.cut_at, web.ranges = 500, False
    assert "it takes no ranges" in failure(f"{web.address}/runs/b")
    assert snapshots(cache) == []
    web.cuts = 0
    address = f"{web.address}/runs/b"
    assert contents(fetch([address])[address]) == contents(web.root / "runs" / "b")
    assert not strays(cache)


def test_a_server_that_sends_another_range(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are never put where others belong."""
    monkeypatch.setattr(download, "PART", 1 << 8)
    web.shift = 1
    assert "sent another range than was asked for (bytes " in failure(f"{web.address}/runs/b")
    assert snapshots(cache) == []


def test_a_server_that_falls_silent(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for ever."""
    monkeypatch.setenv("SOUP_REMOTE_TIMEOUT", "0.1")
    web.silent = 0.4
    assert "silent for 0.1 s (SOUP_REMOTE_TIMEOUT), 3 times" in failure(f"{web.address}/runs/b")


def test_a_file_that_changes_while_it_is_read(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of two versions never become one file."""
    monkeypatch.setattr(download, "PART", 1 << 8)
    content = bytearray((web.root / "runs" / "b" / "model.safetensors").read_bytes())
    content[-1] ^= 1
    web.changes = {"model.safetensors": (3, bytes(content))}
    text = failure(f"{web.address}/runs/b")
    assert text.endswith(
        "model.safetensors was changed while it was read; run the command again when it is complete"
    )
    assert snapshots(cache) == []
    address = f"{web.address}/runs/b"
    assert contents(fetch([address])[address])["model.safetensors"] == bytes(content)
    assert not strays(cache)


def test_what_is_no_model(web: Web, tmp_path: Path) -> None:
    """Nothing there, other files, refused, in trouble, nobody there, a shard that is missing."""
    assert "no model there: no model.safetensors" in failure(f"{web.address}/nope")
    (web.root / "other").mkdir()
    (web.root / "other" / "notes.txt").write_text("x")
    assert "found notes.txt" in failure(f"{web.address}/other")
    meant = f"did you mean {web.address}/runs/a, {web.address}/runs/b"
    assert meant in failure(f"{web.address}/runs")
    (web.root / "runs" / "a" / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors: missing" in failure(f"{web.address}/runs/a")
    web.status = 503
    assert "the server answered 503, 3 times" in failure(f"{web.address}/runs/b")
    web.status = 403
    assert "the server refused it (403)" in failure(f"{web.address}/runs/b")
    with serving(tmp_path) as gone:
        address = gone.address
    assert "the server cannot be reached" in failure(f"{address}/x")


def test_secrets_are_used_and_never_shown(web: Web, tmp_path: Path, cache: Path) -> None:
    """A password and a signature reach the server, and no message, manifest, journal or cache."""
    web.needs = "Basic dXNlcjpwYXNzMTIz"
    web.query = "sig=abc%2Fdef123"
    bare = web.address.removeprefix("http://")
    given = [f"http://user:pass123@{bare}/runs/{name}?sig=abc%2Fdef123" for name in "ab"]
    events: list[Event] = []
    pool = Pool.open(*given, reference=given[1], observe=events.append)
    settings = soup.Settings(out=tmp_path / "out", work=tmp_path / "work")
    soup.make("average", pool, settings=settings, observe=events.append)
    texts = [failure(one.replace("runs", "none")) for one in given]
    with pytest.raises(UsageError) as raised:
        inspect(given, reference=given[0].replace("runs", "none"))
    web.needs = "other"
    texts += [failure(given[0].replace("runs/a", "runs/misfit")), str(raised.value), str(events)]
    for place in (tmp_path / "work", tmp_path / "out", cache):
        for file in place.rglob("*"):
            texts += [str(file), *([file.read_bytes().decode("latin-1")] if file.is_file() else [])]
    for text in texts:
        assert not re.search("pass123|dXNlcjpwYXNzMTIz|def123", text), text
        assert "user" not in text.partition("runs")[0] or "/" not in text[:9]


def test_an_index_of_a_stranger_leads_nowhere_else(web: Web, tmp_path: Path) -> None:
    """Neither its shards nor a listing's names leave the model's directory."""
    index = web.root / "runs" / "a" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "../../evil.safetensors"}}))
    assert "is not a plain file name" in failure(f"{web.address}/runs/a")
    index.write_text('{"weight_map": 3}')
    assert "index.json: damaged" in failure(f"{web.address}/runs/a")


def test_adapters_and_torch_files(web: Web) -> None:
    """An adapter, with its base elsewhere, is checked by headers; torch's files arrive whole."""
    factors = {
        "layers.0.lora_A.weight": torch.ones(2, 4),
        "layers.0.lora_B.weight": torch.ones(4, 2),
    }
    lora = make_adapter(web.root / "lora", factors, base_model_name_or_path="org/b")
    base = f"{web.address}/runs/b"
    report = inspect([f"{web.address}/lora"], base=base)
    assert not report.problems and report.members[0].kind == "LoRA r=2 on b"
    assert not any("--base is" in line for line in report.warnings)
    pool = Pool.open(f"{web.address}/lora", base=base)
    here = Pool.open(lora, base=web.root / "runs" / "b")
    assert pool.members[0].digest == here.members[0].digest
    made = make_torch_checkpoint(web.root / "torch", random_tensors(1))
    (made / "optimizer.pt").write_bytes(b"x" * 1000)
    address = f"{web.address}/torch"
    assert open_checkpoint(fetch([address])[address]).digest == open_checkpoint(made).digest
    assert "optimizer.pt" not in contents(fetch([address])[address])
