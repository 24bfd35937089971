"""Tensors that are stored nowhere: what is known of them from headers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from soup.checkpoints.tensors import TensorInfo

if TYPE_CHECKING:
    import torch

Read = Callable[[TensorInfo, int, int], "torch.Tensor"]
"""Elements ``start`` to ``start + count`` of a stored tensor: flat, in its own dtype, valid until
the next chunk is begun."""


class Update(Protocol):
    """How a tensor that is stored nowhere comes from stored ones, e.g. a base and its LoRA factors.

    What it computes is in ``soup.checkpoints.computing``; here is what is known from headers.

    Attributes:
        inputs: the stored tensors that it is made of.
        recipe: what is done with them, as JSON; part of the checkpoint's digest.
    """

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The stored tensors."""
        ...

    @property
    def recipe(self) -> str:
        """What is done with them."""
        ...
