"""What the methods of merging compute: each a small pure function over the same elements of every
member.

A method sees float64 and returns float64, which is rounded once; reading, checking, rounding and
writing are the engine's (``streaming``). One that needs statistics of a whole tensor says so in its
row of ``soup.blending.methods``, and then gets whole tensors: its memory is 8 bytes and the stored
ones per element of every member and the base, and up to 36 more (``ties``), for the largest tensor
in each thread.

NaN and Inf must not vanish in a method, because the engine looks for them in its result: entries
are dropped by a product with zero, which keeps them, never by a choice.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Slice:
    """What a method gets: the same elements of every member.

    Attributes:
        name: the tensor's; copies of a tied embedding have one name, the embedding's.
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
            total.add_(member if member.dtype is torch.float64 else wide.copy_(member))
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
    total = torch.zeros_like(base)
    for member, weight in zip(elements.members, _weights(elements), strict=True):
        total.add_((member - base).mul_(weight))
    return total.mul_(elements.parameters["lambda"]).add_(base)


def ties(elements: Slice) -> torch.Tensor:
    """Trim, elect a sign, mean of those that agree: θ_0 + λ·τ_m.

    Of each task vector τ_i = θ_i − θ_0 the ``density`` share of largest magnitude is kept
    (``density · elements`` to the nearest whole number, at least one; entries as large as the
    smallest that is kept are kept, too, so that the order of elements does not matter). Each
    element's sign is that of the sum over members; τ_m is the mean of the kept entries that have
    it, and 0 where the sum is 0.

    Weights, which the paper does not have, multiply the trimmed task vectors: c_i·τ_i vote, and
    the mean is Σ c_i·τ_i / Σ |c_i| over those that agree. A negative one counts as the opposite
    task vector. Equal weights are no weights.

    Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, Algorithm 1; per tensor, where the paper
    trims over the whole model.
    """
    base, weights = _base(elements), _weights(elements)
    density = elements.parameters["density"]
    # Two passes over the members, so that no second copy of all of them is held.
    smallest = [_smallest_kept((member - base).abs_(), density) for member in elements.members]

    def trimmed(k: int) -> torch.Tensor:
        delta = elements.members[k] - base
        return delta.mul_(delta.abs() >= smallest[k]).mul_(weights[k])

    sign = torch.zeros_like(base)
    for k in range(len(weights)):
        sign.add_(trimmed(k))
    sign.sign_()
    total, agreeing = torch.zeros_like(base), torch.zeros_like(base)
    for k, weight in enumerate(weights):
        delta = trimmed(k)
        agrees = delta * sign > 0
        total.add_(delta.mul_(agrees))
        agreeing.add_(agrees, alpha=abs(weight))
    agreeing.masked_fill_(agreeing == 0, 1.0)
    return total.div_(agreeing).mul_(elements.parameters["lambda"]).add_(base)


def _smallest_kept(magnitudes: torch.Tensor, density: float) -> float:
    count = len(magnitudes)
    kept = max(1, round(density * count))
    return float(magnitudes.kthvalue(count - kept + 1).values)


def dare(elements: Slice) -> torch.Tensor:
    """θ_0 + λ/d·Σ c_i·m_i∘(θ_i − θ_0), each entry of m_i 1 with probability d, else 0.

    d is ``density``; the paper's drop rate is 1 − d. c_i = 1 without weights. See ``kept`` for m.

    Yu et al. 2024, Language models are super Mario, arXiv:2311.03099, with task arithmetic.
    """
    base, density = _base(elements), elements.parameters["density"]
    total = torch.zeros_like(base)
    for k, (member, weight) in enumerate(zip(elements.members, _weights(elements), strict=True)):
        key = f"{int(elements.parameters['seed'])} {k} {elements.name}"
        mask = kept(key, elements.start, len(base), density)
        total.add_((member - base).mul_(mask).mul_(weight))
    return total.mul_(elements.parameters["lambda"]).div_(density).add_(base)


