"""Every recipe on the layouts of published models: real names, shards and files, tiny shapes."""

import json
import re
from pathlib import Path

import pytest
import torch

from soup.checkpoints.pool import Pool
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make
from tests.blending.test_writer import loaded
from tests.checkpoints.layouts import NAMES, Layout, build, companion, load, random_weights, sharded
from tests.conftest import make_adapter

Tensors = dict[str, torch.Tensor]


def members(layout: Layout, tmp_path: Path) -> tuple[list[Path], list[dict[str, torch.Tensor]]]:
    """Three members: as published, sharded differently, and in one file of the other format."""
    weights = [random_weights(layout, seed) for seed in range(3)]
    is_torch = layout.files[0].endswith(".bin")
    other = sharded(3, "pytorch_model", ".bin") if is_torch else sharded(len(layout.files) + 2)
    single = "model.safetensors" if is_torch else "pytorch_model.bin"
    files: list[list[str]] = [[], other, [single]]
    paths = []
    for k, names in enumerate(files):
        stored = dict(weights[k])
        if layout.tied and k == 2:  # this one's trainer has stored the tied head, too
            head, embedding = layout.tied
            stored[head] = stored[embedding].clone()
        paths.append(build(layout, tmp_path / "ckpts" / f"m{k}", stored, names))
    return paths, weights


@pytest.mark.parametrize("kind", ["max", "average", "greedy"])
@pytest.mark.parametrize("name", NAMES)
def test_soups_of_published_layouts(tmp_path: Path, name: str, kind: str) -> None:
    """Complete, as the safetensors library reads it: tensors, values, shards, index, files."""
    layout = load(name)
    paths, weights = members(layout, tmp_path)
    settings = Settings(benchmarks=["x"], out=tmp_path / "out", work=tmp_path / "work")
    board = make(kind, Pool.open(*paths), FakeScorer(), settings)
    out = tmp_path / "out"

    found = loaded(out)
    assert found.keys() == layout.shapes.keys()

    assert board.soup is not None
    kept = [weights[int(member.removeprefix("m"))] for member in board.soup.members]
    assert len(kept) == {"max": 1, "average": 3}.get(kind, len(kept))
    for tensor, values in found.items():
        assert values.dtype == layout.dtype
        assert values.shape == layout.shapes[tensor]
        mean = torch.stack([w[tensor].double() for w in kept]).sum(0) / len(kept)
        assert torch.equal(values, mean.to(layout.dtype)), tensor

    assert_files_are_whole(layout, out, found)


def assert_files_are_whole(layout: Layout, out: Path, found: Tensors) -> None:
    """Index, config and companion files, and nothing else but what a soup brings itself."""
    files = [path.name for path in sorted(out.glob("*.safetensors"))]
    count = len(layout.files)
    assert files == (sharded(count) if count > 1 else ["model.safetensors"])
    index = out / "model.safetensors.index.json"
    assert index.exists() == (count > 1)
    if count > 1:
        written = json.loads(index.read_text())
        assert written["weight_map"] == {t: files[k] for t, k in layout.shards.items()}
        assert written["metadata"]["total_size"] == sum(t.nbytes for t in found.values())
    assert json.loads((out / "config.json").read_text()) == layout.config
    for file in layout.companions:
        if file != "README.md":  # the soup's own model card
            assert (out / file).read_text() == companion(file), file
    beside = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert beside - set(files) - {index.name} == {
        *layout.companions,
        "config.json",
        "README.md",
        "soup.json",
    }


SWIFT = {
    "Mini-InternVL-Chat-4B-V1-5": r"(language_model|mlp1)(?!.*(lm_head|output|emb|wte|shared)).*",
    "Ovis1.6-Gemma2-9B": r"llm(?!.*(lm_head|output|emb|wte|shared)).*",
}
"""What ms-swift 2 trains by default, as it stands in its adapters' target_modules."""


@pytest.mark.parametrize("kind", ["max", "average", "greedy"])
@pytest.mark.parametrize(("name", "count"), list(zip(SWIFT, (130, 294), strict=True)))
def test_soups_of_adapters_of_published_layouts(
    tmp_path: Path, name: str, count: int, kind: str
) -> None:
    """A full model of the base's tensors, shards and files; what no adapter changes is its own."""
    layout, rank = load(name), 2
    weights = random_weights(layout, 0)
    base = build(layout, tmp_path / "base", weights)
    trained = [
        tensor
        for tensor, shape in layout.shapes.items()
        if len(shape) == 2
        and tensor.endswith(".weight")
        and re.fullmatch(SWIFT[name], tensor.removesuffix(".weight"))
    ]
    assert len(trained) == count
    paths, changes = [], []
    for seed in range(1, 4):
        generator = torch.Generator().manual_seed(seed)
        factors, change = {}, {}
        for tensor in trained:
            out, into = layout.shapes[tensor]
            down = torch.randn(rank, into, generator=generator)
            up = torch.randn(out, rank, generator=generator)
            module = tensor.removesuffix(".weight")
            factors |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
            change[tensor] = 4 * up.double() @ down.double()
        files = {"sft_args.json": "{}"}
        settings = {"lora_alpha": 4 * rank, "target_modules": f"^{SWIFT[name]}"}
        path = tmp_path / f"checkpoint-{seed}"
        paths.append(make_adapter(path, factors, base, files, **settings))
        changes.append(change)
    places = Settings(benchmarks=["x"], out=tmp_path / "out", work=tmp_path / "work")
    board = make(kind, Pool.open(*paths), FakeScorer(), places)

    assert board.soup is not None
    kept = [changes[int(member[-1]) - 1] for member in board.soup.members]
    found = loaded(tmp_path / "out")
    assert found.keys() == layout.shapes.keys()
    for tensor, values in found.items():
        if tensor not in change:
            assert torch.equal(values, weights[tensor]), tensor
            continue
        mean = weights[tensor].double() + torch.stack([c[tensor] for c in kept]).sum(0) / len(kept)
        torch.testing.assert_close(values.double(), mean, rtol=2**-8, atol=1e-6, msg=tensor)
    assert_files_are_whole(layout, tmp_path / "out", found)


def test_all_known_layouts_are_there() -> None:
    """The families that users blend, with what is special about each."""
    layouts = {name: load(name) for name in NAMES}
    assert len(layouts) == 7
    assert layouts["Ovis1.6-Gemma2-9B"].tied is not None
    assert layouts["POINTS-Yi-1-5-9B-Chat"].dtype is torch.float32
    assert layouts["mPLUG-Owl3-7B-240728"].files == ("model.safetensors",)
    owl = layouts["mPLUG-Owl-7B"]
    assert owl.files == ("pytorch_model.bin",)
    assert sum(name.endswith("rotary_emb.inv_freq") for name in owl.shapes) == 32
