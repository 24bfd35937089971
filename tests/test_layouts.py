"""Every recipe on the layouts of published models: real names, shards and files, tiny shapes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evaluators.fake import FakeScorer
from soup.pool import Pool
from soup.run import Settings, make
from tests.layouts import NAMES, Layout, build, companion, load, random_weights, sharded


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

    files = sorted(path.name for path in out.glob("*.safetensors"))
    count = len(layout.files)
    assert files == (sharded(count) if count > 1 else ["model.safetensors"])
    found: dict[str, torch.Tensor] = {}
    for file in files:
        found |= load_file(out / file)
    assert found.keys() == layout.shapes.keys()

    assert board.soup is not None
    kept = [weights[int(member.removeprefix("m"))] for member in board.soup.members]
    assert len(kept) == {"max": 1, "average": 3}.get(kind, len(kept))
    for tensor, values in found.items():
        assert values.dtype == layout.dtype
        assert values.shape == layout.shapes[tensor]
        mean = torch.stack([w[tensor].double() for w in kept]).sum(0) / len(kept)
        assert torch.equal(values, mean.to(layout.dtype)), tensor

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
