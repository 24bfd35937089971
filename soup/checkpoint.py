"""One model directory, opened lazily: names, shapes, dtypes and byte ranges from headers alone.

The format is safetensors (https://github.com/huggingface/safetensors#format): eight bytes with
the header's length, a JSON header, then the tensors' bytes. Reading ranges ourselves, instead of
mapping the file, is what keeps memory constant however large the checkpoint is.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch

from soup.errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Safetensors dtype names that can be blended or copied, and what they are in torch."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
MAX_HEADER = 100_000_000  # bytes; the limit that the safetensors library itself sets
READ_BLOCK = 1 << 20  # bytes per read when digesting


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies on disk.

    Attributes:
        name: its name in the file, never a name in memory.
        dtype: safetensors dtype name, a key of ``DTYPES``.
        shape: its dimensions, ``()`` for a scalar.
        file: the shard that holds it.
        offset: first byte, from the start of the file.
        nbytes: length in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether its values can be averaged."""
        return self.dtype in FLOATS


Read = Callable[[TensorInfo, int, int], torch.Tensor]
"""Elements ``start`` to ``start + count`` of a stored tensor: flat, in its own dtype, valid until
the next chunk is begun."""


class Update(Protocol):
    """How a tensor that is stored nowhere comes from stored ones, e.g. a base and its LoRA factors.

    Attributes:
        inputs: the stored tensors that it is made of.
        recipe: what is done with them, as JSON; part of the checkpoint's digest.
    """

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The stored tensors."""
        ...

    @property
    def recipe(self) -> str:
        """What is done with them."""
        ...

    def values(self, read: Read, start: int, count: int) -> torch.Tensor:
        """Elements of the tensor, flat, in float64."""
        ...


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One model directory, or a LoRA adapter with the base that it changes.

    Attributes:
        path: the directory, absolute.
        name: how the user knows it; unique within its pool.
        tensors: by name, in the order of the files.
        shards: the weight files, in order; an adapter's own stand behind its base's.
        config: ``config.json``, parsed; an adapter's is its base's.
        sharded: whether an index lists several files, rather than one file being all.
        updates: by name, tensors that are computed; their ``tensors`` entry tells shape and dtype.
        base: the full model that an adapter changes; None for a full model.
        settings: files besides the shards that its values depend on.
        kind: what it is, for people, where it is not a full model.
    """

    path: Path
    name: str
    tensors: dict[str, TensorInfo] = field(repr=False)
    shards: tuple[Path, ...] = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    sharded: bool = field(default=False, repr=False)
    updates: Mapping[str, Update] = field(default_factory=dict, repr=False)
    base: "Checkpoint | None" = field(default=None, repr=False)
    settings: tuple[Path, ...] = field(default=(), repr=False)
    kind: str = ""

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        name: str | None = None,
        base: "str | os.PathLike[str] | Checkpoint | None" = None,
    ) -> "Checkpoint":
        """Read the headers of the model in directory ``path``; no tensor is read.

        Args:
            path: a model directory, or a LoRA adapter's.
            name: how the user knows it; by default the directory's own name.
            base: the model that an adapter changes; by default the local directory that its
                ``adapter_config.json`` names. Of no effect on a full model.

        Raises:
            CheckpointError: the directory, its index or a header is missing, damaged or of a
                format that cannot be blended; the message names the file.
        """
        # Not resolved: ckpts/best -> ckpts/step-900 is known by the name the user gave.
        directory = Path(os.path.abspath(path))
        if not directory.is_dir():
            found = "is a file" if directory.exists() else "does not exist"
            raise CheckpointError(f"{path}: expected a model directory, but it {found}")
        if is_adapter(directory):
            from soup.adapter import open_adapter  # not above: it is built on this module

            return open_adapter(directory, name or directory.name, base)
        shards, weight_map = _find_shards(directory)
        config = _read_config(directory)
        tensors: dict[str, TensorInfo] = {}
        for shard in shards:
            for info in read_header(shard):
                if info.name in tensors:
                    first = tensors[info.name].file.name
                    raise CheckpointError(
                        f"{shard}: tensor {info.name} is also in {first}; one copy expected"
                    )
                tensors[info.name] = info
        if weight_map is not None:
            _check_index(directory, weight_map, tensors)
        if not tensors:
            raise CheckpointError(f"{directory}: the safetensors files hold no tensor")
        sharded = weight_map is not None
        return cls(directory, name or directory.name, tensors, shards, config, sharded)

    def values(self, read: Read, name: str, start: int, count: int) -> torch.Tensor:
        """Elements of a tensor, flat: as stored, or computed (in float64) where it is updated."""
        if name in self.updates:
            return self.updates[name].values(read, start, count)
        return read(self.tensors[name], start, count)

    @property
    def home(self) -> Path:
        """The directory whose config, tokenizer and processor make a model of the tensors."""
        return self.path if self.base is None else self.base.path

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Elements of all its floating-point tensors."""
        return sum(info.numel for info in self.tensors.values() if info.is_float)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The floating-point dtypes it uses, by bytes, most first."""
        sizes: dict[str, int] = {}
        for info in self.tensors.values():
            if info.is_float:
                sizes[info.dtype] = sizes.get(info.dtype, 0) + info.nbytes
        return tuple(sorted(sizes, key=lambda dtype: -sizes[dtype]))

    @property
    def files_key(self) -> list[list[str | int]]:
        """Path, size, mtime (ns) and inode of each file that values come from: when all match,
        so do the values.
        """
        stats = ((file, file.stat()) for file in (*self.shards, *self.settings))
        return [[str(f.resolve()), s.st_size, s.st_mtime_ns, s.st_ino] for f, s in stats]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, equal for equal tensors whatever the files' names and layout.

        Reads every byte, once; see ``compute_digest`` for progress.
        """
        return self.compute_digest()

    def compute_digest(self, progress: Callable[[int], None] | None = None) -> str:
        """Hash every tensor (name, dtype, shape, bytes) on all cores.

        Args:
            progress: called with the number of bytes of each tensor done.

        Raises:
            CheckpointError: a file could not be read.
        """

        def hashed(name: str) -> bytes:
            update = self.updates.get(name)
            inputs = (self.tensors[name],) if update is None else update.inputs
            digest = b"".join(map(_tensor_digest, inputs))
            if progress is not None:
                progress(self.tensors[name].nbytes)
            return digest if update is None else digest + update.recipe.encode()

        total = hashlib.sha256(b"soup-checkpoint-1\n")
        with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
            for digest in threads.map(hashed, sorted(self.tensors)):
                total.update(digest)
        found = total.hexdigest()
        self.remember_digest(found)
        return found

    def remember_digest(self, digest: str) -> None:
        """Take a digest that is already known, so that nothing is read for it again."""
        vars(self)["digest"] = digest


def is_adapter(directory: Path) -> bool:
    """Whether a directory is a LoRA adapter's, rather than a full model with a note of one."""
    full = any((directory / name).is_file() for name in (SINGLE, INDEX))
    return (directory / ADAPTER).is_file() and not full


