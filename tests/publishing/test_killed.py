"""A night that is killed, by SIGKILL, at any step that touches the disk: the next one mends all."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soup.publishing.diary import read
from tests.cli.test_cli import run
from tests.publishing.pool import member
from tests.publishing.test_nights import Place, place

__all__ = ["place"]

STEPS = ("fsync", "rename", "replace", "symlink", "unlink", "rmdir")
"""Calls to the system, before each of which a night is killed."""


def killed(night: Callable[[], Any], step: int) -> bool:
    """Play a night in a process of its own, which is killed at a step; whether it came so far."""
    child = os.fork()
    if child == 0:
        count = 0

        def before(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        for name in STEPS:
            setattr(os, name, before(getattr(os, name)))
        night()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def mended(place: Place, step: int) -> bool:
    """Kill the night that would publish a better soup at a step, look, and play it again."""
    first = place.latest
    came = killed(lambda: place.night("--keep", "0"), step)
    latest = place.shelf / place.latest
    assert (latest / "model.safetensors").is_file(), "who reads it sees one whole soup"
    assert not read(place.shelf / "nights.jsonl").damaged
    done = place.night("--keep", "0")
    assert done.returncode in (0, 3), done.stderr
    assert place.latest != first
    assert [path.name for path in place.shelf.iterdir() if path.is_dir()].count(first) == 0
    names = {path.name for path in place.shelf.iterdir()} - {".lock", "nights.jsonl", "latest"}
    assert names == {place.latest}, "nothing half-written, half-deleted or twice"
    assert run(place.path, "verify", str(place.shelf / place.latest)).returncode == 0
    candidates = [r for r in read(place.shelf / "nights.jsonl").records if r.get("nights")]
    assert {r["nights"] for r in candidates} <= {1}, "it is one soup, however often it was compared"
    return came


def prepare(place: Place) -> None:
    """A soup is published, and a better one can be made."""
    place.night()
    member(place.ckpts / "d", range(140, 200))


@pytest.mark.parametrize("part", [0.4, 0.8, 0.95])
def test_what_a_killed_night_left_is_mended_by_the_next(place: Place, part: float) -> None:
    """At some of its steps; ``python -m tests.publishing.test_killed`` tries each."""
    prepare(place)
    assert mended(place, max(1, round(part * STEPS_OF_A_NIGHT)))


STEPS_OF_A_NIGHT = 45


def every_step(root: Path) -> int:
    """Each step, until a night is done before it is killed; how many there were."""
    with pytest.MonkeyPatch.context() as patch:
        step = 0
        while True:
            step += 1
            there = Place(root / str(step), patch)
            prepare(there)
            came = mended(there, step)
            print(f"step {step}: mended", flush=True)
            shutil.rmtree(there.path)
            if not came:
                return step - 1


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory(prefix="soup-killed-") as name:
        print(f"killed at each of {every_step(Path(name))} steps: all mended")
