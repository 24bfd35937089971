"""soup/checkpoints/names.py, fitting.py: one model's tensors under other names."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints import names
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, inspect
from soup.errors import CheckpointError, PoolError
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from tests.blending.test_writer import loaded
from tests.checkpoints import architectures
from tests.conftest import make_adapter, make_checkpoint

Rename = Callable[[str], str]


def tensors(seed: int, rename: Rename = lambda name: name) -> dict[str, torch.Tensor]:
    """Two towers whose layers have equal shapes, as Qwen2-VL was saved before transformers 4.52."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "visual.blocks.0.mlp.fc1.weight": (6, 4),
        "visual.blocks.1.mlp.fc1.weight": (6, 4),
        "model.embed_tokens.weight": (9, 4),
        "model.layers.0.mlp.fc1.weight": (6, 4),
        "model.layers.1.mlp.fc1.weight": (6, 4),
        "model.norm.weight": (4,),
        "lm_head.weight": (9, 4),
    }
    return {rename(n): torch.randn(shape, generator=generator) for n, shape in shapes.items()}


def new(name: str) -> str:
    """As transformers has them since 4.52."""
    if name.startswith("visual."):
        return f"model.{name}"
    return name.replace("model.", "model.language_model.", 1) if name[:5] == "model" else name


def llava(name: str) -> str:
    """As a model around a whole language model was saved."""
    if name.startswith("visual."):
        return name
    return f"language_model.{name}"


def trainer(name: str) -> str:
    """Under a prefix that nobody knows."""
    return f"policy.actor.{name}"


@pytest.mark.parametrize("one", [None, new, llava, trainer])
@pytest.mark.parametrize("other", [None, new, llava, trainer])
def test_generations_of_names_are_fitted_to_the_references(
    tmp_path: Path, one: Rename | None, other: Rename | None
) -> None:
    """The mean of the tensors that are meant, by the reference's names; what was done is said."""

    def keep(name: str) -> str:
        return name

    paths = [
        make_checkpoint(tmp_path / str(k), tensors(k, rename or keep))
        for k, rename in enumerate((one, other))
    ]
    report = inspect(paths)
    assert not report.problems
    assert len(report.warnings) == (one is not other)
    assert all("by their prefixes alone" in warning for warning in report.warnings)
    pool = Pool.open(*paths)
    found = loaded(write(Blend(pool.members, pool.reference), tmp_path / "out").path)
    means = zip(tensors(0).items(), tensors(1).values(), strict=True)
    expected = {(one or keep)(name): (a.double() + b) / 2 for (name, a), b in means}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name].float()) for name in found)
    assert pool.members[1].digest == open_checkpoint(paths[1]).digest


def test_many_generations_are_one_line(tmp_path: Path) -> None:
    """With what is called otherwise in each; what two do alike stands once."""
    renames = [lambda name: name, new, llava, llava]
    paths = [make_checkpoint(tmp_path / f"m{k}", tensors(k, r)) for k, r in enumerate(renames)]
    report = inspect(paths)
    assert not report.problems
    (warning,) = report.warnings
    assert warning.startswith("m1, m2 and m3: names differ from m0's by their prefixes alone, ")
    assert "were its: m1: model.language_model.… is " in warning
    assert "; m2 and m3: language_model.model.… is " in warning


def test_a_tower_is_no_other_tower(tmp_path: Path) -> None:
    """Names of one shape that only their numbers or their sense tell apart are never fitted."""
    base = tensors(0)
    for old, other in (("visual.blocks.1.", "visual.blocks.2."), ("visual.", "audio_tower.")):
        odd = {name.replace(old, other): tensor for name, tensor in base.items()}
        paths = [make_checkpoint(tmp_path / f"{old}{k}", t) for k, t in enumerate((base, odd))]
        with pytest.raises(PoolError, match="found nothing"):
            Pool.open(*paths)


