"""The compiled loop (``soup/blending/kernel.c``) as Python calls it: without torch, without numpy.

It is compiled when the package is installed. Where there was no compiler, or another version of it
lies there, ``LIBRARY`` is None, and everything is done by other means, more slowly.
"""

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 3
"""Of its functions."""

KINDS = {"F32": 0, "BF16": 1, "F16": 2}
"""Dtypes, of members and of the output, that the loop sums and rounds; and what it calls them."""

FACTORS = {**KINDS, "F64": 3}
"""Dtypes of what members may be changed by."""

SIGNED = frozenset({"F64", "F32", "F16", "BF16"})
"""Dtypes of whose elements the first bit is a sign."""

RELEASE = 1 << 26
"""Bytes after whose reading ``Mapped.release`` is worth its while: it interrupts all cores."""

_Pair = ctypes.c_uint64 * 2

NOTHING = (1 << 64) - 1
"""The smallest magnitude of elements that are all zero."""


def _load() -> Any:
    """The compiled library: any Python can load it, for it uses nothing of Python."""
    found = sorted((Path(__file__).parent / "blending").glob("_kernel.*"))
    try:
        library = ctypes.CDLL(str(found[0]))
        number, pointer, flag = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        library.soup_merge.argtypes = [
            *(pointer, pointer, pointer, number, number, number, pointer, ctypes.c_double),
            *(pointer, pointer, pointer, flag, flag, pointer, number, number),
        ]
        library.soup_populate.argtypes = [pointer, number, number]
        library.soup_alike.argtypes = [pointer, number, number, pointer]
        library.soup_look.argtypes = [pointer, pointer, number, flag, flag, pointer, pointer]
        library.soup_exact.argtypes = [pointer, number, number, flag]
        library.soup_watch.argtypes = [pointer, ctypes.c_size_t]
        library.soup_unwatch.argtypes = [flag]
        for name in ("guard", "populate", "alike", "look", "unwatch"):
            getattr(library, f"soup_{name}").restype = None
        return library if library.soup_version() == VERSION else None
    except (IndexError, OSError, AttributeError):
        return None


LIBRARY: Any = _load()


class Mapped:
    """A file in our address space, read only, while this lives.

    Whoever reads it where it has shrunk meanwhile, or where the disk fails, reads zeros, after
    ``guard``; that this has happened, ``faults`` tells.

    Attributes:
        descriptor: of the open file.
        address: where its first byte is.
        size: bytes that are mapped; what lies beyond them is not ours to read, whatever the file's
            header promised when it was opened.
        bytes: all of them.
    """

    def __init__(self, descriptor: int) -> None:
        """Raises OSError or ValueError where a file cannot be mapped."""
        self.descriptor = descriptor
        self._mapping = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        self._mapping.madvise(mmap.MADV_SEQUENTIAL)  # reads ahead as read() does
        self.address = address_of(self._mapping)
        self.size = len(self._mapping)
        self.bytes = memoryview(self._mapping)
        self._place = LIBRARY.soup_watch(self.address, self.size)
        if self._place < 0:
            raise OSError("too many files are mapped at a time")

    def __del__(self) -> None:
        if getattr(self, "_place", -1) >= 0:
            LIBRARY.soup_unwatch(self._place)

    def release(self) -> None:
        """Take what was read out of this process's memory; it stays in the page cache."""
        self._mapping.madvise(mmap.MADV_DONTNEED)


def guard() -> None:
    """Make a mapped file that shrinks an error rather than the end of the process (SIGBUS).

    To be called before reading. Whoever handles the signal already still gets those that are not
    ours.
    """
    LIBRARY.soup_guard()


def faults() -> int:
    """How often, in this process, bytes could not be read that a mapped file should have had."""
    return int(LIBRARY.soup_faults())


def addresses(places: Sequence[int]) -> Any:
    """Addresses as the functions below take them."""
    return (ctypes.c_void_p * len(places))(*places)


def doubles(values: Sequence[float]) -> Any:
    """Float64 numbers as the functions below take them."""
    return (ctypes.c_double * len(values))(*values)


def populate(rows: Any, size: int) -> None:
    """Have ``size`` bytes from each address on in our page tables, before they are read."""
    LIBRARY.soup_populate(rows, len(rows), size)


def alike(rows: Any, size: int) -> list[int]:
    """Of each address the number of the first that has the same ``size`` bytes; perhaps its own."""
    found = (ctypes.c_int64 * len(rows))()
    LIBRARY.soup_alike(rows, len(rows), size, found)
    return list(found)


def look(address: int, ends: Sequence[int], dtype: str, width: int) -> tuple[list[int], list[int]]:
    """Of the elements from an address on, piece by piece, the largest and the smallest, as bits.

    Args:
        address: of the first element.
        ends: where each piece ends, in elements from there.
        dtype: theirs, a key of ``checkpoints.tensors.ITEMSIZES``.
        width: bytes of an element.

    Returns:
        The largest magnitude of each piece, and the smallest that is not zero (else ``NOTHING``).
    """
    count = len(ends)
    high, low = (ctypes.c_uint64 * count)(), (ctypes.c_uint64 * count)()
    stops = (ctypes.c_int64 * count)(*ends)
    LIBRARY.soup_look(address, stops, count, width, dtype in SIGNED, high, low)
    return list(high), list(low)


