"""soup/checkpoints/digests.py: one digest, whoever hashes which block when."""

import itertools
import json
import os
from pathlib import Path
from random import Random

import pytest
import torch
from blake3 import blake3

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints import digests
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.digests import BLOCK, Hasher
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.errors import UnfinishedError
from soup.events import Event, Note
from soup.identifying import identify
from tests.conftest import make_checkpoint, random_tensors


def by_hand(raw: bytes) -> bytes:
    """The root of a tensor's values, as docs/reliability.md has it."""
    blocks = [raw[at : at + BLOCK] for at in range(0, len(raw), BLOCK)]
    return blake3(b"".join(blake3(block).digest() for block in blocks)).digest()


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK - 7])
def test_pieces_in_any_order_have_one_root(size: int) -> None:
    """Cut anywhere, given in any order: the root of the whole."""
    random = Random(size)
    raw = random.randbytes(size)
    cuts = sorted({0, size, *(random.randrange(size + 1) for _ in range(9))})
    pieces = list(itertools.pairwise(cuts))
    random.shuffle(pieces)
    hasher = Hasher({"x": size})
    for start, end in pieces:
        hasher.put("x", start, memoryview(raw)[start:end])
    assert hasher.roots() == {"x": by_hand(raw)}


def test_the_digest_is_what_is_documented(tmp_path: Path) -> None:
    """Anybody can compute it again from the tensors alone."""
    tensors = {"b": torch.arange(200_000.0), "a.weight": torch.ones(2, 3, dtype=torch.bfloat16)}
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", tensors))
    parts = []
    for name, dtype, shape in (("a.weight", "BF16", [2, 3]), ("b", "F32", [200_000])):
        raw = tensors[name].contiguous().view(torch.uint8).numpy().tobytes()
        head = json.dumps([name, dtype, shape]).encode() + b"\n"
        parts.append(blake3(head + by_hand(raw)).digest())
    assert checkpoint.digest == blake3(b"soup-content-2\n" + b"".join(parts)).hexdigest()
    assert set(checkpoint.roots) == {"a.weight", "b"}


def test_segments_find_what_one_reading_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor that several threads read has the same digest and the same findings."""
    values = torch.zeros(300_000)
    values[0], values[100_000] = 1.0, float("nan")
    path = make_checkpoint(tmp_path / "m", {"x.weight": values})
    whole = open_checkpoint(path)
    assert whole.digest
    monkeypatch.setattr(digests, "SEGMENT", BLOCK)
    parts = open_checkpoint(path)
    assert (parts.digest, parts.soundness) == (whole.digest, whole.soundness)
    assert parts.soundness is not None
    assert parts.soundness.nan == ("x.weight",)


def test_what_is_written_is_hashed_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soup's digest needs no reading, and is the one that reading finds."""
    paths = [make_checkpoint(tmp_path / n, random_tensors(k)) for k, n in enumerate("ab")]
    pool = Pool.open(*paths)
    blend = Blend(pool.members, pool.reference, dtype="BF16")
    assert blend.digest
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "compute_digest", lambda self: pytest.fail("read again"))
        written = write(blend, tmp_path / "out")
    assert open_checkpoint(written.path).digest == written.digest


def test_a_member_rewritten_with_its_old_time_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    """Same path, size, mtime and even inode: it is read anew, and that is said."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    file = path / "model.safetensors"
    journal = Journal.open(tmp_path / "work")
    first = open_checkpoint(path)
    identify([first], journal, lambda event: None)
    stat = file.stat()
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    with file.open("r+b") as opened:
        opened.write(raw)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_mtime_ns == stat.st_mtime_ns
    said: list[Event] = []
    second = open_checkpoint(path)
    identify([second], Journal.open(tmp_path / "work"), said.append)
    assert second.digest != first.digest
    assert ["holds other weights" in e.text for e in said if isinstance(e, Note)] == [True]
    with pytest.raises(UnfinishedError, match="was changed"):
        first.require_unchanged()


def test_a_new_mode_or_link_is_no_change(tmp_path: Path) -> None:
    """The kernel's time is another one then, but the bytes are the same: nothing is refused."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    checkpoint = open_checkpoint(path)
    assert checkpoint.digest
    os.link(path / "model.safetensors", tmp_path / "backup")
    checkpoint.require_unchanged()
    checkpoint.require_unchanged()


def test_roots_of_tensors_are_remembered(tmp_path: Path) -> None:
    """Beside the file states, by content: who needs to know which tensors are equal finds it."""
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", random_tensors(0)))
    assert checkpoint.digest
    Journal.open(tmp_path).remember_digest(checkpoint)
    assert Journal.open(tmp_path).roots_of(checkpoint.digest) == checkpoint.roots
