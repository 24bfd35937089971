"""The commonest merge in one pass over the bytes: a linear sum of bfloat16 or float32 tensors.

The same bits as ``arithmetic.linear`` and ``rounding.round_once`` (tested against them), at
a fraction of the cost: torch makes a dozen passes over a chunk for what ``kernel.c`` does in one,
and on the plain way what is read is copied. The C file is compiled when the package is installed.
Where there was no compiler, importing this raises ImportError, and blending takes the plain way.
"""

import ctypes
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soup.checkpoints.dtypes import DTYPES

SUPPORTED = frozenset({"BF16", "F32"})
"""Dtypes, of members and of the output, that the loop knows."""

CHUNK = 1 << 18
"""Elements per chunk, chosen by `benchmarks/blend.py --chunks`: see README's table."""

RELEASE = 1 << 26
"""Bytes after whose reading ``Mapped.release`` is worth its while: it interrupts all cores."""


def _load() -> Any:
    """The compiled library: any Python can load it, for it uses nothing of Python."""
    found = sorted(Path(__file__).parent.glob("_kernel.*"))
    try:
        library = ctypes.CDLL(str(found[0]))
        number, pointer, flag = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
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


class Mapped:
    """A file in our address space, read only, while this lives.

    Attributes:
        descriptor: of the open file.
        address: where its first byte is.
        size: bytes that are mapped; what lies beyond them is not ours to read, whatever the file's
            header promised when it was opened.
    """

    def __init__(self, descriptor: int) -> None:
        """Raises OSError or ValueError where a file cannot be mapped."""
        self.descriptor = descriptor
        self._mapping = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        self._mapping.madvise(mmap.MADV_SEQUENTIAL)  # reads ahead as read() does
        self.address = int(np.frombuffer(self._mapping, np.uint8).ctypes.data)
        self.size = len(self._mapping)

    def release(self) -> None:
        """Take what was read out of this process's memory; it stays in the page cache."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


class Loop:
    """The loop for members of one dtype, with the buffers that it needs: one per thread."""

    def __init__(self, dtype: str, out: str, size: int) -> None:
        """``size`` is the longest chunk, in elements; dtypes are those of ``SUPPORTED``."""
        self._narrow, self._to_narrow = dtype == "BF16", out == "BF16"
        self._result = torch.empty(size, dtype=DTYPES[out])

    def merge(
        self,
        rows: Sequence[tuple["Mapped", int]],
        count: int,
        coefficients: Sequence[float] | None,
        divisor: int = 1,
        before: Any = None,
        after: Any = None,
    ) -> torch.Tensor | None:
        """Read ``count`` elements of every member, sum them in order, and round them once.

        Args:
            rows: per member its file and the offset of its first element, in bytes.
            count: elements to merge.
            coefficients: float64 factors; None where all count the same.
            divisor: what the sum is divided by; 1 with coefficients.
            before: contiguous float64 sums to start from, ``count`` of them; None for none.
            after: where to leave the float64 sums, before they are divided; or None.

        Returns:
            The result, flat, in the output dtype, valid until the next call; None where a file
            could not be read, or an element is not finite in that dtype.
        """
        end = count * (2 if self._narrow else 4)
        if any(offset + end > file.size for file, offset in rows):
            return None  # it had shrunk before it was mapped: the plain way names it
        addresses = np.asarray([file.address + offset for file, offset in rows], np.uintp)
        files = np.asarray([file.descriptor for file, _ in rows], np.intc)
        ends = np.asarray([offset + end for _, offset in rows], np.int64)
        factors = None if coefficients is None else np.asarray(coefficients, np.float64)
        done = _LIBRARY.soup_merge(
            _address(addresses),
            _address(files),
            _address(ends),
            len(rows),
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
    loop = Loop("F32", out, len(values))
    return loop.merge([], len(values), None, before=values.contiguous().numpy())


def _address(values: Any) -> int | None:
    return None if values is None else int(values.ctypes.data)
