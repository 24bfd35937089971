"""The append-only record of scores and decisions. Cache, resume and leaderboard are views of it.

One JSON object per line in ``<work>/journal.jsonl``, each with a checksum (``records``), each
flushed to the disk before the next step. A line that is damaged, or that a crash cut short, is
never used: everything else counts, and what it held is measured again. Why this is a file of lines
and no database stands in docs/reliability.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup.choosing.journal_file import Lines, flush, lines, locked, whole
from soup.choosing.records import (
    VERSION,
    Lists,
    Records,
    decode,
    encode,
    head_of,
    key_of_result,
    version_of,
)
from soup.errors import JournalError
from soup.words import counted

if TYPE_CHECKING:  # a leaderboard is shown without
    from soup.checkpoints.checkpoint import Checkpoint

FILE = "journal.jsonl"
PART = f".{FILE}.*"
"""What a file is called that is being written in its place."""

ASIDE = "journal.damaged"
"""Where damaged lines are set aside, as they were found, beside the journal."""

KEYED = frozenset(("result", "trial", "benchmark", "digest", "tensors"))
"""Kinds of which there is one record for each thing; all others are a run's, or nobody's."""

ENDS = frozenset((b"soup", b"end", b"failed"))
"""What a run's last record is."""

DAMAGED = b"damaged"
"""The kind of record that stands where a damaged line stood."""

SHOWN = 5
"""Numbers of damaged lines that are named, at most."""


