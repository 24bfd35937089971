"""Everything that makes an average silently wrong, and what happens instead: one case each.

A trap is two members (the first is the reference) and either the error that must come before
anything is written, or what the written soup must be.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from soup.checkpoints.pool import Pool
from soup.errors import SoupError
from soup.evaluators.fake import FakeScorer
from soup.events import Event, Note
from soup.run import Settings, make
from tests.blending.test_writer import loaded
from tests.conftest import CONFIG, make_checkpoint, make_torch_checkpoint, random_tensors

Tensors = dict[str, torch.Tensor]


def mean(name: str, members: list[Tensors], dtype: torch.dtype) -> torch.Tensor:
    """The float64 mean, rounded once."""
    return (torch.stack([m[name].double() for m in members]).sum(0) / len(members)).to(dtype)


@dataclass(frozen=True)
class Trap:
    """Two members that differ in one way.

    Attributes:
        change: edits the tensors of (first, second).
        error: what the error must say; empty where a soup must come out.
        warning: what a warning must say; empty for none.
        dtype: given as --dtype.
        shards: of the first and the second member.
        configs: their config.json.
        files: beside their weights.
        after: edits the directories of (first, second) once they are written.
        kind: the soup.
        check: looks at the soup's tensors and the members'.
    """

    change: Callable[[Tensors, Tensors], object] = lambda first, second: None
    error: str = ""
    warning: str = ""
    dtype: str | None = None
    shards: tuple[int, int] = (1, 1)
    configs: tuple[dict[str, Any], dict[str, Any]] = (CONFIG, CONFIG)
    files: tuple[dict[str, str], dict[str, str]] = field(default_factory=lambda: ({}, {}))
    after: Callable[[Path, Path], object] = lambda first, second: None
    kind: str = "average"
    check: Callable[[Tensors, list[Tensors]], None] = lambda soup, members: None


def both(name: str, first: torch.Tensor, second: torch.Tensor | None = None) -> Any:
    """A tensor in both members."""

    def change(one: Tensors, other: Tensors) -> None:
        one[name] = first
        other[name] = first.clone() if second is None else second

    return change


def only_second(name: str, tensor: torch.Tensor) -> Any:
    """A tensor that the first member has not."""
    return lambda first, second: second.update({name: tensor})


def to_second(dtype: torch.dtype) -> Any:
    """The second member in another dtype."""
    return lambda first, second: second.update({n: t.to(dtype) for n, t in second.items()})


def averaged(soup: Tensors, members: list[Tensors]) -> None:
    """Every tensor is the float64 mean in the first member's dtype."""
    for name, tensor in soup.items():
        assert torch.equal(tensor, mean(name, members, members[0][name].dtype)), name


def as_first(name: str) -> Any:
    """A tensor is the first member's, bit for bit."""

    def check(soup: Tensors, members: list[Tensors]) -> None:
        assert torch.equal(soup[name], members[0][name])

    return check


def in_float32(soup: Tensors, members: list[Tensors]) -> None:
    """Cast once, after the sum: not by way of the members' dtypes."""
    for name, tensor in soup.items():
        assert torch.equal(tensor, mean(name, members, torch.float32)), name


def tokenizer(**vocab: int) -> dict[str, str]:
    """A tokenizer's file."""
    return {"tokenizer.json": json.dumps({"model": {"vocab": vocab}})}


def head_tied(first: Tensors, second: Tensors) -> None:
    """Only the second stores its head."""
    second["lm_head.weight"] = second["embed_tokens.weight"].clone()


def head_untied(first: Tensors, second: Tensors) -> None:
    """Only the second stores its head, and it is another one."""
    second["lm_head.weight"] = second["embed_tokens.weight"] + 1


def batchnorm(first: Tensors, second: Tensors) -> None:
    """Statistics and a step counter."""
    for k, tensors in enumerate((first, second), 1):
        tensors["bn.running_mean"] = torch.full((2,), float(k))
        tensors["bn.running_var"] = torch.full((2,), float(2 * k))
        tensors["bn.num_batches_tracked"] = torch.tensor(100 * k)


def batchnorm_soup(soup: Tensors, members: list[Tensors]) -> None:
    """Averages, and one member's counter."""
    assert soup["bn.running_mean"].tolist() == [1.5, 1.5]
    assert soup["bn.running_var"].tolist() == [3.0, 3.0]
    assert soup["bn.num_batches_tracked"].item() in (100, 200)


