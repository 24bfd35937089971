"""The pickle of a state dict, read without running its code and without trusting its sizes.

Every global that it asks for is replaced by a stand-in of ours or refused, so no code of the file
runs and no tensor is loaded.
"""

import pickle
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from soup.checkpoints.tensors import MOST_ELEMENTS, is_shape
from soup.errors import CheckpointError

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
"""Torch's typed storages, as a pickle names them, and their safetensors dtype."""

DTYPE = re.compile(r"q?u?int\d+|b?float\w+|complex\d+|bits\w+|bool")
"""Names in torch's module that are dtypes, whatever a later version adds."""

OF_TORCH = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Torch's dtypes by name, and what safetensors calls them."""

MEMO = 1_000_000
"""Things that a pickle remembers, at most: a state dict has about ten for a tensor."""


MADE = 1_000_000
"""Lists, tuples, dicts and marks of where they begin, at most: a state dict has about eight for a
tensor. Each takes a byte of the file and 64 of memory."""

ITEMS = 1_000_000
"""Entries of dicts that are given to them when they are made, in all. torch makes them empty."""

LONGEST = 1 << 16
"""Characters of a global's name, at most."""

PARTS = 8
"""Of what stands for a storage, at most; torch writes five."""


class Storage(NamedTuple):
    """A storage as the pickle mentions it: dtype (None: untyped) and the record's key."""

    dtype: str | None
    key: str


class Stored(NamedTuple):
    """A tensor as the pickle describes it; sizes and strides in elements."""

    dtype: str
    key: str
    start: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    altered: bool  # conjugated or negated lazily: its bytes are not its values


_NAMES = (
    *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINSTRING", "SHORT_BINSTRING"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "GET", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE"),
    "BINPERSID",
)
"""What the pickle of a state dict is made of, besides what ``Unpickler`` does in its own way."""

_PLAIN = [getattr(pickle, name)[0] for name in _NAMES]

_MAKE = ("MARK", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "EMPTY_DICT")

_PYTHONS: Any = pickle._Unpickler


def _counted(load: Callable[[Any], None]) -> Callable[[Any], None]:
    """One of Python's steps that make something, of which there may be so many."""

    def counted(self: Any) -> None:
        self._made += 1
        if self._made > MADE:
            raise ValueError(f"makes more than {MADE:,} lists, tuples and dicts")
        load(self)

    return counted


