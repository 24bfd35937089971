"""Reads that fail or come short, and files that change, shrink or vanish while they are read.

A small library (``reads.c``) stands between a run and the system's ``read``, ``pread`` and
``mmap``: at the n-th read of a chosen file it lets that happen. It has to be there when Python
starts, and takes a C compiler and Linux; without, these rows are left out.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from soup import compiled
from tests.faults.runs import DONE, REFUSED, Place, Row, files

COUNT = 1
WAYS = {
    "EIO": 2,
    "short read": 3,
    "file that shrinks": 4,
    "file that vanishes": 5,
    "file that changes": 6,
}
"""What may happen at a read, and what the library calls it."""

READ = {
    "weights, mapped": "ckpts/a/model.safetensors",
    "weights, read": "ckpts/a/model.safetensors",
    "a shard": "ckpts/b/model-00002",
    "an index": "ckpts/b/model.safetensors.index.json",
    "a config": "ckpts/a/config.json",
    "a tokenizer": "ckpts/a/tokenizer.json",
    "another file": "ckpts/c/LICENSE",
    "the journal": "work/journal.jsonl",
    "a cache": "work/differences.json",
    "a manifest": "out/soup.json",
    "the soup": "out/model",
}
"""Kinds of files, and what the path of one has in it."""


def library() -> ctypes.CDLL | None:
    """What stands between us and the system; None where it does not."""
    here = ctypes.CDLL(None)
    return here if hasattr(here, "soup_reads") else None


def build(into: Path) -> Path | None:
    """Compile it; None where that cannot be."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    found = into / "reads.so"
    source = Path(__file__).with_name("reads.c")
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(found), str(source), "-ldl"]
    return found if subprocess.run(command, check=False).returncode == 0 else None


def begin_again(into: Path) -> None:
    """Start this very command anew with the library before it, where that can be."""
    if library() is None and (built := build(into)) is not None:
        os.environ["LD_PRELOAD"] = str(built)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def rows(place: Place, each: int, kinds: Sequence[str] = tuple(READ)) -> Iterator[Row]:
    """One of each way, at up to ``each`` reads of every kind of file.

    Of what stands under ``--out``, not at the last one: it comes after the last look.
    """
    shim = library()
    if shim is None:
        return
    pool, place.pool = place.pool, None  # opened by each run, under faults
    shutil.copytree(place.root / "ckpts", place.root / "sound")
    counts = {kind: _count(place, shim, kind) for kind in kinds}
    assert all(counts.values()), counts
    for way, number in WAYS.items():
        row = Row(way)
        for kind, count in counts.items():
            if (way, kind) == ("file that vanishes", "a manifest"):
                continue  # a directory without one is none of ours, and is left as it is
            for at in sorted({1 + k * count // each for k in range(each)}):
                what = f"{kind}, read {at} of {count}"
                _tried(place, row, shim, (number, at, kind), what)
        yield row
    place.pool = pool


def _begun(place: Place, kind: str, name: str) -> Path:
    """Where a run is to begin: what is ours is read by the second one."""
    where = place.fresh(name)
    if not READ[kind].startswith("ckpts"):
        shutil.copytree(place.root / "whole", where, dirs_exist_ok=True)
    return where


def _arm(shim: ctypes.CDLL, number: int, at: int, kind: str) -> None:
    if kind == "weights, read":
        compiled.LIBRARY = None
    shim.soup_reads(number, at, READ[kind].encode())


def _count(place: Place, shim: ctypes.CDLL, kind: str) -> int:
    """How many reads of a kind of file a run has."""
    where = _begun(place, kind, f"counted-{kind}")

    def note(step: str, number: int) -> None:
        (where / "reads").write_text(str(shim.soup_reads_seen()))

    assert place.run(where, after=note, prepare=lambda: _arm(shim, COUNT, 0, kind)) == DONE
    return int((where / "reads").read_text()) - READ[kind].startswith("out")


def _tried(
    place: Place, row: Row, shim: ctypes.CDLL, fault: tuple[int, int, str], what: str
) -> None:
    number, _, kind = fault
    where = _begun(place, kind, f"{row.kind}, {what}".replace(" ", "-"))
    first = place.run(where, prepare=lambda: _arm(shim, *fault))
    wrong = []
    if first == DONE and files(where / "out") != place.expected:
        if number >= WAYS["file that shrinks"] and files(where / "out") == _soup_of_now(place):
            shutil.rmtree(where / "out")  # a true soup of the members that were there
        else:
            wrong.append("ended well with other bytes")
    if first == REFUSED and number == WAYS["short read"]:
        wrong.append("a read that came short ended the run")
    shutil.rmtree(place.root / "ckpts")
    shutil.copytree(place.root / "sound", place.root / "ckpts")
    for earlier in where.glob("out.*") if READ[kind].startswith("out") else ():
        shutil.rmtree(earlier)  # a soup that could not be read is kept under another name
    place.again(where, row, what, first, wrong)


def _soup_of_now(place: Place) -> dict[str, bytes]:
    """What a run makes of the members as they are now."""
    where = place.root / "now"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    place.run(where)
    return files(where / "out")
