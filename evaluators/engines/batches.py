"""Questions on their way to the model: kept, made ahead of time, put together in batches."""

import os
import queue
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from soup.evaluators.models.wrapper import Message, Prepared, about

MEMORY = 2 << 30
"""Bytes of prepared questions kept in memory; what is more goes to a file."""
DISK = 64 << 30
"""Bytes of that file, at most, and a quarter of the free disk. The rest is prepared anew."""
TOKENS = 8192
"""Tokens per batch to start with, padding included."""
WIDE = 1024
"""Tokens from which on a question is large."""
WIDE_TOKENS = 4096
"""Tokens per batch of large questions on a processor, whose caches more of them leave: six of 1,441
tokens took 0.85 s in pairs, 0.98 s alone and 1.08 s together (one core of an AMD EPYC)."""
MOST = 256
"""Questions per batch, where nobody asked for a size."""

T = TypeVar("T")


# --- kept between candidates ---------------------------------------------------------------


@dataclass(frozen=True)
class _OnDisk:
    """Where a question's tensors lie in the file: name to offset, shape, dtype."""

    tensors: Mapping[str, tuple[int, tuple[int, ...], torch.dtype]]
    generation: Mapping[str, Any]


class Store:
    """Prepared questions: in memory up to a bound, then in a file without a name, then not at all.

    The file is deleted when it is made, so that however the process ends nothing is left of it.
    """

    def __init__(self, directory: Path | None, memory: int = MEMORY, disk: int = DISK) -> None:
        """``directory`` holds the file; without one nothing is spilled."""
        self._directory = directory
        self._memory = memory
        self._disk = disk
        self._kept: dict[tuple[str, int], Prepared | _OnDisk] = {}
        self._file: Any = None
        self._end = 0

    def get(self, key: str, index: int) -> Prepared | None:
        """What was put there, bit for bit; None where it was not kept."""
        found = self._kept.get((key, index))
        if isinstance(found, _OnDisk):
            inputs = {name: self._read(*where) for name, where in found.tensors.items()}
            return Prepared(inputs, found.generation)
        return found

    def put(self, key: str, index: int, prepared: Prepared) -> None:
        """Keep a question where there is room."""
        size = sum(tensor.nbytes for tensor in prepared.inputs.values())
        if size <= self._memory:
            self._memory -= size
            self._kept[key, index] = prepared
        elif size <= self._room():
            try:
                written = {name: self._write(t) for name, t in prepared.inputs.items()}
            except OSError:  # the disk is full: prepare it again next time
                self._disk = 0
                return
            self._kept[key, index] = _OnDisk(written, prepared.generation)

    def _room(self) -> int:
        if self._file is None:
            if self._directory is None:
                return 0
            self._directory.mkdir(parents=True, exist_ok=True)
            self._disk = min(self._disk, shutil.disk_usage(self._directory).free // 4)
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115
        return self._disk - self._end

    def _write(self, tensor: torch.Tensor) -> tuple[int, tuple[int, ...], torch.dtype]:
        flat = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        start, view = self._end, memoryview(flat.data)
        while view:
            done = os.pwrite(self._file.fileno(), view, self._end)
            self._end += done
            view = view[done:]
        return start, tuple(tensor.shape), tensor.dtype

    def _read(self, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        view = memoryview(tensor.view(-1).view(torch.uint8).numpy().data)
        while view:
            done = os.preadv(self._file.fileno(), [view], start)
            start += done
            view = view[done:]
        return tensor


# --- made ahead of time --------------------------------------------------------------------


def ahead(items: Iterable[T], room: int) -> Iterator[T]:
    """The same items, made by a thread while the caller works on earlier ones.

    Args:
        items: is run through in that thread; what it raises is raised here.
        room: how many may wait.
    """
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(room)
    left = threading.Event()

    def put(found: tuple[bool, Any]) -> bool:
        while not left.is_set():
            try:
                made.put(found, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            more, item = made.get()
            if more:
                yield item
            elif item is not None:
                raise item
            else:
                return
    finally:
        left.set()
        thread.join()


# --- put together --------------------------------------------------------------------------


@dataclass
class Limit:
    """How much goes into one batch.

    A size that a user gave is kept to, unless memory runs out. Otherwise tokens count, not
    questions: few long ones or many short ones. On a GPU the bound doubles after a batch whose
    memory, doubled, would still fit; everywhere it is halved for good when memory runs out.

    Attributes:
        size: most questions.
        tokens: most tokens, questions times the longest of them; None where only ``size`` counts.
        wide: most tokens where the longest is of ``WIDE`` or more; None where that is no matter.
    """

    size: int
    tokens: int | None
    wide: int | None = None

    @classmethod
    def of(cls, batch_size: int | None, on_cpu: bool = False) -> "Limit":
        """The bound to start with."""
        if batch_size is not None:
            return cls(batch_size, None)
        return cls(MOST, TOKENS, WIDE_TOKENS if on_cpu else None)

    def fits(self, questions: int, width: int) -> bool:
        """Whether a batch of that many questions, the longest of ``width`` tokens, is allowed."""
        few = self.tokens is None or questions * width <= self.tokens
        if self.wide is not None and width >= WIDE:
            few = few and questions * width <= self.wide
        return questions == 1 or (questions <= self.size and few)

    def shrink(self, questions: int, width: int) -> None:
        """A batch of that size did not fit the memory: from now on at most half as much."""
        if self.tokens is None:
            self.size = max(1, min(self.size, questions // 2))
        else:
            self.tokens = min(self.tokens, questions * width // 2)

    def grow(self, questions: int, width: int, used: int, free: int) -> None:
        """A batch went well that took ``used`` bytes of ``free``: take more if that is safe."""
        if self.tokens is None or used <= 0 or 2 * questions * width <= self.tokens:
            return  # fixed, or far from the bound: that batch proves nothing
        if 2.5 * used < free:
            self.tokens *= 2


Question = tuple[int, Prepared]
"""A question's place in its benchmark, and what the model gets."""


def batches(questions: Iterable[Question], limit: Limit) -> Iterator[list[Question]]:
    """Neighbours that go together: same kinds of inputs, same settings, within the limit."""
    batch: list[Question] = []
    widest = 0
    for index, prepared in questions:
        width = max(widest, _width(prepared))
        if batch and not (limit.fits(len(batch) + 1, width) and _alike(batch[0][1], prepared)):
            yield batch
            batch, width = [], _width(prepared)
        batch.append((index, prepared))
        widest = width
    if batch:
        yield batch


def collate(batch: Sequence[Prepared], pad_token: int) -> dict[str, torch.Tensor]:
    """One batch's inputs. Rows of tokens are padded on the left, images stand one after another.

    Args:
        batch: questions with the same kinds of inputs.
        pad_token: what ``input_ids`` is padded with; ``attention_mask`` is 0 there.

    Returns:
        Tensors [n, longest] for what goes token by token; others, zero-padded to the largest in
        every dimension but the first, along the first.
    """
    if len(batch) == 1:
        return dict(batch[0].inputs)
    widths = [_width(prepared) for prepared in batch]
    found = {}
    for name, first in batch[0].inputs.items():
        tensors = [prepared.inputs[name] for prepared in batch]
        by_token = all(
            tensor.shape == (1, width) and not tensor.is_floating_point()
            for tensor, width in zip(tensors, widths, strict=True)
        )
        largest = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
        rows = sum(tensor.shape[0] for tensor in tensors)
        fill = pad_token if name == "input_ids" else 0
        whole = torch.full((rows, *largest), fill, dtype=first.dtype)
        at = 0
        for tensor in tensors:
            part = whole[at : at + len(tensor)]
            at += len(tensor)
            if by_token:
                part[:, largest[0] - tensor.shape[1] :] = tensor
            else:
                part[(slice(None), *(slice(size) for size in tensor.shape[1:]))] = tensor
        found[name] = whole
    if "attention_mask" not in found:
        mask = torch.zeros(len(batch), max(widths), dtype=torch.int64)
        for row, width in zip(mask, widths, strict=True):
            row[len(row) - width :] = 1
        found["attention_mask"] = mask
    return found


def by_length(messages: Sequence[Message], wanted: Sequence[int] | None = None) -> list[int]:
    """Positions so that neighbours have about equally many tokens, judged by their contents.

    It does not depend on anything but the questions, so that batches are the same in every run.

    Args:
        messages: questions.
        wanted: positions of those that count; None is all.

    Raises:
        QuestionError: an image is gone, or none.
    """
    lengths = {}
    for index in range(len(messages)) if wanted is None else wanted:
        with about(index):
            lengths[index] = _length(messages[index])
    return sorted(lengths, key=lambda index: lengths[index])


def _length(message: Message) -> tuple[int, int, int]:
    from PIL import Image

    pixels = count = 0
    for item in message:
        if item["type"] == "image":
            count += 1
            with Image.open(item["value"]) as image:  # reads the header only
                pixels += image.width * image.height
    characters = sum(len(item["value"]) for item in message if item["type"] == "text")
    return count, pixels // 4096, characters


def _width(prepared: Prepared) -> int:
    return int(prepared.inputs["input_ids"].shape[1])


def _alike(first: Prepared, second: Prepared) -> bool:
    return (
        first.inputs.keys() == second.inputs.keys()
        and first.generation == second.generation
        and all(first.inputs[name].ndim == t.ndim for name, t in second.inputs.items())
    )
