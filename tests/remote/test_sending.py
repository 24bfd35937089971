"""Soups sent elsewhere: to a store (fsspec's memory file system) and to a hub (a fake)."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from soup.checkpoints.arriving import fetch
from soup.checkpoints.pool import Pool
from soup.cli.app import main
from soup.errors import OutputError, UnfinishedError, UsageError
from soup.remote.sending import LAST, MARK, PROBE, files_of, target_of
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors
from tests.remote.servers import Web

OUT = "s3://bucket/soups/x"


class Fake(MemoryFileSystem):  # type: ignore[misc]
    """Called s3; it lists what is sent, and may fail."""

    protocol = ("s3",)
    store: ClassVar[dict[str, Any]] = {}
    sent: ClassVar[list[str]] = []
    left: ClassVar[list[int]] = []
    error: ClassVar[type[Exception]] = OSError
    forbidden: ClassVar[set[str]] = set()

    def pipe_file(self, path: str, value: bytes, *more: Any, **options: Any) -> None:
        """As the memory file system does, where it may."""
        if "write" in self.forbidden:
            raise PermissionError("Access Denied")
        if "bucket" in self.forbidden:
            raise FileNotFoundError("bucket")
        super().pipe_file(path, value, *more, **options)

    def rm_file(self, path: str) -> None:
        """As the memory file system does, where it may."""
        if "delete" in self.forbidden:
            raise PermissionError("Access Denied")
        super().rm_file(path)

    def put_file(self, lpath: str, rpath: str, **more: Any) -> None:
        """As the memory file system does, some times."""
        if self.left:
            self.left[0] -= 1
            if self.left[0] < 0:
                raise self.error("the line is dead")
        super().put_file(lpath, rpath, **more)
        self.sent.append(rpath.removeprefix("/bucket/soups/x/"))

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = MemoryFileSystem._strip_protocol(path.replace("s3://", "memory://"))
        return stripped


@pytest.fixture
def store() -> Iterator[type[Fake]]:
    """An empty one."""
    fsspec.register_implementation("s3", Fake, clobber=True)
    Fake.store.clear()
    Fake.sent.clear()
    Fake.left.clear()
    Fake.forbidden.clear()
    yield Fake
    Fake.store.clear()
    Fake.left.clear()


def there(place: str = "/bucket/soups/x") -> dict[str, bytes]:
    """What is in a place, by name."""
    fs = Fake()
    return {name.removeprefix(f"{place}/"): fs.cat_file(name) for name in fs.find(place)}


def here(directory: Path) -> dict[str, bytes]:
    """The same of a directory."""
    return {name: (directory / name).read_bytes() for name in files_of(directory)}


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Two members, in three shards, with files beside them."""
    files = {"tokenizer_config.json": "{}", "code/extra.py": "x = 1\n"}
    return Pool.open(
        *(
            make_checkpoint(tmp_path / n, random_tensors(k), 3, files=files)
            for k, n in enumerate("ab")
        )
    )


Send = Callable[..., str]


@pytest.fixture
def send(pool: Pool, tmp_path: Path) -> Send:
    """Makes an average, of some members, and sends it; returns where it is."""

    def sent(members: int = 2, out: str = OUT, **more: Any) -> str:
        some = Pool(pool.members[:members])
        settings = Settings(out=out, work=tmp_path / "work", **more)
        board = make("average", some, settings=settings)
        assert board.soup is not None
        return board.soup.out

    return sent


def waiting(tmp_path: Path) -> list[str]:
    """Soups that have not arrived."""
    return [path.parent.name for path in (tmp_path / "work" / "sending").glob("*/*/soup.json")]


def test_a_soup_arrives_whole_its_config_last(
    store: type[Fake], send: Send, pool: Pool, tmp_path: Path
) -> None:
    """Byte for byte what would be written here; sent once; nothing is left on this machine."""
    assert send() == OUT
    make("average", pool, settings=Settings(out=tmp_path / "x", work=tmp_path / "other"))
    assert there() == here(tmp_path / "x")
    order = list(store.sent)
    assert all(name.endswith(".safetensors") for name in order[:3])
    assert order[-3:] == [name for name in LAST if name in order]
    assert not waiting(tmp_path)
    assert send() == OUT
    assert store.sent == order


def test_what_was_broken_off_is_no_model_and_goes_on(
    store: type[Fake], send: Send, tmp_path: Path, pool: Pool
) -> None:
    """Whichever file the line dies at; a second run sends the rest, and what comes last."""
    assert send() == OUT
    whole, count = there(), len(store.sent)
    for broken in range(count):
        store.store.clear()
        store.left[:] = [broken]
        with pytest.raises(OutputError, match=f"{OUT}: .*the line is dead.*, 3 times"):
            send()
        assert MARK in there() and "config.json" not in there()
        assert len(waiting(tmp_path)) == 1
        done = [name for name in there() if name not in (MARK, *LAST)]
        store.left.clear()
        store.sent.clear()
        assert send() == OUT
        assert there() == whole and not waiting(tmp_path)
        assert not set(done) & set(store.sent)


