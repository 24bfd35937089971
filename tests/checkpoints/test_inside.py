"""soup/checkpoints/inside.py, experts.py, heads.py, ranks.py: what LoRA's factors stand for."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, inspect
from soup.checkpoints.ranks import Ranks
from soup.errors import CheckpointError
from tests.blending.test_writer import loaded
from tests.checkpoints import tiny
from tests.conftest import CONFIG, collect, make_adapter, make_checkpoint

TOP = "language_model.base_model.model.model.layers.0.q_proj"
A, B = f"{TOP}.lora_A.default.weight", f"{TOP}.lora_B.default.weight"


def inside(seed: int, adapter: str = "default", extra: str = "") -> dict[str, torch.Tensor]:
    """A model that was saved while PEFT was wrapped around its language model."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        f"{TOP}.base_layer.weight": (6, 4),
        f"{TOP}.base_layer.bias": (6,),
        f"{TOP}.lora_A.{adapter}.weight": (2, 4),
        f"{TOP}.lora_B.{adapter}.weight": (6, 2),
        "language_model.base_model.model.model.norm.weight": (4,),
        "vision_model.patch.weight": (5, 3),
    }
    shapes |= {f"{TOP}.lora_A.{extra}.weight": (2, 4)} if extra else {}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_factors_inside_a_full_checkpoint_are_merged(tmp_path: Path) -> None:
    """With InternVL's scale, alpha 2r: the mean of the merged weights, a config without LoRA."""
    config = CONFIG | {"use_llm_lora": 2, "use_backbone_lora": 0}
    paths = [make_checkpoint(tmp_path / str(k), inside(k), config=config) for k in range(2)]
    pool = Pool.open(*paths)
    assert not pool.reference.by_itself
    written = write(Blend(pool.members, pool.reference), tmp_path / "out").path
    found = loaded(written)
    merged = [
        t[f"{TOP}.base_layer.weight"].double() + 2 * (t[B].double() @ t[A].double())
        for t in map(inside, range(2))
    ]
    name = "language_model.model.layers.0.q_proj.weight"
    torch.testing.assert_close(found[name], ((merged[0] + merged[1]) / 2).float())
    assert set(found) == {
        name,
        "language_model.model.layers.0.q_proj.bias",
        "language_model.model.norm.weight",
        "vision_model.patch.weight",
    }
    assert json.loads((written / "config.json").read_text())["use_llm_lora"] == 0
    assert open_checkpoint(written).digest  # a plain model


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (inside(0), {}, "q_proj.lora_A.default.weight is a LoRA factor inside a full model"),
        (inside(0), {"use_llm_lora": 3}, "has rank 2, expected 3 as config.json says"),
        (inside(0, "vision"), {"vision_lora": {"r": 2, "lora_alpha": 4}}, "switches on by its inp"),
        (inside(0, "a", "b"), {"use_llm_lora": 2}, "switches on by its input .a, b."),
    ],
)
def test_factors_that_cannot_be_merged_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], message: str
) -> None:
    """No scale, another rank, adapters that the input chooses, as Phi-4-multimodal's."""
    path = make_checkpoint(tmp_path / "m", tensors, config=CONFIG | config)
    with pytest.raises(CheckpointError, match=message) as error:
        inspect([path])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "factors",
    [
        {"base_layer.weight": (6, 4), "hada_w1_a.default": (6, 2), "hada_w1_b.default": (2, 4)},
        {"base_layer.weight": (6, 4), "ia3_l.default": (6, 1)},
        {"base_layer.weight": (6, 4), "oft_R.default.weight": (2, 1)},
        {"weight": (6, 4), "lora.down.weight": (2, 4), "lora.up.weight": (6, 2)},
        {"base_layer.weight": (6, 4), "base_layer.bias": (6,)},
    ],
    ids=["LoHa", "IA3", "OFT", "diffusers", "factors are gone"],
)
def test_what_other_methods_put_inside_is_refused_by_name(
    tmp_path: Path, factors: dict[str, tuple[int, ...]]
) -> None:
    """Alone, and beside factors of LoRA: averaged apart it would be another change, too."""
    module = "language_model.base_model.model.model.layers.1.q_proj"
    found = {f"{module}.{name}": torch.ones(shape) for name, shape in factors.items()}
    for k, others in enumerate(({"norm.weight": torch.ones(4)}, inside(0))):
        config = CONFIG | {"use_llm_lora": 2}
        path = make_checkpoint(tmp_path / str(k), others | found, config=config)
        with pytest.raises(CheckpointError, match=r"layers\.1\.q_proj.*merge it with the tool"):
            inspect([path])


