"""soup/checkpoints/lora.py: what is computed is what PEFT merges, to the last bits of float64."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from soup.blending.blend import Blend
from soup.blending.streaming import stream
from soup.checkpoints import computing
from soup.checkpoints.checkpoint import TensorInfo
from soup.checkpoints.computing import BLOCK
from soup.checkpoints.dtypes import DTYPES
from soup.checkpoints.opening import open_checkpoint
from tests.conftest import collect, make_adapter, make_checkpoint

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def llama(**settings: Any) -> Any:
    """A Llama so small that its tensors are smaller than a block of rows."""
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=50,
            **settings,
        )
    )


def gpt2() -> Any:
    """Weights stored as [in, out], some of them square."""
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=8)
    )


def tuned(model: Any, tmp_path: Path, **settings: Any) -> tuple[Path, Path]:
    """Base and adapter as transformers and PEFT save them, every trained value random."""
    torch.manual_seed(7)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model.save_pretrained(base)
    model = type(model).from_pretrained(base)  # so that the adapter names its base
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape) * 0.3
                parameter.copy_(noise.abs() + 0.5 if "magnitude" in name else noise)
    wrapped.save_pretrained(adapter)
    return base, adapter


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (llama, {"target_modules": ["q_proj", "down_proj"], "r": 4, "lora_alpha": 10}),
    "rank-stabilised": (
        llama,
        {"target_modules": ["q_proj", "v_proj"], "r": 5, "lora_alpha": 8, "use_rslora": True},
    ),
    "dora": (llama, {"target_modules": ["k_proj", "up_proj"], "r": 3, "use_dora": True}),
    "patterns": (
        llama,
        {
            "target_modules": ["q_proj", "k_proj", "o_proj"],
            "r": 4,
            "rank_pattern": {
                "proj": 9,  # of no module: a key is whole names, at the end
                "layers.0.self_attn": 9,
                "layers.0.self_attn.q_proj": 2,
                "k_proj": 3,
                r"layers\.\d.*": 6,
            },
            "alpha_pattern": {"proj": 9, "o_proj": 5, "model.layers.1.self_attn.q_proj": 1},
        },
    ),
    "embedding": (llama, {"target_modules": ["embed_tokens", "q_proj"], "r": 4}),
    "modules to save": (
        llama,
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"], "r": 2},
    ),
    "trained biases": (
        lambda: llama(attention_bias=True),
        {"target_modules": ["q_proj"], "bias": "all", "r": 2},
    ),
    "transposed": (
        gpt2,
        {"target_modules": ["c_attn", "c_proj"], "r": 3, "fan_in_fan_out": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_values_are_what_peft_merges(tmp_path: Path, case: str) -> None:
    """PEFT's own merge in float64 agrees to 12 digits, in float32 to 6; the rest is the base's."""
    make, settings = CASES[case]
    base, adapter = tuned(make(), tmp_path, **settings)
    found = collect(open_checkpoint(adapter))
    assert found.keys() == open_checkpoint(base).tensors.keys()
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        model = type(make()).from_pretrained(base).to(dtype)
        merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
        for name, values in found.items():
            torch.testing.assert_close(
                values, merged[name].double(), rtol=tolerance, atol=tolerance, msg=name
            )
    before = load_file(base / "model.safetensors")
    changed = {name for name, values in found.items() if not torch.equal(values, before[name])}
    assert changed == set(open_checkpoint(adapter).updates)


def test_values_do_not_depend_on_how_a_tensor_is_read(tmp_path: Path) -> None:
    """Chunks of any size and any number of threads give the same bits, plain, DoRA, transposed."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tensors = {
        "a.weight": normal(2000, 90),
        "b.weight": normal(2000, 90),
        "e.weight": normal(2000, 90),
    }
    base = make_checkpoint(tmp_path / "base", tensors)
    factors = {
        "a.lora_A.weight": normal(8, 90),
        "a.lora_B.weight": normal(2000, 8),
        "b.lora_A.weight": normal(8, 90),
        "b.lora_B.weight": normal(2000, 8),
        "b.lora_magnitude_vector": normal(2000),
        "e.lora_embedding_A": normal(8, 2000),
        "e.lora_embedding_B": normal(90, 8),
    }
    member = open_checkpoint(make_adapter(tmp_path / "adapter", factors, base))
    expected = collect(member)
    for chunk, threads in ((89, 1), (5000, 4), (1 << 20, 1)):
        found = collect(member, chunk=chunk, threads=threads)
        assert all(torch.equal(found[name], expected[name]) for name in tensors)


