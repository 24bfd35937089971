"""Checkpoints with the real tensor names, shards and files of known models, scaled down.

``tests/layouts/*.json`` hold, per model: where it is published, its dtype, weight files, the files
beside them, a stand-in for its config, the pair that it ties and does not store, and the tensors
as ``[name, shape, shard]``. A name with ``{}`` stands for many, with ``[first, last, shard]`` runs
of the number that replaces it. Every dimension d of the real shapes became min(d, 2 + d mod 11),
so equal ones stayed equal.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DIRECTORY = Path(__file__).with_name("layouts")
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


@dataclass(frozen=True)
class Layout:
    """One model's layout.

    Attributes:
        name: the fixture's.
        dtype: of all floating-point tensors.
        files: its weight files, in order.
        companions: the files beside them, config.json not among them.
        config: what stands in its config.json, as far as it matters here.
        tied: a head and its embedding, where the config ties them and the head is not stored.
        shapes: by tensor name.
        shards: by tensor name, an index into ``files``.
    """

    name: str
    dtype: torch.dtype
    files: tuple[str, ...]
    companions: tuple[str, ...]
    config: dict[str, Any]
    tied: tuple[str, str] | None
    shapes: dict[str, tuple[int, ...]]
    shards: dict[str, int]


def load(name: str) -> Layout:
    """Read a fixture."""
    entry = json.loads((DIRECTORY / f"{name}.json").read_text())
    tensors = {full: (tuple(shape), k) for full, shape, k in _expand(entry["tensors"])}
    assert len(tensors) == entry["count"]
    return Layout(
        name,
        getattr(torch, entry["dtype"]),
        tuple(entry["files"]),
        tuple(entry["companions"]),
        entry["config"],
        entry["tied"] and tuple(entry["tied"]),
        {full: shape for full, (shape, _) in tensors.items()},
        {full: k - 1 for full, (_, k) in tensors.items()},
    )


def _expand(tensors: Sequence[list[Any]]) -> Iterator[tuple[str, list[int], int]]:
    for name, shape, where in tensors:
        if isinstance(where, int):
            yield name, shape, where
            continue
        for first, last, shard in where:
            for number in range(first, last + 1):
                yield name.replace("{}", str(number), 1), shape, shard


def random_weights(layout: Layout, seed: int) -> dict[str, torch.Tensor]:
    """Values for every tensor: random by seed, but for buffers that nothing trains."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in layout.shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("inv_freq"):
            values = torch.arange(1.0, 1 + shape[0]).reciprocal()
        weights[name] = values.to(layout.dtype)
    return weights


def build(
    layout: Layout, path: Path, weights: dict[str, torch.Tensor], files: Sequence[str] = ()
) -> Path:
    """Write a model directory.

    Args:
        layout: names the files beside the weights.
        path: the directory to make.
        weights: the tensors to store.
        files: weight files other than the layout's; tensors are dealt to them in turn.
    """
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(layout.config))
    for name in layout.companions:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(companion(name))
    where = layout.shards if not files else {name: k % len(files) for k, name in enumerate(weights)}
    names = files or layout.files
    for k, file in enumerate(names):
        part = {name: tensor for name, tensor in weights.items() if where.get(name, 0) == k}
        if file.endswith(".safetensors"):
            save_file(part, path / file, metadata={"format": "pt"})
        else:
            torch.save(part, path / file)
    if len(names) > 1:
        stem = "model.safetensors" if names[0].endswith(".safetensors") else "pytorch_model.bin"
        weight_map = {name: names[where.get(name, 0)] for name in weights}
        (path / f"{stem}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def companion(name: str) -> str:
    """What stands in a companion file: the same in all members, and different for each."""
    text = f"{name} {hashlib.sha256(name.encode()).hexdigest()}"
    return json.dumps({"text": text}) if name.endswith(".json") else f"# {text}\n"


def sharded(count: int, stem: str = "model", suffix: str = ".safetensors") -> list[str]:
    """The names of so many shards, as transformers writes them."""
    return [f"{stem}-{k:05d}-of-{count:05d}{suffix}" for k in range(1, count + 1)]
