"""A real terminal around a command: what it draws is drawn, and the screen can be looked at.

``python -m tests.terminal [TIMES [DEMO]]`` is the long form of what the suite does once: first runs
of ``soup greedy`` on two members of the demo's pool, each with a fresh place for its results and in
a terminal of its own, of 80 or 120 columns, some of which change their size or are stopped by
Ctrl-C; then each once more, with everything known. It prints how each ended, its screen where it
was not well, and the counts. DEMO is a directory that ``soup demo`` has made.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pexpect
import pyte

LONGEST = 300.0  # seconds

ROWS = 20
"""Of the benchmark of the long form."""

LEFT = ("Traceback", "━", "evaluation ", "read and digest")
"""What no screen shows in the end: a failure of ours, and what is drawn for a while."""


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

    @property
    def faults(self) -> list[str]:
        """What is wrong with the screen that a command has left."""
        found = [f"{text.strip()!r} is left" for text in LEFT if self.shows(text)]
        return [*found, "the cursor is hidden"] if self.hidden_cursor else found

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


WINDOWS: tuple[tuple[int, int | None, bool], ...] = (
    (80, None, False),
    (120, None, False),
    (80, 60, False),
    (120, 80, False),
    (80, 60, True),
    (80, None, True),
    (80, 120, False),
    (120, 60, True),
)
"""Of each run: columns, those that it is changed to in the middle, whether it is stopped then."""


def scoring(screen: Terminal) -> bool:
    """Whether an evaluation is under way."""
    return screen.shows("evaluation ")


def first_run(command: Sequence[object], place: Path, window: tuple[int, int | None, bool]) -> bool:
    """One first run, to its end; whether it went well."""
    columns, other, stopped = window
    start = time.monotonic()
    terminal = Terminal(command, place, columns=columns)
    if other is not None:
        terminal.until(scoring)
        terminal.resize(24, other)
    if stopped:
        terminal.until(lambda screen: screen.shows("evaluation 2 "))
        terminal.interrupt()
    said = f"{columns} columns" + (f", then {other}" if other else "")
    said += ", Ctrl-C" if stopped else ""
    return told("first run", said, terminal, 130 if stopped else 0, start)


def told(name: str, said: str, terminal: Terminal, wanted: int, start: float) -> bool:
    """Whether a run ends as wanted, which is printed."""
    code = terminal.end()
    wrong = terminal.faults
    if code != wanted:
        wrong.insert(0, f"exit code {code} instead of {wanted}")
    seconds = time.monotonic() - start
    print(f"{name} ({said}): {seconds:.0f} s, {', '.join(wrong) or 'well'}", flush=True)
    if wrong:
        print("\n".join(f"    |{line}" for line in terminal.lines), flush=True)
    return not wrong


def main() -> None:
    """First runs one after another, each followed by a run that has nothing to measure."""
    parser = argparse.ArgumentParser(description="first runs, each in a terminal of its own")
    parser.add_argument("times", type=int, nargs="?", default=10)
    parser.add_argument("demo", type=Path, nargs="?", help="what `soup demo` has made")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        demo = given.demo and given.demo.resolve()
        if demo is None:
            from soup.evaluators.demo import build

            demo = place / "demo"
            demo.mkdir()
            build(demo)
        rows = (demo / "benchmarks" / "parity.tsv").read_text().splitlines(keepends=True)
        (place / "short.tsv").write_text("".join(rows[: ROWS + 1]))
        members = [demo / "ckpts" / name for name in ("digit", "parity")]
        greedy = ["-m", "soup", "greedy", *members, "--bench", "short.tsv", "--max-new-tokens", 4]
        first = cached = 0
        for k in range(given.times):
            window = WINDOWS[k % len(WINDOWS)]
            command = [*greedy, "--work", f"work-{k}", "--out", f"soup-{k}"]
            first += first_run(command, place, window)
            if window[2]:  # it goes on from there
                Terminal(command, place).end()
            start = time.monotonic()
            again = Terminal(command, place, columns=window[0])
            cached += told("  cached", f"{window[0]} columns", again, 0, start)
    print(
        f"{first} of {given.times} first runs and {cached} of {given.times} cached ones were well"
    )


if __name__ == "__main__":
    main()