def largest(block: Any, dtype: str, width: int) -> int:
    """The largest magnitude of the elements of one buffer, see ``look``."""
    found = _Pair()
    count = ctypes.c_int64(len(block) // width)
    high, low = ctypes.byref(found), ctypes.byref(found, 8)
    LIBRARY.soup_look(address_of(block), ctypes.byref(count), 1, width, dtype in SIGNED, high, low)
    return int(found[0])


def exact(rows: Any, count: int, dtype: str) -> bool:
    """Whether float64 sums of ``count`` elements of each row are exact, in whatever order.

    See ``exact_all`` in the C file. False where that is not known.
    """
    return bool(LIBRARY.soup_exact(rows, len(rows), count, KINDS[dtype]))


class Change(ctypes.Structure):
    """What LoRA does to a member's elements: row + scale · (left row · right), see the C file.

    Attributes:
        left: the address of a matrix, of as many columns as ``rank``.
        right: the address of one of as many rows.
        left_row: elements from one row of the left one to the next.
        left_step: elements from one of its columns to the next.
        right_row: the same of the right one.
        right_step: the same of the right one.
        rank: what they have in common.
        left_kind: its dtype, a value of ``FACTORS``.
        right_kind: the same of the right one.
        scale: of their product.
    """

    _fields_ = (
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("left_row", ctypes.c_int64),
        ("left_step", ctypes.c_int64),
        ("right_row", ctypes.c_int64),
        ("right_step", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("left_kind", ctypes.c_int64),
        ("right_kind", ctypes.c_int64),
        ("scale", ctypes.c_double),
    )


@dataclass(frozen=True)
class Changes:
    """What is done to the elements of members before they are summed.

    Attributes:
        each: per member what changes it, or None.
        columns: of the matrix that the elements are of.
        read: files that the factors lie in, and the byte after the last one in each.
    """

    each: Sequence[Change | None]
    columns: int
    read: Sequence[tuple[Mapped, int]]

    def addresses(self) -> Any:
        """Where each is."""
        return addresses([0 if one is None else ctypes.addressof(one) for one in self.each])


def merge(
    places: Sequence[tuple[Mapped, int]],
    rows: Any,
    count: int,
    dtype: str,
    result: int,
    out: str,
    factors: Any = None,
    divisor: float = 1,
    before: int | None = None,
    after: int | None = None,
    changes: Changes | None = None,
    first: int = 0,
) -> bool:
    """Sum ``count`` elements of every member in order, and round them once.

    Args:
        places: per member its file, and its first element's offset in bytes.
        rows: the addresses of those.
        count: elements to merge.
        dtype: of the members, a key of ``KINDS``.
        result: the address that gets ``count`` elements.
        out: their dtype.
        factors: a C array of float64, one per member; None where all count the same.
        divisor: what the sum is divided by; 1 with factors.
        before: the address of float64 sums to start from; None for none.
        after: the address where to leave the float64 sums, before they are divided; or None.
        changes: what is done to members first, if anything.
        first: the position of the first element in the matrix that is changed.

    Returns:
        False where a file could not be read, or an element of the result is not finite.
    """
    end = count * (4 if dtype == "F32" else 2)
    read = [(file, offset + end) for file, offset in places]
    if changes is not None:
        read += changes.read
    if any(until > file.size for file, until in read):
        return False  # it had shrunk before it was mapped: the plain way names it
    n = len(read)
    files = (ctypes.c_int * n)(*(file.descriptor for file, _ in read))
    ends = (ctypes.c_int64 * n)(*(until for _, until in read))
    done = LIBRARY.soup_merge(
        *(rows, files, ends, n, len(places), count, factors, divisor, before, after),
        *(result, KINDS[dtype], KINDS[out]),
        *((None, 0, 1) if changes is None else (changes.addresses(), first, changes.columns)),
    )
    return bool(done)


def change(address: int, count: int, columns: int, by: Change) -> None:
    """Change ``count`` float64 elements in place, the first ones of a matrix of so many columns."""
    one = addresses([address])
    changes = addresses([ctypes.addressof(by)])
    kind = FACTORS["F64"]
    LIBRARY.soup_merge(
        *(one, None, None, 0, 1, count, None, 1, None, None, address, kind, kind),
        *(changes, 0, columns),
    )


class _View(ctypes.Structure):
    """Python's ``Py_buffer``."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def address_of(buffer: Any) -> int:
    """Where a buffer's bytes begin, while it lives; ctypes tells it only of writable ones."""
    view = _View()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(view), 0)
    try:
        return int(view.buf or 0)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
