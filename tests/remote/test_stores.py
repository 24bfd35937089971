"""Members in object stores: fsspec's memory file system stands for one."""

import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.memory import MemoryFileSystem

from soup.checkpoints.arriving import fetch
from soup.checkpoints.pool import Pool, inspect
from soup.errors import CheckpointError, SoupError
from soup.remote import download, stores
from soup.remote import together as asking
from soup.remote.address import parse
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
    with pytest.raises(CheckpointError, match="s3://bucket/none: nothing there"):
        fetch(["s3://bucket/none"])
    Fake.fails[:] = [OSError("always")] * 99
    with pytest.raises(CheckpointError, match=r"the store failed \(always\), \d times"):
        fetch(["s3://bucket/a"])
    with pytest.raises(CheckpointError, match="safetensors: a file; expected.*: s3://bucket/b$"):
        fetch(["s3://bucket/b/model.safetensors"])
    with pytest.raises(SoupError, match="s3://: names no place; expected an address"):
        fetch(["s3://"])
    with pytest.raises(SoupError, match="gs://bucket/a: needs gcsfs.*vlm-soup.remote"):
        fetch(["gs://bucket/a"])
    with pytest.raises(SoupError, match="nope://x/y: expected hf://, s3://"):
        fetch(["nope://x/y"])
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(SoupError, match="s3://bucket/b: needs fsspec, which is not installed"):
        fetch(["s3://bucket/b"])


def test_a_silent_store_is_not_waited_for_long(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the library can end a request it is told when, and the error says how long that was."""
    monkeypatch.setattr(Fake, "async_impl", True)
    monkeypatch.setenv("SOUP_REMOTE_TIMEOUT", "7")
    given: list[Any] = []
    listing = Fake.ls

    def silent(self: Fake, path: str, **more: Any) -> Any:
        given.append(more.pop("timeout"))
        if len(given) < 4:
            raise FSTimeoutError
        return listing(self, path, **more)

    monkeypatch.setattr(Fake, "ls", silent)
    with pytest.raises(CheckpointError, match=r"failed: it was silent for 7 s .*, 3 times"):
        fetch(["s3://bucket/b"])
    assert given == [7.0] * 3


def test_requests_are_as_large_as_the_store_is_fast(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small at first, so that bytes are seen to move; larger while they are fast, else smaller."""
    monkeypatch.setattr(stores, "FIRST", 8)
    monkeypatch.setattr(stores, "SMALLEST", 4)
    monkeypatch.setattr(stores, "LARGEST", 32)
    Fake().pipe_file("/bucket/b/large.safetensors", bytes(range(100)))
    for seconds, sizes in ((0.0, [8, 16, 32, 32, 12]), (1.0, [8] * 12 + [4])):
        clock = itertools.count(0.0, seconds)
        monkeypatch.setattr(stores.time, "monotonic", clock.__next__)
        store = stores.Store(parse("s3://bucket/b"))
        entry = store.stat(["large.safetensors"])["large.safetensors"]
        pieces = list(store.read(entry, 0, 100))
        assert b"".join(pieces) == bytes(range(100)) and [len(p) for p in pieces] == sizes
    store._pace(3.0)
    assert store._step == 4


def test_who_does_not_answer_is_told_of_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers come in order; the first error of all; whoever is stopped meanwhile ends at once."""
    monkeypatch.setattr(asking, "EVERY", 0.02)
    hold, told = threading.Event(), list[str]()

    def answer(name: str) -> str:
        if name == "slow":
            hold.wait(10)
        if name.startswith("bad"):
            raise ValueError(name)
        return name.upper()

    def silent(name: str, seconds: float) -> None:
        told.append(name)
        hold.set()

    assert asking.together(answer, ["slow", "a", "b"], 2, silent) == ["SLOW", "A", "B"]
    assert told == ["slow"]
    with pytest.raises(ValueError, match="bad 1"):
        asking.together(answer, ["a", "bad 1", "bad 2"], 2)

    def stop(name: str, seconds: float) -> None:
        raise KeyboardInterrupt

    hold.clear()
    with pytest.raises(KeyboardInterrupt):
        asking.together(answer, ["slow"], 2, stop)
    hold.set()