def test_modules_that_peft_trained_whole_are_taken(tmp_path: Path) -> None:
    """Saved with PEFT around them, without factors: the trained copy counts, not the original."""
    tensors = {
        "model.norm.weight": torch.ones(4),
        "head.original_module.weight": torch.zeros(2, 4),
        "head.modules_to_save.default.weight": torch.ones(2, 4),
    }
    opened = open_checkpoint(make_checkpoint(tmp_path / "m", tensors))
    assert "without factors" in opened.notes[0]
    found = collect(opened)
    assert found.keys() == {"model.norm.weight", "head.weight"}
    assert torch.equal(found["head.weight"].float(), torch.ones(2, 4))


def test_a_lora_config_inside_config_json_gives_the_scale(tmp_path: Path) -> None:
    """Rank-stabilised here: alpha/√r; and a base with factors of its own takes no adapter."""
    settings = {"r": 2, "lora_alpha": 6, "use_rslora": True}
    path = make_checkpoint(tmp_path / "m", inside(0), config=CONFIG | {"lora_config": settings})
    tensors = inside(0)
    change = tensors[B] @ tensors[A]
    expected = tensors[f"{TOP}.base_layer.weight"] + change * 6 / 2**0.5
    found = collect(open_checkpoint(path))["language_model.model.layers.0.q_proj.weight"]
    torch.testing.assert_close(found.float(), expected)
    factors = {f"x.lora_{k}.weight": torch.ones(2, 2) for k in "AB"}
    with pytest.raises(CheckpointError, match="its base .* holds LoRA factors of its own"):
        open_checkpoint(make_adapter(tmp_path / "lora", factors, path))


TIED = CONFIG | {"tie_word_embeddings": True}
EMBEDDING = "model.language_model.embed_tokens.weight"


def tied_base(path: Path) -> Path:
    """A base that stores its embedding alone, by the names of an older version."""
    return make_checkpoint(path, {"model.embed_tokens.weight": torch.ones(9, 4)}, config=TIED)


def test_equal_halves_of_a_tied_head_are_taken(tmp_path: Path) -> None:
    """As PEFT's ensure_weight_tying saves them; the soup stores what the base stores."""
    new = torch.randn(9, 4)
    both = {"lm_head.weight": new.clone(), EMBEDDING: new.clone()}
    path = make_adapter(tmp_path / "lora", both, tied_base(tmp_path / "base"))
    pool = Pool.open(path)
    assert not pool.warnings
    found = loaded(write(Blend(pool.members, pool.reference), tmp_path / "out").path)
    assert found.keys() == {"model.embed_tokens.weight"}
    assert torch.equal(found["model.embed_tokens.weight"], new)


def test_halves_that_differ_at_the_end_are_found_when_all_is_read(tmp_path: Path) -> None:
    """Before anything is scored or written, whatever pool it is in."""
    base = make_checkpoint(
        tmp_path / "base", {"model.embed_tokens.weight": torch.ones(9000, 4)}, config=TIED
    )
    one, other = torch.zeros(9000, 4), torch.zeros(9000, 4)
    other[-1] = 1
    path = make_adapter(tmp_path / "lora", {"lm_head.weight": one, EMBEDDING: other}, base)
    with pytest.raises(CheckpointError, match="lm_head.weight and model.embed_tokens.weight are t"):
        _ = Pool.open(path).reference.digest


@pytest.mark.parametrize("kind", ["unequal", "head", "lora"])
def test_one_half_of_a_tied_head_gets_no_advice_that_does_harm(tmp_path: Path, kind: str) -> None:
    """A merge would change both halves: a base that has them apart is what helps."""
    tensors = {
        "unequal": {"lm_head.weight": torch.ones(9, 4), EMBEDDING: torch.zeros(9, 4)},
        "head": {"lm_head.weight": torch.ones(9, 4)},
        "lora": {
            f"lm_head.lora_{k}.weight": torch.ones(s) for k, s in (("A", (2, 4)), ("B", (9, 2)))
        },
    }[kind]
    path = make_adapter(tmp_path / "lora", tensors, tied_base(tmp_path / "base"))
    with pytest.raises(
        CheckpointError, match=r"lm_head\.weight.*tie_word_embeddings: fal"
    ) as error:
        inspect([path])
    assert "merge_and_unload" not in str(error.value)
    apart = {"model.embed_tokens.weight": torch.ones(9, 4), "lm_head.weight": torch.ones(9, 4)}
    config = CONFIG | {"tie_word_embeddings": False}
    helped = make_checkpoint(tmp_path / "apart", apart, config=config)
    assert not inspect([path], base=helped).problems


CASES = {
    "qwen2_5": {"target_modules": "all-linear"},
    "mllama": {"target_modules": "all-linear"},
    "convolutions": {"target_modules": ["patch_embedding", "q_proj"]},
    "qwen3moe": {
        "target_modules": ["q_proj"],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
    },
}
ALL = {kind: {"target_modules": "all-linear"} for kind in tiny.KINDS if kind not in CASES} | CASES


