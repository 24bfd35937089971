"""What is wrong with values themselves: NaN, Inf, zeros, files whose end was never written.

Found while a checkpoint is digested, for then every byte passes by. ``Scan`` looks at blocks of
bytes and knows nothing of files; what its findings mean for a pool is ``problems`` and ``remarks``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Protocol

from soup import compiled
from soup.checkpoints.problems import TENSOR, Problem, patterns
from soup.checkpoints.tensors import FLOATS, ITEMSIZES, TensorInfo, is_bound
from soup.words import counted, listed

INFINITE = {
    "F64": 0x7FF0_0000_0000_0000,
    "F32": 0x7F80_0000,
    "F16": 0x7C00,
    "BF16": 0x7F80,
}
"""The bits of +Inf; what is larger, without its sign, is NaN."""

PAGE = 4096
"""Zeros at a file's end, in bytes, from which on they are looked into: disks write in pages."""

EDGE = 64
"""Bytes at a block's end that are looked at first: it rarely ends in zeros."""

KEPT = 2000
"""Names of a kind that are kept, at most."""

COPY = "copy or download it again, or save the member again"


class Scan:
    """One tensor's values, looked at block by block.

    Attributes:
        largest: the greatest magnitude so far, as bits (NaN is above Inf, and that above all
            numbers); of integers, whether any is not zero.
        zeros: how many bytes at the end of what passed by are zero.
    """

    def __init__(self, dtype: str) -> None:
        """``dtype`` is a key of ``ITEMSIZES``."""
        self._size = ITEMSIZES[dtype] if dtype in INFINITE else 1
        self._infinite = INFINITE.get(dtype)
        self._dtype = dtype
        self._rest = b""
        self.largest = 0
        self.zeros = 0

    def update(self, block: "memoryview | bytes") -> None:
        """Look at the bytes that come next; an element may be cut by a block's end."""
        if self._rest:
            block = self._rest + bytes(block)
        whole = len(block) // self._size * self._size
        self._rest = bytes(block[whole:])
        if whole:
            self._look(memoryview(block)[:whole])

    def _look(self, block: memoryview) -> None:
        if compiled.LIBRARY is not None:
            largest = compiled.largest(block, self._dtype, self._size)
        else:
            largest = _largest(block, self._size, self._infinite is not None)
        self.largest = max(self.largest, largest)
        self.zeros = zeros_behind(block, self.zeros)

    @property
    def kind(self) -> str | None:
        """See ``kind_of``."""
        return kind_of(self._dtype, self.largest)


def kind_of(dtype: str, largest: int) -> str | None:
    """``nan``, ``inf``, ``zero``; None for sound values, and for integers."""
    infinite = INFINITE.get(dtype)
    if infinite is None or 0 < largest < infinite:
        return None
    return "zero" if not largest else "inf" if largest == infinite else "nan"


def _largest(block: memoryview, size: int, signed: bool) -> int:
    """The greatest magnitude of elements of ``size`` bytes, as bits."""
    import numpy as np  # only where there is no compiled loop

    bits = np.frombuffer(block, f"u{size}")
    top = int(bits.max())
    if not signed:
        return top
    # As unsigned numbers those with a sign are above all others; as signed ones, below.
    positive = int(bits.view(f"i{size}").max())
    return max(positive, top - (1 << (8 * size - 1)), 0)


def zeros_behind(block: memoryview, before: int = 0) -> int:
    """Zero bytes at a block's end, with those ``before`` it where it is all zeros."""
    return _zeros(block, before) if not block[-1] else 0


def _zeros(block: memoryview, before: int) -> int:
    """Zero bytes at a block's end, with those ``before`` it where it is all zeros."""
    if any(block[-EDGE:]):
        return len(block[-EDGE:]) - len(bytes(block[-EDGE:]).rstrip(b"\0"))
    used = len(bytes(block).rstrip(b"\0"))
    return len(block) - used + (0 if used else before)


