"""Weights in safetensors, opened by their header.

https://github.com/huggingface/safetensors#format: eight bytes with the header's length, a JSON
header, then the tensors' bytes.
"""

import os
from functools import lru_cache
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any

from soup.checkpoints.json_text import parse_distinct
from soup.checkpoints.outlines import whole_size
from soup.checkpoints.tensors import (
    ITEMSIZES,
    LFS_POINTER,
    LFS_PREFIX,
    MAX_HEADER,
    TensorInfo,
    is_shape,
)
from soup.errors import CheckpointError, QuantisedError, UnfinishedError

KEPT = 1 << 22
"""Bytes of a header that is remembered, at most."""

Entry = tuple[str, str, tuple[int, ...], int, int]
"""A tensor's name, dtype, shape, first byte behind the header, and number of bytes."""


def read_header(file: Path) -> list[TensorInfo]:
    """The tensors of one safetensors file, in the order of their bytes.

    Raises:
        CheckpointError: the file cannot be read or is not well formed; the message says how.
    """
    try:
        with file.open("rb") as stream:
            size = whole_size(file, os.fstat(stream.fileno()).st_size)
            prefix = stream.read(8)
            if len(prefix) < 8:
                raise UnfinishedError(f"{file}: {size} bytes, too short for a safetensors file")
            length = int.from_bytes(prefix, "little")
            if prefix.startswith(LFS_PREFIX):
                raise CheckpointError(f"{file}: {LFS_POINTER}")
            if length > min(size - 8, MAX_HEADER):
                raise UnfinishedError(
                    f"{file}: the header should have {length} bytes, the file has {size}; "
                    "it is truncated, still being written, or not safetensors"
                )
            raw = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        entries = _kept(raw) if len(raw) <= KEPT else _entries(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: the safetensors header is damaged ({error})") from error
    except CheckpointError as error:
        raise type(error)(f"{file}: {error}") from None
    end = 8 + length + (entries[-1][3] + entries[-1][4] if entries else 0)
    if end != size:
        raise UnfinishedError(
            f"{file}: the header speaks of {end} bytes, the file has {size}; "
            "it is truncated or still being written"
        )
    base = 8 + length
    return [
        TensorInfo(name, dtype, shape, file, base + start, nbytes)
        for name, dtype, shape, start, nbytes in entries
    ]


def _entries(raw: bytes) -> tuple[Entry, ...]:
    """What a header says, in the order of the bytes, which begin at zero and have no gaps.

    Raises:
        CheckpointError: it is not well formed; the message lacks the file's name. Or what reading
            strange JSON may raise.
    """
    header = parse_distinct(raw)
    entries = [_entry(name, said) for name, said in header.items() if name != "__metadata__"]
    entries.sort(key=itemgetter(3, 4))
    end = 0
    for name, _, _, start, nbytes in entries:
        if start != end:
            end += 8 + len(raw)
            raise CheckpointError(
                f"tensor {name} starts at byte {8 + len(raw) + start}, expected {end}"
            )
        end += nbytes
    return tuple(entries)


_kept = lru_cache(maxsize=64)(_entries)
"""Members of a pool have the same headers: all but the first one's are known."""


def _entry(name: str, said: dict[str, Any]) -> Entry:
    dtype = str(said["dtype"])
    if dtype not in ITEMSIZES:
        raise QuantisedError(
            f"tensor {name} is {dtype}, which cannot be averaged; "
            "dequantise the checkpoint to bfloat16, float16 or float32 first"
        )
    shape, (start, stop) = tuple(said["shape"]), said["data_offsets"]
    whole = type(start) is int and type(stop) is int and start >= 0 and stop >= 0
    if not whole or not is_shape(shape):
        raise ValueError(f"tensor {name}: shape or offsets are no whole numbers from 0 on")
    nbytes = prod(shape) * ITEMSIZES[dtype]
    if stop - start != nbytes:
        raise CheckpointError(
            f"tensor {name} has {stop - start} bytes, expected {nbytes} for {dtype} {list(shape)}"
        )
    return name, dtype, shape, start, nbytes
