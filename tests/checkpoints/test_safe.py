"""Pipes, devices and links in a directory that a stranger made: never waited for, or read."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from soup.blending.blend import Blend
from soup.blending.verifying import verify
from soup.blending.writer import write
from soup.checkpoints import files
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.checkpoints.safe import read_bounded
from soup.errors import CheckpointError
from tests.conftest import make_adapter, make_checkpoint, random_tensors


def bound(path: Path) -> None:
    """A socket's place in the file system, whose name may not be long."""
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "found a pipe"),
    "zero": (lambda path: path.symlink_to("/dev/zero"), "found a device"),
    "socket": (bound, "found a socket"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer.model",
        "chat_template.jinja",
        "notes.txt",
        "code/model.py",
    ],
)
def test_what_is_no_regular_file_is_named(tmp_path: Path, name: str, kind: str) -> None:
    """In place of whatever a model has: at once, and nothing is opened."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0), files={"code/a.py": ""})
    make, message = ODD[kind]
    (path / name).unlink(missing_ok=True)
    make(path / name)
    with pytest.raises(CheckpointError, match=rf"m/{name}: expected a regular file, {message}"):
        open_checkpoint(path)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "README.md"])
def test_beside_an_adapter_too(tmp_path: Path, name: str, kind: str) -> None:
    """Its directory is a stranger's like any other."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(2, 3)})
    factors = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(2, 1)}
    path = make_adapter(tmp_path / "adapter", factors, base)
    make, message = ODD[kind]
    (path / name).unlink(missing_ok=True)
    make(path / name)
    with pytest.raises(CheckpointError, match=rf"{name}: expected a regular file, {message}"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["key.py", "code", "model.safetensors", "deep/er/x", "config.json"]
)
def test_links_that_lead_out_are_named(tmp_path: Path, name: str) -> None:
    """What they lead to would stand in the soup, a neighbour's keys for instance."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    target = tmp_path / "neighbour"
    if name == "code":
        target.mkdir()
        (target / "id_ed25519").write_text("secret")
    else:
        target.write_bytes(b"secret")
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(target)
    with pytest.raises(CheckpointError, match=rf"{name}: a link that leads out of the checkpoint"):
        Pool.open(path)


def test_a_link_by_way_of_another_leads_out_all_the_same(tmp_path: Path) -> None:
    """Where it ends counts."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    (tmp_path / "out").write_text("x")
    (path / "two").symlink_to("one")
    (path / "one").symlink_to("../out")
    with pytest.raises(CheckpointError, match="leads out of the checkpoint"):
        Pool.open(path)


def test_links_within_and_to_the_directory_itself_are_fine(tmp_path: Path) -> None:
    """A checkpoint's directory may be a link, and so may weights under a second name."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    (path / "model.safetensors").rename(path / "weights-900")
    (path / "model.safetensors").symlink_to("weights-900")
    (tmp_path / "best").symlink_to(path)
    assert Pool.open(tmp_path / "best").reference.name == "best"


def test_counts_and_depths_have_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory without end is no model's."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0), files={f"x/{k}": "" for k in "abc"})
    monkeypatch.setattr(files, "MOST", 5)
    with pytest.raises(CheckpointError, match="more than 5 files; is it a model's directory"):
        open_checkpoint(path)
    monkeypatch.undo()
    (path / "/".join("d" * 30)).mkdir(parents=True)
    with pytest.raises(CheckpointError, match="more than 20 folders within each other"):
        open_checkpoint(path)


def test_links_to_folders_that_link_to_others_are_not_followed_without_end(tmp_path: Path) -> None:
    """Twelve folders, each with ten links to the next one, are a million million places."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    for k in range(12):
        (path / f"e{k}").mkdir()
        for link in range(10 if k else 0):
            (path / f"e{k}" / f"l{link}").symlink_to(f"../e{k - 1}")
    started = time.process_time()
    with pytest.raises(CheckpointError, match="more than 100 links to folders"):
        open_checkpoint(path)
    assert time.process_time() - started < 2


def test_names_of_files_need_not_be_text(tmp_path: Path) -> None:
    """A file of a name in Latin-1 beside the weights is copied like any other."""
    paths = [make_checkpoint(tmp_path / n, random_tensors(k)) for k, n in enumerate("ab")]
    name = os.fsdecode(b"caf\xe9.txt")
    (paths[0] / name).write_text("x")
    pool = Pool.open(*paths)
    out = write(Blend(pool.members, pool.reference), tmp_path / "out").path
    assert (out / name).read_text() == "x"
    assert verify(out).problems == ()


def test_a_file_is_read_to_a_bound(tmp_path: Path) -> None:
    """JSON that would fill the memory is not JSON that a model has."""
    file = tmp_path / "x"
    file.write_bytes(bytes(10))
    assert read_bounded(file, 10) == bytes(10)
    with pytest.raises(ValueError, match="10 bytes, expected 9 at most"):
        read_bounded(file, 9)
    os.truncate(file, 1 << 40)
    (path := make_checkpoint(tmp_path / "m", random_tensors(0)))
    (path / "config.json").unlink()
    file.rename(path / "config.json")
    with pytest.raises(CheckpointError, match=r"config.json: .*bytes, expected 33,554,432 at most"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", ["notes.txt", "tokenizer.json", "tokenizer.model", "code/a.py"])
def test_what_would_be_copied_into_a_soup_has_a_bound(tmp_path: Path, name: str) -> None:
    """Any file beside the weights: known when the pool is opened, before a byte of it is read."""
    paths = [make_checkpoint(tmp_path / n, random_tensors(k)) for k, n in enumerate("ab")]
    (paths[1] / name).parent.mkdir(exist_ok=True)
    with (paths[1] / name).open("wb") as made:
        made.truncate(1 << 40)
    said = rf"b/{name}: .*1,099,511,627,776 bytes, expected 536,870,912 at most"
    with pytest.raises(CheckpointError, match=said):
        Pool.open(*paths)
