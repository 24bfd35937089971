"""soup/checkpoints/buffers.py and bases.py: what is left out of a pool, and what is told of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints import buffers
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, inspect
from tests.conftest import make_adapter, make_checkpoint, random_tensors

BUFFERS = {
    "vision_tower.embeddings.position_ids": torch.arange(4)[None],
    "model.layers.0.rotary_emb.inv_freq": torch.rand(4),
}


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_buffers_that_one_member_stores_are_left_out(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    """In either order, with a note; the member's digest stays that of all that it stores."""
    make_checkpoint(tmp_path / "old", random_tensors(0) | BUFFERS)
    make_checkpoint(tmp_path / "new", random_tensors(1))
    report = inspect([tmp_path / name for name in order])
    assert not report.problems
    (warning,) = report.warnings
    assert warning.startswith(f"old: stores 2 buffers ({' and '.join(BUFFERS)}) that ")
    pool = Pool(report.members, chosen=report.reference)
    out = write(Blend(pool.members, pool.reference), tmp_path / "soup", kind="average").path
    assert open_checkpoint(out).tensors.keys() == random_tensors(0).keys()
    old = next(member for member in report.members if member.name == "old")
    assert old.digest == open_checkpoint(tmp_path / "old").digest


def test_buffers_that_all_store_stay_and_weights_are_never_left_out(tmp_path: Path) -> None:
    """Only what a model computes by itself may be missing in one."""
    paths = [
        make_checkpoint(tmp_path / name, random_tensors(k) | BUFFERS) for k, name in enumerate("ab")
    ]
    report = inspect(paths)
    assert not report.warnings and not report.problems
    assert BUFFERS.keys() <= report.members[0].tensors.keys()
    extra = random_tensors(2) | BUFFERS | {"layers.1.weight": torch.ones(4, 4)}
    assert inspect([*paths, make_checkpoint(tmp_path / "c", extra)]).problems


@pytest.mark.parametrize("own", ["model.layers.0.rope_freqs_cis", "model.layers.0.norm.weight"])
def test_what_the_model_of_one_member_makes_no_use_of_is_left_out(
    tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transformers is asked, where it knows the model, for what only one member stores.

    The asking is a fake here: the real one takes seconds, see test_described.py.
    """
    asked = []

    def says(question: dict[str, Any]) -> dict[str, Any]:
        asked.append(question)
        return {"unexpected": [name for name, _ in question["tensors"] if "freqs" in name]}

    monkeypatch.setattr(buffers, "unknown", lambda member: "")
    monkeypatch.setattr(buffers, "ask", says)
    a = make_checkpoint(tmp_path / "a", random_tensors(0))
    b = make_checkpoint(tmp_path / "b", random_tensors(1) | {own: torch.rand(4)})
    assert not inspect([a, a]).problems and not asked
    for pool in ([a, b], [b, a]):
        report = inspect(pool)
        assert bool(report.problems) == ("norm" in own)
        assert ("as transformers says" in "".join(report.warnings)) == ("freqs" in own)


def adapter(path: Path, base: Path, named: str) -> Path:
    """An adapter that says it was trained on ``named``."""
    matrix = random_tensors(1)["layers.0.weight"]
    factors = {f"layers.0.lora_{half}.weight": matrix.clone() for half in "AB"}
    return make_adapter(path, factors, base, base_model_name_or_path=named)


def test_adapters_of_another_base_than_the_one_named_are_told(tmp_path: Path) -> None:
    """With both names; a path whose last part is the same is the same."""
    base = make_checkpoint(tmp_path / "Qwen2-VL-2B", random_tensors(0))
    paths = [
        adapter(tmp_path / "a", base, "Qwen/Qwen2-VL-2B"),
        adapter(tmp_path / "b", base, "/data/models/Qwen2-VL-2B-Instruct"),
    ]
    (warning,) = [line for line in inspect(paths, base=base).warnings if "trained on" in line]
    assert warning.startswith("b: trained on '/data/models/Qwen2-VL-2B-Instruct'")
    assert f"--base is {base}" in warning


def test_adapters_of_many_other_bases_are_one_line(tmp_path: Path) -> None:
    """Which of them names which, and how many more; with a base that the user named, or none."""
    bases = [make_checkpoint(tmp_path / f"base{k}", random_tensors(0)) for k in range(7)]
    paths = [adapter(tmp_path / f"m{k}", base, str(base)) for k, base in enumerate(bases)]
    (warning,) = [line for line in inspect(paths[1:3], base=bases[0]).warnings if "trained" in line]
    assert warning.startswith(f"m1: trained on '{bases[1]}', m2 on '{bases[2]}' by ")
    (warning,) = [line for line in inspect(paths).warnings if "trained" in line]
    assert f"m4 on '{bases[4]}', 2 more on others by " in warning
    assert f"m0 on '{bases[0]}'; " in warning


def test_adapters_that_name_different_bases_are_told(tmp_path: Path) -> None:
    """Where no base was named by the user: the one's and the other's."""
    one = make_checkpoint(tmp_path / "one", random_tensors(0))
    other = make_checkpoint(tmp_path / "other", random_tensors(0))
    paths = [adapter(tmp_path / "a", one, str(one)), adapter(tmp_path / "b", other, str(other))]
    (warning,) = [line for line in inspect(paths).warnings if "trained on" in line]
    assert warning.startswith(f"b: trained on '{other}'") and f"a on '{one}'" in warning
    same = [paths[0], adapter(tmp_path / "c", one, str(one))]
    assert not [line for line in inspect(same).warnings if "trained on" in line]
