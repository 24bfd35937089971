"""What LoRA changes: tensors that are computed from a base and two small factors.

``W = W_base + scale·(B·A)`` (Hu et al. 2021, arXiv:2106.09685; DoRA: Liu et al. 2024,
arXiv:2402.09353). ``soup.checkpoints.adapter`` reads this from headers,
``soup.checkpoints.computing`` does the arithmetic.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

from soup.checkpoints.tensors import TensorInfo

if TYPE_CHECKING:
    import torch


class Recent:
    """An adapter's factors used last, as they were made: chunk after chunk needs the same ones."""

    def __init__(self, size: int = 3) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __reduce__(self) -> tuple[type["Recent"], tuple[int]]:
        """On its way to another process: what is kept stays behind, and so does the lock."""
        return Recent, (self._size,)

    def get(self, name: str, make: Callable[[], "torch.Tensor"]) -> "torch.Tensor":
        """What was made under a name, else what ``make`` makes."""
        kept = self._kept.get(name)
        if kept is None:  # in two threads at once, perhaps, which costs only time
            kept = make()
            with self._lock:
                self._kept[name] = kept
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
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of what is changed: of a convolution, a row for each kernel."""
        return self.target.shape[0], prod(self.target.shape[1:])

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """See ``soup.checkpoints.updates.Update``."""
        factors = (self.stored, self.down, self.up)
        return factors if self.magnitude is None else (*factors, self.magnitude)

    @cached_property
    def recipe(self) -> str:
        """See ``soup.checkpoints.updates.Update``."""
        kind = "lora-3" if self.magnitude is None else "dora-3"
        target = [self.target.name, self.target.dtype, list(self.target.shape)]
        return json.dumps([kind, *target, self.scale.hex(), self.transposed])


@dataclass(frozen=True)
class ExpertsUpdate:
    """LoRA on a parameter that holds all experts of a layer (PEFT's ``target_parameters``).

    Of expert e, ``ΔW = scale·(B_e·A_e)``, where A_e are the rows from ``e·r`` on and B_e the
    columns e, ``E + e``, ….

    Attributes:
        target: the tensor that is made: ``[E, *, *]`` for all experts, a matrix for one.
        stored: what is changed.
        down: A, ``[E·r, in]``.
        up: B, ``[out, r·E]``.
        scale: alpha/r or, rank-stabilised, alpha/√r.
        experts: E.
        transposed: whether an expert's weights are stored as ``[in, out]``.
        module: the module's path in the adapter's names.
        expert: which one a matrix is of; None for all.
        first: the row of B_e·A_e at which a matrix begins: gate and up are one in memory.
    """

    target: TensorInfo
    stored: TensorInfo
    down: TensorInfo
    up: TensorInfo
    scale: float
    experts: int
    transposed: bool
    module: str
    expert: int | None
    first: int
    recent: Recent = field(repr=False, compare=False)

    @property
    def rank(self) -> int:
        """Of each expert."""
        return self.down.shape[0] // self.experts

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """See ``soup.checkpoints.updates.Update``."""
        return (self.stored, self.down, self.up)

    @cached_property
    def recipe(self) -> str:
        """See ``soup.checkpoints.updates.Update``."""
        target = [self.target.name, self.target.dtype, list(self.target.shape)]
        where = [self.experts, self.expert, self.first]
        return json.dumps(["experts-2", *target, self.scale.hex(), self.transposed, *where])


@dataclass(frozen=True)
class Patch:
    """Rows of a stored tensor that are rows of one module's, or of one of its experts.

    Attributes:
        at: the first row of the stored tensor, whose dimensions but the last one make rows.
        count: how many.
        step: from one row there to the next one.
        expert: of the module's experts, whose rows they are; 0 where it has none.
        first: the row of that expert's B·A that is added to the first one.
        down: A, ``[E·r, in]``.
        up: B, ``[out, r·E]``.
        scale: alpha/r or, rank-stabilised, alpha/√r.
        experts: E; 1 for a module without experts.
        module: the module's path in the adapter's names.
    """

    at: int
    count: int
    step: int
    expert: int
    first: int
    down: TensorInfo
    up: TensorInfo
    scale: float
    experts: int
    module: str

    @property
    def rank(self) -> int:
        """Of each expert."""
        return self.down.shape[0] // self.experts


@dataclass(frozen=True)
class RowsUpdate:
    """LoRA on modules that files hold together, or in parts: q, k and v in one tensor, say.

    Attributes:
        target: the tensor that is made.
        stored: what is changed.
        patches: which rows of it change, in order, without overlap.
    """

    target: TensorInfo
    stored: TensorInfo
    patches: tuple[Patch, ...]
    recent: Recent = field(repr=False, compare=False)

    @property
    def rank(self) -> int:
        """The largest of all that change it."""
        return max(patch.rank for patch in self.patches)

    @property
    def down(self) -> TensorInfo:
        """An A, for errors."""
        return self.patches[0].down

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """See ``soup.checkpoints.updates.Update``."""
        factors = [info for patch in self.patches for info in (patch.down, patch.up)]
        return (self.stored, *dict.fromkeys(factors))

    @cached_property
    def recipe(self) -> str:
        """See ``soup.checkpoints.updates.Update``."""
        order = {info: k for k, info in enumerate(self.inputs)}
        patches = [
            [*(p.at, p.count, p.step, p.expert, p.first, p.experts, p.scale.hex()), *factors]
            for p in self.patches
            for factors in [(order[p.down], order[p.up])]
        ]
        target = [self.target.name, self.target.dtype, list(self.target.shape)]
        return json.dumps(["rows-2", *target, patches])


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
        """See ``soup.checkpoints.updates.Update``."""
        return (self.stored,)

    @cached_property
    def recipe(self) -> str:
        """See ``soup.checkpoints.updates.Update``."""
        return json.dumps(["replace-1", self.target.name, self.target.dtype])