def test_a_chunk_is_one_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and blocks have the same borders, so that no product is computed twice."""
    base = make_checkpoint(tmp_path / "base", {"a.weight": torch.zeros(4000, 90)})
    factors = {"a.lora_A.weight": torch.ones(1, 90), "a.lora_B.weight": torch.ones(4000, 1)}
    member = open_checkpoint(make_adapter(tmp_path / "adapter", factors, base))
    products = 0
    block = computing._block

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal products
        products += 1
        return block(*arguments)

    monkeypatch.setattr(computing, "_block", counted)
    collect(member, threads=1)
    assert products == -(-4000 // (BLOCK // 90))


def test_stored_base_layers_replace_the_base_before_the_change(tmp_path: Path) -> None:
    """W = W_stored + s·BA; a factor of one and a scale of one make that visible."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(2, 3)})
    factors = {
        "lin.base_layer.weight": torch.full((2, 3), 5.0),
        "lin.lora_A.weight": torch.ones(1, 3),
        "lin.lora_B.weight": torch.ones(2, 1),
    }
    adapter = make_adapter(tmp_path / "adapter", factors, base, r=1, lora_alpha=1)
    assert torch.equal(
        collect(open_checkpoint(adapter))["lin.weight"], torch.full((2, 3), 6.0).double()
    )


def test_a_merged_tensor_is_rounded_once(tmp_path: Path) -> None:
    """1 + 2⁻⁹ + 2⁻³⁰ in bfloat16: just above a tie, which float32 in between would lose."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.ones(1, 1).bfloat16()})
    factors = {
        "lin.lora_A.weight": torch.tensor([[2.0**-8 + 2.0**-30]]),
        "lin.lora_B.weight": torch.ones(1, 1),
    }
    adapter = make_adapter(tmp_path / "adapter", factors, base, r=1, lora_alpha=1)
    member = open_checkpoint(adapter)
    found: dict[str, torch.Tensor] = {}

    class Sink:
        def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
            found[info.name] = values.clone()

    stream(Blend((member,), member), Sink())
    assert found["lin.weight"].dtype is torch.bfloat16
    assert found["lin.weight"].item() == 1 + 2.0**-7


def test_digests_cover_base_factors_and_scale(tmp_path: Path) -> None:
    """Whatever changes a value changes the digest; where the files lie does not."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(2, 3)})
    other = make_checkpoint(tmp_path / "other", {"lin.weight": torch.ones(2, 3)})
    factors = {"lin.lora_A.weight": torch.ones(2, 3), "lin.lora_B.weight": torch.ones(2, 2)}
    doubled = factors | {"lin.lora_B.weight": torch.full((2, 2), 2.0)}
    digests = [
        open_checkpoint(path, base=given).digest
        for path, given in (
            (make_adapter(tmp_path / "one", factors, base), None),
            (tmp_path / "one", other),
            (make_adapter(tmp_path / "two", doubled, base), None),
            (make_adapter(tmp_path / "three", factors, base, lora_alpha=5), None),
            (make_adapter(tmp_path / "four", factors, base, use_rslora=True), None),
        )
    ]
    assert len(set(digests)) == 5
    again = open_checkpoint(make_adapter(tmp_path / "again", factors, base))
    assert again.digest == digests[0]


def test_files_key_sees_every_file_that_values_come_from(tmp_path: Path) -> None:
    """The journal's cache of digests: factors, settings and the base's shards are in its key."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(2, 3)})
    factors = {"lin.lora_A.weight": torch.ones(2, 3), "lin.lora_B.weight": torch.ones(2, 2)}
    adapter = make_adapter(tmp_path / "adapter", factors, base)
    before = open_checkpoint(adapter).files_key
    settings = adapter / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"lora_alpha": 123}))
    assert open_checkpoint(adapter).files_key != before
    assert {Path(str(entry[0])).name for entry in before} == {
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
    }


def test_an_entrys_dtype_and_place_are_the_bases(tmp_path: Path) -> None:
    """Factors in float32 on a base in bfloat16: the merged model is one in bfloat16."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(2, 3).bfloat16()})
    factors = {"lin.lora_A.weight": torch.ones(2, 3), "lin.lora_B.weight": torch.ones(2, 2)}
    member = open_checkpoint(make_adapter(tmp_path / "adapter", factors, base))
    assert member.dtypes == ("BF16",)
    assert DTYPES[member.tensors["lin.weight"].dtype] is torch.bfloat16
    assert member.tensors["lin.weight"].file == base / "model.safetensors"
    assert member.home == base
    assert member.kind == "LoRA r=2 on base"
