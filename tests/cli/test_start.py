"""A fast door: what the quick commands do not import, and that a known run starts no worker."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from soup import compiled
from soup.checkpoints.pool import Pool
from soup.cli.app import main
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make
from tests.conftest import make_adapter, make_checkpoint, make_torch_checkpoint, random_tensors

SLOW = ("torch", "scipy", "pydantic", "transformers", "vlmeval", "pandas")
HEAVY = (*SLOW, "numpy")
BARS = ("rich.progress", "soup.cli.progress")
OTHERS = ("soup.cli.soups", "soup.cli.nightly", "soup.cli.demo", "rich.markdown", "rich.traceback")
"""Commands that were not asked for, and parsers that nobody needs."""
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
        (["--help"], 0, (*HEAVY, *WORK, *OTHERS[3:])),
        (["greedy", "--help"], 0, (*HEAVY, *WORK, *OTHERS[1:])),
        (["greedy", "--nope"], 2, (*HEAVY, *WORK, *OTHERS[1:], "rich.console")),
        (["families"], 0, (*HEAVY, *BARS, *OTHERS, "soup.choosing.journal")),
        (["leaderboard"], 1, (*HEAVY, *BARS, *OTHERS, "soup.checkpoints.checkpoint")),
        (["greedy", "ckpts/*"], 2, HEAVY),
        (["greedy", "ckpts/*", "--method", "none", "--bench", "MMStar"], 2, HEAVY),
        (["check", "ckpts/*"], 0, (*HEAVY, *OTHERS, "rich.progress")),
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


def test_a_scored_run_is_shown_again_without_arithmetic(tmp_path: Path) -> None:
    """How sure its differences are was kept; worked out again, it takes numpy alone."""
    paths = [make_checkpoint(tmp_path / f"run-{k}", random_tensors(k)) for k in range(3)]
    settings = Settings(benchmarks=["a", "b"], work=tmp_path / ".soup", out=tmp_path / "out")
    make("greedy", Pool.open(*paths), FakeScorer(samples=40), settings)
    found, modules = imported(tmp_path, "leaderboard")
    assert found == 0
    assert sorted(modules.intersection((*HEAVY, *BARS, *OTHERS))) == []
    (tmp_path / ".soup" / "differences.json").unlink()
    found, modules = imported(tmp_path, "leaderboard")
    assert found == 0
    assert "numpy" in modules
    assert sorted(modules.intersection((*SLOW, *BARS))) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["max", "none", "--batch-size", "0"], 2, "--batch-size"),
        (["max", "none", "--batch-size", "1.5"], 2, "--batch-size"),
        (["max", "none", "--batch-size", "x"], 2, "--batch-size"),
        (["greedy", "none", "--min-gain", "nan"], 2, "--min-gain"),
        (["greedy", "none", "--min-gain", "1_0"], 1, "none: expected a model directory"),
        (["greedy", "none", "--min-gain", "1e-3"], 1, "none: expected a model directory"),
        (["greedy"], 2, "CKPT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_values_are_taken_and_refused_as_typer_does(
    arguments: list[str],
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The plain way is only faster: ranges, words and what is missing are the same."""
    bench = ["--bench", "MMStar"] if len(arguments) > 1 else []
    monkeypatch.setattr(sys, "argv", ["soup", *arguments, *bench])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert text in capsys.readouterr().err


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


def test_an_average_needs_no_torch_and_is_known_again(tmp_path: Path) -> None:
    """The compiled loop computes it; the same once more: nothing is read or computed again."""
    for k in range(2):
        make_checkpoint(tmp_path / "ckpts" / f"run-{k}", random_tensors(k))
    first, modules = imported(tmp_path, "average", "ckpts/*", "-q")
    assert first == 0
    assert compiled.LIBRARY is None or sorted(modules.intersection(HEAVY)) == []
    journal = tmp_path / ".soup" / "journal.jsonl"
    digests = journal.read_text().count('"kind":"digest"')
    assert digests == 3  # two members and the soup
    again, modules = imported(tmp_path, "average", "ckpts/*", "-q")
    assert again == 0
    assert sorted(modules.intersection(HEAVY)) == []
    assert journal.read_text().count('"kind":"digest"') == digests
