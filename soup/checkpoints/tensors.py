"""What is known of a stored tensor from headers alone, whatever the file's format."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

ITEMSIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Safetensors dtype names that can be blended or copied, and bytes per element. What they are in
torch stands in ``soup.checkpoints.dtypes``: headers are read without it."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

MAX_HEADER = 1 << 25
"""Bytes of a header, at most: of some 300,000 tensors. The safetensors library takes three times
that, which is no model's, and costs a minute."""

MOST_DIMENSIONS = 64
MOST_ELEMENTS = 1 << 62
"""More of either is no tensor's; numbers that a stranger chose cost no time."""

LFS_PREFIX = b"version "
LFS_POINTER = "a git-lfs pointer, not the file itself; run `git lfs pull` there"
"""How a git-lfs pointer begins, and what to say when one stands where a file should be."""


def is_shape(shape: Sequence[object]) -> bool:
    """Whether these are the dimensions of a tensor that there can be."""
    if len(shape) > MOST_DIMENSIONS:
        return False
    elements = 1
    for length in shape:
        if type(length) is not int or not 0 <= length <= MOST_ELEMENTS:
            return False
        elements *= length or 1
    return elements <= MOST_ELEMENTS


@dataclass(unsafe_hash=True)
class TensorInfo:
    """Where one tensor lies on disk.

    Nobody changes one. That Python does not forbid it is a matter of time: making a frozen one
    takes four times as long, and a pool may have hundreds of thousands.

    Attributes:
        name: its name in the file, never a name in memory.
        dtype: safetensors dtype name, a key of ``ITEMSIZES``.
        shape: its dimensions, ``()`` for a scalar.
        file: the shard that holds it.
        offset: first byte, from the start of the file.
        nbytes: length in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether its values can be averaged."""
        return self.dtype in FLOATS


BOUNDS = (".input_min", ".input_max", ".output_min", ".output_max")
"""How the names of numbers end that an activation is clipped to (Gemma 4): no weights, and often
infinite."""


def is_bound(info: TensorInfo) -> bool:
    """Whether a tensor is a number that may well be infinite, the same in all members."""
    return info.numel == 1 and info.name.endswith(BOUNDS)
