"""The commonest merge in one pass over the bytes: a linear sum of bfloat16 or float32 tensors.

The same bits as ``soup.methods.linear`` and ``soup.rounding.round_once`` (tested against them), at
a tenth of the cost: torch makes a dozen passes over a chunk for what is one loop in ``kernel.c``,
and copies what is read. That file is compiled when the package
is installed. Where there was no compiler, importing this raises ImportError, and blending takes
the plain way.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soup.tensors import DTYPES

SUPPORTED = frozenset({"BF16", "F32"})
"""Dtypes, of members and of the output, that the loop knows."""

CHUNK = 1 << 20
"""Elements per chunk, chosen by `benchmarks/blend.py --chunks`: see README's table."""


def _load() -> Any:
    """The compiled library: any Python can load it, for it uses nothing of Python."""
    found = sorted(Path(__file__).parent.glob("_kernel.*"))
    try:
        library = ctypes.CDLL(str(found[0]))
        number, pointer, flag = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        library.soup_windows.argtypes = [number]
        library.soup_windows.restype = number
        library.soup_merge.argtypes = [
            *(pointer, pointer, pointer, number, number, pointer, ctypes.c_double),
            *(pointer, pointer, pointer, flag, flag),
        ]
        library.soup_merge.restype = flag
        library.soup_guard.restype = None
    except (IndexError, OSError, AttributeError) as error:
        raise ImportError("soup was installed without its compiled loop") from error
    return library


_LIBRARY = _load()


class Loop:
    """The loop for members of one dtype, with the buffers that it needs: one per thread."""

    def __init__(self, members: int, dtype: str, out: str, size: int) -> None:
        """``size`` is the longest chunk, in elements; dtypes are those of ``SUPPORTED``."""
        self._narrow, self._to_narrow = dtype == "BF16", out == "BF16"
        self._windows = np.zeros(_LIBRARY.soup_windows(members), np.uint8)
        self._result = torch.empty(size, dtype=DTYPES[out])

    def merge(
        self,
        places: Sequence[tuple[int, int]],
        count: int,
        coefficients: Sequence[float] | None,
        divisor: int = 1,
        before: Any = None,
        after: Any = None,
    ) -> torch.Tensor | None:
        """Read ``count`` elements of every member, sum them in order, and round them once.

        Args:
            places: per member a file descriptor and the offset of its first element, in bytes.
            count: elements to merge.
            coefficients: float64 factors; None where all count the same.
            divisor: what the sum is divided by; 1 with coefficients.
            before: contiguous float64 sums to start from, ``count`` of them; None for none.
            after: where to leave the float64 sums, before they are divided; or None.

        Returns:
            The result, flat, in the output dtype, valid until the next call; None where a file
            could not be read, or an element is not finite in that dtype.
        """
        files = np.asarray([file for file, _ in places], np.intc)
        offsets = np.asarray([offset for _, offset in places], np.int64)
        factors = None if coefficients is None else np.asarray(coefficients, np.float64)
        done = _LIBRARY.soup_merge(
            _address(files),
            _address(offsets),
            _address(self._windows),
            len(places),
            count,
            _address(factors),
            divisor,
            _address(before),
            _address(after),
            self._result.data_ptr(),
            self._narrow,
            self._to_narrow,
        )
        return self._result[:count] if done else None


def guard() -> None:
    """Make a mapped file that shrinks an error rather than the end of the process (SIGBUS).

    To be called before merging. Whoever handles the signal already still gets those that are not
    ours.
    """
    _LIBRARY.soup_guard()


def round_once(values: torch.Tensor, out: str) -> torch.Tensor | None:
    """Flat float64 values rounded once to ``out``; None where one is not finite in it."""
    loop = Loop(0, "F32", out, len(values))
    return loop.merge([], len(values), None, before=values.contiguous().numpy())


def _address(values: Any) -> int | None:
    return None if values is None else int(values.ctypes.data)
