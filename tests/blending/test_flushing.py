"""soup/blending/flushing.py: what is written goes to the disk while the rest is computed."""

import os
import threading
from pathlib import Path

import pytest

from soup.blending import flushing
from soup.blending.flushing import WINDOW, flushed_early


def test_every_part_of_every_file_is_asked_for_until_the_context_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In windows, by a thread that is gone afterwards; what the system answers does not count."""
    asked: list[tuple[int, int, int]] = []
    round_ended = threading.Event()

    def start(handle: int, offset: int, size: int) -> int:
        asked.append((handle, offset, size))
        if handle == 8:
            round_ended.set()
        return -1

    monkeypatch.setattr(flushing, "START", start)
    with flushed_early([(7, WINDOW + 5), (8, 3)], every=0):
        assert round_ended.wait(10)
    assert asked[:3] == [(7, 0, WINDOW), (7, WINDOW, 5), (8, 0, 3)]
    assert "flush" not in [thread.name for thread in threading.enumerate()]
    before = len(asked)
    monkeypatch.setattr(flushing, "START", None)  # another system
    with flushed_early([(7, 1)], every=0):
        assert len(asked) == before


@pytest.mark.skipif(flushing.START is None, reason="no such call on this system")
def test_the_system_takes_the_call(tmp_path: Path) -> None:
    """An open file is asked for without an error; one that is not open is one, and no exception."""
    assert flushing.START is not None
    with (tmp_path / "x").open("wb") as file:
        file.write(b"x" * 10_000)
        file.flush()
        assert flushing.START(file.fileno(), 0, 10_000) == 0
        closed = os.dup(file.fileno())
    os.close(closed)
    assert flushing.START(closed, 0, 10_000) == -1
