"""soup/publishing/sifting.py: what is ready, and why the rest is not."""

import os
from pathlib import Path

import pytest

from soup.choosing.journal import Journal
from soup.errors import SoupError
from soup.events import Event
from soup.publishing.sifting import DAMAGED, MISFIT, UNFINISHED, Sifted, sift
from tests.conftest import make_torch_checkpoint, random_tensors


def found(tmp_path: Path, **options: object) -> Sifted:
    """A look at ckpts/*."""
    journal = Journal.open(tmp_path / "work")
    return sift([str(tmp_path / "ckpts" / "*")], journal, **options)  # type: ignore[arg-type]


def left(sifted: Sifted) -> dict[str, str]:
    """How each that is left out is."""
    return {one.name: one.how for one in sifted.left_out}


def test_a_good_pool_is_ready_in_its_order(pool_paths: list[Path], tmp_path: Path) -> None:
    """Nothing is left out; plain files beside the members are passed over."""
    (tmp_path / "ckpts" / "notes.txt").write_text("x")
    sifted = sift([*pool_paths, tmp_path / "ckpts" / "notes.txt"], Journal.open(tmp_path / "work"))
    assert sifted.ready == tuple(pool_paths) and sifted.left_out == ()
    assert sifted.changed() == []
    (pool_paths[1] / "config.json").write_text("{}")
    assert sifted.changed() == [pool_paths[1]]


def test_ways_of_being_half_written(pool_paths: list[Path], tmp_path: Path) -> None:
    """A missing shard, shards without their index, a header or a zip that is cut short."""
    a, b, c, d = pool_paths
    (a / "model.safetensors").write_bytes(b"\x10\0\0")
    (b / "model-00002-of-00002.safetensors").unlink()
    (c / "model.safetensors.index.json").unlink()
    torch_one = make_torch_checkpoint(tmp_path / "ckpts" / "e", random_tensors(8))
    file = torch_one / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-100])
    sifted = found(tmp_path)
    assert left(sifted) == dict.fromkeys("abce", UNFINISHED)
    assert sifted.ready == (d,)


def test_ways_of_being_damaged(pool_paths: list[Path], tmp_path: Path) -> None:
    """No model, no JSON, another kind of model; an error where bad ones are not to be skipped."""
    a, b, c, _ = pool_paths
    (a / "config.json").write_text("{")
    for path in b.iterdir():
        path.unlink()
    (c / "config.json").write_text('{"model_type": "other", "architectures": ["Tiny"]}')
    sifted = found(tmp_path)
    assert left(sifted) == {"a": DAMAGED, "b": DAMAGED, "d": MISFIT}, "the first of equal groups"
    with pytest.raises(SoupError, match="config.json: not JSON"):
        found(tmp_path, skip_bad=False)


def test_sizes_that_change_while_it_is_looked_at(pool_paths: list[Path], tmp_path: Path) -> None:
    """It is being written, though every file is old enough."""

    def observe(event: Event) -> None:
        (pool_paths[2] / "trainer_state.json").write_text("{}")

    (pool_paths[0] / "model.safetensors").touch()
    assert left(found(tmp_path, observe=observe))["c"] == UNFINISHED


def test_a_file_from_the_future_counts_as_settled(pool_paths: list[Path], tmp_path: Path) -> None:
    """A clock that is far ahead, as on a network disk; but not one that is a moment ahead."""
    for path in pool_paths:
        for file in path.iterdir():
            os.utime(file, (1, 1))
    os.utime(pool_paths[0] / "config.json", (10_000, 10_000))
    os.utime(pool_paths[1] / "config.json", (1_010, 1_010))
    sifted = found(tmp_path, settle=60.0, now=lambda: 1_000.0)
    assert left(sifted) == {"b": UNFINISHED}


def test_what_vanishes_meanwhile_is_not_ready(pool_paths: list[Path], tmp_path: Path) -> None:
    """Deleted between the glob and the look."""
    paths = [*pool_paths, tmp_path / "ckpts" / "gone"]
    assert left(sift(paths, Journal.open(tmp_path / "work"))) == {"gone": UNFINISHED}


def test_without_reading_nothing_is_recorded(pool_paths: list[Path], tmp_path: Path) -> None:
    """As for --dry-run."""
    assert len(found(tmp_path, read=False).ready) == 4
    assert not (tmp_path / "work" / "journal.jsonl").exists()


def test_a_known_member_is_not_read_again(
    pool_paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its digest and what was found of its values are in the journal."""
    found(tmp_path)
    from soup.checkpoints.checkpoint import Checkpoint

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(Checkpoint, "compute_digest", never)
    assert len(found(tmp_path).ready) == 4
