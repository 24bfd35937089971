"""A streamed blend as an iterator: whole tensors, in the order of the files, a few ahead."""

import queue
import threading
from collections.abc import Iterator, Set
from typing import Any

import torch

from soup.blending.blend import Blend
from soup.blending.running import RunningSum
from soup.blending.streaming import stream
from soup.checkpoints.checkpoint import TensorInfo
from soup.checkpoints.dtypes import DTYPES
from soup.events import Observer, ignore

AHEAD = 1 << 28
"""Bytes of finished tensors that may wait; one tensor more than that is being filled."""


class Left(Exception):
    """Whoever took the tensors has gone."""


def tensors_of(
    blend: Blend,
    task: str,
    observe: Observer = ignore,
    running: RunningSum | None = None,
    skip: Set[str] = frozenset(),
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a blend by its name in the files, as it would be written.

    Args:
        blend: is streamed by threads while the caller works on earlier tensors.
        task: the name of the work, for progress.
        observe: told of bytes streamed, from those threads.
        running: sums to start from.
        skip: names of tensors that are not wanted.

    Raises:
        SoupError: see ``soup.blending.streaming.stream``.
    """
    sink = _Whole(blend)
    ended: queue.Queue[BaseException | None] = queue.Queue()

    def run() -> None:
        try:
            stream(blend, sink, task=task, observe=observe, running=running, skip=skip)
            ended.put(None)
        except BaseException as error:
            ended.put(error)
        with sink.changed:
            sink.over = True
            sink.changed.notify_all()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        for name, info in blend.reference.tensors.items():
            if name in skip:
                continue
            if not info.numel:
                yield name, torch.empty(info.shape, dtype=DTYPES[blend.dtype_of(info)])
                continue
            tensor = sink.take(name)
            if tensor is None:
                break
            yield name, tensor
            del tensor
    finally:
        sink.leave()
        thread.join()
    error = ended.get()
    if error is not None:
        raise error


class _Whole:
    """A sink that puts chunks together to tensors, and waits while too many are not taken."""

    def __init__(self, blend: Blend) -> None:
        self.changed = threading.Condition()
        self.over = False
        self._blend = blend
        self._filling: dict[str, tuple[torch.Tensor, list[int]]] = {}
        self._done: dict[str, torch.Tensor] = {}
        self._waiting = 0
        self._wanted = ""
        self._left = False

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        """See ``soup.blending.streaming.Sink``."""
        with self.changed:
            while self._waiting > AHEAD and not self._left and self._wanted not in self._filling:
                self.changed.wait(1.0)
            if self._left:
                raise Left
            if info.name not in self._filling:
                dtype = DTYPES[self._blend.dtype_of(info)]
                self._filling[info.name] = torch.empty(info.numel, dtype=dtype), [info.numel]
            flat, missing = self._filling[info.name]
        flat[start : start + len(values)] = values
        with self.changed:
            missing[0] -= len(values)
            if not missing[0]:
                del self._filling[info.name]
                self._done[info.name] = flat.view(info.shape)
                self._waiting += flat.nbytes
                self.changed.notify_all()

    def take(self, name: str) -> Any:
        """A tensor, once it is whole; None where the stream has ended without it."""
        with self.changed:
            self._wanted = name
            while name not in self._done and not self.over:
                self.changed.notify_all()
                self.changed.wait(1.0)
            tensor = self._done.pop(name, None)
            if tensor is not None:
                self._waiting -= tensor.nbytes
                self.changed.notify_all()
            return tensor

    def leave(self) -> None:
        """Nothing more is taken."""
        with self.changed:
            self._left = not self.over
            self.changed.notify_all()
