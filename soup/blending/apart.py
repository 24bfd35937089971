"""How far members lie apart: squared distances of their weights, summed as they are read.

Distances need no reference, so those of a pair stay true whatever the pool, and any cosine of
differences, to a base or to a mean, follows from them; see ``soup.choosing.likeness``.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch

from soup.blending.blend import Blend, role
from soup.blending.streaming import open_files
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.computing import values
from soup.events import Observer, Progress, ignore

CHUNK = 1 << 17
"""Elements per chunk: of every member that many float64 are in memory, for each thread."""

AT_ONCE = 8
"""Chunks for each thread between two sums."""

TASK = "compare the members' weights"


def squared_distances(
    members: Sequence[Checkpoint],
    observe: Observer = ignore,
    threads: int | None = None,
    chunk: int = CHUNK,
) -> list[list[float]]:
    """‖w_i − w_j‖² of every two members, over all tensors that a blend averages.

    Differences and sums are float64; they are summed in the order of the tensors, so the result
    does not depend on ``threads``. It is not finite where a member's values are not.

    Args:
        members: of one pool, a base may be among them; the first one's tensors are read.
        observe: told of progress, in bytes read.
        threads: readers; by default all cores.
        chunk: elements per chunk.

    Returns:
        (members, members), symmetric, zeros on the diagonal.

    Raises:
        CheckpointError: a file cannot be read.
    """
    blend = Blend(tuple(members), members[0])
    count = len(members)
    averaged = [info for info in members[0].tensors.values() if role(info) == "blend"]
    total = sum(member.tensors[info.name].nbytes for info in averaged for member in members)
    gram = torch.zeros((count - 1, count - 1), dtype=torch.float64)
    lock = threading.Lock()
    done = 0

    def part(item: tuple[TensorInfo, int, int]) -> torch.Tensor:
        nonlocal done
        torch.set_num_threads(1)  # of this thread: the chunks are the parallelism
        info, start, size = item
        first, *others = (
            values(member, read, info.name, start, size).to(torch.float64) for member in members
        )
        differences = torch.stack(others) - first
        with lock:
            share = size / max(info.numel, 1)
            done += int(share * sum(member.tensors[info.name].nbytes for member in members))
            observe(Progress(TASK, min(done, total), total, "B"))
        return differences @ differences.T

    before = torch.get_num_threads()
    threads = threads or os.cpu_count() or 1
    work = _chunks(averaged, chunk)
    try:
        with open_files(blend) as read, ThreadPoolExecutor(threads) as executor:
            while batch := list(islice(work, threads * AT_ONCE)):
                for product in executor.map(part, batch):
                    gram += product
    finally:
        torch.set_num_threads(before)
    observe(Progress(TASK, total, total, "B"))
    # ‖w_i − w_j‖² = ‖d_i‖² + ‖d_j‖² − 2 d_i·d_j with d_i = w_i − w_0
    whole = torch.zeros((count, count), dtype=torch.float64)
    whole[1:, 1:] = gram
    lengths = whole.diagonal()
    squares = (lengths[:, None] + lengths[None, :] - 2 * whole).clamp(min=0)
    return [[float(value) for value in row] for row in squares.fill_diagonal_(0)]


def _chunks(tensors: Sequence[TensorInfo], size: int) -> Iterator[tuple[TensorInfo, int, int]]:
    for info in tensors:
        step = size
        if info.shape and 0 < info.shape[-1] <= step:
            step -= step % info.shape[-1]  # whole rows, which LoRA's are computed by
        for start in range(0, info.numel, step):
            yield info, start, min(step, info.numel - start)
