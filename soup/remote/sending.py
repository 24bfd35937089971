"""A soup sent elsewhere: ``--out s3://bucket/x``, ``gs://…``, ``hf://org/name``.

It is made on this machine first, whole. A hub takes it in one commit. A store knows no such thing:
there each file is whole or not there, weights come first, then all else, what makes a model of them
last (``config.json``), and until then a mark says that it is unfinished, and of which soup. So what
was broken off goes on, and is no model to anybody meanwhile.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from soup import holding
from soup.errors import CheckpointError, OutputError, UsageError
from soup.events import Note, Observer, Progress
from soup.remote.address import HUB, WEB, Address, parse
from soup.remote.place import missing_package
from soup.remote.ranges import patiently
from soup.remote.stores import LISTING, Nothing, Store
from soup.words import counted

MARK = "soup-unfinished.json"
MANIFEST = "soup.json"
LAST = (MANIFEST, "model.safetensors.index.json", "adapter_config.json", "config.json")
"""The files that come last, in this order: without them nobody takes the others for a model."""


PROBE = "soup-may-write-here.json"
"""Put there and deleted again, to know whether that can be done."""

CHUNKED = ("s3fs", "gcsfs")
"""Libraries that can be told how much to send at a time; by default it is 50 MB, or all."""

CHUNK, MOST = 1 << 23, 9_000
"""Bytes of each such part, and how many there are at most: Amazon takes 10,000."""


class Target(Protocol):
    """Where a soup is sent."""

    address: Address

    def require_takeable(self, observe: Observer, write: bool = False) -> None:
        """It may be sent there, as far as can be told before it is there.

        Args:
            observe: told of what is there.
            write: try it, where nothing else tells.

        Raises:
            OutputError: something is there that is no soup, or nobody answers.
        """
        ...

    def send(self, directory: Path, overwrite: bool, observe: Observer) -> str:
        """Send a soup's directory; what has arrived earlier of the same is not sent again.

        Args:
            directory: a whole soup.
            overwrite: delete another soup that is there.
            observe: told of bytes sent.

        Returns:
            Where it is, for people and records.

        Raises:
            OutputError: it did not arrive, or another soup is there.
        """
        ...


def target_of(out: str | os.PathLike[str]) -> Target:
    """The place that an address names.

    Raises:
        UsageError: none that anything can be sent to.
    """
    address = parse(out)
    if address.scheme in WEB:
        raise UsageError(
            f"{address}: a web server is read from, not written to; expected a directory, hf://, "
            "s3://, gs:// or another store that fsspec knows"
        )
    return HubTarget(address) if address.scheme == HUB else StoreTarget(address)


def deliver(target: Target, directory: Path, overwrite: bool, observe: Observer) -> str:
    """Send a soup; see ``Target.send``, and an error says where it waits, whatever went wrong."""
    try:
        return target.send(directory, overwrite, observe)
    except OutputError as error:
        if str(directory) in str(error):
            raise
        raise OutputError(
            f"{error}; the soup waits in {directory}: run the same command again, and it goes on"
        ) from None


def forget(directory: Path) -> None:
    """Delete what has arrived."""
    holding.delete(directory)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()


def made_in(work: str | os.PathLike[str], address: Address) -> Path:
    """Where a soup is made that is sent to an address, and waits until it has arrived."""
    key = hashlib.sha256(str(address).encode()).hexdigest()[:8]
    name = (address.folder or address.place).rstrip("/").rpartition("/")[2]
    return Path(os.path.abspath(work)) / "sending" / f"{key}" / (name or "soup")


def files_of(directory: Path) -> dict[str, int]:
    """The files of a soup, in the order in which they are sent, and their bytes."""
    found = {}
    for root, _, names in os.walk(directory):
        for name in names:
            file = Path(root) / name
            found[file.relative_to(directory).as_posix()] = file.stat().st_size
    return {name: found[name] for name in sorted(found, key=_rank)}


def _rank(name: str) -> tuple[int, str]:
    if name in LAST:
        return 2 + LAST.index(name), name
    return (0 if name.endswith(".safetensors") else 1), name


class StoreTarget:
    """A folder of an object store."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._store = Store(address)

    def require_takeable(self, observe: Observer, write: bool = False) -> None:
        """See ``Target``."""
        there = self._listed()
        if MANIFEST in there or MARK in there:
            text = "holds a soup already; another one takes its place only with --overwrite"
            if MARK in there:
                text = "holds a part of a soup; of the same one, what is missing is sent; another "
                text += "one takes its place only with --overwrite"
            observe(Note(f"{self.address}: {text}"))
        elif there:
            raise OutputError(
                f"{self.address}: holds {counted(len(there), 'file')} and is not a soup (no "
                f"{MANIFEST}); choose another place with -o"
            )
        if write:
            self._require_writable()

    def send(self, directory: Path, overwrite: bool, observe: Observer) -> str:
        """See ``Target``."""
        files, there = files_of(directory), self._listed()
        check = json.loads((directory / MANIFEST).read_text())["check"]
        mark = self._read(MARK) if MARK in there else {}
        old = self._read(MANIFEST) if MANIFEST in there else {}
        if not mark and old.get("check") == check and _holds(there, files):
            return str(self.address)
        resumed = mark.get("check") == check
        if there and not resumed and not overwrite:
            raise OutputError(
                f"{self.address}: holds another soup; the new one is in {directory}: send it with "
                "--overwrite, which deletes the other, or choose another place with -o"
            )
        if not (resumed and mark.get("cleared")):
            self._put_text(MARK, json.dumps({"check": check, "cleared": not there}))
            if there:
                self._clear(there)
                self._put_text(MARK, json.dumps({"check": check, "cleared": True}))
                there = {}
        total, done = sum(files.values()), 0
        task = f"send {directory.name} to {self.address}"

        def tell(count: int) -> None:
            nonlocal done
            done += count
            observe(Progress(task, min(done, total), total, "B"))

        for name, size in files.items():
            if name in LAST or there.get(name) != size:
                self._put(directory / name, name, tell)
            done = sum(many for one, many in files.items() if _rank(one) <= _rank(name))
            tell(0)
        if not _holds(self._listed(), files):
            raise OutputError(f"{self.address}: not all of it arrived; run the command again")
        self._remove(MARK)
        return str(self.address)

    def _require_writable(self) -> None:
        """A file can be put there and deleted again: better known now than after hours."""
        try:
            self._put_text(PROBE, "{}")
        except _Nothing:
            text = f"{self.address}: no such bucket; make it first, or choose another place with -o"
            raise OutputError(text) from None
        except OutputError as error:
            said = str(error).replace(f"{PROBE}: ", "")
            text = f"{said}; nothing can be written there: choose another place with -o"
            raise OutputError(text) from None
        try:
            self._remove(PROBE)
        except OutputError as error:
            raise OutputError(
                f"{error}; it may be written there, but not deleted, which is needed, too: give "
                "these credentials that right, or choose another place with -o"
            ) from None

    def _clear(self, there: Iterable[str]) -> None:
        """Delete an earlier soup, what makes a model of it first; what others put there stays."""
        old = self._read(MANIFEST) if MANIFEST in there else {}
        known = {*old.get("files", {}), *LAST}
        gone = [n for n in there if n in known or n.endswith(".safetensors")]
        for name in sorted(gone, key=_rank, reverse=True):
            if name != MANIFEST:  # it lists the others, should we be stopped here
                self._remove(name)
        if MANIFEST in there:
            self._remove(MANIFEST)

    def _listed(self) -> dict[str, int]:
        """The files that are there, and their bytes."""

        def ask(fs: Any, root: str) -> dict[str, int]:
            found = fs.find(root, detail=True, **self._store.patience)
            sizes = {
                str(name)[len(root) :].lstrip("/"): int(info.get("size") or 0)
                for name, info in found.items()
            }
            return {name: size for name, size in sizes.items() if name != PROBE}

        try:
            return dict(self._do(LISTING, ask))
        except _Nothing:
            return {}

    def _read(self, name: str) -> dict[str, Any]:
        content = self._brief(name, "cat_file")
        try:
            found = json.loads(content)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _remove(self, name: str) -> None:
        self._brief(name, "rm_file")

    def _put_text(self, name: str, text: str) -> None:
        self._brief(name, "pipe_file", text.encode())

    def _brief(self, name: str, what: str, *more: bytes) -> Any:
        """Something that takes no time where the store answers."""

        def ask(fs: Any, root: str) -> Any:
            return getattr(fs, what)(f"{root}/{name}", *more, **self._store.patience)

        return self._do(name, ask)

    def _put(self, file: Path, name: str, tell: Callable[[int], None]) -> None:
        def put(fs: Any, root: str) -> None:
            from fsspec.callbacks import Callback

            class Told(Callback):  # type: ignore[misc]
                def relative_update(self, inc: int = 1) -> None:
                    tell(inc)

            parent = f"{root}/{name}".rpartition("/")[0]
            fs.makedirs(parent, exist_ok=True)
            size = file.stat().st_size
            parts = (
                {"chunksize": max(CHUNK, -(-size // MOST))}
                if type(fs).__module__.partition(".")[0] in CHUNKED
                else {}
            )
            fs.put_file(str(file), f"{root}/{name}", callback=Told(), **parts)

        self._do(name, put)

    def _do(self, name: str, work: Callable[[Any, str], Any]) -> Any:
        """One thing that the store is asked, again where it may work in a moment."""
        try:
            fs, root = self._store.opened()
            ask = partial(self._store.do, name, lambda: work(fs, root))
            return patiently(self.address, name, ask)
        except Nothing as error:
            raise _Nothing(str(error)) from None
        except CheckpointError as error:
            raise OutputError(str(error)) from None


class _Nothing(OutputError):
    """What was asked for is not there."""


def _holds(there: Mapping[str, int], files: Mapping[str, int]) -> bool:
    return all(there.get(name) == size for name, size in files.items())


class HubTarget:
    """A repository of a hub, or a folder or a branch of it."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def require_takeable(self, observe: Observer, write: bool = False) -> None:
        """See ``Target``."""
        from importlib.util import find_spec

        if find_spec("huggingface_hub") is None:
            raise OutputError(str(missing_package(self.address, "huggingface_hub")))
        from soup.remote.committing import files_there, require_token

        require_token(self.address)
        there = files_there(self.address)
        if "config.json" in there and MANIFEST not in there:
            raise OutputError(
                f"{self.address}: holds a model that is not a soup (no {MANIFEST}); choose another "
                "repository, a branch (@name) or a folder of it with -o"
            )

    def send(self, directory: Path, overwrite: bool, observe: Observer) -> str:
        """See ``Target``; its history keeps an earlier soup."""
        from soup.remote.committing import Commit, commit

        files = {name: directory / name for name in files_of(directory)}
        found = commit(Commit(self.address, f"{directory.name}, a soup", files), observe)
        return self.address.at(str(found.oid)) if getattr(found, "oid", "") else str(self.address)
