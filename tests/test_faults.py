"""Whole runs with faults in them; the long form is ``python -m tests.faults --long``."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.machines import clocks, full_disks, locks, mounts, renames
from tests.faults.runs import Place, errors_at_steps, flipped_bits, kills_at_random, kills_at_steps


def test_runs_survive_what_machines_do(tmp_path: Path) -> None:
    """Killed, without room, with a broken disk, a flipped bit, a clock that jumps, locks and
    renames that lie: the same soup in the end.
    """
    place = Place(tmp_path)
    rows = [
        kills_at_steps(place, 1),
        kills_at_random(place, 3),
        errors_at_steps(place, errno.ENOSPC, 1, ("write", "pwrite", "posix_fallocate")),
        errors_at_steps(place, errno.EIO, 1, ("fsync",)),
        flipped_bits(place, 2),
        *([full_disks(place, [8], "work")] if mounts() else []),
        clocks(place, 1),
        locks(place, 1),
        renames(place, ["replace"], [errno.ESTALE]),
    ]
    assert [text for row in rows for text in row.wrong] == []
    assert sum(row.lost + row.repeated for row in rows) == 0
    assert all(row.injected == row.survived > 0 for row in rows)


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="no compiler")
def test_runs_survive_reads_that_fail() -> None:
    """The journal cannot be read, comes in short pieces, shrinks, vanishes or changes."""
    command = [sys.executable, "-m", "tests.faults", "--reads", "the journal", "--each", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| 1 | 1 | 0 | 0 |") == 5
