"""Between a worker and a command on another machine: it starts the one, and hears the other.

It runs there, beside the worker, which is its child and ends with it. It knows nothing of who
brings it there and carries its words (``ray_cluster``): what it says are tuples of plain things.
"""

import os
import queue
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import soup
from soup.errors import SoupError
from soup.evaluators.kit.finished import packed
from soup.evaluators.workers.elsewhere import digest_of
from soup.evaluators.workers.leavings import lives
from soup.evaluators.workers.process import Died, Process
from soup.evaluators.workers.protocol import PROTOCOL
from soup.events import Event

SPOKEN = (soup.__version__, PROTOCOL)
"""What both sides must have in common."""

LOOK = 1.0  # seconds between two looks at what the worker has printed
PRINTED = 1 << 20  # bytes of that which are told at a time


def own_folder() -> Path:
    """A folder for this user's files on a machine's own disk; nobody else can write there."""
    folder = Path(tempfile.gettempdir()) / f"soup-workers-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is somebody else's")
    return folder


Files = Mapping[str, tuple[int, str]]
"""Bytes and BLAKE3 digests of files, by name relative to their place."""


class Host:
    """One worker, on the machine that this runs on."""

    def begin(self, python: str | None, variables: Mapping[str, str]) -> tuple[str, Any]:
        """Start the worker.

        Args:
            python: its interpreter; None is the one that this runs under.
            variables: of its environment, where this machine has none of that name.

        Returns:
            ``begun`` and what both sides must have in common, or ``refused`` and why.
        """
        if python is not None and not os.access(python, os.X_OK):
            return "refused", f"has no Python interpreter {python}: it must be on every node"
        try:
            self._folder = own_folder()
            _remove_leavings(self._folder)
            self._mine = self._folder / f"run-{os.getpid()}"
            self._mine.mkdir()
            self._log = self._mine / "worker.log"
            self._printed = 0
            own = {name: text for name, text in variables.items() if name not in os.environ}
            self._process = Process(python or sys.executable, self._log, own)
        except OSError as error:
            return "refused", f"cannot start a worker: {error}"
        return "begun", SPOKEN

    def lacks(self, wanted: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
        """What is wrong here with each of these places, where something is.

        Args:
            wanted: by place the files that are to be there, and their bytes.
        """
        found = {}
        for place, files in wanted.items():
            if not Path(place).exists():
                found[place] = ""
                continue
            for name, size in files.items():
                file = Path(place, name) if name else Path(place)
                there = file.stat().st_size if file.is_file() else None
                if there != size:
                    has = "is not there" if there is None else f"has {there:,} bytes there"
                    found[place] = f"{file} {has}, {size:,} here"
                    break
        return found

    def copy_of(self, digest: str, name: str, files: Files, part: str = "") -> str | None:
        """A place's copy on this machine's disk, where it is whole.

        Args:
            digest: names the copy.
            name: the last part of its path.
            files: their bytes and digests, by name relative to it.
            part: names one that is being received; if it is whole, it becomes the copy.
        """
        copies = self._folder / "copies"
        copy = copies / (f"{digest}.{part}" if part else digest) / name
        for relative, (size, expected) in files.items():
            file = copy / relative if relative else copy
            if not file.is_file() or file.stat().st_size != size or digest_of(file) != expected:
                return None
        if part and self.copy_of(digest, name, files):  # another command was faster
            shutil.rmtree(copy.parent)
        elif part:
            shutil.rmtree(copies / digest, ignore_errors=True)  # one that is damaged
            copy.parent.rename(copies / digest)
        return str(copies / digest / name)

    def receive(self, copy: str, relative: str, start: int, data: bytes) -> str:
        """Write a part of a file of a copy; what is wrong, where something is."""
        place = self._folder / "copies" / copy
        file = place / relative if relative else place
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                stream.write(data)
        except OSError as error:
            return f"{file} cannot be written: {error.strerror}"
        return ""

    def ask(self, request: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        """Put a request to the worker, and say what it says.

        Yields:
            ``event`` and an event, ``printed`` and bytes, any number of times; in the end
            ``result`` and a result, with which files belong to it, or ``error`` and a SoupError,
            or ``died`` and what ``Died`` has.
        """
        said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._answer, args=(request, said), daemon=True).start()
        while True:
            try:
                kind, value = said.get(timeout=LOOK)
            except queue.Empty:
                yield from self._new_words()
                continue
            if kind != "event":
                yield from self._new_words()
            yield kind, value
            if kind != "event":
                return

    def _answer(self, request: dict[str, Any], said: "queue.SimpleQueue[tuple[str, Any]]") -> None:
        def observe(event: Event) -> None:
            said.put(("event", event))

        keep = request.get("keep")
        table = self._mine / Path(keep).name if keep else None
        asked = request | ({"keep": str(table)} if table else {})
        cache = request.get("cache")
        if cache and not Path(cache).is_dir():  # the run's place is not on this machine
            asked["cache"] = str(self._folder / "cache")
        try:
            result = self._process.ask(asked, observe)
            said.put(("result", (result, _taken(table) if table else {})))
        except Died as end:
            said.put(("died", (end.how, end.words, end.greeted)))
        except SoupError as error:
            said.put(("error", error))
        except Exception as error:  # whoever asks must hear of it
            said.put(("died", (f"cannot be asked: {type(error).__name__}: {error}", "", True)))

    def _new_words(self) -> Iterator[tuple[str, Any]]:
        with self._log.open("rb") as stream:
            stream.seek(self._printed)
            while words := stream.read(PRINTED):
                self._printed += len(words)
                yield "printed", words


def _remove_leavings(folder: Path) -> None:
    """Remove what hosts have left that live no more."""
    for mine in folder.glob("run-*"):
        number = mine.name.removeprefix("run-")
        if number == str(os.getpid()) or not (number.isdecimal() and lives(int(number))):
            shutil.rmtree(mine, ignore_errors=True)


def _taken(table: Path) -> dict[str, bytes]:
    """The files of a result, by the end of their names; they are not kept here."""
    found = {}
    for file in (table, packed(table)):
        if file.is_file():
            found[file.name.removeprefix(table.name)] = file.read_bytes()
            file.unlink()
    return found
