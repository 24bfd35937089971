"""Where the time of a sum on a device goes: one run tells what bounds it."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Stages:
    """Seconds, of all lanes together: on so many lanes as many of them may pass in one.

    Attributes:
        read: files into pinned buffers.
        wait: for a buffer whose copy has not ended: that is the device, or the way to it.
        copy: buffers to the device, by its own clock; lanes that share the way wait for each other.
        sum: what is computed there, by its own clock.
        nbytes: read.
        lanes: how many.
    """

    read: float = 0.0
    wait: float = 0.0
    copy: float = 0.0
    sum: float = 0.0
    nbytes: int = 0
    lanes: int = 0

    def add(self, other: "Stages") -> None:
        """Take in what another lane has measured."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        named = (("read", self.read), ("wait", self.wait), ("copy", self.copy), ("sum", self.sum))
        each = max(self.lanes, 1)
        return ", ".join(f"{name} {seconds / each:.3f} s" for name, seconds in named) + " a lane"


@dataclass
class Clock:
    """Times what a lane's thread does, and what its stream does, without waiting for that.

    Attributes:
        cuda: whether there is a stream; else what it would do is done when the call returns.
        stages: what was measured so far.
    """

    cuda: bool
    stages: Stages = field(default_factory=lambda: Stages(lanes=1))
    _open: deque[tuple[str, Any, Any]] = field(default_factory=deque)
    _free: list[Any] = field(default_factory=list)

    def begin(self, here: bool = False) -> Any:
        """The moment at which a stage begins; ``here`` of the thread rather than of its stream."""
        return self._mark() if self.cuda and not here else time.perf_counter()

    def end(self, stage: str, begun: Any) -> None:
        """A stage ends that has begun then."""
        if isinstance(begun, float):
            self._count(stage, time.perf_counter() - begun)
        else:
            self._open.append((stage, begun, self._mark()))
            self._harvest(every=False)

    def finish(self) -> Stages:
        """What was measured, once the stream has done all."""
        self._harvest(every=True)
        return self.stages

    def _mark(self) -> Any:
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _harvest(self, every: bool) -> None:
        while self._open and (every or self._open[0][2].query()):
            stage, begun, ended = self._open.popleft()
            self._count(stage, begun.elapsed_time(ended) / 1000)  # of milliseconds
            self._free += [begun, ended]

    def _count(self, stage: str, seconds: float) -> None:
        setattr(self.stages, stage, getattr(self.stages, stage) + seconds)
