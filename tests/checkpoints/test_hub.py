"""soup/checkpoints/hub.py: models in a hub's local cache, by id and as members."""

import os
from pathlib import Path

import pytest
import torch

from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import CheckpointError
from tests.conftest import make_adapter, make_checkpoint, random_tensors


def snapshot(cache: Path, name: str, revision: str, seed: int = 0, main: bool = True) -> Path:
    """A model in a cache, its files links to blobs as the hub's client makes them."""
    root = cache / f"models--{name.replace('/', '--')}"
    made = make_checkpoint(root / "snapshots" / revision, random_tensors(seed))
    (root / "blobs").mkdir(exist_ok=True)
    for file in list(made.iterdir()):
        blob = root / "blobs" / f"{revision}-{file.name}"
        file.rename(blob)
        file.symlink_to(Path("../../blobs") / blob.name)
    if main:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(revision)
    return made


def test_folders_of_a_cache_are_members_named_by_their_ids(tmp_path: Path) -> None:
    """The folder, its snapshot, or the one of several that main refers to."""
    first = snapshot(tmp_path, "org/one", "aaaa1111", 0)
    snapshot(tmp_path, "org/two", "bbbb2222", 1, main=False)
    pool = Pool.open(first, tmp_path / "models--org--two")
    assert [member.name for member in pool.members] == ["org/one", "org/two"]
    snapshot(tmp_path, "org/one", "cccc3333", 2)
    root = tmp_path / "models--org--one"
    assert open_checkpoint(root).path.name == "cccc3333"
    pool = Pool.open(root, first)
    assert [member.name for member in pool.members] == ["org/one@cccc3333", "org/one@aaaa1111"]


def test_a_folder_with_several_snapshots_and_no_main_is_an_error(tmp_path: Path) -> None:
    """Which one is meant has to be said."""
    for revision in ("aaaa", "bbbb"):
        snapshot(tmp_path, "org/one", revision, main=False)
    with pytest.raises(CheckpointError, match="expected one snapshot, found aaaa, bbbb; name the"):
        Pool.open(tmp_path / "models--org--one")


@pytest.mark.parametrize("kind", ["pipe", "device", "huge", "no text", "too long"])
def test_a_branch_that_is_no_branch_is_none(tmp_path: Path, kind: str) -> None:
    """What a cache's refs hold is a word; nothing else is waited for, or read without end."""
    for revision in ("aaaa", "bbbb"):
        snapshot(tmp_path, "org/one", revision)
    main = tmp_path / "models--org--one" / "refs" / "main"
    main.unlink()
    if kind == "pipe":
        os.mkfifo(main)
    elif kind == "device":
        main.symlink_to("/dev/zero")
    elif kind == "huge":
        with main.open("wb") as made:
            made.truncate(1 << 40)
    else:
        main.write_bytes(b"\xff\xfe" if kind == "no text" else b"a" * 100_000)
    with pytest.raises(CheckpointError, match="expected one snapshot, found aaaa, bbbb; name the"):
        Pool.open(main.parent.parent)


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_a_base_named_by_its_id_is_found_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Wherever the client's environment variables put it; without it, --base is advised."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    inner = {"HF_HUB_CACHE": ".", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub"}[variable]
    factors = {
        "layers.0.lora_A.weight": torch.ones(2, 4),
        "layers.0.lora_B.weight": torch.ones(4, 2),
    }
    path = make_adapter(tmp_path / "lora", factors, base_model_name_or_path="org/base")
    with pytest.raises(CheckpointError, match="nor in the hub's local cache; name .* --base"):
        open_checkpoint(path)
    made = snapshot(tmp_path / inner, "org/base", "abcd")
    opened = open_checkpoint(path)
    assert opened.home == made
    assert opened.kind == "LoRA r=2 on org/base"
    old = snapshot(tmp_path / inner, "org/base", "0123", main=False)
    other = make_adapter(
        tmp_path / "old", factors, base_model_name_or_path="org/base", revision="0123"
    )
    assert open_checkpoint(other).home == old


def test_ids_in_the_cache_are_members_and_bases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``org/name`` as it is; a directory of that name here comes first."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    made = snapshot(tmp_path / "cache", "org/base", "abcd")
    factors = {f"layers.0.lora_{half}.weight": torch.ones(4, 4) for half in "AB"}
    adapter = make_adapter(tmp_path / "lora", factors)
    pool = Pool.open("org/base", adapter, base="org/base")
    assert [member.name for member in pool.members] == ["org/base", "lora"]
    assert {member.home for member in pool.members} == {made}
    make_checkpoint(tmp_path / "org/base", random_tensors(1))
    assert Pool.open("org/base").reference.path == tmp_path / "org/base"
    with pytest.raises(CheckpointError, match="org/none: expected a model directory"):
        Pool.open("org/none")
