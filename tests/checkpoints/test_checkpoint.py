"""soup/checkpoints/checkpoint.py: a directory becomes names and byte ranges, or one clear line."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.safetensors_format import read_header
from soup.errors import CheckpointError
from tests.conftest import make_checkpoint, random_tensors


def test_headers_give_names_shapes_dtypes_and_ranges(tmp_path: Path) -> None:
    """What safetensors itself reads, we find at the byte ranges that we report."""
    tensors = random_tensors(0)
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "m", tensors, shards=3))
    assert set(checkpoint.tensors) == set(tensors)
    for name, info in checkpoint.tensors.items():
        raw = info.file.read_bytes()[info.offset : info.offset + info.nbytes]
        with safe_open(info.file, "pt") as file:
            expected = file.get_tensor(name)
        found = torch.frombuffer(bytearray(raw), dtype=expected.dtype).reshape(info.shape)
        assert torch.equal(found, expected)
    assert checkpoint.parameters == sum(t.numel() for t in tensors.values())


def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    """A hundred gigabytes of (sparse) weights open at once: only the header is read."""
    path = make_checkpoint(tmp_path / "m", {})
    header = {"w": {"dtype": "BF16", "shape": [50_000_000_000], "data_offsets": [0, 10**11]}}
    raw = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + 10**11)
    assert open_checkpoint(path).nbytes == 10**11


def test_digest_is_of_content_not_of_layout(tmp_path: Path) -> None:
    """The same tensors in other shards have the same digest; one changed bit gives another."""
    tensors = random_tensors(1)
    one = open_checkpoint(make_checkpoint(tmp_path / "one", tensors))
    three = open_checkpoint(make_checkpoint(tmp_path / "three", tensors, shards=3))
    assert one.digest == three.digest
    tensors["scale"] = -tensors["scale"]
    other = open_checkpoint(make_checkpoint(tmp_path / "other", tensors))
    assert other.digest != one.digest


def test_a_file_that_changes_while_it_is_digested_has_no_digest(tmp_path: Path) -> None:
    """What was hashed is neither the old content nor the new one: nothing is remembered."""
    path = make_checkpoint(tmp_path / "m", random_tensors(1))
    checkpoint = open_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"model.safetensors: was changed while it was read"):
        checkpoint.compute_digest(lambda done: os.utime(path / "model.safetensors", ns=(0, 1)))
    assert "digest" not in vars(checkpoint)
    assert open_checkpoint(path).digest


@settings(max_examples=30)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6),
    dtypes=st.lists(
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
        min_size=6,
        max_size=6,
    ),
)
def test_any_safetensors_file_reads_as_the_library_reads_it(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], dtypes: list[torch.dtype]
) -> None:
    """Empty tensors, scalars and mixed dtypes included."""
    file = tmp_path_factory.mktemp("file") / "x.safetensors"
    tensors = {
        f"t{k}": torch.zeros(shape, dtype=dtype)
        for k, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    save_file(tensors, file)
    infos = {info.name: info for info in read_header(file)}
    assert set(infos) == set(tensors)
    for name, tensor in tensors.items():
        assert infos[name].shape == tuple(tensor.shape)
        assert infos[name].nbytes == tensor.nbytes


@settings(max_examples=50)
@given(data=st.data())
def test_damaged_files_end_in_a_checkpoint_error_or_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """No cut and no flipped byte makes anything but a CheckpointError."""
    file = tmp_path_factory.mktemp("file") / "x.safetensors"
    save_file({"w": torch.ones(3), "v": torch.ones(2, 2)}, file)
    raw = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        assert sum(info.nbytes for info in read_header(file)) <= len(raw)


def header(**entries: Any) -> bytes:
    """A header, as JSON; 16 bytes of data follow it."""
    return json.dumps({name: {"dtype": "F32", **entry} for name, entry in entries.items()}).encode()


W: dict[str, Any] = {"shape": [4], "data_offsets": [0, 16]}
HEADERS = {
    "overlap": header(v=W, w={"shape": [2], "data_offsets": [8, 16]}),
    "out of range": header(w={"shape": [8], "data_offsets": [0, 32]}),
    "gap": header(w={"shape": [3], "data_offsets": [4, 16]}),
    "other size": header(w={"shape": [3], "data_offsets": [0, 16]}),
    "fractional": header(w={"shape": [4.0], "data_offsets": [0, 16]}),
    "words": header(w={"shape": "4", "data_offsets": [0, 16]}),
    "negative": header(w={"shape": [-4], "data_offsets": [0, 16]}),
    "twice": header(w=W)[:-1] + b"," + header(w=W)[1:],
    "nested": b"[" * 100_000,
    "left over": b"{}" + b" " * 8,
}
INDICES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "shards, not all in the index": lambda index: dict([*index["weight_map"].items()][1:]),
    "shards, more in the index": lambda index: (
        index["weight_map"] | {"new": next(iter(index["weight_map"].values()))}
    ),
    "shards elsewhere": lambda index: index["weight_map"] | {"scale": "../x.safetensors"},
    "shards by number": lambda index: index["weight_map"] | {"scale": 1},
    "shards in a list": lambda index: list(index["weight_map"]),
}


def broken(tmp_path: Path, kind: str) -> Path:
    """A model directory with one thing wrong."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0), shards=2 if "shard" in kind else 1)
    weights = path / "model.safetensors"
    if kind == "nothing there":
        return tmp_path / "absent"
    if kind == "a file":
        return path / "config.json"
    if kind == "no config":
        (path / "config.json").unlink()
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-3])
    if kind == "lfs pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    if kind == "missing shard":
        (path / "model-00002-of-00002.safetensors").unlink()
    if kind == "shards without index":
        (path / "model.safetensors.index.json").unlink()
    if kind == "torch only":
        weights.rename(path / "pytorch_model.bin")
    if kind == "lora":
        weights.rename(path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text("{}")
    if kind == "quantised":
        (path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
        save_file({"w.qweight": torch.ones(4, 4, dtype=torch.int32)}, weights)
    if kind == "fp8":
        save_file({"w": torch.ones(4).to(torch.float8_e4m3fn)}, weights)
    if kind in HEADERS:
        raw = HEADERS[kind]
        weights.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(16))
    if kind == "nested config":
        (path / "config.json").write_text("[" * 100_000)
    if kind == "config by lfs":
        (path / "config.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    if kind in INDICES:
        file = path / "model.safetensors.index.json"
        file.write_text(json.dumps({"weight_map": INDICES[kind](json.loads(file.read_text()))}))
    if kind == "parent":
        return tmp_path
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nothing there", "does not exist"),
        ("a file", "is a file"),
        ("no config", "config.json: missing"),
        ("truncated", "truncated or still being written"),
        ("lfs pointer", "git lfs pull"),
        ("missing shard", "missing, but the index lists it"),
        ("shards without index", "neither model.safetensors nor"),
        ("torch only", "not a complete torch file"),
        ("lora", "a LoRA adapter"),
        ("quantised", r"packed, quantised weights \(gptq\)"),
        ("fp8", "tensor w is F8_E4M3"),
        ("parent", "did you mean"),
        ("overlap", "tensor w starts at byte .*, expected"),
        ("out of range", "the header speaks of .* bytes, the file has"),
        ("gap", "tensor w starts at byte .*, expected"),
        ("other size", r"tensor w has 16 bytes, expected 12 for F32 \[3\]"),
        ("fractional", "the safetensors header is damaged .tensor w: shape or offsets"),
        ("words", "the safetensors header is damaged .tensor w: shape or offsets"),
        ("negative", "the safetensors header is damaged .tensor w: shape or offsets"),
        ("twice", "the safetensors header is damaged .w stands there twice"),
        ("nested", "the safetensors header is damaged .nested too deeply"),
        ("left over", "the header speaks of .* bytes, the file has"),
        ("nested config", "config.json: not JSON .nested too deeply"),
        ("config by lfs", "config.json: a git-lfs pointer"),
        ("shards, not all in the index", "is not in the index; is it from another save"),
        ("shards, more in the index", "tensor new should be in .*, found in no shard"),
        ("shards elsewhere", "shard '../x.safetensors' is not a plain file name"),
        ("shards by number", "expected an object weight_map, from tensors to files"),
        ("shards in a list", "expected an object weight_map, from tensors to files"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, kind: str, message: str) -> None:
    """Each odd directory has its own line."""
    path = broken(tmp_path, kind)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_nested_too_deeply_is_one_line(tmp_path: Path) -> None:
    """Where Python's own reader takes it, and what looks through it would not."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    (path / "config.json").write_text('{"a": ' + "[" * 900 + "]" * 900 + "}")
    with pytest.raises(CheckpointError, match="config.json: not JSON .nested more than 100 levels"):
        open_checkpoint(path)


@pytest.mark.parametrize("shape", [[1] * 100_000, [2**62] * 4, [2**63, 0], [2**40] * 60 + [0]])
def test_shapes_that_no_tensor_has_cost_no_time(tmp_path: Path, shape: list[int]) -> None:
    """They are refused by their header, whatever their product would be."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    content = len(header).to_bytes(8, "little") + header
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="header is damaged .tensor x: shape or offsets"):
        open_checkpoint(path)
