"""The sum of the members kept so far, ready for the next trial of a greedy run.

A trial is the kept members and one more. With their float64 sum at hand only the new member is
read; the sum is the same additions in the same order, so the bits are those of summing anew. Two
buffers of 8 bytes per element: the sum that trials start from, and the newest trial's, which is
the next start if the trial is kept.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soup.checkpoints.checkpoint import Checkpoint, TensorInfo


@dataclass
class _Buffer:
    """Float64 sums of some members, tensor after tensor; of none while it is being filled."""

    sums: Any
    members: tuple[Checkpoint, ...] = ()
    skipped: Set[str] = frozenset()


@dataclass(frozen=True)
class Pass:
    """What one streamed blend starts from, and where it leaves its sums.

    Attributes:
        members: what is summed, in order.
        known: how many members, from the first on, the sums to start from hold; 0 is none.
        lacking: tensors that they do not hold, as those were skipped then.
        skipped: tensors that are skipped now.
    """

    members: tuple[Checkpoint, ...]
    known: int
    lacking: Set[str]
    skipped: Set[str]
    _before: Any
    _after: Any
    _offsets: dict[str, int]

    def known_of(self, name: str) -> int:
        """How many members' sum is known of one tensor."""
        return 0 if name in self.lacking else self.known

    def before(self, info: TensorInfo, start: int, count: int) -> Any:
        """Float64 sums of the known members; None where none are known."""
        if not self.known_of(info.name):
            return None
        offset = self._offsets[info.name] + start
        return self._before[offset : offset + count]

    def after(self, info: TensorInfo, start: int, count: int) -> Any:
        """Where the float64 sums of all members of the blend go."""
        offset = self._offsets[info.name] + start
        return self._after[offset : offset + count]


@dataclass
class RunningSum:
    """Remembers the sums of the last two equal averages that were streamed.

    Attributes:
        budget: bytes of memory that both buffers together may take.
        directory: where a file takes their place when they do not fit.
        note: where the sums are, for people; empty until they are needed.
    """

    budget: int
    directory: Path
    note: str = ""
    _buffers: list[_Buffer] = field(default_factory=list)
    _offsets: dict[str, int] = field(default_factory=dict)
    _impossible: bool = False

    def begin(
        self,
        members: Sequence[Checkpoint],
        summed: Sequence[TensorInfo],
        skip: Set[str] = frozenset(),
    ) -> list[Pass] | None:
        """Prepare for streaming an equal average.

        Args:
            members: of the average, in order.
            summed: the tensors that are averaged.
            skip: those of them that will not be.

        Returns:
            The passes to make, in order: over the known members first where their sum is not at
            hand, then over all. None where there is nothing to gain (a single member) or no
            room for the sums.
        """
        if len(members) < 2 or self._impossible or not self._allocate(summed):
            return None
        known = tuple(members[:-1])
        start = next((b for b in self._buffers if b.members == known), None)
        first = []
        if start is None:
            start = self._buffers[0]
            first = [self._pass(known, None, start, skip)]
            start.skipped = skip
        target = next(b for b in self._buffers if b is not start)
        return [*first, self._pass(tuple(members), start, target, skip)]

    def _pass(
        self,
        members: tuple[Checkpoint, ...],
        start: _Buffer | None,
        target: _Buffer,
        skip: Set[str],
    ) -> Pass:
        target.members = ()  # until the pass has come to its end
        known = 0 if start is None else len(members) - 1
        before, lacking = (None, frozenset()) if start is None else (start.sums, start.skipped)
        return Pass(members, known, lacking, skip, before, target.sums, self._offsets)

    def end(self, done: Pass) -> None:
        """Every element of the pass has been streamed: its sums may be started from."""
        for buffer in self._buffers:
            if buffer.sums is done._after:
                buffer.members, buffer.skipped = done.members, done.skipped

    def _allocate(self, summed: Sequence[TensorInfo]) -> bool:
        offsets, total = {}, 0
        for info in summed:
            offsets[info.name] = total
            total += info.numel
        if self._buffers and offsets == self._offsets:
            return True
        self._buffers, self._offsets = [], offsets
        needed = 16 * total
        if needed <= self.budget:
            self._buffers = [_Buffer(np.empty(total)) for _ in range(2)]
            self.note = f"running sum in memory, {needed / 1e9:.2f} GB"
        elif self._in_files(total):
            self.note = f"running sum in a file, {needed / 1e9:.2f} GB in {self.directory}"
        else:
            self._impossible = True
            self.note = (
                f"no room for a running sum ({needed / 1e9:.2f} GB in memory or in "
                f"{self.directory}): each trial reads all its members"
            )
        return not self._impossible

    def _in_files(self, total: int) -> bool:
        """Whether there was room on the disk for both buffers, of ``total`` elements each."""
        if 16 * total >= 0.9 * shutil.disk_usage(self.directory).free:
            return False
        try:
            self._buffers = [_Buffer(_file_backed(self.directory, total)) for _ in range(2)]
        except OSError:  # a quota, or somebody was faster
            self._buffers = []
        return bool(self._buffers)


def _file_backed(directory: Path, elements: int) -> Any:
    """Float64 elements in a file that has no name any more: nothing is left after a crash.

    Raises:
        OSError: no room. It is reserved now: a mapped file that finds none later kills the process.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix="running-sum-", dir=directory)
    with os.fdopen(handle, "r+b") as file:
        os.unlink(name)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, 8 * max(elements, 1))
        return np.memmap(file, np.float64, "r+", shape=(max(elements, 1),))


def memory_budget(share: float = 0.25) -> int:
    """Bytes: a share of the memory that the system says is available."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(share * int(line.split()[1]) * 1024)
    except OSError:
        pass
    return int(share * (8 << 30))
