"""Ways to merge: each a small pure function over the same elements of every member.

To add one, write its function and its row in ``METHODS``; reading, checking, rounding and
writing are the engine's (``soup.blend``). A method sees float64 and returns float64, which is
rounded once. One that needs statistics of a whole tensor says so, and then gets whole tensors:
its memory is about ``(members + 3) · 8`` bytes per element of the largest tensor, in each thread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Slice:
    """What a method gets: the same elements of every member.

    Attributes:
        name: the tensor's.
        start: the first element's position in the flat tensor.
        members: one flat float64 tensor each; a method may not change them.
        base: the same elements of the base, float64; None where the method needs none.
        weights: one float64 per member, or None where all count the same.
        parameters: the method's own, by name.
    """

    name: str
    start: int
    members: Sequence[torch.Tensor]
    base: torch.Tensor | None
    weights: Sequence[float] | None
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class Method:
    """A way to merge.

    Attributes:
        merge: the function.
        paper: where it comes from.
        needs_base: whether it works on differences to a base.
        whole_tensor: whether it must see a tensor whole, rather than in chunks.
        members: how many it takes exactly; None for any number.
        parameters: its own parameters with their defaults.
    """

    merge: Callable[[Slice], torch.Tensor]
    paper: str
    needs_base: bool = False
    whole_tensor: bool = False
    members: int | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)


def linear(elements: Slice) -> torch.Tensor:
    """Σ c_i·θ_i in member order; without weights the sum divided by n.

    Products are rounded before they are added (no fused multiply-add), so every IEEE machine gives
    the same bits. Wortsman et al. 2022, Model soups, arXiv:2203.05482.
    """
    members, weights = elements.members, elements.weights
    total = members[0].to(torch.float64, copy=True)
    wide = torch.empty_like(total)  # converting apart is faster than adding mixed dtypes
    if weights is None:
        for member in members[1:]:
            total.add_(wide.copy_(member))
        return total.div_(len(members)) if len(members) > 1 else total
    total.mul_(weights[0])
    for member, weight in zip(members[1:], weights[1:], strict=True):
        total.add_(wide.copy_(member).mul_(weight))
    return total


def task_arithmetic(elements: Slice) -> torch.Tensor:
    """θ_0 + λ·Σ c_i·(θ_i − θ_0), c_i = 1 without weights.

    Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089.
    """
    base = _base(elements)
    weights = elements.weights or [1.0] * len(elements.members)
    total = torch.zeros_like(base)
    for member, weight in zip(elements.members, weights, strict=True):
        total.add_((member - base).mul_(weight))
    return total.mul_(elements.parameters["lambda"]).add_(base)


def _base(elements: Slice) -> torch.Tensor:
    assert elements.base is not None, "Blend has checked that the method's base is there"
    return elements.base


METHODS: dict[str, Method] = {
    "linear": Method(linear, "arXiv:2203.05482"),
    "task-arithmetic": Method(
        task_arithmetic, "arXiv:2212.04089", needs_base=True, parameters={"lambda": 1.0}
    ),
}
"""Every method by the name that ``--method`` takes."""