def test_what_renaming_does_not_explain_is_reported_under_the_references_names(
    tmp_path: Path,
) -> None:
    """One line for the one tensor that differs, not one for each name."""
    odd = tensors(1, new)
    odd["model.language_model.norm.weight"] = torch.ones(5)
    del odd["model.visual.blocks.0.mlp.fc1.weight"]
    report = inspect(
        [make_checkpoint(tmp_path / "a", tensors(0)), make_checkpoint(tmp_path / "b", odd)]
    )
    assert sorted(problem.tensor for problem in report.problems) == [
        "tensor model.norm.weight",
        "tensor visual.blocks.0.mlp.fc1.weight",
    ]


def test_an_adapter_among_renamed_members_is_fitted_with_its_updates(tmp_path: Path) -> None:
    """Its merged tensors, not its base's, reach the reference's names; its digest stays."""
    base = make_checkpoint(tmp_path / "base", tensors(0, new))
    module = "model.language_model.layers.0.mlp.fc1"
    factors = {f"{module}.lora_A.weight": torch.ones(2, 4)}
    factors[f"{module}.lora_B.weight"] = torch.ones(6, 2)
    lora = make_adapter(tmp_path / "lora", factors, base, r=2, lora_alpha=4)
    old = make_checkpoint(tmp_path / "old", tensors(1))
    pool = Pool.open(old, lora)
    name = "model.layers.0.mlp.fc1.weight"
    found = loaded(write(Blend(pool.members, pool.reference), tmp_path / "out").path)
    merged = tensors(0)[name].double() + 4
    assert torch.equal(found[name], ((tensors(1)[name].double() + merged) / 2).float())
    assert pool.members[1].digest == open_checkpoint(lora).digest


def test_the_worker_reads_names_as_the_pool_does(tmp_path: Path) -> None:
    """It gets paths, and fits what it opens to its reference."""
    paths = [
        make_checkpoint(tmp_path / "a", tensors(0)),
        make_checkpoint(tmp_path / "b", tensors(1, new)),
    ]
    pool = Pool.open(*paths)
    worker = Worker(lambda message: None)
    worker._refer_to(*encode_checkpoint(pool.reference))
    found = worker._blend(encode_blend(Blend(pool.members, pool.reference)))
    assert found.members[1].tensors == pool.members[1].tensors


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        lambda name: f"_fsdp_wrapped_module.{name}".replace(".0.", ".0._fsdp_wrapped_module."),
        lambda name: name.replace(".blocks.", "._orig_mod.module.blocks."),
        lambda name: name if "lm_head" in name else f"module.{name}",
    ],
)
def test_wrappers_are_taken_out_wherever_they_stand(tmp_path: Path, rename: Rename) -> None:
    """The same checkpoint, to the digest, and a soup whose names the model knows."""
    plain = make_checkpoint(tmp_path / "plain", tensors(0))
    wrapped = make_checkpoint(tmp_path / "wrapped", tensors(0, rename))
    pool = Pool.open(wrapped, plain)
    assert pool.reference.digest == pool.members[1].digest
    assert not pool.reference.by_itself  # who loads it is given its tensors
    found = loaded(write(Blend(pool.members, pool.reference), tmp_path / "out").path)
    assert found.keys() == tensors(0).keys()


def test_names_that_would_become_one_stay_as_they_are() -> None:
    """And the length of a name, or how often a wrapper stands in it, costs only time to read it."""
    two = ["a._orig_mod.weight", "a.weight", "b._orig_mod.weight", "module.module"]
    assert names.unwrapped(two) == {
        "a._orig_mod.weight": "a._orig_mod.weight",
        "a.weight": "a.weight",
        "b._orig_mod.weight": "b.weight",
        "module.module": "module",
    }
    started = time.monotonic()
    long = "module." * 200_000 + "weight"
    assert names.unwrapped([long]) == {long: "weight"}
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("emptied", [".weight", "blocks.0.mlp.fc1.weight", "lora_A.weight"])
def test_weights_that_zero_3_left_empty_are_counted(tmp_path: Path, emptied: str) -> None:
    """In all, in one, in an adapter: the tool that gathers them is named."""
    base = make_checkpoint(tmp_path / "base", tensors(0))
    if "lora" in emptied:
        module = "model.layers.0.mlp.fc1"
        factors = {f"{module}.lora_A.weight": torch.ones(0)}
        factors[f"{module}.lora_B.weight"] = torch.ones(6, 2)
        bad = make_adapter(tmp_path / "bad", factors, base, r=2)
    else:
        bad = make_checkpoint(
            tmp_path / "bad",
            {n: t.new_zeros(0) if n.endswith(emptied) else t for n, t in tensors(1).items()},
        )
    count = {".weight": 7}.get(emptied, 1)
    with pytest.raises(CheckpointError, match=rf"bad: {count} empty tensors?, .*zero_to_fp32"):
        inspect([base, bad])


