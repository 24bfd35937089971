"""The append-only record of scores and decisions. Cache, resume and leaderboard are views of it.

One JSON object per line in ``<work>/journal.jsonl``, each flushed to the disk before the next
step. A line that a crash cut short is skipped; everything before it counts.
"""

import fcntl
import json
import os
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.soundness import Soundness
from soup.errors import JournalError

FILE = "journal.jsonl"
VERSION = 1


def now() -> str:
    """The time, UTC, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass
class Journal:
    """What has been done so far, and the file that outlives us.

    Attributes:
        path: the file.
        results: result records by content key.
        timed: result records that say how long they took, in order, by their benchmark's digest.
        trials: how trials that may end early did, by content key; see ``soup.choosing.trials``.
        benchmarks: what is known of each benchmark's questions, by its digest.
        runs: by run id, its records in order; the last one is the last run.
        others: records of other kinds, by kind, in order: distances, lines, nights.
        damaged: lines that could not be read.
    """

    path: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    timed: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    trials: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    others: dict[str, list[dict[str, Any]]] = field(default_factory=dict, repr=False)
    damaged: int = 0
    _digests: dict[str, str] = field(default_factory=dict, repr=False)
    _values: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, work: str | os.PathLike[str], *, create: bool = True) -> "Journal":
        """Read the journal in directory ``work``.

        Args:
            work: the directory of journal and caches.
            create: make the directory where it is missing.

        Raises:
            JournalError: the directory or file cannot be used, or was written by a later version.
        """
        directory = Path(os.path.abspath(work))
        journal = cls(directory / FILE)
        try:
            if create:
                directory.mkdir(parents=True, exist_ok=True)
                ignore = directory / ".gitignore"
                if not ignore.exists():
                    ignore.write_text("*\n")
            if journal.path.exists():
                for line in journal.path.read_bytes().split(b"\n"):
                    journal._read(line)
            if create and not os.access(directory, os.W_OK):
                raise JournalError(f"{directory}: cannot be written to; choose another --work")
        except OSError as error:
            raise JournalError(
                f"{directory}: cannot be used for the journal: {error.strerror}; "
                "choose another --work"
            ) from error
        return journal

    def append(self, kind: str, **fields: Any) -> None:
        """Add one record and flush it to the disk.

        Raises:
            JournalError: it could not be written; nothing was recorded.
        """
        record = {"kind": kind, **fields}
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)  # two runs may share one journal
                size = os.fstat(handle).st_size
                if size == 0:
                    head = {"kind": "journal", "version": VERSION}
                    line = json.dumps(head, separators=(",", ":")).encode() + b"\n" + line
                elif os.pread(handle, 1, size - 1) != b"\n":
                    line = b"\n" + line  # end the line that a crash cut short
                if os.write(handle, line) != len(line):
                    raise JournalError(f"{self.path}: the disk is full; free some room and go on")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise JournalError(f"{self.path}: cannot be written: {error.strerror}") from error
        self._take(record)

    def start(self, command: str, **fields: Any) -> str:
        """Record that a run begins; its id goes with the records that follow."""
        run = secrets.token_hex(6)
        self.append("run", run=run, command=command, time=now(), **fields)
        return run

    def last_run(self) -> list[dict[str, Any]] | None:
        """The records of the newest run, its start first; None where there was none."""
        return list(self.runs.values())[-1] if self.runs else None

    def digest_of(self, checkpoint: Checkpoint) -> str | None:
        """The content digest found earlier for exactly these files, unchanged since."""
        return self._digests.get(json.dumps(checkpoint.files_key))

    def recall(self, checkpoint: Checkpoint) -> bool:
        """Tell a checkpoint its digest and its soundness, where both were found earlier."""
        digest = self.digest_of(checkpoint)
        values = self._values.get(json.dumps(checkpoint.files_key))
        if digest is None or values is None:
            return False
        checkpoint.remember_digest(digest, Soundness.of_json(values))
        return True

    def remember_digest(self, checkpoint: Checkpoint) -> None:
        """Record a checkpoint's content digest for its files as they are now."""
        digest, values = checkpoint.digest, (checkpoint.soundness or Soundness()).to_json()
        self.append("digest", files=checkpoint.files_key, digest=digest, values=values)

    def _read(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            record = json.loads(line)
            if record["kind"] == "journal" and record["version"] > VERSION:
                raise JournalError(
                    f"{self.path}: written by a later version of soup (journal version "
                    f"{record['version']}, expected {VERSION}); choose another --work"
                )
            self._take(record)
        except (ValueError, KeyError, TypeError):
            self.damaged += 1

    def _take(self, record: dict[str, Any]) -> None:
        kind = record["kind"]
        if kind == "result":
            self.results[record["key"]] = record
            if "seconds" in record:
                self.timed.setdefault(record["benchmark"], []).append(record)
        elif kind == "trial":
            self.trials[record["key"]] = record
        elif kind == "benchmark":
            self.benchmarks[record["digest"]] = record
        elif kind == "digest":
            self._digests[json.dumps(record["files"])] = record["digest"]
            if isinstance(record.get("values"), dict):
                self._values[json.dumps(record["files"])] = record["values"]
        elif kind == "run":
            self.runs[record["run"]] = [record]
        elif "run" in record:
            self.runs[record["run"]].append(record)
        elif kind != "journal":
            self.others.setdefault(kind, []).append(record)
