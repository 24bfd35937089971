"""A fast door: what the quick commands do not import, and that a known run starts no worker."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import make_adapter, make_checkpoint, make_torch_checkpoint, random_tensors

HEAVY = ("torch", "numpy", "transformers", "vlmeval", "pandas")
BARS = ("rich.progress", "soup.cli.progress")
WORK = ("soup.run", "soup.blending.blend", "soup.evaluators.workers.scorer", *BARS)

SPY = """
import atexit, json, sys
atexit.register(lambda: print("modules: " + json.dumps(sorted(sys.modules)), file=sys.stderr))
from soup.cli.__main__ import main
main()
"""


def imported(cwd: Path, *arguments: str) -> tuple[int, set[str]]:
    """A command's exit code, and what a fresh interpreter has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", SPY, *arguments], cwd=cwd, capture_output=True, text=True
    )
    *_, last = done.stderr.splitlines()
    assert last.startswith("modules: "), done.stderr
    return done.returncode, set(json.loads(last.removeprefix("modules: ")))


@pytest.mark.parametrize(
    ("arguments", "code", "never"),
    [
        (["--version"], 0, (*HEAVY, *WORK, "rich.console")),
        (["--help"], 0, HEAVY + WORK),
        (["greedy", "--help"], 0, HEAVY + WORK),
        (["greedy", "--nope"], 2, HEAVY + WORK),
        (["families"], 0, HEAVY + BARS),
        (["leaderboard"], 1, HEAVY + BARS),
        (["greedy", "ckpts/*"], 2, HEAVY),
        (["greedy", "ckpts/*", "--method", "none", "--bench", "MMStar"], 2, HEAVY),
        (["check", "ckpts/*"], 0, (*HEAVY, "rich.progress")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_quick_command_does_not_import(
    tmp_path: Path, arguments: list[str], code: int, never: tuple[str, ...]
) -> None:
    """Help, mistakes, tables and headers: no torch, no bars, nothing of the work itself."""
    for k in range(2):
        make_checkpoint(tmp_path / "ckpts" / f"run-{k}", random_tensors(k))
    found, modules = imported(tmp_path, *arguments)
    assert found == code
    assert sorted(modules.intersection(never)) == []


def test_an_adapter_is_checked_without_torch(tmp_path: Path) -> None:
    """What LoRA changes is known from headers, and so is whether factors fit."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(2, 3)})
    factors = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(2, 1)}
    make_adapter(tmp_path / "adapter", factors, base)
    found, modules = imported(tmp_path, "check", "adapter")
    assert found == 0
    assert sorted(modules.intersection(HEAVY)) == []


def test_torch_files_are_checked_without_torch(tmp_path: Path) -> None:
    """Their pickle names torch's functions and dtypes; none of them is needed."""
    make_torch_checkpoint(tmp_path / "one", random_tensors(1))
    found, modules = imported(tmp_path, "check", "one")
    assert found == 0
    assert sorted(modules.intersection(HEAVY)) == []


def test_a_soup_that_stands_there_is_known_without_torch(tmp_path: Path) -> None:
    """The same average again: nothing is to be computed, and nothing is read again."""
    for k in range(2):
        make_checkpoint(tmp_path / "ckpts" / f"run-{k}", random_tensors(k))
    first, modules = imported(tmp_path, "average", "ckpts/*", "-q")
    assert first == 0
    assert "torch" in modules
    journal = tmp_path / ".soup" / "journal.jsonl"
    digests = journal.read_text().count('"kind":"digest"')
    assert digests == 3  # two members and the soup
    again, modules = imported(tmp_path, "average", "ckpts/*", "-q")
    assert again == 0
    assert sorted(modules.intersection(HEAVY)) == []
    assert journal.read_text().count('"kind":"digest"') == digests
