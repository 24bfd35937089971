"""The cache: killed downloads go on, processes share it, room is made of what nobody uses."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from soup.checkpoints.arriving import fetch
from soup.checkpoints.opening import open_checkpoint
from soup.cli.caching import bytes_of
from soup.errors import OutputError, UsageError
from soup.remote import cache as caches
from tests.conftest import make_checkpoint
from tests.remote.servers import Web
from tests.remote.test_web import contents, snapshots, strays

FETCH = """
import sys
from soup.remote import download
download.PART = 1 << 16
from soup.checkpoints.arriving import fetch
print(fetch([sys.argv[1]])[sys.argv[1]])
"""


@pytest.fixture
def big(web: Web) -> Path:
    """A model of a megabyte in two files, at /big."""
    weights = {f"w{k}.weight": torch.rand(1 << 15) for k in range(8)}
    return make_checkpoint(web.root / "big", weights, 2)


def started(address: str) -> "subprocess.Popen[str]":
    """A process that fetches a model in small parts."""
    command = [sys.executable, "-c", FETCH, address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_download_goes_on(web: Web, big: Path, cache: Path) -> None:
    """Killed at several places: never half a file under its name, and the rest is what is sent."""
    size = sum(file.stat().st_size for file in big.iterdir())
    web.pace = 1 << 19
    address = f"{web.address}/big"
    for share in (0.3, 0.7):
        process = started(address)
        while web.sent < share * size and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert snapshots(cache) == []
        for blob in cache.glob("models--*/blobs/*"):
            assert blob.read_bytes() in contents(big).values()
    web.pace = 0
    process = started(address)
    said, _ = process.communicate()
    assert process.returncode == 0
    assert contents(Path(said.strip())) == contents(big)
    assert not strays(cache)
    # What was under way when it was killed is sent again: at most eight parts, twice.
    assert web.sent < size + 2 * 8 * (1 << 16) + 50_000


def test_two_processes_fetch_once(web: Web, big: Path, cache: Path) -> None:
    """The second waits for the first, and takes what it has fetched."""
    web.pace = 1 << 20
    both = [started(f"{web.address}/big") for _ in range(2)]
    said = {process.communicate()[0] for process in both}
    assert [process.returncode for process in both] == [0, 0] and len(said) == 1
    size = sum(file.stat().st_size for file in big.iterdir())
    assert size <= web.sent < size + 50_000
    assert not strays(cache)


def test_room_is_made_of_what_was_used_longest_ago(
    web: Web, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process works with stays; the command says what is there and what has gone."""
    from soup.cli.app import main

    def run(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["soup", "cache", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    assert f"0 models, 0 bytes in {cache}" in run()
    names = ("a", "b", "misfit")
    there = {name: fetch([a := f"{web.address}/runs/{name}"])[a] for name in names}
    for age, name in enumerate(names):
        os.utime(there[name], (1e9 - age, 1e9 - age))
    for path in ("b", "misfit"):
        os.close(caches._held.pop(there[path]))
    assert run().count("/runs/") == 3
    most = caches.total(cache) - 1
    said = run("--keep", str(most))
    assert "deleted" in said and not there["misfit"].exists() and there["b"].is_dir()
    said = run("--keep", "0")
    assert f"kept {web.address}/runs/a" in said and "in use" in said
    assert there["a"].is_dir() and not there["b"].exists()
    assert contents(there["a"]) == contents(web.root / "runs" / "a")
    address = f"{web.address}/runs/b"
    assert contents(fetch([address])[address]) == contents(web.root / "runs" / "b")


def test_no_room_and_no_rights(
    web: Web, big: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Said before anything large is sent."""
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"0.00 GB are to be fetched, 0.00 GB are free"):
        fetch([f"{web.address}/big"])
    assert web.sent < 10_000
    monkeypatch.undo()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written: Not a directory; name another"):
        fetch([f"{web.address}/runs/a"], cache=tmp_path / "file")


def test_a_shared_cache_is_read_by_those_who_cannot_write(web: Web, cache: Path) -> None:
    """What is whole there needs no lock and no note."""
    address = f"{web.address}/runs/b"
    there = fetch([address])[address]
    folder = there.parent.parent
    (folder / "lock").unlink()
    for path in (folder, folder / "refs", folder / "snapshots"):
        path.chmod(0o555)
    try:
        assert open_checkpoint(fetch([address])[address]).path == there
    finally:
        for path in (folder, folder / "refs", folder / "snapshots"):
            path.chmod(0o755)


def test_sizes() -> None:
    """As people write them."""
    assert [bytes_of(text) for text in ("0", "50GB", "1.5 mb", "2k")] == [
        0,
        50 * 10**9,
        1_500_000,
        2000,
    ]
    with pytest.raises(UsageError, match="--keep much: expected a size"):
        bytes_of("much")