def test_flat_parameters_of_fsdp_are_refused_by_name(tmp_path: Path) -> None:
    """They are no tensors of the model, and averaging them makes none."""
    name = "_fsdp_wrapped_module.layers.1._fsdp_wrapped_module._flat_param"
    path = make_checkpoint(tmp_path / "m", tensors(0) | {name: torch.ones(30)})
    with pytest.raises(CheckpointError, match="1 tensor of FSDP .*FULL_STATE_DICT"):
        inspect([path])


@pytest.mark.parametrize(
    "name", ["tower.cls_token", "tower.position_embeddings", "lora_embedding_A"]
)
def test_parameters_that_are_called_otherwise_than_weights_are_no_empty_buffers(
    tmp_path: Path, name: str
) -> None:
    """Tokens, embeddings, factors: empty in all members alike; a buffer may be empty."""
    base = make_checkpoint(tmp_path / "base", tensors(0) | {"steps": torch.ones(0)})
    assert not inspect([base]).problems
    if "lora" in name:
        factors = {f"model.embed_tokens.{name}": torch.ones(0)}
        bad = make_adapter(tmp_path / "bad", factors, base, r=2)
    else:
        bad = make_checkpoint(tmp_path / "bad", tensors(1) | {name: torch.ones(0)})
    with pytest.raises(CheckpointError, match=r"bad: 1 empty tensor, .*zero_to_fp32"):
        inspect([bad, bad])


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("base_model.model.", "base_model.module.model."),
        lambda name: name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        lambda name: name.replace(".weight", "._fsdp_wrapped_module.weight"),
    ],
)
def test_wrappers_in_an_adapters_names_are_taken_out(tmp_path: Path, rename: Rename) -> None:
    """Wherever they stand: the adapter is what it would be without."""
    base = make_checkpoint(tmp_path / "base", tensors(0))
    module = "model.layers.0.mlp.fc1"
    out, into = tensors(0)[f"{module}.weight"].shape
    factors = {f"{module}.lora_A.weight": torch.ones(2, into)}
    factors[f"{module}.lora_B.weight"] = torch.ones(out, 2)
    plain = make_adapter(tmp_path / "plain", factors, base, r=2)
    wrapped = make_adapter(tmp_path / "wrapped", factors, base, r=2)
    file = wrapped / "adapter_model.safetensors"
    save_file({rename(name): value for name, value in load_file(file).items()}, file)
    one, other = inspect([plain, wrapped]).members
    assert one.digest == other.digest


def test_every_kind_of_vlm_that_transformers_ships_is_in_a_list() -> None:
    """A new one is seen: ``python -m tests.checkpoints.architectures`` says where it belongs."""
    transformers = pytest.importorskip("transformers")
    if transformers.__version__ != architectures.TRANSFORMERS:
        pytest.skip(f"the lists are of transformers {architectures.TRANSFORMERS}")
    lists = architectures.BY_CORES, architectures.BY_TRANSFORMERS
    assert sorted(architectures.architectures()) == sorted(name for one in lists for name in one)
    assert architectures.UNADAPTED.keys() <= set(architectures.BY_CORES)


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "paddleocr_vl", "mllama"])
def test_names_are_found_as_transformers_saves_them(model_type: str) -> None:
    """A sample of the kinds; the command does all."""
    pytest.importorskip("transformers", minversion="5")
    kind = architectures.architectures()[model_type]
    count, unfound, lost, wrong = architectures.examine(model_type, kind)
    assert count > 10
    assert not wrong
    assert not lost
    assert bool(unfound) == (model_type in architectures.BY_TRANSFORMERS)
