"""Members in object stores: fsspec's memory file system stands for one."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from soup.checkpoints.arriving import fetch
from soup.checkpoints.pool import Pool, inspect
from soup.errors import CheckpointError, SoupError
from soup.remote import download
from tests.conftest import make_checkpoint, random_tensors
from tests.remote.test_web import contents, snapshots, strays


class Fake(MemoryFileSystem):  # type: ignore[misc]
    """Called s3; it counts what is read, and may fail."""

    protocol = ("s3",)
    store: ClassVar[dict[str, Any]] = {}
    read: ClassVar[list[int]] = []
    fails: ClassVar[list[Exception]] = []

    def cat_file(self, path: str, start: Any = None, end: Any = None, **more: Any) -> bytes:
        """As the memory file system does."""
        if self.fails:
            raise self.fails.pop()
        found: bytes = super().cat_file(path, start, end, **more)
        self.read.append(len(found))
        return found

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.replace("s3://", "memory://"))
        return stripped


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Path]:
    """s3://bucket/a and s3://bucket/b; the directory that they are copies of."""
    fsspec.register_implementation("s3", Fake, clobber=True)
    Fake.store.clear()
    Fake.read.clear()
    Fake.fails.clear()
    for seed, name in enumerate("ab"):
        made = make_checkpoint(tmp_path / "here" / name, random_tensors(seed), 2 - seed)
        for file in made.iterdir():
            Fake().pipe_file(f"/bucket/{name}/{file.name}", file.read_bytes())
        Fake().pipe_file(f"/bucket/{name}/checkpoint-5/optimizer.pt", b"x")
    yield tmp_path / "here"
    Fake.store.clear()


def test_members_of_a_store(bucket: Path, cache: Path) -> None:
    """Checked by headers, fetched whole, the same as here; a second time nothing is read."""
    given = ["s3://bucket/a", "s3://bucket/b"]
    assert [member.name for member in inspect(given).members] == ["a", "b"]
    assert snapshots(cache) == []
    pool = Pool.open(*given)
    for member in pool.members:
        assert contents(member.path) == contents(bucket / member.name)
    assert str(pool.members[0].path).startswith(str(cache))
    count = len(Fake.read)
    Pool.open(*given)
    assert len(Fake.read) == count + 2, "the index, twice"
    assert not strays(cache)


def test_a_file_that_changes_in_the_store(
    bucket: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of two versions never become one file."""
    monkeypatch.setattr(download, "PART", 64)
    monkeypatch.setattr(download, "THREADS", 1)
    read = Fake.cat_file
    content = (bucket / "b" / "model.safetensors").read_bytes()

    def changing(self: Fake, path: str, *more: Any, **options: Any) -> bytes:
        found = read(self, path, *more, **options)
        if len(Fake.read) == 4:
            Fake().pipe_file("/bucket/b/model.safetensors", content[:-1] + b"?")
        return found

    monkeypatch.setattr(Fake, "cat_file", changing)
    with pytest.raises(CheckpointError, match=r"s3://bucket/b: model\S+ was changed while it was"):
        fetch(["s3://bucket/b"])
    assert snapshots(cache) == []
    there = fetch(["s3://bucket/b"])["s3://bucket/b"]
    assert (there / "model.safetensors").read_bytes() == content[:-1] + b"?"


def test_what_a_store_may_answer(bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble is tried again; nothing there, no rights and a missing library are one line."""
    Fake.fails[:] = [TimeoutError("slow"), OSError("reset")]
    assert contents(fetch(["s3://bucket/b"])["s3://bucket/b"]) == contents(bucket / "b")
    for error, text in (
        (PermissionError("Access Denied"), "the store refused it (Access Denied)"),
        (FileNotFoundError("gone"), "nothing there"),
    ):
        Fake.fails[:] = [error]
        with pytest.raises(CheckpointError) as raised:
            fetch(["s3://bucket/a"])
        assert str(raised.value).startswith("s3://bucket/a: ") and text in str(raised.value)
    with pytest.raises(CheckpointError, match="s3://bucket/none: its listing: nothing there"):
        fetch(["s3://bucket/none"])
    Fake.fails[:] = [OSError("always")] * 99
    with pytest.raises(CheckpointError, match=r"cannot be read \(always\), \d times"):
        fetch(["s3://bucket/a"])
    with pytest.raises(SoupError, match="gs://bucket/a: needs gcsfs.*vlm-soup.remote"):
        fetch(["gs://bucket/a"])
    with pytest.raises(SoupError, match="nope://x/y: expected hf://, s3://"):
        fetch(["nope://x/y"])
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SoupError, match="s3://bucket/b: needs fsspec, which is not installed"):
        fetch(["s3://bucket/b"])
