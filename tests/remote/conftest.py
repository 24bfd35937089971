"""A web server with a pool, a cache of its own, and no waiting between tries."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from soup.remote import download, ranges
from tests.conftest import make_checkpoint, random_tensors
from tests.remote.servers import Web, serving


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, and nothing of the user's: no token, no cache of a hub."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("SOUP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setattr(ranges, "PAUSE", 0.001)
    return tmp_path / "cache"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """A server that shows runs/a (three shards), runs/b (one file) and a misfit."""
    runs = tmp_path / "web" / "runs"
    make_checkpoint(runs / "a", random_tensors(0), 3, files={"tokenizer_config.json": "{}"})
    make_checkpoint(runs / "b", random_tensors(1), files={"code/extra.py": "x = 1\n"})
    half = {name: tensor.flatten()[:1] for name, tensor in random_tensors(2).items()}
    make_checkpoint(runs / "misfit", half)
    with serving(tmp_path / "web") as server:
        yield server
