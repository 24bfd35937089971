"""Pools for blend.py and gpu.py: checkpoints of a size and shape, with random weights.

Written without torch, a few slices of one row of random values per tensor: ten gigabytes take as
long as the disk does.
"""

import json
import os
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

LAYER = {
    "self_attn.q_proj": (2048, 2048),
    "self_attn.k_proj": (512, 2048),
    "self_attn.v_proj": (512, 2048),
    "self_attn.o_proj": (2048, 2048),
    "mlp.gate_proj": (5632, 2048),
    "mlp.up_proj": (5632, 2048),
    "mlp.down_proj": (2048, 5632),
    "input_layernorm": (2048,),
    "post_attention_layernorm": (2048,),
}
LAYER_BYTES = 2 * sum(map(prod, LAYER.values()))
VOCABULARY = 32000
SMALL_VOCABULARY = 4000  # of models below a gigabyte, which would be embeddings alone
RANK = 16  # of LoRA adapters
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
DTYPES = {"bfloat16": "BF16", "float16": "F16"}
VALUES = 1 << 24  # random ones of each seed; drawing every element would take minutes
AT_ONCE = 1 << 24  # bytes written at a time


def make_pool(
    directory: Path, count: int, gigabytes: float, shared: float = 0.0, dtype: str = "bfloat16"
) -> list[Path]:
    """Llama-shaped checkpoints in two shards, with random weights; a share of them alike in all."""
    vocabulary = VOCABULARY if gigabytes >= 1 else SMALL_VOCABULARY
    layers = max(1, round((gigabytes * 1e9 - 4 * vocabulary * 2048) / LAYER_BYTES))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, 2048)}
    for k in range(layers):
        shapes |= {f"model.layers.{k}.{name}.weight": shape for name, shape in LAYER.items()}
    shapes |= {"model.norm.weight": (2048,), "lm_head.weight": (vocabulary, 2048)}
    config = CONFIG | {"num_hidden_layers": layers, "vocab_size": vocabulary, "torch_dtype": dtype}
    paths = [directory / f"m{seed}" for seed in range(count)]
    for seed, path in enumerate(paths):
        make_checkpoint(path, shapes, seed, 2, config, shared, dtype)
    return paths


def make_many(directory: Path, count: int = 3, tensors: int = 18_000) -> list[Path]:
    """Checkpoints of a mixture of experts' number of tensors, each of 4 kB."""
    parts = ("gate_proj", "up_proj", "down_proj")
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{k // 384}.mlp.experts.{k % 384 // 3}.{parts[k % 3]}.weight": (32, 64)
        for k in range(tensors)
    }
    paths = [directory / f"m{seed}" for seed in range(count)]
    for seed, path in enumerate(paths):
        make_checkpoint(path, shapes, seed, 1, {"model_type": "none", "architectures": ["None"]})
    return paths


def make_checkpoint(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    shards: int,
    config: dict[str, Any],
    shared: float = 0.0,
    dtype: str = "bfloat16",
) -> None:
    """Random weights like a fine-tune's: normal, of spread 0.02; a share of the bytes of seed 0.

    Tensors lie in their files as the safetensors library puts them: sorted by name, their header
    padded to eight bytes.
    """
    import random

    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    values = {one: random_values(one, dtype) for one in {0, seed}}
    starts = {one: random.Random(one) for one in values}
    cut = -(-len(shapes) // shards)
    names = list(shapes)
    total, done = sum(map(prod, shapes.values())), 0
    weight_map = {}
    for k in range(shards):
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        some = sorted(names[k * cut : (k + 1) * cut])
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        pieces: list[memoryview] = []
        end = 0
        for name in some:
            size = prod(shapes[name])
            at = {one: numbers.randrange(VALUES // 2) for one, numbers in starts.items()}
            own = seed if done >= shared * total else 0
            pieces += cuts(values[own], at[own], size)
            done, start, end = done + size, end, end + 2 * size
            entry = {"dtype": DTYPES[dtype], "shape": shapes[name], "data_offsets": [start, end]}
            header[name] = entry
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        write_all(path / file, len(raw).to_bytes(8, "little") + raw, pieces)
        weight_map |= dict.fromkeys(some, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def random_values(seed: int, dtype: str) -> memoryview:
    """Normal numbers of spread 0.02 in two bytes each, as bytes."""
    import numpy as np

    numbers = np.random.Generator(np.random.SFC64(seed)).standard_normal(VALUES, np.float32)
    numbers *= np.float32(0.02)
    if dtype == "float16":
        return memoryview(numbers.astype(np.float16)).cast("B")
    bits = numbers.view(np.uint32)  # bfloat16 is a float32's upper half: to nearest, ties to even
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return memoryview(rounded.astype(np.uint16)).cast("B")


def cuts(values: memoryview, start: int, count: int) -> Iterator[memoryview]:
    """So many elements of two bytes from a place on, and from the beginning again."""
    size = 2 * count
    at = 2 * start
    while size:
        piece = values[at : at + size]
        yield piece
        size, at = size - len(piece), 0


def write_all(file: Path, head: bytes, pieces: list[memoryview]) -> None:
    """Write one behind the other; small ones together."""
    with file.open("wb", buffering=AT_ONCE) as stream:
        stream.write(head)
        for piece in pieces:
            stream.write(piece)


def make_adapters(base: Path, count: int) -> tuple[list[Path], list[Path]]:
    """LoRA adapters of every projection, and each merged into its base."""
    import torch
    from safetensors.torch import save_file

    from soup.blending.blend import Blend
    from soup.blending.writer import write
    from soup.checkpoints.opening import open_checkpoint

    adapters, merged = [], []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, info in open_checkpoint(base).tensors.items():
            if "_proj" in name:
                module = f"base_model.model.{name.removesuffix('.weight')}"
                for factor, shape in (("A", (RANK, info.shape[1])), ("B", (info.shape[0], RANK))):
                    values = torch.randn(shape, generator=generator).mul_(0.02)
                    tensors[f"{module}.lora_{factor}.weight"] = values
        path = base.parent / f"adapter-{seed}"
        path.mkdir()
        settings = {"base_model_name_or_path": str(base), "r": RANK, "lora_alpha": RANK}
        (path / "adapter_config.json").write_text(json.dumps(settings))
        save_file(tensors, path / "adapter_model.safetensors")
        member = open_checkpoint(path)
        adapters.append(path)
        merged.append(write(Blend((member,), member), base.parent / f"merged-{seed}").path)
    return adapters, merged


def drop_from_cache(paths: list[Path]) -> None:
    """Ask the kernel to forget the pages of the weight files."""
    os.sync()
    for path in paths:
        for file in path.glob("*.safetensors"):
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
