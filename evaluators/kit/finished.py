"""The answers of finished results: one compressed file each, which says whether it is whole.

``<work>/predictions/<beginning of the result's key>.tsv.gz``: a table with the columns of the
benchmark's, but its images, and ``prediction``; any gzip reads it. In the comment of its header
(RFC 1952, 2.3) stand whose answers they are and a checksum of both, so that neither a damaged file
nor one that was renamed is taken for what it is not. Tables that earlier versions left
uncompressed are read as they are.
"""

import csv
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from soup.errors import JournalError
from soup.evaluators.writing import write_whole

FOLDER = "predictions"
NAME = 16
"""Hex digits of a result's key that its file is called by."""

FIELD = 1 << 24  # characters of the longest field that is read
LEVEL = 6  # of compression: 9 takes three times as long, for some percent

_HEAD = b"\x1f\x8b\x08\x10\x00\x00\x00\x00\x00\xff"
"""Deflated, with a comment, at no time, by no system: the same answers make the same bytes."""

_OURS = re.compile(rb"soup answers 1 ([0-9a-f]{32})")
_FILE = re.compile(rf"([0-9a-f]{{{NAME}}})\.tsv(\.gz)?")


def table_of(work: Path, key: str) -> Path:
    """Where the answers of a result are, but for the ``.gz`` behind it."""
    return work / FOLDER / f"{key[:NAME]}.tsv"


def packed(table: Path) -> Path:
    """The compressed file of a table."""
    return table.with_name(f"{table.name}.gz")


def keep_table(table: Path, text: str) -> None:
    """Write a table compressed; it is all there, or as it was.

    Raises:
        ScoringError: it cannot be written.
    """
    content = text.encode()
    comment = f"soup answers 1 {_checksum(table, content)}\0".encode()
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(content) + deflate.flush()
    end = struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)
    write_whole(packed(table), lambda file: file.write_bytes(_HEAD + comment + body + end))
    table.unlink(missing_ok=True)


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows of a table that was kept.

    Raises:
        JournalError: it is not there any more, or is not as it was written.
    """
    try:
        content = _unpacked(table) if packed(table).exists() else table.read_bytes()
    except OSError as error:
        raise JournalError(
            f"{table}: the answers are not there ({error.strerror}); they were pruned, or scored "
            "in another --work"
        ) from error
    csv.field_size_limit(FIELD)
    return list(csv.DictReader(io.StringIO(content.decode(), newline=""), delimiter="\t"))


def _unpacked(table: Path) -> bytes:
    file = packed(table)
    content = file.read_bytes()
    found = _OURS.fullmatch(content[len(_HEAD) :].partition(b"\0")[0])
    try:
        if found is None or not content.startswith(_HEAD):
            raise ValueError
        whole = zlib.decompress(content, wbits=16 + zlib.MAX_WBITS)
        if found[1].decode() != _checksum(table, whole):
            raise ValueError
    except (ValueError, zlib.error):
        raise JournalError(
            f"{file}: it is not as it was written (its checksum is another); delete it"
        ) from None
    return whole


def _checksum(table: Path, content: bytes) -> str:
    """Of a table and of whose it is."""
    whose = table.name.partition(".")[0].encode()
    return hashlib.blake2b(whose + b"\n" + content, digest_size=16).hexdigest()


@dataclass(frozen=True)
class Pruned:
    """What was deleted."""

    files: int
    nbytes: int


def prune(work: Path, keep: Collection[str], since: float | None = None) -> Pruned:
    """Delete the answers of finished results.

    Args:
        work: the directory of journal and caches.
        keep: keys of the results whose answers stay.
        since: whatever was written at or after this time (seconds since the epoch) stays, too: a
            run that goes on may not have recorded it yet.

    Raises:
        JournalError: a file cannot be deleted.
    """
    stay = {key[:NAME] for key in keep}
    files = nbytes = 0
    for file in sorted((work / FOLDER).glob("*.tsv*")):
        found = _FILE.fullmatch(file.name)
        try:
            if found is None or found[1] in stay or not file.is_file():
                continue
            about = file.stat()
            if since is not None and about.st_mtime >= since:
                continue
            file.unlink()
        except FileNotFoundError:  # another one was faster
            continue
        except OSError as error:
            raise JournalError(f"{file}: cannot be deleted: {error.strerror}") from error
        files, nbytes = files + 1, nbytes + about.st_size
    return Pruned(files, nbytes)