def now() -> str:
    """The time, UTC, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass
class Journal:
    """What has been done so far, and the file that outlives us.

    Attributes:
        path: the file.
        results: result records by content key.
        trials: how trials that may end early did, by content key; see ``soup.choosing.trials``.
        benchmarks: what is known of each benchmark's questions, by its digest.
        runs: by run id, its records in order; the last one is the last run. A run some of whose
            records were damaged is not among them.
        others: records of other kinds, by kind, in order: distances, lines, nights.
        damaged: lines that are not as they were written; they are not used.
        lost: lines that were damaged at any time, those set aside earlier included.
        where: the numbers of the first damaged lines.
        aside: where they have been set aside; None where they only have been seen.
    """

    path: Path
    results: Records = field(init=False, repr=False)
    trials: Records = field(init=False, repr=False)
    benchmarks: Records = field(init=False, repr=False)
    runs: Lists = field(init=False, repr=False)
    others: Lists = field(init=False, repr=False)
    damaged: int = 0
    lost: int = 0
    where: list[int] = field(default_factory=list, repr=False)
    aside: Path | None = field(default=None, repr=False)
    _digests: Records = field(init=False, repr=False)
    _tensors: Records = field(init=False, repr=False)
    _timed: dict[str, list[dict[str, Any]]] | None = field(default=None, repr=False)
    _torn: set[str] = field(default_factory=set, repr=False)
    _order: dict[str, None] = field(default_factory=dict, repr=False)
    _lines: Lines = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parse = partial(_parse, self.path)  # without us: the file is closed when we go
        self._lines = Lines(self.path)
        self.results, self.trials = (Records(parse, self._lines.at) for _ in range(2))
        self.benchmarks, self._digests = (Records(parse, self._lines.at) for _ in range(2))
        self._tensors = Records(parse, self._lines.at)
        self.runs, self.others = Lists(parse), Lists(parse)

    @classmethod
    def open(cls, work: str | os.PathLike[str], *, create: bool = True) -> Journal:
        """Read the journal in directory ``work``.

        Args:
            work: the directory of journal and caches.
            create: make the directory where it is missing, and set damaged lines aside; without
                it nothing is written.

        Raises:
            JournalError: the directory or file cannot be used, or was written by another version.
        """
        directory = Path(os.path.abspath(work))
        journal = cls(directory / FILE)
        try:
            if create:
                directory.mkdir(parents=True, exist_ok=True)
                ignore = directory / ".gitignore"
                if not ignore.exists():
                    ignore.write_text("*\n")
            if create and not os.access(directory, os.W_OK):
                raise JournalError(f"{directory}: cannot be written to; choose another --work")
            if journal.path.exists():
                with locked(journal.path, os.O_RDONLY, fcntl.LOCK_SH) as handle:
                    journal._read(journal._lines.of(handle))
                if create and any(directory.glob(PART)):  # of a rewriting that was killed
                    with locked(journal.path, os.O_RDONLY, fcntl.LOCK_EX):
                        journal._remove_parts()
                if journal.damaged and create:
                    journal._set_aside()
        except OSError as error:
            raise JournalError(
                f"{directory}: cannot be used for the journal: {error.strerror}; "
                "choose another --work"
            ) from error
        return journal

    def append(self, kind: str, /, **fields: Any) -> None:
        """Add one record and flush it to the disk.

        Raises:
            JournalError: it could not be written; nothing was recorded.
        """
        record = {"kind": kind, **fields}
        if kind not in KEYED and (run := fields.get("run")):
            record["at"] = self.runs.count(run)  # that one is missing shows by the next ones
        line = encode(record)
        try:
            with locked(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, fcntl.LOCK_EX) as handle:
                size = os.fstat(handle).st_size
                if size == 0:
                    line = encode({"kind": "journal", "version": VERSION}) + line
                elif os.pread(handle, 1, size - 1) != b"\n":
                    line = b"\n" + line  # end the line that a crash cut short
                if os.write(handle, line) != len(line):
                    with contextlib.suppress(OSError):
                        os.ftruncate(handle, size)
                    raise JournalError(f"{self.path}: the disk is full; free some room and go on")
                os.fsync(handle)
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._take(record)

    def start(self, command: str, **fields: Any) -> str:
        """Record that a run begins; its id goes with the records that follow."""
        run = secrets.token_hex(6)
        self.append("run", run=run, command=command, time=now(), **fields)
        return run

    def last_run(self) -> list[dict[str, Any]] | None:
        """The records of the newest run, its start first; None where there was none.

        Raises:
            JournalError: some of them were damaged: what is left would tell something else.
        """
        newest = next(reversed(self._order), None)
        if newest is None:
            return None
        if newest in self._torn:
            raise JournalError(
                f"{self.path}: records of the last run are damaged{self._somewhere()}; run its "
                "command again: it measures only what is lost"
            )
        return self.runs[newest]

    @property
    def timed(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """How long results took, in order, by their benchmark's digest: records without results."""
        if self._timed is None:
            self._timed = {}
            for key in self.results:
                self._time(self.results.peek(key))
        return self._timed

    def digest_of(self, checkpoint: Checkpoint) -> str | None:
        """The content digest found earlier for exactly these files, unchanged since."""
        record = self._digest_record(checkpoint)
        return None if record is None else record["digest"]

    def recall(self, checkpoint: Checkpoint) -> bool:
        """Tell a checkpoint its digest and its soundness, where both were found earlier."""
        record = self._digest_record(checkpoint)
        if record is None or not isinstance(record.get("values"), dict):
            return False
        from soup.checkpoints.soundness import Soundness

        found, values = record["digest"], Soundness.of_json(record["values"])
        checkpoint.remember_digest(found, values, self.roots_of(found))
        return True

    def _digest_record(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        files = checkpoint.files_key
        record = self._digests.get(_files_hash(files))
        if record is None or record["files"] != files or not record["digest"]:
            return None
        return record

    def forget_digest(self, checkpoint: Checkpoint) -> None:
        """Believe no digest any more of a checkpoint's files as they are now: they are read anew.

        It was found to be of other bytes, whatever the files look like.
        """
        if (record := self._digest_record(checkpoint)) is not None:
            fields = {"of": record["of"], "files": record["files"]}
            self.append("digest", **fields, digest="", was=record["digest"])

    def remember_digest(self, checkpoint: Checkpoint) -> None:
        """Record a checkpoint's content digest for its files as they are now."""
        from soup.checkpoints.soundness import Soundness

        files = checkpoint.files_key
        digest, values = checkpoint.digest, (checkpoint.soundness or Soundness()).to_json()
        if checkpoint.roots and not checkpoint.updates and digest not in self._tensors:
            self.append("tensors", of=digest, roots=dict(checkpoint.roots))
        self.append("digest", of=_files_hash(files), files=files, digest=digest, values=values)

    def roots_of(self, digest: str) -> Mapping[str, str]:
        """By tensor's name the root of its values, of a checkpoint of this content digest; see
        ``soup.checkpoints.digests``. Empty where nobody has recorded them.
        """
        record = self._tensors.get(digest)
        return {} if record is None else record["roots"]

    def rewritten(self, checkpoint: Checkpoint) -> str | None:
        """The digest found earlier for files that looked like these but for inode and ctime."""
        looks = [state[:3] for state in checkpoint.files_key]
        for record in reversed(list(self._digests.values())):
            if [state[:3] for state in record["files"]] == looks:
                return str(record["digest"] or record.get("was", ""))
        return None

    def rewrite(self, keep: Callable[[bytes], bytes | None]) -> None:
        """Write the file anew, whole or not at all, while nobody else writes to it.

        Args:
            keep: given each line without its end, the line to have in its place; None for none.
                The first line that it keeps should be the journal's head.

        Raises:
            JournalError: it cannot be written; the file is as it was.
        """
        temporary = self.path.with_name(f".{FILE}.{os.getpid()}")
        try:
            with locked(self.path, os.O_RDWR, fcntl.LOCK_EX) as handle:
                self._remove_parts()
                kept = [new for line in lines(whole(handle)) if (new := keep(line)) is not None]
                try:
                    with temporary.open("wb") as file:
                        file.writelines(line + b"\n" for line in kept)
                        file.flush()
                        os.fsync(file.fileno())
                    temporary.replace(self.path)
                finally:
                    temporary.unlink(missing_ok=True)
            flush(self.path.parent)
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written: {error.strerror}") from error

    def _remove_parts(self) -> None:
        """Remove what others have begun to write in the file's place; it is locked: they died."""
        for left in self.path.parent.glob(PART):
            left.unlink(missing_ok=True)

    def words(self) -> str | None:
        """What is to be said of damage, in one line; None where there is none that is new."""
        if not self.damaged:
            return None
        lines = f"{self.path}: {counted(self.damaged, 'damaged record')}{self._somewhere()}"
        where = f"set aside in {self.aside}" if self.aside else "not used"
        return f"{lines}, {where}; what they held is measured again when it is needed"

    def _somewhere(self) -> str:
        if not self.where:
            return ""
        more = " and more" if self.damaged > len(self.where) else ""
        return f" (line{'s' * (len(self.where) > 1)} {', '.join(map(str, self.where))}{more})"

    def _read(self, every: Iterable[bytes]) -> None:
        """Look at all lines, with their ends, in their order."""
        ats: dict[str, set[int]] = {}
        headless: set[str] = set()  # runs whose first record is not that they begin
        running: str | None = None  # the newest run, until its end has been read
        results = self.results.places
        start = end = number = 0
        for line in every:
            number += 1
            start, end = end, end + len(line)
            if (key := key_of_result(line)) is not None:
                results[key] = start
                continue
            line = line.removesuffix(b"\n")
            if number == 1:
                self._require_version(line)
            if not line:
                continue
            head = head_of(line)
            if head is None:
                self.damaged += 1
                if len(self.where) < SHOWN:
                    self.where.append(number)
            if head is None or head[2] == DAMAGED:
                self.lost += 1
                if running is not None:
                    self._torn.add(running)  # its last record, for all that is known
                continue
            kind, name = head[2], (head[4] or b"").decode()
            self._index(kind, head[3], name, line, start)
            if head[3] == b"run":
                if name not in ats and kind != b"run":
                    headless.add(name)
                ats.setdefault(name, set()).add(int(head[5] or -1))
                running = name if kind == b"run" else running
                if kind in ENDS:
                    self._torn.discard(name)
                    running = None if name == running else running
        for run, found in ats.items():
            if run in headless or found != set(range(max(found) + 1)):
                self._torn.add(run)
        for run in self._torn:
            self.runs.drop(run)

    def _require_version(self, line: bytes) -> None:
        version = version_of(line)
        if version is not None and version != VERSION:
            which = "a later" if version > VERSION else "an earlier"
            raise JournalError(
                f"{self.path}: written by {which} version of soup (journal version {version}, "
                f"expected {VERSION}); move it away, or choose another --work"
            )

    def _index(
        self, kind: bytes, found_by: bytes | None, name: str, line: bytes, start: int
    ) -> None:
        if found_by == b"run":
            self.runs.put(name, line)
            self._order.setdefault(name)
        elif kind == b"result":
            self.results.put(name, start)
        elif kind == b"trial":
            self.trials.put(name, start)
        elif kind == b"benchmark":
            self.benchmarks.put(name, start)
        elif kind == b"digest":
            self._digests.put(name, start)
        elif kind == b"tensors":
            self._tensors.put(name, start)
        elif kind != b"journal":
            self.others.put(kind.decode(), line)

    def _take(self, record: dict[str, Any]) -> None:
        """Know a record that has just been written, as one that is read."""
        kind = record["kind"]
        if kind in ("result", "trial"):
            (self.results if kind == "result" else self.trials)[record["key"]] = record
        elif kind == "digest":
            self._digests[record["of"]] = record
        elif kind == "tensors":
            self._tensors[record["of"]] = record
        elif kind == "benchmark":
            self.benchmarks[record["digest"]] = record
        elif record.get("run"):
            self.runs.put(record["run"], record)
            self._order.setdefault(record["run"])
        else:
            self.others.put(kind, record)
        if kind == "result" and self._timed is not None:
            self._time(record)

    def _time(self, found: bytes | Mapping[str, Any]) -> None:
        """Note how long a result took, without parsing its outcomes where that can be."""
        assert self._timed is not None
        if isinstance(found, bytes):
            head, _, rest = found.partition(b',"result":')
            try:
                record = json.loads(head + b"}") if rest else {}
            except ValueError:
                record = {}
            found = record if "benchmark" in record else _parse(self.path, found)
        if "seconds" in found and "benchmark" in found:
            self._timed.setdefault(found["benchmark"], []).append(dict(found))

    def _set_aside(self) -> None:
        """Move damaged lines out of the journal; where that cannot be, they stay and count not."""
        aside = self.path.with_name(ASIDE)
        mark = encode({"kind": DAMAGED.decode()})[:-1]
        begun = False

        def keep(line: bytes) -> bytes:
            nonlocal begun
            kept = mark if head_of(line) is None else line
            if not begun and version_of(kept) is None:
                kept = encode({"kind": "journal", "version": VERSION}) + kept
            begun = True
            return kept

        try:
            # Copied before they are taken out: a crash between the two leaves them twice.
            with locked(self.path, os.O_RDONLY, fcntl.LOCK_SH) as handle:
                bad = [line for line in lines(whole(handle)) if head_of(line) is None]
            with aside.open("ab") as file:
                file.writelines(line + b"\n" for line in bad)
                file.flush()
                os.fsync(file.fileno())
            self.rewrite(keep)
        except (OSError, JournalError):
            return
        self.aside = aside


def _parse(path: Path, line: bytes) -> dict[str, Any]:
    try:
        return decode(line)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JournalError(
            f"{path}: a record with a right checksum is none of ours "
            f"({line[:60].decode(errors='replace')} …: {error}); delete its line, what it held "
            "is measured again"
        ) from error


def _files_hash(files: Sequence[Sequence[str | int]]) -> str:
    """The key of a digest: it is of these files, by this version of the tree."""
    from soup.checkpoints import digests

    return hashlib.sha256(json.dumps([digests.VERSION, files]).encode()).hexdigest()[:32]
