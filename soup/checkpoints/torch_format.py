"""Weights that ``torch.save`` wrote, opened lazily and without running their pickle's code.

Such a file is a zip archive: ``data.pkl`` describes the tensors, and each storage is a record of
raw, uncompressed bytes. The pickle is read by an unpickler that knows nothing but plain tensors:
every global it asks for is replaced by a stand-in of ours or refused, so no code of the file runs
and no tensor is loaded. Records are found by the zip's directory; a tensor is then a byte range,
as in safetensors.
"""

import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from soup.checkpoints.tensors import (
    ITEMSIZES,
    LFS_POINTER,
    LFS_PREFIX,
    MAX_HEADER,
    MOST_ELEMENTS,
    TensorInfo,
    is_shape,
)
from soup.errors import CheckpointError, UnfinishedError

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""Torch's typed storages, as a pickle names them, and their safetensors dtype."""

WRAPPERS = ("state_dict", "model", "module")
"""Keys under which trainers keep the state dict when they save more than that."""

LEGACY = b"\x8a\nl\xfc\x9cF"
"""How torch's first format begins, after the pickle protocol: the start of its magic number."""

DTYPE = re.compile(r"q?u?int\d+|b?float\w+|complex\d+|bits\w+|bool")
"""Names in torch's module that are dtypes, whatever a later version adds."""

OF_TORCH = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Torch's dtypes by name, and what safetensors calls them."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, …, length of the name, of the extra field


class _Storage(NamedTuple):
    """A storage as the pickle mentions it: dtype (None: untyped) and the record's key."""

    dtype: str | None
    key: str


class _Stored(NamedTuple):
    """A tensor as the pickle describes it; sizes and strides in elements."""

    dtype: str
    key: str
    start: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    altered: bool  # conjugated or negated lazily: its bytes are not its values


def read_torch(file: Path) -> list[TensorInfo]:
    """The tensors of one file that ``torch.save`` wrote, in the order of its state dict.

    Tensors that share a storage (tied weights) have the same range under their names.

    Raises:
        CheckpointError: the file cannot be read, is damaged, is of the format before torch 1.6,
            or holds something else than contiguous plain tensors by name.
    """
    try:
        with file.open("rb") as stream:
            return _read(file, stream)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise UnfinishedError(
            f"{file}: not a complete torch file ({error}); it is truncated, still being written, "
            "or not a torch file"
        ) from error
    except Exception as error:  # whatever a damaged pickle makes of its arguments
        text = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{file}: the torch file is damaged ({text})") from error


