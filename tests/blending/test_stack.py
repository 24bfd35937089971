"""soup/blending/stack.py: one adapter that changes the base as the blend of several does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import soup
from soup.blending.blend import Blend
from soup.blending.stack import stack
from soup.blending.writer import write
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import BlendError, OutputError, PoolError, UsageError
from tests.checkpoints.test_lora import gpt2, llama
from tests.conftest import collect, make_adapter, make_checkpoint

peft = pytest.importorskip("peft")

ONE = {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 6}
EMBEDDING = {"target_modules": ["embed_tokens", "k_proj"], "r": 3, "use_rslora": True}
OTHER = {"target_modules": ["q_proj", "v_proj"], "r": 2, "rank_pattern": {"layers.0.*q_proj": 5}}
CONV1D = {"target_modules": ["c_attn", "c_proj"], "r": 3, "fan_in_fan_out": True}


def pool_of(tmp_path: Path, make: Any, *every: dict[str, Any]) -> list[Path]:
    """Adapters of one base, each with settings of its own, as PEFT saves them."""
    torch.manual_seed(3)
    make().save_pretrained(tmp_path / "base")
    paths = []
    for k, settings in enumerate(every):
        model = type(make()).from_pretrained(tmp_path / "base")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape) * 0.3)
        paths.append(tmp_path / f"adapter-{k}")
        wrapped.save_pretrained(paths[-1])  # with a copy of the base's embedding, where it is one's
    return paths


@pytest.mark.parametrize(
    ("make", "every"),
    [
        (llama, (ONE, ONE, ONE)),
        (llama, (ONE, OTHER)),
        (llama, (OTHER, EMBEDDING, ONE)),
        (gpt2, (CONV1D, CONV1D)),
        (llama, (EMBEDDING,)),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_adapter_changes_the_base_as_the_blend_does(
    tmp_path: Path, make: Any, every: tuple[dict[str, Any], ...]
) -> None:
    """PEFT loads it without a key missing or left over, and merges the average's weights."""
    pool = Pool.open(*pool_of(tmp_path, make, *every))
    blend = Blend(pool.members, pool.reference)
    out = write(blend, tmp_path / "out", as_adapter=True).path
    full = write(Blend(pool.members, pool.reference, dtype="F64"), tmp_path / "full").path
    expected = load_file(full / "model.safetensors")

    model = type(make()).from_pretrained(tmp_path / "base").double()
    wrapped = peft.PeftModel.from_pretrained(model, out)
    stored = load_file(out / "adapter_model.safetensors")
    assert set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=False)) == set(stored)
    merged = wrapped.merge_and_unload().state_dict()
    ours = collect(open_checkpoint(out))
    for name, values in expected.items():
        torch.testing.assert_close(merged[name], values, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours[name], values, rtol=1e-6, atol=1e-6)
    assert {path.name for path in out.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "soup.json",
        "README.md",
    }
    manifest = json.loads((out / "soup.json").read_text())
    assert manifest["adapter"]
    assert manifest["digest"] == open_checkpoint(out).digest
    assert "library_name: peft" in (out / "README.md").read_text()


def test_coefficients_are_in_the_factors(tmp_path: Path) -> None:
    """W + 0.75·ΔW_1 + 0.25·ΔW_2, with factors of one."""
    paths = hand_made(tmp_path)
    pool = Pool.open(*paths)
    blend = Blend(pool.members, pool.reference, (0.75, 0.25))
    out = write(blend, tmp_path / "out", as_adapter=True)
    found = load_file(out.path / "adapter_model.safetensors")
    assert found["base_model.model.lin.lora_A.weight"].shape == (3, 3)
    assert found["base_model.model.lin.lora_B.weight"].tolist() == [[0.75, 0.75, 0.5]] * 4
    assert write(blend, tmp_path / "out", as_adapter=True).reused
    assert not write(Blend(pool.members, pool.reference), tmp_path / "out", as_adapter=True).reused


