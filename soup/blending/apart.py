"""How far members lie apart: squared distances of their weights, from a sample of large ones.

Where a member has more than ``SAMPLE`` weights, evenly spaced pieces of every tensor stand for all
of it (stratified sampling, each tensor a stratum): a night with one new member reads some megabytes
of each, not the whole pool again, and a cosine is off by a hundredth or less. What is smaller is
read whole.

Distances need no reference, so those of a pair stay true whatever the pool, and any cosine of
differences, to a base or to a mean, follows from them; see ``soup.choosing.likeness``.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch

from soup.blending.blend import Blend, role
from soup.blending.streaming import open_files
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.computing import values
from soup.events import Observer, Progress, ignore

CHUNK = 1 << 17
"""Elements per chunk: of every member that many float64 are in memory, for each thread."""

SAMPLE = 1 << 24
"""Weights of a member that are looked at, about; 32 MB in bfloat16."""

PIECE = 1 << 13
"""Elements per chunk of a sample: few rows of many places tell more than many rows of few."""

AT_ONCE = 8
"""Chunks for each thread between two sums."""

TASK = "compare the members' weights"


def squared_distances(
    members: Sequence[Checkpoint],
    observe: Observer = ignore,
    threads: int | None = None,
    chunk: int = CHUNK,
    most: int = SAMPLE,
    piece: int = PIECE,
) -> list[list[float]]:
    """‖w_i − w_j‖² of every two members, over all tensors that a blend averages; estimated where
    these hold more than ``most`` weights.

    Differences and sums are float64; they are summed in the order of the tensors, so the result
    does not depend on ``threads``. It is not finite where a member's values are not.

    Args:
        members: of one pool, a base may be among them; the first one's tensors are read.
        observe: told of progress, in bytes read.
        threads: readers; by default all cores.
        chunk: elements per chunk.
        most: weights of a member to look at; a tensor has one piece at least.
        piece: elements per chunk where not all are looked at.

    Returns:
        (members, members), symmetric, zeros on the diagonal.

    Raises:
        CheckpointError: a file cannot be read.
    """
    blend = Blend(tuple(members), members[0])
    count = len(members)
    averaged = [info for info in members[0].tensors.values() if role(info) == "blend"]
    work = list(_pieces(averaged, chunk, most, piece))
    total = sum(_nbytes(members, one) for one in work)
    gram = torch.zeros((count - 1, count - 1), dtype=torch.float64)
    lock = threading.Lock()
    done = 0

    def part(one: Piece) -> torch.Tensor:
        nonlocal done
        torch.set_num_threads(1)  # of this thread: the chunks are the parallelism
        first, *others = (
            values(member, read, one.info.name, one.start, one.size).to(torch.float64)
            for member in members
        )
        differences = torch.stack(others) - first
        with lock:
            done += _nbytes(members, one)
            observe(Progress(TASK, done, total, "B"))
        return differences @ differences.T * one.stands_for

    before = torch.get_num_threads()
    threads = threads or os.cpu_count() or 1
    pieces = iter(work)
    try:
        with open_files(blend) as read, ThreadPoolExecutor(threads) as executor:
            while batch := list(islice(pieces, threads * AT_ONCE)):
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


@dataclass(frozen=True)
class Piece:
    """Some of a tensor: ``size`` elements from ``start``, which stand for so many times as many."""

    info: TensorInfo
    start: int
    size: int
    stands_for: float


def _pieces(tensors: Sequence[TensorInfo], chunk: int, most: int, piece: int) -> Iterator[Piece]:
    """Every tensor in chunks, or where that is too much evenly spaced pieces of each."""
    share = min(1.0, most / max(sum(info.numel for info in tensors), 1))
    size = chunk if share == 1 else min(chunk, piece)
    for info in tensors:
        step = size
        if info.shape and 0 < info.shape[-1] <= step:
            step -= step % info.shape[-1]  # whole rows, which LoRA's are computed by
        count = -(-info.numel // step)
        wanted = max(1, round(share * count)) if count else 0
        starts = [(2 * k + 1) * count // (2 * wanted) * step for k in range(wanted)]
        sizes = [min(step, info.numel - start) for start in starts]
        for start, length in zip(starts, sizes, strict=True):
            yield Piece(info, start, length, info.numel / sum(sizes))


def _nbytes(members: Sequence[Checkpoint], piece: Piece) -> int:
    """What it takes to read it of every member, about: a factor of an adapter is less."""
    share = piece.size / piece.info.numel
    return round(share * sum(member.tensors[piece.info.name].nbytes for member in members))