def read_header(file: Path) -> list[TensorInfo]:
    """The tensors of one safetensors file, in the order of their bytes.

    Raises:
        CheckpointError: the file cannot be read or is not well formed; the message says how.
    """
    try:
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise CheckpointError(f"{file}: {size} bytes, too short for a safetensors file")
            length = int.from_bytes(prefix, "little")
            if prefix.startswith(b"version "):
                raise CheckpointError(
                    f"{file}: a git-lfs pointer, not the weights; run `git lfs pull` there"
                )
            if length > min(size - 8, MAX_HEADER):
                raise CheckpointError(
                    f"{file}: the header should have {length} bytes, the file has {size}; "
                    "it is truncated, still being written, or not safetensors"
                )
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        header = json.loads(raw)
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        infos = [_tensor_info(file, k, v, 8 + length) for k, v in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: the safetensors header is damaged ({error})") from error
    infos.sort(key=lambda info: (info.offset, info.nbytes))
    end = 8 + length
    for info in infos:
        if info.offset != end:
            raise CheckpointError(
                f"{file}: tensor {info.name} starts at byte {info.offset}, expected {end}"
            )
        end += info.nbytes
    if end != size:
        raise CheckpointError(
            f"{file}: the header speaks of {end} bytes, the file has {size}; "
            "it is truncated or still being written"
        )
    return infos


def _tensor_info(file: Path, name: str, entry: dict[str, Any], base: int) -> TensorInfo:
    dtype = str(entry["dtype"])
    if dtype not in DTYPES:
        raise CheckpointError(
            f"{file}: tensor {name} is {dtype}, which cannot be averaged; "
            "dequantise the checkpoint to bfloat16, float16 or float32 first"
        )
    shape = tuple(int(n) for n in entry["shape"])
    start, stop = (int(n) for n in entry["data_offsets"])
    if min(shape, default=0) < 0 or start < 0:
        raise ValueError(f"tensor {name}: negative shape or offset")
    if stop - start != prod(shape) * DTYPES[dtype].itemsize:
        raise CheckpointError(
            f"{file}: tensor {name} has {stop - start} bytes, expected "
            f"{prod(shape) * DTYPES[dtype].itemsize} for {dtype} {list(shape)}"
        )
    return TensorInfo(name, dtype, shape, file, base + start, stop - start)


def _find_shards(directory: Path) -> tuple[tuple[Path, ...], dict[str, str] | None]:
    """The weight files, and the index's map from tensor to file where there is one."""
    single, index = directory / SINGLE, directory / INDEX
    if single.is_file():  # transformers, too, prefers the single file when both are there
        return (single,), None
    if index.is_file():
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
            names = sorted({str(file) for file in weight_map.values()})
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index}: not a safetensors index ({error})") from error
        for name in names:
            if Path(name).name != name:
                raise CheckpointError(f"{index}: shard {name!r} is not a plain file name")
            if not (directory / name).is_file():
                raise CheckpointError(
                    f"{directory / name}: missing, but the index lists it; "
                    "is the checkpoint complete?"
                )
        return tuple(directory / name for name in names), weight_map
    raise CheckpointError(_why_no_weights(directory))


