"""cli/streams.py, cli/stopping.py: what cannot be shown, and signals at any moment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import make_checkpoint, random_tensors

FULL = Path("/dev/full")
SOUP = [sys.executable, "-m", "soup"]
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")


def test_a_table_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """Standard output on a full disk: no traceback, and where to find it again."""
    with FULL.open("w") as full:
        done = subprocess.run(
            [*SOUP, "families"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: standard output: cannot be written: No space left on device")


def test_progress_that_cannot_be_shown_ends_nothing(tmp_path: Path) -> None:
    """Standard error on a full disk, or all three streams closed: the soup is written."""
    for k in range(2):
        make_checkpoint(tmp_path / "ckpts" / f"run-{k}", random_tensors(0))  # equal: a warning
    command = [*SOUP, "average", "ckpts/*", "-o"]
    with FULL.open("w") as full:
        one = subprocess.run([*command, "a"], cwd=tmp_path, stderr=full, stdout=subprocess.PIPE)
    shell = f"{' '.join(command)} b <&- >&- 2>&-".replace("ckpts/*", "'ckpts/*'")
    two = subprocess.run(["/bin/sh", "-c", shell], cwd=tmp_path)
    assert (one.returncode, two.returncode) == (0, 0)
    assert (tmp_path / "a" / "soup.json").exists()
    assert (tmp_path / "b" / "soup.json").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_is_imported_ends_with_our_line(number: signal.Signals) -> None:
    """And with the exit code of every other stop."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # these tests may run under nohup
        "from soup.cli.__main__ import main\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'soup.cli.app': os.kill(os.getpid(), {int(number)})\n"
        "sys.meta_path.insert(0, Finder())\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.splitlines() == [
        "error: stopped; what has been scored is kept, the same command goes on from there"
    ]


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As `nohup` has it."""
    code = (
        "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from soup.cli import stopping\nstopping.catch()\n"
        "assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["families"], ["demo", "--help"]])
def test_a_reader_that_has_gone_ends_the_command_as_any_other(arguments: list[str]) -> None:
    """As SIGPIPE does, and nothing is said: whatever writes, print or a library."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "soup", *arguments]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, b"")
