"""Signals that end a command: one line, one exit code, at any moment of its life."""

import contextlib
import os
import signal
from types import FrameType

CODE = 130
"""The exit code of a command that was stopped."""

TEXT = "stopped; what has been scored is kept, the same command goes on from there"

_stopped = False


def at_once() -> None:
    """Say so and end: nothing has been begun that would have to be ended in order."""
    with contextlib.suppress(OSError):
        os.write(2, f"error: {TEXT}\n".encode())
    os._exit(CODE)


def catch(early: bool = False) -> None:
    """Have Ctrl-C, SIGTERM and a terminal that goes away end the command in order.

    Whoever has a signal ignored (``nohup``) keeps it so.

    Args:
        early: while the command line is being imported: then there is nothing to end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _early if early else _stop)


def ignore() -> None:
    """Nothing is left to be stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _early(number: int, frame: FrameType | None) -> None:
    at_once()


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopped
    if _stopped:  # whoever asks twice does not want to wait
        at_once()
    _stopped = True
    raise KeyboardInterrupt