def experts(first: Tensors, second: Tensors) -> None:
    """A router and two experts, as one parent's fine-tunes have them."""
    for k, tensors in enumerate((first, second)):
        for name in ("gate", "experts.0.up_proj", "experts.1.up_proj"):
            tensors[f"layers.0.mlp.{name}.weight"] = torch.full((2, 3), float(k + len(name)))


def beside(first: Path, second: Path) -> None:
    """A torch file that would be other weights, were it read."""
    torch.save({"w": torch.ones(2)}, second / "pytorch_model.bin")


def same_weights(first: Tensors, second: Tensors) -> None:
    """The first member again."""
    second.update({name: tensor.clone() for name, tensor in first.items()})


TIED = {**CONFIG, "tie_word_embeddings": True}
PACKED = {
    "GPTQ": "layers.0.qweight",
    "AWQ": "layers.0.qzeros",
    "bitsandbytes int8": "layers.0.SCB",
    "bitsandbytes int8, its format": "layers.0.weight_format",
    "bitsandbytes 4 bits": "layers.0.weight.absmax",
    "bitsandbytes 4 bits, its state": "layers.0.weight.quant_state.bitsandbytes__nf4",
    "compressed-tensors int4": "layers.0.weight_packed",
    "HQQ": "layers.0.W_q",
    "EXL2": "layers.0.q_weight",
}

TRAPS: dict[str, Trap] = {
    "missing tensor": Trap(
        lambda first, second: second.pop("norm.weight"),
        r"second: tensor norm.weight: expected BF16 \[4\], found nothing",
    ),
    "extra tensor": Trap(
        only_second("new", torch.ones(2)),
        r"second: tensor new: expected nothing \(first has no such tensor\), found F32 \[2\]",
    ),
    "other shape": Trap(
        lambda first, second: second.update({"norm.weight": torch.ones(5).bfloat16()}),
        r"second: tensor norm.weight: expected BF16 \[4\], found BF16 \[5\]",
    ),
    "other vocabulary": Trap(
        lambda first, second: second.update({"embed_tokens.weight": torch.ones(14, 4).bfloat16()}),
        "the vocabularies have 13 and 14 rows: tokens were added",
    ),
    "other shards": Trap(shards=(3, 2), check=averaged),
    "single file and shards": Trap(shards=(1, 4), check=averaged),
    "other dtype": Trap(to_second(torch.float32), "expected BF16, found F32; .* --dtype"),
    "other dtype, with --dtype": Trap(to_second(torch.float16), dtype="F32", check=in_float32),
    "equal integers": Trap(both("steps", torch.tensor([1, 2])), check=as_first("steps")),
    "unequal integers": Trap(
        both("steps", torch.tensor([1, 2]), torch.tensor([1, 3])),
        "tensor steps: second differs from first; I64",
    ),
    "equal bools": Trap(both("mask", torch.tensor([True, False])), check=as_first("mask")),
    "unequal bools": Trap(
        both("mask", torch.tensor([True, False]), torch.tensor([True, True])),
        "tensor mask: (second|first) differs from (second|first); BOOL",
    ),
    "NaN": Trap(
        lambda first, second: second["norm.weight"].fill_(float("nan")),
        "second: tensor norm.weight: expected finite values, found NaN; .* leave the member out",
    ),
    "Inf": Trap(
        lambda first, second: second["norm.weight"].fill_(float("inf")),
        "second: tensor norm.weight: expected finite values, found Inf; .* leave the member out",
    ),
    "overflow of the output": Trap(
        lambda first, second: [t["norm.weight"].fill_(1e30) for t in (first, second)],
        "tensor norm.weight: .* overflows F16",
        dtype="F16",
    ),
    "fp8": Trap(
        only_second("w", torch.ones(4).to(torch.float8_e4m3fn)),
        "tensor w is F8_E4M3, which cannot be averaged; dequantise",
    ),
    "quantised, announced": Trap(
        only_second("w.qweight", torch.ones(4, 4, dtype=torch.int32)),
        r"second: tensor w\.qweight belongs to packed, quantised weights \(awq\), .*; dequantise",
        configs=(CONFIG, {**CONFIG, "quantization_config": {"quant_method": "awq"}}),
    ),
    **{
        f"quantised, not announced: {method}": Trap(
            only_second(name, torch.ones(4, dtype=torch.uint8)),
            f"second: tensor {name} belongs to packed, quantised weights.*; dequantise",
        )
        for method, name in PACKED.items()
    },
    "tied, stored by one": Trap(head_tied, check=averaged, configs=(TIED, TIED)),
    "tied, but the values differ": Trap(
        head_untied,
        "second: lm_head.weight and embed_tokens.weight are tied .* their values differ",
        configs=(TIED, TIED),
    ),
    "equal inv_freq": Trap(
        both("rotary_emb.inv_freq", torch.arange(3.0)), check=as_first("rotary_emb.inv_freq")
    ),
    "unequal inv_freq": Trap(
        both("rotary_emb.inv_freq", torch.arange(3.0), torch.arange(3.0) * 2),
        "tensor rotary_emb.inv_freq: (second|first) differs from (second|first)",
    ),
    "BatchNorm statistics": Trap(batchnorm, warning="BatchNorm", check=batchnorm_soup),
    "mixture of experts": Trap(experts, check=averaged),
    "other tokenizer": Trap(
        error=r"second: tokenizer .*2 tokens with another .*: expected 'x' in row 0.*, found row 1",
        files=(tokenizer(x=0, y=1), tokenizer(x=1, y=0)),
    ),
    "other architecture": Trap(
        error="config.json model_type: expected tiny, found huge",
        configs=(CONFIG, {**CONFIG, "model_type": "huge"}),
    ),
    "other settings": Trap(
        warning="differs from first's: rope_theta 5 (first: nothing)",
        configs=(CONFIG, {**CONFIG, "rope_theta": 5}),
        check=averaged,
    ),
    ".bin beside safetensors": Trap(
        after=beside, warning="second: holds pytorch_model.bin beside", check=averaged
    ),
    "twice the same": Trap(
        same_weights, warning="second holds the same weights as first", check=averaged
    ),
    "twice the same, greedy": Trap(
        same_weights, warning="same weights as first; greedy takes them once", kind="greedy"
    ),
}


