"""The commonest merge in one pass over the bytes: a linear sum of bfloat16, float16 or float32.

The same bits as ``arithmetic.linear`` and ``rounding.round_once`` (tested against them), at
a fraction of the cost: torch makes a dozen passes over a chunk for what ``kernel.c`` does in one,
and on the plain way what is read is copied. Importing this raises ImportError where there is no
compiled loop (``soup.compiled``); blending takes the plain way then.
"""

from collections.abc import Sequence
from typing import Any

import torch

from soup import compiled
from soup.checkpoints.dtypes import DTYPES
from soup.compiled import RELEASE as RELEASE  # known from here, too
from soup.compiled import Mapped as Mapped
from soup.compiled import guard as guard

SUPPORTED = frozenset(compiled.KINDS)
"""Dtypes, of members and of the output, that the loop knows."""

CHUNK = 1 << 18
"""Elements per chunk, chosen by `benchmarks/blend.py --chunks`: see README's table."""

if compiled.LIBRARY is None:
    raise ImportError("soup was installed without its compiled loop")


class Loop:
    """The loop for members of one dtype, with the buffers that it needs: one per thread."""

    def __init__(self, dtype: str, out: str, size: int) -> None:
        """``size`` is the longest chunk, in elements; dtypes are those of ``SUPPORTED``."""
        self._dtype, self._out = dtype, out
        self._result = torch.empty(size, dtype=DTYPES[out])

    def merge(
        self,
        rows: Sequence[tuple[Mapped, int]],
        count: int,
        coefficients: Sequence[float] | None,
        divisor: int = 1,
        before: Any = None,
        after: Any = None,
        changes: compiled.Changes | None = None,
        first: int = 0,
    ) -> torch.Tensor | None:
        """Read ``count`` elements of every member, sum them in order, and round them once.

        Args:
            rows: per member its file and the offset of its first element, in bytes.
            count: elements to merge.
            coefficients: float64 factors; None where all count the same.
            divisor: what the sum is divided by; 1 with coefficients.
            before: contiguous float64 sums to start from, ``count`` of them; None for none.
            after: where to leave the float64 sums, before they are divided; or None.
            changes: what is done to members first, see ``soup.compiled``.
            first: the position of the first element in the matrix that is changed.

        Returns:
            The result, flat, in the output dtype, valid until the next call; None where a file
            could not be read, or an element is not finite in that dtype.
        """
        end = count * DTYPES[self._dtype].itemsize
        if any(offset + end > file.size for file, offset in rows):
            return None  # it had shrunk before it was mapped: the plain way names it
        places = compiled.addresses([file.address + offset for file, offset in rows])
        distinct = dict.fromkeys(rows)  # adapters of one base have the same
        alike = len(distinct) < len(rows)
        once = compiled.addresses([f.address + at for f, at in distinct]) if alike else places
        compiled.populate(once, end)
        factors = None if coefficients is None else compiled.doubles(coefficients)
        done = compiled.merge(
            *(rows, places, count, self._dtype, self._result.data_ptr(), self._out),
            *(factors, divisor, _address(before), _address(after), changes, first),
        )
        return self._result[:count] if done else None


def round_once(values: torch.Tensor, out: str) -> torch.Tensor | None:
    """Flat float64 values rounded once to ``out``; None where one is not finite in it."""
    loop = Loop("F32", out, len(values))
    return loop.merge([], len(values), None, before=values.contiguous().numpy())


def _address(values: Any) -> int | None:
    return None if values is None else int(values.ctypes.data)
