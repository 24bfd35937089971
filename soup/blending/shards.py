"""A blend's weights as files: safetensors shards like the reference's, or an adapter's one file.

The header and every offset are planned before bytes flow, so chunks are written in any order at
their place.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from soup.blending.blend import Blend
from soup.blending.stack import Factor, Share, Stack
from soup.blending.streaming import open_files, stream
from soup.checkpoints.adapter import WEIGHTS
from soup.checkpoints.digests import Hasher
from soup.checkpoints.tensors import ITEMSIZES, TensorInfo
from soup.checkpoints.updates import Read
from soup.checkpoints.weights import ADAPTER, INDEX, SINGLE
from soup.errors import BlendError
from soup.events import Observer

PAGE = 4096  # bytes


@dataclass(frozen=True)
class _Place:
    file: Path
    offset: int


@dataclass
class _Files:
    """The sink that writes each chunk at its planned place."""

    places: dict[str, _Place]
    hasher: Hasher
    handles: dict[Path, int] = field(default_factory=dict)

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        place = self.places[info.name]
        view = values.view(torch.uint8).numpy().data
        self.hasher.put(info.name, start * values.itemsize, view)
        offset = place.offset + start * values.itemsize
        while view:
            done = os.pwrite(self.handles[place.file], view, offset)
            view, offset = view[done:], offset + done


def write_weights(
    blend: Blend, directory: Path, task: str, observe: Observer, threads: int | None = None
) -> dict[str, bytes]:
    """Plan shards after the reference's, then stream every chunk to its place.

    Returns:
        By tensor the root of its values, see ``soup.checkpoints.digests``: hashed on the way.

    Raises:
        OSError: no room, or the like.
        BlendError, CheckpointError: see ``soup.blending.streaming.stream``.
    """
    by_shard: dict[Path, list[TensorInfo]] = {}
    for info in blend.reference.tensors.values():
        by_shard.setdefault(info.file, []).append(info)
    count = len(by_shard)
    names = (
        [SINGLE]
        if not blend.reference.sharded
        else [f"model-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)]
    )
    sizes = {info.name: blend.nbytes_of(info) for info in blend.reference.tensors.values()}
    sink = _Files({}, Hasher(sizes))
    weight_map: dict[str, str] = {}
    try:
        for name, infos in zip(names, by_shard.values(), strict=True):
            file = directory / name
            entries = [(info.name, blend.dtype_of(info), info.shape) for info in infos]
            header, size = _header(entries)
            handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            sink.handles[file] = handle
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size)  # a full disk is known here, not at the end
            else:
                os.truncate(handle, size)
            os.pwrite(handle, header, 0)
            offset = len(header)
            for info in infos:
                sink.places[info.name] = _Place(file, offset)
                weight_map[info.name] = name
                offset += blend.nbytes_of(info)
        stream(blend, sink, task=task, observe=observe, threads=threads)
        for handle in sink.handles.values():
            os.fsync(handle)
    finally:
        for handle in sink.handles.values():
            os.close(handle)
    if blend.reference.sharded:
        total = sum(blend.nbytes_of(info) for info in blend.reference.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return sink.hasher.roots()


def write_adapter(blend: Blend, stacked: Stack, directory: Path) -> None:
    """One small file: each factor is read, stacked and written whole.

    Raises:
        OSError: no room, or the like.
        BlendError: a factor is not finite.
    """
    header, _ = _header([(factor.name, "F32", factor.shape) for factor in stacked.factors])
    with open_files(blend) as read, (directory / f"{WEIGHTS}.safetensors").open("xb") as file:
        file.write(header)
        for factor in stacked.factors:
            file.write(_stacked(factor, read).contiguous().numpy().data)
    settings = json.dumps(stacked.settings, indent=2)  # PEFT's patterns have an order
    (directory / ADAPTER).write_text(settings + "\n")


def _stacked(factor: Factor, read: Read) -> torch.Tensor:
    """A factor of the new adapter, whole; float32."""
    if not factor.up:
        return torch.cat([_finite(read, s, s.update.down) for s in factor.shares]).float()
    parts = [_finite(read, share, share.update.up) * share.factor for share in factor.shares]
    return torch.cat(parts, dim=1).float()


def _finite(read: Read, share: Share, info: Any) -> torch.Tensor:
    values = read(info, 0, info.numel).to(torch.float64).view(info.shape)
    if not torch.isfinite(values).all():
        raise BlendError(
            f"{share.member}: tensor {info.name} holds NaN or Inf; leave this adapter out, its "
            "training diverged or its file is damaged"
        )
    return values


def _header(entries: Sequence[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, int]:
    """The safetensors header of tensors (name, dtype, shape), and the file's size.

    Padded (with spaces, as the format allows) so that data starts on a page: large tensors then
    fill whole pages of the page cache.
    """
    found: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in entries:
        end = offset + prod(shape) * ITEMSIZES[dtype]
        found[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(found, separators=(",", ":")).encode()
    raw += b" " * (-(8 + len(raw)) % PAGE)
    return len(raw).to_bytes(8, "little") + raw, 8 + len(raw) + offset