def _read(file: Path, stream: BinaryIO) -> list[TensorInfo]:
    head = stream.read(8)
    if head.startswith(LFS_PREFIX):
        raise CheckpointError(f"{file}: {LFS_POINTER}")
    if head[2:] == LEGACY:
        raise CheckpointError(
            f"{file}: a torch file of the format before torch 1.6, which cannot be read lazily; "
            "load it and `torch.save` it again, or better save it as safetensors"
        )
    records = _records(file, stream)
    described = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(described) != 1:
        raise CheckpointError(f"{file}: a zip archive, but not one that torch.save wrote")
    prefix = described[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in records:
        order = _bytes(stream, *records[f"{prefix}byteorder"])
        if order != b"little":
            raise CheckpointError(f"{file}: byte order {order.decode()}, expected little")
    offset, length = records[described[0]]
    if length > MAX_HEADER:
        raise CheckpointError(f"{file}: its data.pkl has {length} bytes; not a state dict")
    content = _Unpickler(file, _bytes(stream, offset, length)).load()
    return [
        _tensor_info(file, name, stored, records.get(f"{prefix}data/{stored.key}"))
        for name, stored in _state_dict(file, content).items()
    ]


def _records(file: Path, stream: BinaryIO) -> dict[str, tuple[int, int]]:
    """First byte and length of every record's content."""
    records = {}
    with zipfile.ZipFile(stream) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise CheckpointError(
                    f"{file}: record {entry.filename} is compressed or encrypted, so no tensor "
                    "can be read by its place; save it again with `torch.save`"
                )
            header = _bytes(stream, entry.header_offset, _LOCAL_HEADER.size)
            signature, name, extra = _LOCAL_HEADER.unpack(header)
            if signature != b"PK\x03\x04":
                raise zipfile.BadZipFile(f"record {entry.filename} is not where it should be")
            start = entry.header_offset + _LOCAL_HEADER.size + name + extra
            if start + entry.file_size > archive.start_dir:
                raise zipfile.BadZipFile(f"record {entry.filename} ends outside the file")
            records[entry.filename] = (start, entry.file_size)
    return records


def _bytes(stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)


class _Unpickler(pickle.Unpickler):
    """Reads tensors' descriptions; every global is a stand-in of ours, or refused.

    The stand-ins are bound methods, strings and one built-in type: nothing that a pickle could
    call does more than return a tuple, and nothing that it could change outlives it.
    """

    def __init__(self, file: Path, content: bytes) -> None:
        super().__init__(BytesIO(content), encoding="utf-8")
        self._file = file

    def find_class(self, module: str, name: str) -> Any:
        stand_ins = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_dtype,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
            ("torch.storage", "UntypedStorage"): None,
        }
        if (module, name) in stand_ins:
            return stand_ins[module, name]
        if module == "torch" and name.endswith("Storage"):
            return STORAGES.get(name, name.removesuffix("Storage"))
        if module == "torch" and DTYPE.fullmatch(name):
            return OF_TORCH.get(name, name)
        if name == "_rebuild_qtensor":
            raise CheckpointError(
                f"{self._file}: holds quantised tensors, which cannot be averaged; dequantise the "
                "checkpoint to bfloat16, float16 or float32 first"
            )
        raise CheckpointError(
            f"{self._file}: holds a {module}.{name}; only plain tensors are read, as loading "
            "anything else could run code; save the model's state dict alone"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, *_ = pid
        if kind != "storage" or not isinstance(key, str):
            raise ValueError(f"unknown persistent id {kind!r}")
        return _Storage(dtype, key)

    def _tensor(
        self,
        storage: _Storage,
        start: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        hooks: Any,
        metadata: Any = None,
    ) -> _Stored:
        if not isinstance(storage, _Storage) or storage.dtype is None:
            raise ValueError("a tensor without a typed storage")
        return _stored(storage.dtype, storage.key, start, size, stride, metadata)

    def _tensor_of_dtype(
        self,
        storage: _Storage,
        start: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        hooks: Any,
        dtype: str,
        metadata: Any = None,
    ) -> _Stored:
        return _stored(dtype, storage.key, start, size, stride, metadata)

    def _parameter(
        self, data: _Stored, requires_grad: bool, hooks: Any, state: Any = None
    ) -> _Stored:
        return data


def _stored(
    dtype: str,
    key: str,
    start: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    metadata: Any,
) -> _Stored:
    numbers = (start, *size, *stride)
    if len(size) != len(stride) or not is_shape(size) or not is_shape((start,)):
        raise ValueError("a tensor with an impossible shape")
    if not all(type(n) is int and 0 <= n <= MOST_ELEMENTS for n in numbers):
        raise ValueError("a tensor with an impossible shape")
    return _Stored(dtype, key, start, tuple(size), tuple(stride), bool(metadata))


def _state_dict(file: Path, content: Any) -> dict[str, _Stored]:
    """The tensors by name: what was saved, or what it holds under one of ``WRAPPERS``."""
    if isinstance(content, dict):
        inner = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
        if len(inner) == 1 and not any(isinstance(v, _Stored) for v in content.values()):
            content = content[inner[0]]
    if not isinstance(content, dict):
        found = "a tensor" if isinstance(content, _Stored) else f"a {type(content).__name__}"
        raise CheckpointError(f"{file}: expected a dict of tensors by name, found {found}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, _Stored):
            raise CheckpointError(
                f"{file}: expected a tensor under {name!r}, found a {type(value).__name__}; save "
                "the model's state dict alone"
            )
    return content


def _tensor_info(
    file: Path, name: str, stored: _Stored, record: tuple[int, int] | None
) -> TensorInfo:
    if stored.dtype not in ITEMSIZES:
        raise CheckpointError(
            f"{file}: tensor {name} is {stored.dtype}, which cannot be averaged; "
            "dequantise the checkpoint to bfloat16, float16 or float32 first"
        )
    if stored.altered or not _contiguous(stored.size, stored.stride):
        raise CheckpointError(
            f"{file}: tensor {name} is a view (shape {list(stored.size)}, strides "
            f"{list(stored.stride)}); save it again after `.contiguous()`"
        )
    if record is None:
        raise CheckpointError(f"{file}: tensor {name} has no data (record {stored.key}) in it")
    itemsize = ITEMSIZES[stored.dtype]
    offset, nbytes = stored.start * itemsize, prod(stored.size) * itemsize
    if offset + nbytes > record[1]:
        raise CheckpointError(
            f"{file}: tensor {name} needs {offset + nbytes} bytes, its record has {record[1]}"
        )
    return TensorInfo(name, stored.dtype, stored.size, file, record[0] + offset, nbytes)


def _contiguous(size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    expected = 1
    for length, step in zip(reversed(size), reversed(stride), strict=True):
        if length != 1 and step != expected:
            return 0 in size  # no elements, no order
        expected *= length
    return True
