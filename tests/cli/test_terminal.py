"""README's commands on a real terminal of 80 × 24: first run, cached run, a resize, Ctrl-C.

Only there are bars drawn. ``python -m tests.terminal`` is the long form.
"""

import shutil
from pathlib import Path

import pytest

from tests.terminal import Terminal

ASKED = ("--bench", "benchmarks/parity.tsv", "--holdout", "benchmarks/range.tsv")
SCORED = (*ASKED, "--max-new-tokens", "4", "--device", "cpu")
MEMBERS = ("ckpts/digit", "ckpts/compare", "ckpts/parity")

SEVERAL = """
import sys
from soup.cli.app import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["soup", *line.split()]
    print("$", line, flush=True)
    try:
        main()
    except SystemExit as end:
        print("exit code", end.code, flush=True)
"""
"""Runs commands in one process, which saves the seconds that each would import."""


@pytest.fixture(scope="module")
def place(demo: Path, small_benchmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ckpts/, base/ and small benchmarks/, in which commands follow each other."""
    directory = tmp_path_factory.mktemp("terminal")
    shutil.copytree(demo / "ckpts", directory / "ckpts")
    shutil.copytree(demo / "base", directory / "base")
    shutil.copytree(small_benchmarks, directory / "benchmarks")
    return directory


def well(terminal: Terminal, code: int = 0) -> list[str]:
    """The lines of a screen that was left as it should be: no bar, no traceback, a cursor."""
    assert terminal.end() == code, "\n".join(terminal.lines)
    assert not terminal.hidden_cursor
    for left in ("Traceback", "━", "evaluation ", "read and digest"):
        assert not terminal.shows(left), "\n".join(terminal.lines)
    return terminal.lines


def test_a_first_run_that_is_stopped_and_one_that_goes_on(place: Path) -> None:
    """Ctrl-C in the middle, then the same in a window that changes its size, then all is known."""
    greedy = ["-m", "soup", "greedy", *MEMBERS, *SCORED, "-o", "best"]
    stopped = Terminal(greedy, place)
    stopped.until(
        lambda screen: any(f"evaluation {k} of 6" in str(screen.lines) for k in (2, 3, 4))
    )
    stopped.interrupt()
    lines = well(stopped, 130)
    assert lines[-2:] == [
        "error: stopped; what has been scored is kept, the same command goes on from",
        "there",
    ]

    resized = Terminal(greedy, place)
    resized.until(lambda screen: screen.shows("evaluation ") or screen.code is not None)
    resized.resize(24, 100)
    first = well(resized)
    table = first[next(k for k, line in enumerate(first) if " member " in line) :]
    assert any(line.startswith("greedy soup: ") for line in table)

    again = Terminal(greedy, place)
    cached = well(again)
    rows = [line for line in table if line.startswith(" ")]
    assert len(rows) > 8
    assert [line for line in rows if line not in cached] == [], "the same table"


def test_other_commands_leave_a_clean_screen(place: Path) -> None:
    """One after another in one terminal, none of them scores; each says what it should."""
    commands = [
        "--help",
        "check ckpts/* --digest",
        "average ckpts/* -o averaged",
        "average ckpts/* -o averaged",
        "blend ckpts/digit ckpts/parity --method slerp --set t=0.3 -o merged",
        "leaderboard",
        "leaderboard --json board.json --markdown board.md",
        "greedy ckpts/* --dry-run --bench benchmarks/parity.tsv",
        "families",
    ]
    (place / "commands").write_text("\n".join(commands))
    code = f"import sys; sys.stdin = open('commands')\n{SEVERAL}"
    lines = well(Terminal(["-c", code], place, columns=80))
    assert [line for line in lines if line.startswith("exit code")] == ["exit code 0"] * 9
    assert sum(line.startswith("ok: these 6 can be blended") for line in lines) == 2
    assert any(line.startswith("average soup: 6 of 6 members, written to") for line in lines)
    assert any(
        line.startswith("plan: greedy of 6 members on benchmarks/parity.tsv") for line in lines
    )
