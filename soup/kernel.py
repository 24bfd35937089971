"""The commonest merge in one pass over the bytes: a linear sum of bfloat16 or float32 tensors.

The same operations on the same float64 values in the same order as ``soup.methods.linear`` and
``soup.rounding.round_once``, so the same bits (tested against them), at a fifth of the cost: torch
makes a dozen passes over a chunk for what is one loop here. Compiled by numba on first use and
kept in its cache.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit

SUPPORTED = frozenset({"BF16", "F32"})
"""Dtypes, of members and of the output, that the loops below know."""

BLOCK = 2048  # elements whose float64 sums (16 kB) stay in a core's first-level cache

NOTHING = np.empty(0)
"""No factors, no sums: what the loops take for "none"."""

SCALE = 2.0**64  # keeps the sign of a float64 difference of subnormals when it becomes float32

OVERFLOW = {"BF16": 0x7F7F8000, "F32": 0x7F800000}
"""Float32 bit patterns, without sign, from which on the output dtype has only Inf (or NaN)."""


class Scratch:
    """One thread's buffers: a row of raw elements per member, a block of sums, and the result."""

    def __init__(self, members: int, dtype: str, out: str, size: int) -> None:
        """``size`` is the longest chunk, in elements."""
        self.dtype, self.out = dtype, out
        self.rows = np.empty((members, size), _raw(dtype))
        self.result = np.empty(size, _raw(out))
        self._sums = np.empty(BLOCK, np.float64)
        self._bits = np.empty(BLOCK, np.uint32)
        self._limit = OVERFLOW[out]
        self._lift = np.uint32(1 << 16 if dtype == "BF16" else 1)

    def merge(
        self,
        count: int,
        coefficients: Sequence[float] | None,
        divisor: int = 1,
        before: Any = NOTHING,
        after: Any = NOTHING,
    ) -> torch.Tensor | None:
        """Sum the first ``count`` elements of the rows and round them once.

        Args:
            count: elements to merge.
            coefficients: float64 factors; None where all count the same.
            divisor: what the sum is divided by.
            before: float64 sums to start from, ``count`` of them, or none.
            after: where to leave the float64 sums, before they are divided; or none.

        Returns:
            The result, flat, in the output dtype, valid until the next call; None where an
            element is not finite in it.
        """
        factors = NOTHING if coefficients is None else np.asarray(coefficients, np.float64)
        largest = LOOPS[self.out](
            self.rows,
            self._lift,
            count,
            factors,
            np.float64(divisor),
            before,
            after,
            self.result,
            self._sums,
            self._bits,
        )
        if int(largest) >= self._limit:
            return None
        values = torch.from_numpy(self.result[:count])
        return values.view(torch.bfloat16 if self.out == "BF16" else torch.float32)


def round_once(values: torch.Tensor, out: str) -> torch.Tensor | None:
    """Flat float64 values rounded once to ``out``; None where one is not finite in it."""
    scratch = Scratch(0, "F32", out, len(values))
    return scratch.merge(len(values), None, before=values.numpy())


def _raw(dtype: str) -> Any:
    return np.uint16 if dtype == "BF16" else np.uint32


@njit(nogil=True, error_model="numpy", cache=True, inline="always")
def _sum_block(
    rows: Any,
    lift: Any,
    low: int,
    size: int,
    factors: Any,
    divisor: Any,
    before: Any,
    after: Any,
    sums: Any,
    bits: Any,
) -> None:
    """``sums[:size]``: the float64 sum of the rows from ``low`` on, weighted and divided.

    Times ``lift`` raw elements are float32 bits: 2¹⁶ for bfloat16, its upper half, else 1. (A
    shift by a variable is not vectorised, a product is.)
    """
    singles = bits.view(np.float32)
    if len(before):
        start = before[low : low + size]
        for j in range(size):
            sums[j] = start[j]
    for i in range(rows.shape[0]):
        row = rows[i, low : low + size]
        for j in range(size):
            bits[j] = np.uint32(row[j]) * lift
        first = i == 0 and len(before) == 0  # not added to zero: that would lose -0.0
        if len(factors) == 0:
            if first:
                for j in range(size):
                    sums[j] = np.float64(singles[j])
            else:
                for j in range(size):
                    sums[j] += np.float64(singles[j])
        else:
            factor = factors[i]
            if first:
                for j in range(size):
                    sums[j] = np.float64(singles[j]) * factor
            else:
                for j in range(size):
                    sums[j] += np.float64(singles[j]) * factor
    if len(after):
        end = after[low : low + size]
        for j in range(size):
            end[j] = sums[j]
    if divisor != 1.0:
        for j in range(size):
            sums[j] /= divisor


@njit(nogil=True, error_model="numpy", cache=True)
def _to_float32(
    rows: Any,
    lift: Any,
    count: int,
    factors: Any,
    divisor: Any,
    before: Any,
    after: Any,
    out: Any,
    sums: Any,
    bits: Any,
) -> Any:
    """Merge into float32; returns the largest bit pattern without sign."""
    largest = np.uint32(0)
    for low in range(0, count, len(sums)):
        size = min(len(sums), count - low)
        _sum_block(rows, lift, low, size, factors, divisor, before, after, sums, bits)
        block = out[low : low + size]  # indexing by low + j keeps the loops from being vectorised
        singles = block.view(np.float32)
        for j in range(size):
            singles[j] = np.float32(sums[j])
        for j in range(size):
            largest = max(largest, block[j] & np.uint32(0x7FFFFFFF))
    return largest


@njit(nogil=True, error_model="numpy", cache=True)
def _to_bfloat16(
    rows: Any,
    lift: Any,
    count: int,
    factors: Any,
    divisor: Any,
    before: Any,
    after: Any,
    out: Any,
    sums: Any,
    bits: Any,
) -> Any:
    """Merge into bfloat16 (as uint16); returns the largest float32 bit pattern without sign."""
    largest = np.uint32(0)
    singles = bits.view(np.float32)
    missed = np.empty(len(sums), np.float32)
    half, one, low16 = np.uint32(0x7FFF), np.uint32(1), np.uint32(0xFFFF)
    zero = np.float32(0)
    for low in range(0, count, len(sums)):
        size = min(len(sums), count - low)
        _sum_block(rows, lift, low, size, factors, divisor, before, after, sums, bits)
        block = out[low : low + size]  # indexing by low + j keeps the loops from being vectorised
        for j in range(size):
            singles[j] = np.float32(sums[j])
        for j in range(size):  # which way, and whether, float32 missed the true magnitude
            missed[j] = np.float32((abs(sums[j]) - abs(np.float64(singles[j]))) * SCALE)
        for j in range(size):
            largest = max(largest, bits[j] & np.uint32(0x7FFFFFFF))
        for j in range(size):
            upper = bits[j] >> np.uint32(16)
            even = (bits[j] + half + (upper & one)) >> np.uint32(16)  # nearest, ties to even
            # a tie in float32 is one in truth only if float32 holds the value exactly
            is_tie = (bits[j] & low16) == np.uint32(0x8000)
            side = upper + one if missed[j] > zero else upper
            broken = side if missed[j] != zero else even
            block[j] = np.uint16(broken if is_tie else even)
    return largest


LOOPS = {"BF16": _to_bfloat16, "F32": _to_float32}
