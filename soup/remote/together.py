"""Several questions at the same time; nobody waits for the silent ones where we are to end."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

EVERY = 10.0
"""Seconds without an answer after which that is told; then twice as many, and so on."""

T = TypeVar("T")
R = TypeVar("R")


def together(
    work: Callable[[T], R],
    items: Sequence[T],
    at_once: int,
    silent: Callable[[T, float], None] | None = None,
) -> list[R]:
    """The answers, in order.

    Args:
        work: what to ask of an item; called by several threads.
        items: of whom.
        at_once: how many, at most.
        silent: told, by this thread, who has not answered for how many seconds.

    Raises:
        Exception: the first, in the items' order, when all have answered.
    """
    found: list[R | None] = [None] * len(items)
    failed: dict[int, BaseException] = {}
    begun: dict[int, float] = {}
    numbers, ended = iter(range(len(items))), threading.Condition()
    left = len(items)

    def ask() -> None:
        nonlocal left
        while True:
            with ended:
                number = next(numbers, None)
                if number is None:
                    return
                begun[number] = time.monotonic()
            try:
                found[number] = work(items[number])
            except BaseException as error:
                failed[number] = error
            with ended:
                del begun[number]
                left -= 1
                ended.notify_all()

    for _ in range(min(at_once, len(items))):
        # A daemon: the others are waited for even by the end of Python, after Ctrl-C, too.
        threading.Thread(target=ask, daemon=True).start()
    told: dict[int, float] = {}
    with ended:
        while left:
            ended.wait(min(EVERY, 1.0))
            for number, since in list(begun.items()) if silent else ():
                waited = time.monotonic() - since
                if silent is not None and waited >= told.get(number, EVERY):
                    told[number] = 2 * waited
                    silent(items[number], waited)
    if failed:
        raise failed[min(failed)]
    return found  # type: ignore[return-value]
