"""Files of a place into the cache: by parallel ranges, going on where a cut or killed one was.

A file is fetched in parts of ``PART`` bytes, each by one request, into ``partial/KEY.bytes``; which
of them have arrived stands in ``KEY.parts``, one number a line, written after the part is on the
disk. Only when all have arrived, and the file is what the place says (size, SHA-256 where it has
one, still the same version), it becomes a blob, by a rename.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from soup.errors import CheckpointError, UnreachableError
from soup.remote.cache import BLOBS, FILES, PARTIAL, Folder
from soup.remote.place import Cut, Entry, Place

PART = 1 << 24
THREADS = 8
TRIES = 5
"""Requests in a row for one part that bring nothing; then it is an error."""

PAUSE = 0.5
"""Seconds before the second of them; twice as many before each next one."""

Tick = Callable[[int], None]


def have(folder: Folder, entry: Entry) -> Path | None:
    """The blob of a file, where it is in the cache."""
    link = folder.path / FILES / entry.key
    if not entry.version or not link.exists():
        return None
    return link.parent.parent / BLOBS / link.resolve().name


def waiting(folder: Folder, entries: Sequence[Entry]) -> int:
    """Bytes of files that are still to be fetched."""
    absent = [entry for entry in entries if have(folder, entry) is None]
    return sum((entry.size or 0) - _File(folder, entry).arrived for entry in absent)


def download(
    place: Place, entries: Sequence[Entry], folder: Folder, tick: Tick = lambda count: None
) -> dict[str, Path]:
    """Fetch what the cache lacks; the place's folder is locked by the caller.

    Args:
        place: where from.
        entries: what.
        folder: where to.
        tick: called, by any thread, with the number of bytes of each piece that has arrived; with
            a negative one where something has to be fetched again.

    Returns:
        By name, the blobs.

    Raises:
        CheckpointError: it cannot be had; what has arrived stays for the next time.
        OutputError: the cache cannot be written.
    """
    try:
        return _download(place, entries, folder, tick)
    except OSError as error:
        raise folder.unwritable(error) from error


def _download(
    place: Place, entries: Sequence[Entry], folder: Folder, tick: Tick
) -> dict[str, Path]:
    found = {entry.name: have(folder, entry) for entry in entries}
    files = [_File(folder, entry) for entry in entries if found[entry.name] is None]
    keep = {file.name for file in files}
    for stray in (folder.path / PARTIAL).iterdir():  # of versions that are no more
        if stray.stem not in keep:
            stray.unlink()
    stop = threading.Event()

    def fetch(file: _File, number: int) -> None:
        file.fetch(place, number, tick, stop)
        if file.complete:
            found[file.entry.name] = file.settle(place)

    for file in files:
        file.begin()
    try:
        with ThreadPoolExecutor(THREADS) as threads:
            jobs = [
                threads.submit(fetch, file, number) for file in files for number in file.missing()
            ]
            jobs += [threads.submit(_settle, found, place, f) for f in files if f.complete]
            try:
                wait(jobs, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                threads.shutdown(wait=True, cancel_futures=True)
            errors = [job.exception() for job in jobs if not job.cancelled()]
            for error in sorted(filter(None, errors), key=lambda one: isinstance(one, _Stopped)):
                raise error  # the first that is not for another's sake
    finally:
        for file in files:
            file.close()
    return {name: blob for name, blob in found.items() if blob is not None}


def _settle(found: dict[str, Path | None], place: Place, file: "_File") -> None:
    found[file.entry.name] = file.settle(place)


class _Stopped(CheckpointError):
    """Another part has failed: that is what is told."""


@dataclass
class _File:
    """One file that arrives."""

    folder: Folder
    entry: Entry
    _handle: int = -1
    _done: set[int] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _settled: bool = False

    def __post_init__(self) -> None:
        if not self.entry.version:
            return  # what has arrived may be of another version
        with contextlib.suppress(OSError, ValueError):
            lines = self._parts.read_text().split("\n")[:-1]  # the last may be half a line
            if self._bytes.stat().st_size == self.entry.size:
                self._done = {int(line) for line in lines if int(line) < self.count}

    @property
    def name(self) -> str:
        """Of its two files; another for other parts."""
        return f"{self.entry.key}-{self.count}-{PART}"

    @property
    def _bytes(self) -> Path:
        return self.folder.path / PARTIAL / f"{self.name}.bytes"

    @property
    def _parts(self) -> Path:
        return self.folder.path / PARTIAL / f"{self.name}.parts"

    @property
    def count(self) -> int:
        """Parts, at least one."""
        if self.entry.size is None or not self.entry.ranged:
            return 1
        return max(-(-self.entry.size // PART), 1)

    def span(self, number: int) -> tuple[int, int | None]:
        """Where a part begins and ends."""
        if self.count == 1:
            return 0, self.entry.size
        assert self.entry.size is not None
        return number * PART, min((number + 1) * PART, self.entry.size)

    @property
    def arrived(self) -> int:
        """Bytes that need not be fetched again."""
        spans = [self.span(number) for number in self._done]
        return sum((end or 0) - start for start, end in spans)

    def missing(self) -> list[int]:
        """Parts that are still to be fetched."""
        return [number for number in range(self.count) if number not in self._done]

    @property
    def complete(self) -> bool:
        """Whether all parts are there; true for one caller alone."""
        with self._lock:
            if self._settled or len(self._done) < self.count:
                return False
            self._settled = True
            return True

    def begin(self) -> None:
        """Open what has arrived, or nothing."""
        if not self._done:
            self._parts.unlink(missing_ok=True)
        self._handle = os.open(self._bytes, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._handle, self.entry.size or 0)

    def close(self) -> None:
        """Leave what has arrived."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def fetch(self, place: Place, number: int, tick: Tick, stop: threading.Event) -> None:
        """One part, however often it is cut.

        Raises:
            CheckpointError: it cannot be had.
        """
        start, end = self.span(number)
        at, failed = start, 0
        while end is None or at < end:
            before = at
            try:
                for piece in place.read(self.entry, at, end):
                    if stop.is_set():
                        raise _Stopped("")
                    self._write(piece, at)
                    at += len(piece)
                    tick(len(piece))
                if end is not None and at < end:
                    raise Cut(f"it was cut off at byte {at:,} of {self.entry.size:,}")
                break
            except Cut as error:
                if not self.entry.ranged or end is None:
                    tick(start - at)
                    at, before = start, start
                failed = 1 if at > before else failed + 1
                if failed == TRIES:
                    raise self._given_up(error) from None
                if stop.wait(PAUSE * 2 ** (failed - 1)):
                    raise _Stopped("") from None
        with self._lock:
            os.fsync(self._handle)
            with self._parts.open("a") as marks:
                marks.write(f"{number}\n")
            self._done.add(number)

    def _given_up(self, error: Cut) -> CheckpointError:
        why = "" if self.entry.ranged else "; it takes no ranges, so that nothing can go on"
        if self.entry.ranged:
            why = "; run the command again, and it goes on from there"
        return UnreachableError(
            f"{self.folder.where}: {self.entry.name}: {error}, {TRIES} times{why}"
        )

    def _write(self, piece: bytes, at: int) -> None:
        view = memoryview(piece)
        while view:
            count = os.pwrite(self._handle, view, at)
            view, at = view[count:], at + count

    def settle(self, place: Place) -> Path:
        """It becomes a blob.

        Raises:
            CheckpointError: it is not what the place says.
        """
        from blake3 import blake3

        place.require_same(self.entry)
        size = os.fstat(self._handle).st_size
        wrong = self.entry.size is not None and size != self.entry.size
        if not wrong and self.entry.sha256:
            with self._bytes.open("rb") as stream:
                hashed = hashlib.sha256()
                while piece := stream.read(1 << 20):
                    hashed.update(piece)
            wrong = hashed.hexdigest() != self.entry.sha256
        if wrong:
            self._parts.unlink(missing_ok=True)
            raise CheckpointError(
                f"{self.folder.where}: {self.entry.name}: arrived damaged, not what the place says "
                "(size or SHA-256); run the command again"
            )
        hasher = blake3(max_threads=blake3.AUTO)
        digest = (hasher.update_mmap(self._bytes) if size else hasher).hexdigest()
        blob = self.folder.path / BLOBS / digest
        os.fchmod(self._handle, 0o444)
        self._bytes.replace(blob)
        self._parts.unlink(missing_ok=True)
        link = self.folder.path / FILES / self.entry.key
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.join("..", BLOBS, digest))
        return blob