def hand_made(tmp_path: Path) -> list[Path]:
    """Ranks 2 and 1, alphas 2 and 2, so scales 1 and 2; every value is one."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.ones(4, 3)})
    return [
        make_adapter(
            tmp_path / f"rank-{rank}",
            {"lin.lora_A.weight": torch.ones(rank, 3), "lin.lora_B.weight": torch.ones(4, rank)},
            base,
            lora_alpha=2,
        )
        for rank in (2, 1)
    ]


def test_a_module_whose_path_ends_like_another_keeps_its_rank(tmp_path: Path) -> None:
    """PEFT takes the first pattern that a path ends with: the longer path stands before it."""
    shapes = {"lin": 1, "z.lin": 2}
    base = make_checkpoint(tmp_path / "base", {f"{m}.weight": torch.zeros(4, 3) for m in shapes})
    factors = {}
    for module, rank in shapes.items():
        factors[f"{module}.lora_A.weight"] = torch.ones(rank, 3)
        factors[f"{module}.lora_B.weight"] = torch.ones(4, rank)
    ranks = {"rank_pattern": {"z.lin": 2, "lin": 1}}
    pool = Pool.open(make_adapter(tmp_path / "adapter", factors, base, r=7, lora_alpha=7, **ranks))
    out = write(Blend(pool.members, pool.reference), tmp_path / "out", as_adapter=True).path
    settings = json.loads((out / "adapter_config.json").read_text())
    for module, rank in shapes.items():
        key = peft.utils.other.get_pattern_key(settings["rank_pattern"], module)
        assert settings["rank_pattern"][key] == rank
    found, expected = collect(open_checkpoint(out)), collect(pool.reference)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("full", "base: expected a LoRA adapter, found a full model"),
        ("other base", "third: expected an adapter of .*base, found one of .*moved"),
        ("dora", "third: tensor lin.weight is changed by DoRA"),
        ("whole", r"third: tensor lin.weight is stored whole"),
        ("base layer", "third: tensor lin.weight brings a base layer of its own"),
    ],
)
def test_members_that_no_adapter_can_hold_are_named(
    tmp_path: Path, kind: str, message: str
) -> None:
    """Before anything is written, or scored."""
    paths = hand_made(tmp_path)
    base = tmp_path / "base"
    factors = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(4, 1)}
    if kind == "full":
        third = base
    elif kind == "other base":
        shutil.copytree(base, tmp_path / "moved")
        third = make_adapter(tmp_path / "third", factors, tmp_path / "moved")
    else:
        more = {
            "dora": factors | {"lin.lora_magnitude_vector": torch.ones(4)},
            "whole": {"lin.weight": torch.ones(4, 3)},
            "base layer": factors | {"lin.base_layer.weight": torch.zeros(4, 3)},
        }
        third = make_adapter(tmp_path / "third", more[kind], base)
    pool = Pool.open(*paths, third)
    with pytest.raises(PoolError, match=message):
        write(Blend(pool.members, pool.reference), tmp_path / "out", as_adapter=True)
    settings = soup.Settings(out=tmp_path / "out", work=tmp_path / "work", as_adapter=True)
    with pytest.raises(PoolError, match=message):
        soup.make("average", pool, None, settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("weight", "factors", "settings", "message"),
    [
        (
            {"mlp.experts.down_proj": torch.ones(2, 4, 3)},
            {"mlp.experts.lora_A.weight": (2, 3), "mlp.experts.lora_B.weight": (4, 2)},
            {"target_parameters": ["mlp.experts.down_proj"], "r": 1},
            "mlp.experts.down_proj holds experts that LoRA changes one by one",
        ),
        (
            {"patch.weight": torch.ones(4, 3, 2, 2)},
            {"patch.lora_A.weight": (1, 3, 2, 2), "patch.lora_B.weight": (4, 1, 1, 1)},
            {},
            "patch.weight is a convolution's",
        ),
    ],
    ids=["experts", "convolution"],
)
def test_what_is_not_stacked_is_called_what_it_is(
    tmp_path: Path,
    weight: dict[str, torch.Tensor],
    factors: dict[str, tuple[int, ...]],
    settings: dict[str, Any],
    message: str,
) -> None:
    """It blends as a full model all the same."""
    base = make_checkpoint(tmp_path / "base", weight)
    made = {name: torch.ones(shape) for name, shape in factors.items()}
    paths = [make_adapter(tmp_path / name, made, base, **settings) for name in ("a", "b")]
    pool = Pool.open(*paths)
    whole = Blend(pool.members, pool.reference)
    with pytest.raises(PoolError, match=f"a: tensor {message}.*leave --as-adapter out"):
        write(whole, tmp_path / "out", as_adapter=True)
    write(whole, tmp_path / "out")


def test_only_averages_become_adapters(tmp_path: Path) -> None:
    """Coefficients that do not add up to 1 scale the base, too; a dtype means nothing here."""
    pool = Pool.open(*hand_made(tmp_path))
    with pytest.raises(UsageError, match="add up to 1, found linear and 2"):
        stack(Blend(pool.members, pool.reference, (1.0, 1.0)))
    with pytest.raises(UsageError, match="leave --dtype out"):
        stack(Blend(pool.members, pool.reference, dtype="F32"))


def test_a_diverged_adapter_is_named(tmp_path: Path) -> None:
    """NaN in a factor is an error, and nothing is left behind."""
    paths = hand_made(tmp_path)
    nan, ones = torch.full((1, 3), torch.nan), torch.ones(4, 1)
    factors = {"lin.lora_A.weight": nan, "lin.lora_B.weight": ones}
    bad = make_adapter(tmp_path / "bad", factors, tmp_path / "base")
    pool = Pool.open(*paths, bad)
    for as_adapter in (True, False):
        with pytest.raises(BlendError, match="bad: tensor .* holds NaN"):
            write(Blend(pool.members, pool.reference), tmp_path / "out", as_adapter=as_adapter)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "rank-2", "rank-1", "bad"}


def test_the_base_is_no_place_for_the_result(tmp_path: Path) -> None:
    """As little as a member is."""
    pool = Pool.open(*hand_made(tmp_path))
    with pytest.raises(OutputError, match="choose another place"):
        write(Blend(pool.members, pool.reference), tmp_path / "base", as_adapter=True)


def test_the_command_writes_an_adapter(tmp_path: Path) -> None:
    """From the shell, where --dtype beside it cannot be understood."""
    paths = hand_made(tmp_path)

    def average(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "soup", "average", *map(str, paths), "--as-adapter"]
        command += ["-o", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *words]
        return subprocess.run(command, capture_output=True, text=True)

    assert average("--dtype", "float32").returncode == 2
    done = average()
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (3, 3)
    found = collect(open_checkpoint(tmp_path / "out"))["lin.weight"]
    assert torch.equal(found, torch.full((4, 3), 3.0).double())