def _why_no_weights(directory: Path) -> str:
    names = sorted(entry.name for entry in directory.iterdir())
    if torch_files := [n for n in names if n.endswith((".bin", ".pt", ".pth"))]:
        return (
            f"{directory}: only torch weights ({torch_files[0]}), no safetensors; convert them "
            "first: transformers' `save_pretrained` writes safetensors"
        )
    if found := [n for n in names if n.endswith(".safetensors")]:
        return (
            f"{directory}: {len(found)} safetensors file(s) ({found[0]}, …) but neither {SINGLE} "
            f"nor {INDEX}; is the checkpoint complete?"
        )
    if inner := [n for n in names if (directory / n / "config.json").is_file()]:
        return f"{directory}: no weights here; did you mean {directory / inner[0]}?"
    return f"{directory}: no {SINGLE} and no {INDEX}; expected a model directory"


def _check_index(
    directory: Path, weight_map: dict[str, str], tensors: dict[str, TensorInfo]
) -> None:
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            found = f"in {tensors[name].file.name}" if name in tensors else "in no shard"
            raise CheckpointError(
                f"{directory / INDEX}: tensor {name} should be in {file}, found {found}"
            )
    if extra := next((name for name in tensors if name not in weight_map), None):
        raise CheckpointError(
            f"{tensors[extra].file}: tensor {extra} is not in {INDEX}; is it from another save?"
        )


def _read_config(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; expected a model directory with its config") from (
            None
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    if quantization := config.get("quantization_config"):
        method = "unknown"
        if isinstance(quantization, dict):
            method = str(quantization.get("quant_method", method))
        raise CheckpointError(
            f"{directory}: weights are quantised ({method}); dequantise them first, "
            "packed integers cannot be averaged"
        )
    return config


def _tensor_digest(info: TensorInfo) -> bytes:
    head = json.dumps([info.name, info.dtype, list(info.shape)])
    digest = hashlib.sha256(head.encode() + b"\n")
    for block in _blocks(info):
        digest.update(block)
    return digest.digest()


def _blocks(info: TensorInfo) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(READ_BLOCK, max(info.nbytes, 1))))
    try:
        with info.file.open("rb", buffering=0) as stream:
            stream.seek(info.offset)
            left = info.nbytes
            while left:
                count = stream.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise CheckpointError(f"{info.file}: ended inside tensor {info.name}")
                left -= count
                yield buffer[:count]
    except OSError as error:
        raise CheckpointError(f"{info.file}: cannot be read: {error.strerror}") from error
