"""The commonest merge in one pass over the bytes: a linear sum of bfloat16 or float32 tensors.

The same bits as ``soup.methods.linear`` and ``soup.rounding.round_once`` (tested against them), at
a tenth of the cost: torch makes a dozen passes over a chunk for what is one loop in ``kernel.c``.
That file is compiled when the package is installed. Where there was no compiler, importing this
raises ImportError, and blending takes the plain way.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

SUPPORTED = frozenset({"BF16", "F32"})
"""Dtypes, of members and of the output, that the loop knows."""


def _load() -> Any:
    """``soup_merge`` of the compiled library: any Python can load it, it uses none of Python."""
    found = sorted(Path(__file__).parent.glob("_kernel.*"))
    try:
        merge = ctypes.CDLL(str(found[0])).soup_merge
    except (IndexError, OSError, AttributeError) as error:
        raise ImportError("soup was installed without its compiled loop") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    merge.argtypes = [pointer, number, number, number, pointer, ctypes.c_double]
    merge.argtypes += [pointer, pointer, pointer, ctypes.c_int, ctypes.c_int]
    merge.restype = ctypes.c_int
    return merge


_MERGE = _load()


class Scratch:
    """One thread's buffers: a row of raw elements per member, and the result."""

    def __init__(self, members: int, dtype: str, out: str, size: int) -> None:
        """``size`` is the longest chunk, in elements."""
        self.dtype, self.out = dtype, out
        self.rows = np.empty((members, size), _raw(dtype))
        self.result = np.empty(size, _raw(out))

    def merge(
        self,
        count: int,
        coefficients: Sequence[float] | None,
        divisor: int = 1,
        before: Any = None,
        after: Any = None,
    ) -> torch.Tensor | None:
        """Sum the first ``count`` elements of the rows and round them once.

        Args:
            count: elements to merge.
            coefficients: float64 factors; None where all count the same.
            divisor: what the sum is divided by; 1 with coefficients.
            before: contiguous float64 sums to start from, ``count`` of them; None for none.
            after: where to leave the float64 sums, before they are divided; or None.

        Returns:
            The result, flat, in the output dtype, valid until the next call; None where an
            element is not finite in it.
        """
        factors = None if coefficients is None else np.asarray(coefficients, np.float64)
        finite = _MERGE(
            self.rows.ctypes.data,
            self.rows.strides[0],
            len(self.rows),
            count,
            _address(factors),
            divisor,
            _address(before),
            _address(after),
            self.result.ctypes.data,
            self.dtype == "BF16",
            self.out == "BF16",
        )
        if not finite:
            return None
        values = torch.from_numpy(self.result[:count])
        return values.view(torch.bfloat16 if self.out == "BF16" else torch.float32)


def round_once(values: torch.Tensor, out: str) -> torch.Tensor | None:
    """Flat float64 values rounded once to ``out``; None where one is not finite in it."""
    scratch = Scratch(0, "F32", out, len(values))
    return scratch.merge(len(values), None, before=values.contiguous().numpy())


def _raw(dtype: str) -> Any:
    return np.uint16 if dtype == "BF16" else np.uint32


def _address(values: Any) -> int | None:
    return None if values is None else int(values.ctypes.data)
