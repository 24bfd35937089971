"""Which bits went where while an engine loads weights, whatever its code does in between.

An engine renames, fuses and slices what it is given, and may keep it in another form. What all
engines have in common is that values reach a parameter by copying. So every tensor operation is
watched while weights are loaded: which operands come from which file tensor, and what is copied
into which storage. Of what was copied the ledger keeps a sum of bit patterns, which is the same for
a tensor and for its parts together; at the end it must be the sum of what the engine holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

COPIES = (torch.ops.aten.copy_.default,)
FILLS = (torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of the elements' bit patterns, an int64 on the tensor's device, which is not waited for.

    Order does not matter, every bit does; zeros add nothing.
    """
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize]
    return tensor.detach().view(width).sum(dtype=torch.int64)


@dataclass
class Entry:
    """What was copied into one storage: names of file tensors, a sum of bits, elements."""

    names: set[str] = field(default_factory=set)
    sums: list[torch.Tensor] = field(default_factory=list)
    filled: int = 0

    @property
    def total(self) -> int:
        """The sum of bits, modulo 2⁶⁴."""
        return sum(int(part) for part in self.sums) % (1 << 64)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is what was copied, and was filled wholly."""
        return self.filled >= tensor.numel() and int(bits(tensor)) % (1 << 64) == self.total


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, in this thread, takes down where the tensors of ``sent`` go.

    Attributes:
        used: elements of each file tensor that were copied into something.
        sums: sum of bits of each file tensor, as it was sent.
        nbytes: of all that was sent.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.used: dict[str, int] = {}
        self.sums: dict[str, int] = {}
        self.nbytes = 0
        self._sizes: dict[str, int] = {}
        self._origins: dict[int, set[str]] = {}
        self._entries: dict[int, Entry] = {}

    def sent(self, pairs: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The same pairs, taken down as they pass."""
        for name, tensor in pairs:
            # What is new in memory may lie where something else lay before.
            self._entries.pop(_place(tensor), None)
            self._origins[_place(tensor)] = {name}
            self._sizes[name] = tensor.numel()
            self.nbytes += tensor.nbytes
            self.used[name] = 0
            self.sums[name] = int(bits(tensor)) % (1 << 64) if tensor.numel() else 0
            yield name, tensor

    @property
    def sizes(self) -> Mapping[str, int]:
        """Elements of each file tensor that was sent."""
        return self._sizes

    def entry(self, tensor: torch.Tensor) -> Entry | None:
        """What was copied into a tensor's storage; None where nothing was."""
        return self._entries.get(_place(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in COPIES:
            self._copied(args[0], args[1])
        elif func in FILLS and (entry := self.entry(args[0])) is not None:
            entry.filled += args[0].numel()
        else:
            self._derived(found, args, kwargs or {})
        return found

    def _copied(self, target: torch.Tensor, source: torch.Tensor) -> None:
        if target.is_meta or source.is_meta or not target.numel():
            return  # a rehearsal, which counts elements
        there, here = _place(target), _place(source)
        names = self._origins.get(here)
        if names is None and here not in self._entries:
            return  # nothing of ours
        if names is None:  # from where the engine had put it: the same values move on
            moved = self._entries[here]
            if target.numel() == source.numel():
                self._entries[there] = Entry(set(moved.names), list(moved.sums), moved.filled)
            return
        entry = self._entries.setdefault(there, Entry())
        entry.names |= names
        entry.sums.append(bits(source.to(target.dtype).expand(target.shape)))
        entry.filled += target.numel()
        for name in names:
            self.used[name] += source.numel() if len(names) == 1 else self._sizes[name]

    def _derived(self, found: Any, args: Any, kwargs: Mapping[str, Any]) -> None:
        """What is made of a file tensor is of it, too; what is made anew is of nothing."""
        made = [t for t in _tensors(found) if not t.is_meta and t.numel()]
        if not made:
            return
        given = [t for t in (*_tensors(args), *_tensors(tuple(kwargs.values()))) if not t.is_meta]
        places = {_place(tensor) for tensor in given}
        names: set[str] = set().union(*(self._origins.get(place, set()) for place in places))
        for tensor in made:
            place = _place(tensor)
            if place in places:
                continue  # a view
            self._entries.pop(place, None)
            self._origins.pop(place, None)
            if names:
                self._origins[place] = set(names)


def _place(tensor: torch.Tensor) -> int:
    """Where a tensor's storage lies."""
    return tensor.untyped_storage().data_ptr()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
