"""Stored elements, read by their place in a file into buffers that are used again."""

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import torch

from soup.checkpoints.dtypes import DTYPES
from soup.checkpoints.tensors import ITEMSIZES, TensorInfo
from soup.errors import CheckpointError

Seen = Callable[[TensorInfo, int, memoryview], None]


def open_shards(shards: Iterable[Path], stack: ExitStack) -> dict[Path, int]:
    """A descriptor for each file, closed with ``stack``.

    Raises:
        CheckpointError: one cannot be opened.
    """
    files: dict[Path, int] = {}
    for shard in shards:
        if shard not in files:
            try:
                files[shard] = os.open(shard, os.O_RDONLY)
            except OSError as error:
                raise CheckpointError(f"{shard}: cannot be read: {error.strerror}") from error
            stack.callback(os.close, files[shard])
    return files


def read_into(files: dict[Path, int], info: TensorInfo, start: int, view: memoryview) -> None:
    """Fill a byte buffer with a stored tensor's elements from ``start`` on.

    Raises:
        CheckpointError: the file cannot be read, or ends too early.
    """
    offset = info.offset + start * ITEMSIZES[info.dtype]
    while view:
        try:
            got = os.preadv(files[info.file], [view], offset)
        except OSError as error:
            raise CheckpointError(f"{info.file}: cannot be read: {error.strerror}") from error
        if not got:
            raise CheckpointError(f"{info.file}: ended inside tensor {info.name}; it was changed")
        view, offset = view[got:], offset + got


class Reader:
    """One thread's way to stored elements; its buffers serve for the next chunk again."""

    def __init__(self, files: dict[Path, int], seen: Seen | None = None) -> None:
        """``seen`` is shown the bytes that are read: a tensor, the first one's place in it, all."""
        self._files, self._seen = files, seen
        self._buffers: list[bytearray] = []
        self._read: dict[tuple[Path, int, int, str], torch.Tensor] = {}

    def recycle(self) -> None:
        """Everything read so far may be overwritten."""
        self._read.clear()

    def read(self, info: TensorInfo, start: int, count: int) -> torch.Tensor:
        """See ``updates.Read``; valid until ``recycle``, and the same when read again."""
        dtype = DTYPES[info.dtype]
        if not count:
            return torch.empty(0, dtype=dtype)
        size = count * dtype.itemsize
        key = (info.file, info.offset + start * dtype.itemsize, size, info.dtype)
        if key in self._read:  # adapters of one base each ask for the base's
            return self._read[key]
        used = len(self._read)
        if used == len(self._buffers):
            self._buffers.append(bytearray(size))
        if len(self._buffers[used]) < size:
            self._buffers[used] = bytearray(size)
        buffer = self._buffers[used]
        read_into(self._files, info, start, memoryview(buffer)[:size])
        if self._seen is not None:
            self._seen(info, start * dtype.itemsize, memoryview(buffer)[:size])
        self._read[key] = torch.frombuffer(buffer, dtype=dtype, count=count)
        return self._read[key]
