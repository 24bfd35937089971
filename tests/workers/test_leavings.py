"""What a worker or a command leaves that is killed at an awkward moment."""

import os
from pathlib import Path

import pytest

from soup.evaluators.workers.leavings import remove_leavings
from soup.evaluators.workers.process import Died, Process
from soup.evaluators.workers.protocol import PROTOCOL


@pytest.mark.parametrize(("does", "again"), [("kill -9 $$", True), ("exit 1", False)])
def test_a_worker_that_is_killed_before_its_greeting_is_started_again(
    tmp_path: Path, does: str, again: bool
) -> None:
    """One that ends by itself would end in the same way again."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    process = Process(str(python), tmp_path / "log")
    with pytest.raises(Died) as died:
        process.ask({"do": "open"})
    process.close()
    assert died.value.greeted is again


def test_answers_of_recorded_results_and_parts_of_files_are_removed(tmp_path: Path) -> None:
    """Those of results that are still to be measured stay, and so does what a living one writes."""
    done, open_ = "a" * 64, "b" * 64
    stay = [f"{open_[:16]}.answers", f"{done[:16]}.tsv.gz", f"x.tsv.gz.{os.getpid()}"]
    for name in (*stay, f"{done[:16]}.answers", "x.tsv.gz.4194305"):
        (tmp_path / name).write_text("")
    remove_leavings(tmp_path, {done})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)
    remove_leavings(tmp_path / "nowhere", {done})


def test_one_that_says_what_is_no_answer_is_ended(tmp_path: Path) -> None:
    """As if it had died: whoever asked starts another one."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{{\"protocol\": {PROTOCOL}}}'\necho 'no JSON'\nsleep 60\n")
    python.chmod(0o755)
    process = Process(str(python), tmp_path / "log")
    with pytest.raises(Died, match="said what is no answer .'no JSON") as died:
        process.ask({"do": "open"})
    process.close()
    assert died.value.greeted
