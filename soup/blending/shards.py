"""A blend's weights as files: safetensors shards like the reference's, or an adapter's one file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup.blending import onepass
from soup.blending.blend import Blend
from soup.blending.layout import Layout, header, laid_out
from soup.blending.runs import Piece, serves
from soup.blending.stack import Factor, Share, Stack
from soup.checkpoints.adapter import WEIGHTS
from soup.checkpoints.digests import Hasher
from soup.checkpoints.proving import prove
from soup.checkpoints.tensors import TensorInfo
from soup.checkpoints.updates import Read
from soup.checkpoints.weights import ADAPTER
from soup.errors import BlendError
from soup.events import Observer

if TYPE_CHECKING:
    import torch  # where the compiled loop does all, it is not loaded: that takes a second


@dataclass(frozen=True)
class _Files:
    """The sink that writes each chunk at its planned place, and hashes it."""

    layout: Layout
    hasher: Hasher

    def put(self, info: TensorInfo, start: int, values: "torch.Tensor") -> None:
        view = _bytes(values)
        self.hasher.put(info.name, start * values.itemsize, view)
        self.layout.write(info.name, start * values.itemsize, view)


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
    with laid_out(blend, directory) as layout:
        if serves(blend):
            written = onepass.write(blend, layout, plainly, task, observe, threads)
            if written is not None:
                layout.finish()
                return written.roots()
        from soup.blending.streaming import stream

        infos = blend.reference.tensors.values()
        sink = _Files(layout, Hasher({info.name: blend.nbytes_of(info) for info in infos}))
        stream(blend, sink, task=task, observe=observe, threads=threads)
        layout.finish()
    return sink.hasher.roots()


def plainly(blend: Blend, piece: Piece) -> memoryview:
    """Bytes of a piece as torch makes them, for ``onepass``.

    Raises:
        BlendError, CheckpointError: see ``soup.blending.streaming.stream``.
    """
    from soup.blending.streaming import chunk

    return _bytes(chunk(blend, piece.info, piece.start, piece.count))


def _bytes(values: "torch.Tensor") -> memoryview:
    import torch

    return values.view(torch.uint8).numpy().data


def write_adapter(blend: Blend, stacked: Stack, directory: Path) -> None:
    """One small file: each factor is read, stacked and written whole.

    Raises:
        OSError: no room, or the like.
        BlendError: a factor is not finite.
        RewrittenError, CheckpointError: see ``soup.checkpoints.proving``.
    """
    start, _ = header([(factor.name, "F32", factor.shape) for factor in stacked.factors])
    from soup.blending.streaming import open_files

    prove(blend.sources)  # a base, too: what an adapter's digest is of is more than its factors
    with open_files(blend) as read, (directory / f"{WEIGHTS}.safetensors").open("xb") as file:
        file.write(start)
        for factor in stacked.factors:
            file.write(_stacked(factor, read).contiguous().numpy().data)
    settings = json.dumps(stacked.settings, indent=2)  # PEFT's patterns have an order
    (directory / ADAPTER).write_text(settings + "\n")


def _stacked(factor: Factor, read: Read) -> "torch.Tensor":
    """A factor of the new adapter, whole; float32."""
    import torch

    if not factor.up:
        return torch.cat([_finite(read, s, s.update.down) for s in factor.shares]).float()
    parts = [_finite(read, share, share.update.up) * share.factor for share in factor.shares]
    return torch.cat(parts, dim=1).float()


def _finite(read: Read, share: Share, info: Any) -> "torch.Tensor":
    import torch

    values = read(info, 0, info.numel).to(torch.float64).view(info.shape)
    if not torch.isfinite(values).all():
        raise BlendError(
            f"{share.member}: tensor {info.name} holds NaN or Inf; leave this adapter out, its "
            "training diverged or its file is damaged"
        )
    return values
