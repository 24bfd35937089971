"""A real terminal around a command: what it draws is drawn, and the screen can be looked at.

``python -m tests.terminal 10`` is the long form of what the suite does once: fresh first runs of
``soup greedy`` on the demo's pool, each in a terminal of its own; it prints how each ended, and its
screen where it was not well.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pyte

LONGEST = 300.0  # seconds


class Terminal:
    """A command on a pseudo-terminal.

    Attributes:
        code: its exit code, when it has ended.
    """

    def __init__(
        self, arguments: Sequence[object], cwd: Path, rows: int = 24, columns: int = 80
    ) -> None:
        """Start ``python`` with these arguments."""
        self._screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self._screen)
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self._process: Any = pexpect.spawn(
            sys.executable,
            list(map(str, arguments)),
            cwd=str(cwd),
            dimensions=(rows, columns),
            env=environment | {"TERM": "xterm-256color", "NO_COLOR": "1"},
        )
        self.code: int | None = None

    @property
    def lines(self) -> list[str]:
        """All lines, those that have scrolled away first; without empty ones at the end."""
        columns = range(self._screen.columns)
        above = [
            "".join(line[k].data for k in columns).rstrip() for line in self._screen.history.top
        ]
        shown = [line.rstrip() for line in self._screen.display]
        return "\n".join([*above, *shown]).rstrip().splitlines()

    @property
    def hidden_cursor(self) -> bool:
        """Whether the cursor is left hidden."""
        return bool(self._screen.cursor.hidden)

    def until(self, seen: Callable[["Terminal"], bool]) -> None:
        """Go on until the screen shows something, or to the end."""
        end = time.monotonic() + LONGEST
        while self.code is None and not seen(self):
            assert time.monotonic() < end, "\n".join(self.lines)
            try:
                self._stream.feed(self._process.read_nonblocking(65536, timeout=0.05))
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                self._process.close()
                code, number = self._process.exitstatus, self._process.signalstatus
                self.code = code if code is not None else -number

    def end(self) -> int:
        """Go on to the end; the exit code."""
        self.until(lambda terminal: False)
        assert self.code is not None
        return self.code

    def shows(self, text: str) -> bool:
        """Whether a text stands anywhere on the screen, or has scrolled away."""
        return any(text in line for line in self.lines)

    def interrupt(self) -> None:
        """Type Ctrl-C."""
        self._process.sendintr()

    def kill(self) -> None:
        """End it."""
        self._process.terminate(force=True)

    def resize(self, rows: int, columns: int) -> None:
        """Make the window another size."""
        try:
            while True:  # what was drawn for the old size is drawn there
                self._stream.feed(self._process.read_nonblocking(65536, timeout=0.02))
        except pexpect.TIMEOUT:
            pass
        self._process.setwinsize(rows, columns)
        self._screen.resize(rows, columns)


def main(times: int) -> None:
    """Fresh first runs, one after another."""
    from soup.evaluators.demo import build

    with tempfile.TemporaryDirectory() as directory:
        pool = Path(directory) / "demo"
        pool.mkdir()
        build(pool)
        well = 0
        for k in range(1, times + 1):
            work = pool / ".soup"
            for leftover in (work, pool / "soup-greedy"):
                shutil.rmtree(leftover, ignore_errors=True)
            start = time.monotonic()
            terminal = Terminal(["-m", "soup", "greedy", "ckpts/*"], pool)
            code = terminal.end()
            good = code == 0 and not terminal.shows("Traceback") and not terminal.hidden_cursor
            well += good
            print(f"run {k}: exit code {code}, {time.monotonic() - start:.0f} s", flush=True)
            if not good:
                print("\n".join(terminal.lines))
    print(f"{well} of {times} ended well")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