def test_another_soup_stays_unless_it_is_to_go(
    store: type[Fake], send: Send, tmp_path: Path
) -> None:
    """It is an error that says where the new one is; with overwrite the old one's files go first,
    and none of them is taken for the new one's, whatever its name and size.
    """
    send(1)
    old = there()
    Fake().pipe_file("/bucket/soups/x/notes.txt", b"ours")
    with pytest.raises(OutputError, match="holds another soup; the new one is in .*sending.*x: "):
        send()
    assert there() == old | {"notes.txt": b"ours"}
    (held,) = (tmp_path / "work" / "sending").glob("*/x")
    new = here(held)
    store.left[:] = [1]
    with pytest.raises(OutputError, match="dead"):
        send(overwrite=True)
    assert set(there()) == {MARK, "notes.txt", next(iter(new))}
    store.left.clear()
    send(overwrite=True)
    assert there() == new | {"notes.txt": b"ours"}


def test_what_is_no_soup_is_left_alone(store: type[Fake], send: Send, tmp_path: Path) -> None:
    """Known before anything is read: with overwrite, too."""
    Fake().pipe_file("/bucket/soups/x/config.json", b"{}")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="holds 1 file and is not a soup"):
            send(overwrite=overwrite)
    assert there() == {"config.json": b"{}"} and not waiting(tmp_path)
    store.error, store.left[:] = PermissionError, [0]
    try:
        with pytest.raises(OutputError, match="the store refused it"):
            send(out="s3://bucket/soups/y")
    finally:
        store.error = OSError


@pytest.mark.parametrize(
    ("forbidden", "said"),
    [
        ("write", "the store refused it .Access Denied.; nothing can be written there"),
        ("delete", "it may be written there, but not deleted, which is needed, too"),
        ("bucket", "no such bucket; make it first"),
    ],
)
def test_a_place_that_takes_nothing_is_known_before_anything_is_made(
    store: type[Fake], send: Send, tmp_path: Path, forbidden: str, said: str
) -> None:
    """Hours earlier than by sending; what was put there to try it is no file of anybody's."""
    store.forbidden.add(forbidden)
    with pytest.raises(OutputError, match=f"^{OUT}: .*{said}"):
        send()
    assert not waiting(tmp_path)
    store.forbidden.clear()
    assert send() == OUT and PROBE not in there()


def test_what_does_not_arrive_says_where_it_waits(
    store: type[Fake], send: Send, tmp_path: Path
) -> None:
    """Whatever went wrong; what has arrived in part is a member of nothing; no folder is left."""
    store.left[:] = [1]
    with pytest.raises(OutputError, match=f"dead.*; the soup waits in {tmp_path}.*/x: run the"):
        send()
    with pytest.raises(UnfinishedError, match=f"{OUT}: a soup that is still being sent there"):
        fetch([OUT], cache=tmp_path / "cache")
    store.left.clear()
    send()
    assert fetch([OUT], cache=tmp_path / "cache")
    assert list((tmp_path / "work" / "sending").iterdir()) == []


def test_a_web_server_takes_nothing() -> None:
    """One line, before anything is done."""
    with pytest.raises(UsageError, match="https://host/x: a web server is read from, not written"):
        target_of("https://host/x")


def test_a_hub_takes_a_soup_in_one_commit(
    web: Web, send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private where it is made anew; again and nothing changes; a model of others is left alone."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    monkeypatch.setenv("HF_TOKEN", "none")
    web.token = "none"
    assert send(out="hf://team/x").startswith("hf://team/x")
    model = web.models["team/x"]
    assert model.private and len(model.titles) == 1
    again = make(
        "average",
        Pool.open("hf://team/x", cache=tmp_path / "cache"),
        settings=Settings(out=tmp_path / "again", work=tmp_path / "other"),
    )
    assert again.soup is not None
    assert {"soup.json", "config.json", "tokenizer_config.json"} < set(model.files())
    model.put({"config.json": b"{}"}, web.root / "team-x")
    with pytest.raises(OutputError, match="holds a model that is not a soup"):
        send(out="hf://team/x")


def test_the_command_line_says_where_it_would_go_and_went(
    store: type[Fake], pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A plan sends nothing; the run prints the address, and the journal has no secret in it; what
    is there can be verified.
    """
    monkeypatch.chdir(tmp_path)
    out = "s3://key:secret@bucket/soups/x"
    monkeypatch.setattr(
        Fake, "_strip_protocol",
        classmethod(lambda cls, path: MemoryFileSystem._strip_protocol(
            path.replace("s3://key:secret@", "memory://").replace("s3://", "memory://"))),
    )  # fmt: skip
    for more, said in (
        (["--dry-run"], "send it to s3://bucket/soups/x"),
        ([], "s3://bucket/soups/x"),
        (None, "s3://bucket/soups/x: as it was written ("),
    ):
        words = ["average", "a", "b", "-o", out, *more] if more is not None else ["verify", out]
        monkeypatch.setattr(sys, "argv", ["soup", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert not ended.value.code, shown.err
        assert said in shown.out and "secret" not in shown.out + shown.err
        assert bool(there()) == (not more)
    Fake().pipe_file("/bucket/soups/x/tokenizer_config.json", b"{ }")
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert ended.value.code == 1
    assert "s3://bucket/soups/x: tokenizer_config.json: changed since" in shown.out
    journal = (tmp_path / ".soup" / "journal.jsonl").read_text()
    assert "secret" not in journal and "s3://bucket/soups/x" in journal
    assert json.loads(there()["soup.json"])["kind"] == "average"
