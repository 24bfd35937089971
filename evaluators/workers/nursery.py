"""Where child processes are born: in a thread that lives as long as this process.

A worker asks the kernel to be ended when its parent ends (PR_SET_PDEATHSIG), and takes for the
parent the thread that it was born in: born in a thread that ends earlier, it would end with that.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_waiting: "queue.SimpleQueue[Callable[[], None]]" = queue.SimpleQueue()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def born(make: Callable[[], T]) -> T:
    """What ``make`` returns or raises, called in that thread."""
    global _thread
    with _lock:
        if _thread is None or not _thread.is_alive():  # the first, or we are a copy of a process
            _thread = threading.Thread(target=_serve, name="nursery", daemon=True)
            _thread.start()
    found: Future[T] = Future()

    def serve() -> None:
        try:
            found.set_result(make())
        except BaseException as error:
            found.set_exception(error)

    _waiting.put(serve)
    return found.result()


def _serve() -> None:
    while True:
        _waiting.get()()