def run(trap: Trap, tmp_path: Path, maker: Any) -> tuple[Tensors, list[Tensors], list[str]]:
    """Make the soup: its tensors, the members' and the warnings."""
    first, second = random_tensors(0), random_tensors(1)
    trap.change(first, second)
    paths = [
        maker(tmp_path / name, tensors, shards=shards, config=config, files=files)
        for name, tensors, shards, config, files in zip(
            ("first", "second"),
            (first, second),
            trap.shards,
            trap.configs,
            trap.files,
            strict=True,
        )
    ]
    trap.after(*paths)
    events: list[Event] = []
    settings = Settings(
        benchmarks=["x"] if trap.kind == "greedy" else [],
        out=tmp_path / "soups" / "out",
        work=tmp_path / "work",
        dtype=trap.dtype,
    )
    pool = Pool.open(*paths, dtype=trap.dtype)
    board = make(trap.kind, pool, FakeScorer(), settings, events.append)
    assert board.soup is not None
    if trap.kind == "greedy":
        assert list(board.soup.members) == ["first"]
    warnings = [e.text for e in events if isinstance(e, Note) and e.warning]
    return loaded(Path(board.soup.out)), [first, second], warnings


@pytest.mark.parametrize("maker", [make_checkpoint, make_torch_checkpoint])
@pytest.mark.parametrize("name", TRAPS)
def test_trap(tmp_path: Path, name: str, maker: Any) -> None:
    """The error names tensor and member and leaves nothing; the soup is right, the warning told."""
    trap = TRAPS[name]
    if maker is make_torch_checkpoint:
        if name == ".bin beside safetensors":
            pytest.skip("there are no safetensors")
        trap = replace(trap, error=trap.error.replace("F8_E4M3", "float8_e4m3fn"))
    if trap.error:
        with pytest.raises(SoupError, match=trap.error) as caught:
            run(trap, tmp_path, maker)
        assert "\n" not in str(caught.value)
        out = tmp_path / "soups"
        assert not out.exists() or list(out.iterdir()) == []
        return
    soup, members, warnings = run(trap, tmp_path, maker)
    assert soup.keys() == members[0].keys()
    trap.check(soup, members)
    if trap.warning:
        assert any(trap.warning in text for text in warnings), warnings
    else:
        assert warnings == []