def as_peft(tmp_path: Path, kind: str, lora: dict[str, Any]) -> None:
    """Compare every tensor with PEFT's merge, saved by transformers under the files' names."""
    kind = {"convolutions": "gemma3"}.get(kind, kind)
    base = tiny.saved(tmp_path / "base", kind)
    path, merged = tiny.adapter(tmp_path / "lora", kind, **lora)
    merged.save_pretrained(tmp_path / "merged")
    expected = load_file(tmp_path / "merged" / "model.safetensors")
    before = load_file(base / "model.safetensors")
    found = collect(open_checkpoint(path, base=base))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name].float(), values, rtol=1e-5, atol=1e-6)
    assert sum(not torch.equal(before[name], expected[name]) for name in expected) > 3


@pytest.mark.parametrize("kind", ALL)
def test_adapters_are_merged_as_peft_merges_them(tmp_path: Path, kind: str) -> None:
    """Trained in memory's names on files that have others, on experts and on convolutions, too."""
    pytest.importorskip("peft")
    as_peft(tmp_path, kind, ALL[kind])


def test_experts_in_matrices_of_their_own_are_changed_as_one_parameter_is(tmp_path: Path) -> None:
    """Files of before transformers 5, an adapter of after: gate and up are one in memory."""
    pytest.importorskip("peft")
    base = tiny.saved(tmp_path / "base", "qwen3moe")
    path, _ = tiny.adapter(tmp_path / "lora", "qwen3moe", **CASES["qwen3moe"])
    whole = collect(open_checkpoint(path, base=base))
    split: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        split |= parted(name, tensor)
    save_file(split, base / "model.safetensors", {"format": "pt"})
    found = collect(open_checkpoint(path, base=base), chunk=100)
    for name, tensor in whole.items():
        for part, values in parted(name, tensor).items():
            torch.testing.assert_close(found[part], values, rtol=1e-12, atol=1e-12)


def parted(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A parameter of all experts as matrices of each."""
    path, _, last = name.rpartition(".")
    if last == "down_proj" and tensor.ndim == 3:
        return {f"{path}.{e}.down_proj.weight": t.clone() for e, t in enumerate(tensor)}
    if last != "gate_up_proj" or tensor.ndim != 3:
        return {name: tensor}
    found = {}
    for expert, both in enumerate(tensor):
        gate, up = both.chunk(2)
        found[f"{path}.{expert}.gate_proj.weight"] = gate.clone()
        found[f"{path}.{expert}.up_proj.weight"] = up.clone()
    return found


def test_a_convolution_in_groups_and_a_parameter_that_fits_nothing_are_refused(
    tmp_path: Path,
) -> None:
    """By name, as PEFT cannot merge them either."""
    base = make_checkpoint(
        tmp_path / "base", {"c.weight": torch.ones(4, 1, 3), "e.p": torch.ones(2, 3, 5)}
    )
    factors = {"c.lora_A.weight": torch.ones(2, 1, 3), "c.lora_B.weight": torch.ones(4, 1, 1)}
    with pytest.raises(CheckpointError, match="c.lora_A.weight: .* in groups cannot be merged"):
        open_checkpoint(make_adapter(tmp_path / "groups", factors, base))
    factors = {"e.lora_A.weight": torch.ones(4, 7), "e.lora_B.weight": torch.ones(3, 4)}
    odd = make_adapter(tmp_path / "odd", factors, base, r=2, target_parameters=["e.p"])
    with pytest.raises(CheckpointError, match="e.lora_A.weight: .* fits no parameter"):
        open_checkpoint(odd)


@pytest.mark.parametrize(
    ("pattern", "module", "rank"),
    [
        ("q_proj", "a.q_proj", 2),
        ("q_proj", "a.my_q_proj", 8),
        (r"layers\.[0-9]+\.q", "model.layers.11.q", 2),
        (r"model\..*layers\.\d+\.(q|k)_proj", "x.model.y.layers.3.k_proj", 2),
        (r".*\.q", "a.b.q", 2),
        ("a.q", "b.a.q", 2),
    ],
)
def test_patterns_match_as_peft_matches_them(pattern: str, module: str, rank: int) -> None:
    """At the end of a path, as a name or as a regular expression of a simple form."""
    found = Ranks(Path("x"), {"r": 8, "rank_pattern": {pattern: 2}, "lora_alpha": 8}).of(module)
    assert found == (rank, 8 / rank)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "(a|a)*b", "(.*)*x", ".*.*.*.*x", r"(\w+\d)*!", "(?=a)a*", "(" * 300 + ")" * 300],
)
def test_a_pattern_that_would_take_years_is_an_error_at_once(pattern: str) -> None:
    """One line, whatever a stranger wrote."""
    ranks = Ranks(Path("x"), {"rank_pattern": {pattern: 2}})
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="x: rank or alpha of a+.* cannot be told"):
        ranks.of("a" * 60)
    assert time.monotonic() - started < 2
