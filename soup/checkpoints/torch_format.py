"""Weights that ``torch.save`` wrote, opened lazily and without running their pickle's code.

Such a file is a zip archive: ``data.pkl`` describes the tensors, and each storage is a record of
raw, uncompressed bytes. The pickle is read by an unpickler that knows nothing but plain tensors
(``soup.checkpoints.pickles``). Records are found by the zip's directory; a tensor is then a byte
range, as in safetensors.
"""

import struct
import zipfile
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from soup.checkpoints.pickles import Stored, Unpickler
from soup.checkpoints.tensors import (
    ITEMSIZES,
    LFS_POINTER,
    LFS_PREFIX,
    TensorInfo,
)
from soup.errors import CheckpointError, UnfinishedError

WRAPPERS = ("state_dict", "model", "module")
"""Keys under which trainers keep the state dict when they save more than that."""

LEGACY = b"\x8a\nl\xfc\x9cF"
"""How torch's first format begins, after the pickle protocol: the start of its magic number."""

LARGEST = 1 << 23
"""Bytes of a pickle, and of an archive's list of records, at most: of some 50,000 tensors."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, …, length of the name, of the extra field


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
        start, length = records[f"{prefix}byteorder"]
        order = _bytes(stream, start, min(length, 20))
        if order != b"little":
            found = order.decode(errors="replace")
            raise CheckpointError(f"{file}: byte order {found}, expected little")
    offset, length = records[described[0]]
    if length > LARGEST:
        raise CheckpointError(f"{file}: its data.pkl has {length} bytes; not a state dict")
    content = Unpickler(file, _bytes(stream, offset, length)).load()
    return [
        _tensor_info(file, name, stored, records.get(f"{prefix}data/{stored.key}"))
        for name, stored in _state_dict(file, content).items()
    ]


def _records(file: Path, stream: BinaryIO) -> dict[str, tuple[int, int]]:
    """First byte and length of every record's content."""
    records = {}
    with zipfile.ZipFile(_Bounded(file, stream)) as archive:
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


class _Bounded:
    """A file of which nothing is read that is larger than a model's list of records.

    The list is read whole, and how large it is stands in several places, of which readers of
    archives believe one or another: so what counts is what is asked for in the end.
    """

    def __init__(self, file: Path, stream: BinaryIO) -> None:
        self._file, self._stream = file, stream

    def read(self, size: int = -1) -> bytes:
        """As the stream's; where all is asked for, one byte more than may be there."""
        found = self._stream.read(min(size, LARGEST + 1) if size >= 0 else LARGEST + 1)
        if len(found) > LARGEST:
            raise CheckpointError(
                f"{self._file}: lists more than {LARGEST:,} bytes of records; not a state dict"
            )
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _bytes(stream: BinaryIO, offset: int, length: int) -> bytes:
    stream.seek(offset)
    return stream.read(length)


def _state_dict(file: Path, content: Any) -> dict[str, Stored]:
    """The tensors by name: what was saved, or what it holds under one of ``WRAPPERS``."""
    if isinstance(content, dict):
        inner = [key for key in WRAPPERS if isinstance(content.get(key), dict)]
        if len(inner) == 1 and not any(isinstance(v, Stored) for v in content.values()):
            content = content[inner[0]]
    if not isinstance(content, dict):
        found = "a tensor" if isinstance(content, Stored) else f"a {type(content).__name__}"
        raise CheckpointError(f"{file}: expected a dict of tensors by name, found {found}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Stored):
            raise CheckpointError(
                f"{file}: expected a tensor under {name!r}, found a {type(value).__name__}; save "
                "the model's state dict alone"
            )
    return content


def _tensor_info(
    file: Path, name: str, stored: Stored, record: tuple[int, int] | None
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
