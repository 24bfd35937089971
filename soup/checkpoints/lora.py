"""LoRA's arithmetic: tensors that are computed from a base and two small factors as they are read.

``W = W_base + scale·(B·A)``, in float64 and in blocks of rows, so that a merged model exists
nowhere, neither on the disk nor in memory (Hu et al. 2021, arXiv:2106.09685; DoRA: Liu et al. 2024,
arXiv:2402.09353). ``soup.checkpoints.adapter`` reads the files.
"""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch

from soup.checkpoints.checkpoint import Read, TensorInfo

BLOCK = 1 << 17
"""Elements per matrix product, as whole rows. Blocks lie on a grid that depends on the tensor
alone: the last bits of a product may depend on its shape, and may not depend on how a tensor is
read. As large as a chunk (``soup.blending.streaming.CHUNK``), so that a chunk is one block."""


class Recent:
    """An adapter's factors read last, in float64: chunk after chunk needs the same ones."""

    def __init__(self, size: int = 3) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def get(self, read: Read, info: TensorInfo, transposed: bool) -> torch.Tensor:
        """A whole factor, float64, its two dimensions swapped when ``transposed``."""
        kept = self._kept.get(info.name)
        if kept is None:  # in two threads at once, perhaps, which costs only time
            stored = read(info, 0, info.numel).to(torch.float64, copy=True).view(info.shape)
            flat = stored.view(info.shape[0], -1)  # a convolution's kernel in one row
            kept = flat.t().contiguous() if transposed else flat
            with self._lock:
                self._kept[info.name] = kept
                while len(self._kept) > self._size:
                    self._kept.popitem(last=False)
        return kept


@dataclass(frozen=True)
class LoraUpdate:
    """``W = W_base + scale·(B·A)``, with DoRA each row brought to a stored length.

    Attributes:
        target: the tensor that is made, ``[out, in]``; ``[in, out]`` when transposed; a
            convolution's is ``[out, in, *kernel]``, A is ``[r, in, *kernel]``, B ``[out, r, 1…]``.
        stored: what is changed: the base's tensor, or the adapter's own copy of it.
        down: A, ``[r, in]``.
        up: B, ``[out, r]``.
        scale: alpha/r or, rank-stabilised, alpha/√r.
        transposed: whether the tensor is stored as ``[in, out]``: embeddings, GPT-2's Conv1D.
        magnitude: DoRA's m, one for each of the rows.
        module: the module's path in the adapter's names.
        embedding: whether the factors are called ``lora_embedding_A`` and ``_B``.
    """

    target: TensorInfo
    stored: TensorInfo
    down: TensorInfo
    up: TensorInfo
    scale: float
    transposed: bool
    magnitude: TensorInfo | None
    module: str
    embedding: bool
    recent: Recent = field(repr=False, compare=False)

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.down.shape[0]

    @property
    def _matrix(self) -> tuple[int, int]:
        """Rows and columns of what is changed: of a convolution, a row for each kernel."""
        return self.target.shape[0], prod(self.target.shape[1:])

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """See ``soup.checkpoints.checkpoint.Update``."""
        factors = (self.stored, self.down, self.up)
        return factors if self.magnitude is None else (*factors, self.magnitude)

    @cached_property
    def recipe(self) -> str:
        """See ``soup.checkpoints.checkpoint.Update``."""
        kind = "lora-2" if self.magnitude is None else "dora-2"
        target = [self.target.name, self.target.dtype, list(self.target.shape)]
        return json.dumps([kind, *target, self.scale.hex(), self.transposed])

    def values(self, read: Read, start: int, count: int) -> torch.Tensor:
        """See ``checkpoint.Update``; float64, the same whatever ``start`` and ``count``."""
        rows, columns = self._matrix
        right = self.recent.get(read, self.up if self.transposed else self.down, self.transposed)
        height = max(1, BLOCK // columns)
        pieces = []
        for row in range(start // columns // height * height, rows, height):
            first = row * columns
            if first >= start + count:
                break
            block = self._block(read, right, row, min(height, rows - row))
            pieces.append(block[max(start - first, 0) : start + count - first])
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _block(self, read: Read, right: torch.Tensor, row: int, height: int) -> torch.Tensor:
        """Whole rows, flat, in a tensor of its own."""
        columns = self._matrix[1]
        stored = read(self.stored, row * columns, height * columns)
        changed = stored.to(torch.float64, copy=True).view(height, columns)
        changed.addmm_(self._left(read, row, height), right, alpha=self.scale)
        if self.magnitude is not None:
            wanted = read(self.magnitude, row, height).to(torch.float64)
            lengths = torch.linalg.vector_norm(changed, dim=1)
            changed.mul_((wanted / lengths).unsqueeze(1))
        return changed.view(-1)

    def _left(self, read: Read, row: int, height: int) -> torch.Tensor:
        """Rows of the left factor, float64 ``[height, r]``."""
        if not self.transposed:
            part = read(self.up, row * self.rank, height * self.rank)
            return part.to(torch.float64).view(height, self.rank)
        width = self.down.shape[1]
        parts = [read(self.down, k * width + row, height) for k in range(self.rank)]
        return torch.stack(parts, dim=1).to(torch.float64)


@dataclass(frozen=True)
class Replacement:
    """A tensor that the adapter holds whole: from ``modules_to_save``, or a trained bias.

    Attributes:
        target: the base's tensor that it stands for.
        stored: the adapter's.
    """

    target: TensorInfo
    stored: TensorInfo

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """See ``soup.checkpoints.checkpoint.Update``."""
        return (self.stored,)

    @cached_property
    def recipe(self) -> str:
        """See ``soup.checkpoints.checkpoint.Update``."""
        return json.dumps(["replace-1", self.target.name, self.target.dtype])

    def values(self, read: Read, start: int, count: int) -> torch.Tensor:
        """See ``soup.checkpoints.checkpoint.Update``."""
        return read(self.stored, start, count).to(torch.float64)
