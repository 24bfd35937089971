"""Where each tensor of a blend will lie: safetensors shards like the reference's.

The header and every offset are planned before bytes flow, so chunks are written in any order at
their place.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from math import prod
from pathlib import Path
from typing import Any

from soup.blending.blend import Blend
from soup.blending.flushing import flushed_early
from soup.checkpoints.tensors import ITEMSIZES, TensorInfo
from soup.checkpoints.weights import INDEX, SINGLE

PAGE = 4096  # bytes


@dataclass(frozen=True)
class Layout:
    """Files that wait for their tensors.

    Attributes:
        directory: where they are.
        places: by tensor its open file and the offset of its first byte.
        handles: of all files, open for reading and writing.
        index: what an index says, where there are several files.
    """

    directory: Path
    places: dict[str, tuple[int, int]]
    handles: tuple[int, ...]
    index: dict[str, Any] | None

    def write(self, name: str, start: int, values: memoryview) -> None:
        """Write bytes ``start`` onwards of a tensor, and what lies behind it.

        Raises:
            OSError: no room, or the like.
        """
        handle, offset = self.places[name]
        offset += start
        while values:
            done = os.pwrite(handle, values, offset)
            values, offset = values[done:], offset + done

    def finish(self) -> None:
        """Flush all to the disk, and write the index.

        Raises:
            OSError: no room, or the like.
        """
        for handle in self.handles:
            os.fsync(handle)
        if self.index is not None:
            (self.directory / INDEX).write_text(json.dumps(self.index, indent=2) + "\n")


@contextmanager
def laid_out(blend: Blend, directory: Path) -> Iterator[Layout]:
    """Shards after the reference's, their headers written, open while the context lasts.

    What is written into them goes to the disk at once, see ``flushing``.

    Raises:
        OSError: no room, or the like.
    """
    by_shard: dict[Path, list[TensorInfo]] = {}
    for info in blend.reference.tensors.values():
        by_shard.setdefault(info.file, []).append(info)
    count = len(by_shard)
    sharded = blend.reference.sharded
    names = [f"model-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)]
    places: dict[str, tuple[int, int]] = {}
    weight_map: dict[str, str] = {}
    handles: list[int] = []
    sizes: list[int] = []
    total = 0
    try:
        for name, infos in zip(names if sharded else [SINGLE], by_shard.values(), strict=True):
            start, size = header([(info.name, blend.dtype_of(info), info.shape) for info in infos])
            handle = os.open(directory / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            handles.append(handle)
            sizes.append(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(handle, 0, size)  # a full disk is known here, not at the end
            else:
                os.truncate(handle, size)
            os.pwrite(handle, start, 0)
            offset = len(start)
            for info in infos:
                places[info.name] = handle, offset
                weight_map[info.name] = name
                offset += blend.nbytes_of(info)
            total += offset - len(start)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        with flushed_early(list(zip(handles, sizes, strict=True))):
            yield Layout(directory, places, tuple(handles), index if sharded else None)
    finally:
        for handle in handles:
            os.close(handle)


def header(entries: Sequence[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, int]:
    """The safetensors header of tensors (name, dtype, shape), and the file's size.

    Padded (with spaces, as the format allows) so that data starts on a page: large tensors then
    fill whole pages of the page cache.
    """
    found, offset = ['{"__metadata__":{"format":"pt"}'], 0
    for name, dtype, shape in entries:
        end = offset + prod(shape) * ITEMSIZES[dtype]
        lengths = ",".join(map(str, shape))
        found.append(  # json.dumps takes three times as long
            f'{quoted(name)}:{{"dtype":"{dtype}","shape":[{lengths}],'
            f'"data_offsets":[{offset},{end}]}}'
        )
        offset = end
    raw = (",".join(found) + "}").encode()
    raw += b" " * (-(8 + len(raw)) % PAGE)
    return len(raw).to_bytes(8, "little") + raw, 8 + len(raw) + offset