class Unpickler(_PYTHONS):  # type: ignore[misc]
    """Reads tensors' descriptions; every global is a stand-in of ours, or refused.

    The stand-ins are bound methods and strings: nothing that a pickle could call does more than
    return a tuple or a dict, and nothing that it could change outlives it. It is the unpickler
    written in Python, which costs half a second for 10,000 tensors: each of its steps is one that
    we allow, what it remembers has a bound (C's makes room for the largest index that is named),
    and keys are words (the hash of tuples within tuples can take for ever).
    """

    dispatch: ClassVar[dict[int, Any]] = {code: _PYTHONS.dispatch[code] for code in _PLAIN}

    dispatch |= {
        getattr(pickle, name)[0]: _counted(_PYTHONS.dispatch[getattr(pickle, name)[0]])
        for name in _MAKE
    }

    def __init__(self, file: Path, content: bytes) -> None:
        super().__init__(BytesIO(content), encoding="utf-8")
        self._file = file
        self._items = self._made = 0

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._take([key, value])

    def _set_items(self) -> None:
        self._take(self.pop_mark())

    def _take(self, entries: list[Any]) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError("entries of something that is no dict")
        for at in range(0, len(entries), 2):
            self.stack[-1][_word(entries[at])] = entries[at + 1]

    def _build(self) -> None:
        self.stack.pop()  # attributes of the dict, such as versions of modules

    def _remember(self, index: int) -> None:
        if len(self.memo) >= MEMO:
            raise ValueError(f"remembers more than {MEMO:,} things")
        self.memo[index] = self.stack[-1]

    def _put(self) -> None:
        self._remember(int(self.readline()[:20]))

    def _put_byte(self) -> None:
        self._remember(self.read(1)[0])

    def _put_word(self) -> None:
        self._remember(int.from_bytes(self.read(4), "little"))

    def _memoize(self) -> None:
        self._remember(len(self.memo))

    dispatch |= {
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BUILD[0]: _build,
        pickle.PUT[0]: _put,
        pickle.BINPUT[0]: _put_byte,
        pickle.LONG_BINPUT[0]: _put_word,
        pickle.MEMOIZE[0]: _memoize,
    }

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for a global.

        Raises:
            CheckpointError: it is none that a state dict of plain tensors has.
            ValueError: its name is too long to be one.
        """
        if len(module) + len(name) > LONGEST:  # what was remembered may be named again and again
            raise ValueError(f"a global's name of {len(module) + len(name):,} characters")
        stand_ins = {
            ("collections", "OrderedDict"): self._dict,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._tensor_of_dtype,
            ("torch._utils", "_rebuild_parameter"): self._parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._parameter,
            ("torch.storage", "UntypedStorage"): None,
        }
        if (module, name) in stand_ins:
            return stand_ins[module, name]
        if module == "torch" and name.endswith("Storage"):
            return STORAGES.get(name, name.removesuffix("Storage"))
        if module == "torch" and DTYPE.fullmatch(name):
            return OF_TORCH.get(name, name)
        if name == "_rebuild_qtensor":
            raise CheckpointError(
                f"{self._file}: holds quantised tensors, which cannot be averaged; dequantise the "
                "checkpoint to bfloat16, float16 or float32 first"
            )
        raise CheckpointError(
            f"{self._file}: holds a {module}.{name}; only plain tensors are read, as loading "
            "anything else could run code; save the model's state dict alone"
        )

    def _dict(self, items: Any = ()) -> dict[str, Any]:
        self._items += len(items)  # one list of them may be given again and again
        if self._items > ITEMS:
            raise ValueError(f"makes dicts of more than {ITEMS:,} entries")
        return {_word(name): value for name, value in items}

    def persistent_load(self, pid: Any) -> Storage:
        """What stands for a record of the archive.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(pid, tuple) or len(pid) > PARTS:
            raise ValueError("an unknown persistent id")
        kind, dtype, key, *_ = pid
        words = isinstance(key, str) and (dtype is None or isinstance(dtype, str))
        if not isinstance(kind, str) or kind != "storage" or not words:
            raise ValueError("an unknown persistent id")
        return Storage(dtype, key)

    def _tensor(
        self,
        storage: Storage,
        start: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        hooks: Any,
        metadata: Any = None,
    ) -> Stored:
        if not isinstance(storage, Storage) or storage.dtype is None:
            raise ValueError("a tensor without a typed storage")
        return _stored(storage.dtype, storage.key, start, size, stride, metadata)

    def _tensor_of_dtype(
        self,
        storage: Storage,
        start: int,
        size: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
        hooks: Any,
        dtype: str,
        metadata: Any = None,
    ) -> Stored:
        if not isinstance(storage, Storage) or not isinstance(dtype, str):
            raise ValueError("a tensor without a storage or a dtype")
        return _stored(dtype, storage.key, start, size, stride, metadata)

    def _parameter(
        self, data: Stored, requires_grad: bool, hooks: Any, state: Any = None
    ) -> Stored:
        return data


def _word(key: Any) -> Any:
    """A dict's key, if it is one whose hash takes no time."""
    if not isinstance(key, str | int):
        raise ValueError(f"a key that is a {type(key).__name__}")
    if isinstance(key, int) and key.bit_length() > 63:  # many of these may have the same hash
        raise ValueError("a key that is a number of more than 63 bits")
    return key


def _stored(
    dtype: str,
    key: str,
    start: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    metadata: Any,
) -> Stored:
    numbers = (start, *size, *stride)
    if len(size) != len(stride) or not is_shape(size) or not is_shape((start,)):
        raise ValueError("a tensor with an impossible shape")
    if not all(type(n) is int and 0 <= n <= MOST_ELEMENTS for n in numbers):
        raise ValueError("a tensor with an impossible shape")
    return Stored(dtype, key, start, tuple(size), tuple(stride), bool(metadata))