def kept(key: str, start: int, count: int, density: float) -> torch.Tensor:
    """A random mask, the same in any chunks, threads and on any platform.

    The number of element i is the i-th output of SplitMix64 seeded with 64 bits of SHA-256 of the
    key, which can be computed alone; it is kept where its upper 53 bits are below density · 2^53.
    Steele et al. 2014, Fast splittable pseudorandom number generators, OOPSLA.

    Args:
        key: what the mask belongs to.
        start: the first element's position.
        count: how many elements from there.
        density: the probability of True.

    Returns:
        ``count`` bools.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little", signed=True)
    state = torch.arange(start + 1, start + count + 1, dtype=torch.int64)
    state.mul_(_signed(0x9E3779B97F4A7C15)).add_(seed)  # int64 wraps around as uint64 does
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state.bitwise_xor_(_shifted(state, shift)).mul_(_signed(factor))
    state.bitwise_xor_(_shifted(state, 31))
    return _shifted(state, 11) < math.ceil(density * 2**53)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >= 1 << 63 else bits


def _shifted(state: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right without the sign, as uint64 shifts."""
    return (state >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def slerp(elements: Slice) -> torch.Tensor:
    """sin((1−t)Ω)/sin Ω · θ_1 + sin(tΩ)/sin Ω · θ_2, Ω the angle between the flat tensors.

    Where sin Ω is below ``COLINEAR``, or one of them is zero, the arc is not defined or is the
    chord: (1−t)·θ_1 + t·θ_2. Ω = 2·atan2(|u−v|, |u+v|) of the unit vectors is exact for small
    angles, too, where the arc cosine loses half of the digits (Kahan); so the limit can be low,
    and fine-tunes of one parent, which differ by small angles, are not all taken as colinear.

    Shoemake 1985, Animating rotation with quaternion curves, SIGGRAPH.
    """
    first, second = elements.members
    t = elements.parameters["t"]
    shares = (1 - t, t)
    lengths = _norm(first), _norm(second)
    if 0 not in lengths:
        u, v = first / lengths[0], second / lengths[1]
        angle = 2 * math.atan2(_norm(u - v), _norm(u + v))
        if not math.sin(angle) < COLINEAR:  # NaN goes on, to be found in the result
            shares = (
                math.sin((1 - t) * angle) / math.sin(angle),
                math.sin(t * angle) / math.sin(angle),
            )
    return (first * shares[0]).add_(second * shares[1])


COLINEAR = 1e-6
"""The sine of an angle below which slerp is linear: near 0 their shares differ by less than the
angle's square, near π no arc is the shortest."""


def model_stock(elements: Slice) -> torch.Tensor:
    """t·mean(θ_i) + (1−t)·θ_0 with t = N·cos θ / (1 + (N−1)·cos θ).

    cos θ is the mean cosine between the task vectors of two members; one that is zero has cosine
    0 with the others. The paper's geometry has no negative cosine, which would lead away from the
    members: it counts as 0, which is the base. A single member has t = 1.

    Jang et al. 2024, Model Stock, arXiv:2403.19522.
    """
    base, count = _base(elements), len(elements.members)
    mean, directions, nonzero = torch.zeros_like(base), torch.zeros_like(base), 0
    for member in elements.members:
        mean.add_(member)
        delta = member - base
        length = _norm(delta)
        if length != 0:
            directions.add_(delta.div_(length))
            nonzero += 1
    mean.div_(count)
    t = 1.0
    if count > 1:
        # |Σ u_i|² = Σ |u_i|² + Σ_{i≠j} u_i·u_j: all pairs at once
        cosine = (_norm(directions) ** 2 - nonzero) / (count * (count - 1))
        cosine = min(max(cosine, 0.0), 1.0)
        t = count * cosine / (1 + (count - 1) * cosine)
    return mean.mul_(t).add_(base * (1 - t))


def _base(elements: Slice) -> torch.Tensor:
    assert elements.base is not None, "Blend has checked that the method's base is there"
    return elements.base


def _weights(elements: Slice) -> Sequence[float]:
    return elements.weights or [1.0] * len(elements.members)


def _norm(values: torch.Tensor) -> float:
    """The Euclidean norm, the same bits on every IEEE machine, without overflow on the way.

    Halves are added to halves, so the order of the sum is ours and not the processor's.
    """
    largest = float(values.abs().max())
    if largest == 0 or not math.isfinite(largest):
        return largest
    squares = (values / largest).square_()
    while len(squares) > 1:
        half = (len(squares) + 1) // 2
        squares[: len(squares) - half].add_(squares[half:])
        squares = squares[:half]
    return largest * math.sqrt(float(squares))


MERGE: dict[str, Callable[[Slice], torch.Tensor]] = {
    "linear": linear,
    "task-arithmetic": task_arithmetic,
    "ties": ties,
    "dare": dare,
    "slerp": slerp,
    "model-stock": model_stock,
}
"""The function of every row of ``soup.blending.methods.METHODS``."""
