"""Weights in safetensors, opened by their header.

https://github.com/huggingface/safetensors#format: eight bytes with the header's length, a JSON
header, then the tensors' bytes.
"""

import os
from math import prod
from pathlib import Path
from typing import Any

from soup.checkpoints.json_text import distinct, parse
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
        header = parse(raw, distinct)
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
        raise UnfinishedError(
            f"{file}: the header speaks of {end} bytes, the file has {size}; "
            "it is truncated or still being written"
        )
    return infos


def _tensor_info(file: Path, name: str, entry: dict[str, Any], base: int) -> TensorInfo:
    dtype = str(entry["dtype"])
    if dtype not in ITEMSIZES:
        raise QuantisedError(
            f"{file}: tensor {name} is {dtype}, which cannot be averaged; "
            "dequantise the checkpoint to bfloat16, float16 or float32 first"
        )
    shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
    whole = type(start) is int and type(stop) is int and start >= 0 and stop >= 0
    if not whole or not is_shape(shape):
        raise ValueError(f"tensor {name}: shape or offsets are no whole numbers from 0 on")
    if stop - start != prod(shape) * ITEMSIZES[dtype]:
        raise CheckpointError(
            f"{file}: tensor {name} has {stop - start} bytes, expected "
            f"{prod(shape) * ITEMSIZES[dtype]} for {dtype} {list(shape)}"
        )
    return TensorInfo(name, dtype, shape, file, base + start, stop - start)
