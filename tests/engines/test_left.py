"""What a resident model holds already is neither read nor written again, and answers are equal."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.errors import ScoringError
from soup.evaluators.models.wrapper import Options
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from tests.conftest import make_adapter

transformers = pytest.importorskip("transformers")
resident = pytest.importorskip("soup.evaluators.engines.resident")

OPTIONS = Options(device="cpu", max_new_tokens=4)
TRAINED = "layers"
"""What the names of those tensors hold in which the members below differ."""


def whole(demo: Path) -> list[Path]:
    """The demo's members of one file."""
    return sorted(file.parent for file in (demo / "ckpts").glob("*/model.safetensors"))


def frozen_pool(demo: Path, place: Path) -> Pool:
    """Three members that differ in the language model's layers alone, vision tower and all else
    frozen; with their digests known.
    """
    first, *others = whole(demo)[:3]
    shutil.copytree(first, place / "a")
    frozen = load_file(first / "model.safetensors")
    for name, other in zip("bc", others, strict=True):
        shutil.copytree(other, place / name)
        shutil.copy(first / "config.json", place / name)
        own = load_file(other / "model.safetensors")
        mixed = {n: own[n] if _trained(n) else frozen[n] for n in frozen}
        save_file(mixed, place / name / "model.safetensors", metadata={"format": "pt"})
    pool = Pool.open(place / "a", place / "b", place / "c")
    for member in pool.members:
        member.compute_digest()
    return pool


def _trained(name: str) -> bool:
    return TRAINED in name and "vision" not in name


def asked(engine: Any) -> dict[str, torch.Tensor]:
    """All that the model answers with."""
    model = engine._model
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.clone() for name, tensor in held.items()}


def anew(blend: Blend, reference: Any) -> dict[str, torch.Tensor]:
    """The same, of a model that never held anything else, and that nothing is known of."""
    plain = Pool.open(*(member.path for member in blend.members))
    engine = resident.Resident(reference, OPTIONS)
    engine.load(Blend(plain.members, plain.reference), "x", "load")
    return asked(engine)


def test_frozen_towers_are_not_swapped_in_again(demo: Path, tmp_path: Path) -> None:
    """Only what members differ in is written, and the model has the bits of a fresh one."""
    pool = frozen_pool(demo, tmp_path)
    a, b, c = pool.members
    engine = resident.Resident(a, OPTIONS)
    trained = sum(4 * info.numel for name, info in a.tensors.items() if _trained(name))
    everything = sum(4 * info.numel for info in a.tensors.values())
    assert 0 < trained < everything
    engine.load(Blend((a,), a), "a", "load")
    assert engine.written == 0  # it was built from just these files, and that was proven
    for members in ((b,), (a, b), (a, b, c), (c,), (a,)):
        blend = Blend(members, a)
        engine.load(blend, "+".join(m.name for m in members), "load")
        assert engine.written == trained
        expected = anew(blend, a)
        found = asked(engine)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    engine.load(Blend((a, b), a, coefficients=(0.5, 0.5)), "weighted", "load")
    assert engine.written == everything  # no average: nothing is known of its values


def test_a_worker_is_told_which_values_are_the_same(demo: Path, tmp_path: Path) -> None:
    """Members that a worker opens anew have no digests; what travels with a blend stands for them,
    and is of no use to a worker whose tensors are others.
    """
    worker_module = pytest.importorskip("soup.evaluators.workers.worker")
    pool = frozen_pool(demo, tmp_path)
    a, b, _ = pool.members
    worker = worker_module.Worker(lambda answer: None)
    worker._refer_to(*encode_checkpoint(a))
    sent = json.loads(json.dumps(encode_blend(Blend((a, b), a))))
    found = worker._blend(sent)
    assert not found.members[0].roots
    assert set(found.values) == {name for name in a.tensors if not _trained(name)}
    engine = resident.Resident(worker._reference, OPTIONS)
    engine.load(worker._blend(json.loads(json.dumps(encode_blend(Blend((a,), a))))), "a", "load")
    engine.load(found, "a+b", "load")
    trained = sum(4 * info.numel for name, info in a.tensors.items() if _trained(name))
    assert engine.written == trained
    expected = anew(Blend((a, b), a), a)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in asked(engine).items())
    assert not worker._blend(sent | {"values": "f" + sent["values"][1:]}).values
    assert not worker._blend(sent | {"values": ""}).values


def test_the_base_of_adapters_is_read_once(demo: Path, tmp_path: Path) -> None:
    """From the first adapter on only tensors that adapters change are swapped, back to the base's
    values, too.
    """
    base = whole(demo)[0]
    weights = load_file(base / "model.safetensors")
    modules = [n.removesuffix(".weight") for n in weights if n.endswith("q_proj.weight")][:3]
    generator = torch.Generator().manual_seed(7)
    paths = []
    for name, changed in (("one", modules[:2]), ("two", modules[1:])):
        factors = {}
        for module in changed:
            height, width = weights[f"{module}.weight"].shape
            factors[f"{module}.lora_A.weight"] = torch.randn(2, width, generator=generator)
            factors[f"{module}.lora_B.weight"] = torch.randn(height, 2, generator=generator)
        paths.append(make_adapter(tmp_path / name, factors, base))
    pool = Pool.open(*paths)
    one, two = pool.members
    engine = resident.Resident(one, OPTIONS)
    size = [4 * weights[f"{module}.weight"].numel() for module in modules]
    for members, expected in (
        ((one,), size[0] + size[1]),
        ((two,), sum(size)),  # the one that only the first changes goes back to the base
        ((one, two), sum(size)),
    ):
        blend = Blend(members, one)
        engine.load(blend, "+".join(m.name for m in members), "load")
        assert engine.written == expected
        fresh = anew(blend, one)
        assert all(torch.equal(tensor, fresh[name]) for name, tensor in asked(engine).items())


def test_what_was_left_in_place_is_proven_to_be_there(demo: Path, tmp_path: Path) -> None:
    """Somebody who writes into the model between swaps is noticed; the next swap starts over."""
    pool = frozen_pool(demo, tmp_path)
    a, b, _ = pool.members
    engine = resident.Resident(a, OPTIONS)
    engine.load(Blend((b,), a), "b", "load")
    name = next(name for name in a.tensors if not _trained(name))
    with torch.no_grad():
        engine._places[name].view(-1)[0] += 1
    with pytest.raises(ScoringError, match=name):
        engine.load(Blend((a, b), a), "a+b", "load")
    engine.load(Blend((a, b), a), "a+b", "load")
    assert engine.written == sum(4 * info.numel for info in a.tensors.values())
