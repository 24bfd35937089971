"""soup/holding.py: one command at a time, and nothing left of the dead."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from soup import holding

HOLD = """
import sys, time
from pathlib import Path
from soup import holding
what, place = sys.argv[1], Path(sys.argv[2])
with holding.alone(place, print) if what == "alone" else holding.unfinished(place, print) as made:
    if made is not None:
        (made / "half").write_text("")
    print("held", flush=True)
    time.sleep(60)
"""


def other(what: str, place: Path) -> "subprocess.Popen[str]":
    """Another process that holds a place, or makes it."""
    command = [sys.executable, "-c", HOLD, what, str(place)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_waits_and_says_for_whom(tmp_path: Path) -> None:
    """Until the first one ends, however it ends."""
    first = other("alone", tmp_path)
    said: list[str] = []
    began = threading.Event()

    def second() -> None:
        with holding.alone(tmp_path, said.append):
            began.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not began.wait(0.5)
    assert f"process {first.pid} on" in said[0]
    assert "waiting for" in said[0]
    first.kill()
    first.wait()
    thread.join(10)
    assert began.is_set()
    assert len(said) == 1


def test_a_thread_may_hold_what_it_holds(tmp_path: Path) -> None:
    """A run within a run does not wait for itself."""
    with holding.alone(tmp_path, pytest.fail), holding.alone(tmp_path, pytest.fail):
        assert (tmp_path / holding.LOCK).read_text().strip().count("process") == 1


def test_where_nothing_can_be_locked_it_is_said_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on some network disks."""

    def none(handle: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    said: list[str] = []
    with holding.alone(tmp_path, said.append):
        pass
    assert "cannot lock files (No locks available)" in said[0]
    (left := tmp_path / ".out.unfinished-1-abc").mkdir()
    with holding.unfinished(tmp_path / "out", pytest.fail):
        pass
    assert left.exists(), "nobody can know whether it is a living one's"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    """Its own unfinished directory, and a half-deleted one; no neighbour's, no user's."""
    target = tmp_path / "so[u]p"
    dead = other("unfinished", target)
    dead.kill()
    dead.wait()
    (tmp_path / ".so[u]p.deleted-x").mkdir()
    others = [".so[u]p.backup", ".soup.unfinished-1-x", "so[u]p.unfinished-1-x"]
    for name in others:
        (tmp_path / name).mkdir()
    with holding.unfinished(target, pytest.fail) as made:
        assert [path for path in tmp_path.iterdir() if path.name not in others] == [made]
        made.rename(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, target.name])


def test_whoever_writes_the_same_waits(tmp_path: Path) -> None:
    """A living process's directory is left alone, and waited for."""
    first = other("unfinished", tmp_path / "out")
    said: list[str] = []
    timer = threading.Timer(0.5, first.kill)
    timer.start()
    began = time.monotonic()
    with holding.unfinished(tmp_path / "out", said.append):
        assert time.monotonic() - began >= 0.4
    assert f"(process {first.pid})" in said[0]
    first.wait()


def test_temporary_directories_of_the_dead_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the living stay."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "soup-x-old").mkdir()
    with holding.scratch("soup-x-") as one, holding.scratch("soup-x-") as two:
        assert sorted(tmp_path.iterdir()) == sorted([one, two])
    assert list(tmp_path.iterdir()) == []


def test_what_is_deleted_is_hidden_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed while it deletes leaves nothing that looks like a soup."""
    (tmp_path / "old").mkdir()
    monkeypatch.setattr("shutil.rmtree", lambda place, ignore_errors: None)
    holding.delete(tmp_path / "old")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".old.deleted-")
    monkeypatch.undo()
    assert holding.sweep(tmp_path, ".old.") == []
    assert os.listdir(tmp_path) == []
