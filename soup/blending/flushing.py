"""What is written goes to the disk while the rest is still being computed, not all at the end.

A system keeps what was written in memory, and begins to write it out after half a minute, or when
there is too much of it; whoever asks for it to be on the disk waits for all. A thread that sleeps
while the disk is busy asks early and often: in the end nearly all is there.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

EVERY = 0.1
"""Seconds from one round to the next: a file that is written faster needs no help."""

WINDOW = 1 << 26
"""Bytes asked for at a time: a disk may take as long as it takes to write them."""

WRITE = 2
"""Linux's SYNC_FILE_RANGE_WRITE: start writing what has changed, and do not wait for it."""

Start = Callable[[int, int, int], Any]
"""Asks for so many bytes of an open file from an offset on; it is a hint, errors do not count."""


def _start() -> Start | None:
    try:
        call: Any = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError, TypeError):  # not on Linux
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return lambda handle, offset, size: call(handle, offset, size, WRITE)


START = _start()


@contextmanager
def flushed_early(files: Sequence[tuple[int, int]], every: float = EVERY) -> Iterator[None]:
    """Have files written to the disk, as far as they are there, while the context lasts.

    Nothing is promised: ``os.fsync`` afterwards says that all is there, or what went wrong.

    Args:
        files: open ones, and how many bytes each will have.
        every: seconds between two rounds.
    """
    start = START
    if start is None:
        yield
        return
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(every):
            for handle, size in files:
                for at in range(0, size, WINDOW):
                    if ended.is_set():
                        return
                    start(handle, at, min(WINDOW, size - at))

    thread = threading.Thread(target=run, name="flush", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