@dataclass(frozen=True)
class Soundness:
    """What was found in a checkpoint's values, by the names of its files.

    Attributes:
        nan: tensors that hold NaN.
        inf: tensors that hold Inf, and no NaN.
        zero: floating-point tensors all of whose values are zero.
        plain: how many floating-point tensors there are that are no matrices.
        factors: how many factors B of LoRA.
        tails: per file that ends in zeros where no tensor and no row begins: its name, the first
            byte of them, and its size.
    """

    nan: tuple[str, ...] = ()
    inf: tuple[str, ...] = ()
    zero: tuple[tuple[str, int], ...] = ()
    plain: int = 0
    factors: int = 0
    tails: tuple[tuple[str, int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Itself in what JSON has; what is empty is left out."""
        return {key: value for key, value in asdict(self).items() if value}

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> "Soundness":
        """What ``to_json`` wrote.

        Raises:
            TypeError, ValueError: it did not write this.
        """
        return cls(
            tuple(map(str, found.get("nan", ()))),
            tuple(map(str, found.get("inf", ()))),
            tuple((str(name), int(dims)) for name, dims in found.get("zero", ())),
            int(found.get("plain", 0)),
            int(found.get("factors", 0)),
            tuple((str(name), int(at), int(size)) for name, at, size in found.get("tails", ())),
        )


Scanned = tuple[TensorInfo, int, int]
"""A stored tensor, the greatest magnitude in it, as bits, and the zero bytes that it ends in."""


def soundness(scanned: Iterable[Scanned]) -> Soundness:
    """What was seen in a checkpoint's tensors says; the same tensor may be among them twice."""
    files: dict[str, dict[str, Scanned]] = {}
    last, inside = None, {}
    for one in scanned:
        if one[0].file is not last:
            last = one[0].file
            inside = files.setdefault(str(last), {})
        inside[one[0].name] = one
    found: dict[str, list[tuple[str, int]]] = {"nan": [], "inf": [], "zero": []}
    plain = factors = 0
    for info, largest, _ in (one for inside in files.values() for one in inside.values()):
        if info.dtype not in FLOATS or not info.nbytes:
            continue
        factors += _is_up(info.name)
        dimensions = _dimensions(info)
        plain += dimensions < 2
        kind = kind_of(info.dtype, largest)
        if kind == "inf" and is_bound(info):
            continue
        if kind is not None and len(found[kind]) < KEPT:
            found[kind].append((info.name, dimensions))
    return Soundness(
        tuple(sorted(name for name, _ in found["nan"])),
        tuple(sorted(name for name, _ in found["inf"])),
        tuple(sorted(found["zero"])),
        plain,
        factors,
        tuple(tail for inside in files.values() for tail in _tails(inside.values())),
    )


def _dimensions(info: TensorInfo) -> int:
    """How many dimensions a tensor has that are not of length one."""
    return len(info.shape) - info.shape.count(1)


def _is_up(name: str) -> bool:
    return ".lora_B" in name or ".lora_embedding_B" in name


def _tails(scanned: Iterable[Scanned]) -> Iterable[tuple[str, int, int]]:
    """Whether a file ends in zeros, at least a page of them, that begin in the middle of a row.

    A tensor may be zero, and rows of an embedding that no token uses; but that zeros begin
    anywhere means that a copy stopped there, in a file whose size was set before.
    """
    entries = [one for one in scanned if one[0].nbytes]
    if not entries or not max(entries, key=lambda one: one[0].offset)[2]:
        return  # its last byte is none
    entries.sort(key=lambda one: -one[0].offset)
    total, matrices = 0, False
    for info, _, zeros in entries:
        total += zeros
        if zeros < info.nbytes:
            size = info.file.stat().st_size if info.file.exists() else 0
            last = entries[0][0]
            row = prod(info.shape[1:]) * ITEMSIZES[info.dtype] if len(info.shape) > 1 else 0
            within = zeros % row if row else matrices and zeros
            if total >= PAGE and within and last.offset + last.nbytes == size:
                yield info.file.name, size - total, size
            break
        matrices |= _dimensions(info) > 1


class Member(Protocol):
    """What is needed of a ``soup.checkpoints.checkpoint.Checkpoint``."""

    @property
    def name(self) -> str:
        """How the user knows it."""
        ...

    @property
    def soundness(self) -> Soundness | None:
        """None before it is digested."""
        ...


def problems(members: Sequence[Member]) -> list[Problem]:
    """What makes members unfit for a soup: NaN, Inf, a file that was not written to its end."""
    found: list[Problem] = []
    for member in members:
        known = member.soundness or Soundness()
        hint = "the training run diverged, or the file is damaged: leave the member out"
        for kind, names in (("NaN", known.nan), ("Inf", known.inf)):
            found += [
                Problem(member.name, TENSOR + name, "finite values", kind, hint) for name in names
            ]
        found += [
            Problem(
                member.name,
                file,
                "values up to its end",
                f"nothing but zeros from byte {first:,} of {size:,} on, amid a tensor's row",
                f"a copy that stopped halfway; {COPY}",
            )
            for file, first, size in known.tails
        ]
    return found


def remarks(members: Sequence[Member]) -> list[str]:
    """Tensors of zeros that a user should know of: one line a member.

    A matrix of zeros does nothing. Single values, biases and norms may start at zero and stay
    there: they count only if most of a member's are zero and another member's are not. LoRA's B
    starts at zero, too, and stays there where a module is not reached: if most are zero, the
    adapter was hardly trained.
    """
    known = [member.soundness or Soundness() for member in members]
    sets = [{name for name, _ in found.zero} for found in known]
    everywhere = sets[0].intersection(*sets[1:]) if sets else set()
    lines = []
    for member, found in zip(members, known, strict=True):
        ups = [name for name, _ in found.zero if _is_up(name)]
        if ups and 2 * len(ups) > found.factors:
            which = "all" if len(ups) == found.factors else f"{len(ups):,} of {found.factors:,}"
            lines.append(
                f"{member.name}: {which} factors B of LoRA are zero, which changes nothing there; "
                "was the adapter trained, and saved after it?"
            )
        matrices = [name for name, dims in found.zero if dims > 1 and not _is_up(name)]
        single = [name for name, dims in found.zero if dims < 2]
        own = [name for name in single if name not in everywhere]
        names = matrices + (own if 2 * len(single) > found.plain else [])
        if names:
            some = listed(names, 3) if len(names) <= 3 else patterns(names)
            verb = "is" if len(names) == 1 else "are"
            hint = (
                ""
                if all(name in everywhere for name in names) and len(members) > 1
                else (f"; if they should not be, {COPY}")
            )
            lines.append(
                f"{member.name}: {counted(len(names), 'tensor')} {verb} all zero ({some}){hint}"
            )
    return lines
