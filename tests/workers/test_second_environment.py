"""Models that bring their own code, scored under another Python with an older transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from soup.evaluators.models.families import named
from soup.evaluators.workers.environment import requirement
from tests.cli.test_cli import fails, run

BUILD = Path(__file__).parent.parent / "models" / "remote_code"
BENCH = ("parity", "range")


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where transformers keeps its copies of custom code, for these tests alone."""
    return {"HF_MODULES_CACHE": str(tmp_path_factory.mktemp("modules"))}


@pytest.fixture(scope="module")
def pool(
    old_python: str, modules: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Three fine-tunes of a model with code of its own, and two benchmarks."""
    directory = tmp_path_factory.mktemp("remote-code")
    subprocess.run(
        [old_python, BUILD / "build.py", directory],
        check=True,
        env=os.environ | modules,
        stdout=subprocess.DEVNULL,
    )
    return directory


@pytest.fixture
def workplace(pool: Path, tmp_path: Path) -> Path:
    """A directory with ckpts/ and benchmarks/, as a user has it."""
    for name in ("ckpts", "benchmarks"):
        (tmp_path / name).symlink_to(pool / name)
    return tmp_path


ASKED = (
    "--bench", "benchmarks/parity.tsv", "--bench", "benchmarks/range.tsv", "--max-new-tokens", "4",
    "--device", "cpu",
)  # fmt: skip


def test_greedy_with_custom_code_behind_another_transformers(
    workplace: Path, old_python: str, modules: dict[str, str]
) -> None:
    """As soup.toml says for the family; the soup answers in that environment as the board shows."""
    (workplace / "soup.toml").write_text(
        f'trust-remote-code = true\n[family.internvl-1.5]\nworker-python = "{old_python}"\n'
    )
    done = run(workplace, "greedy", "ckpts/*", *ASKED, "--json", "board.json", **modules)
    assert done.returncode == 0, done.stderr
    board = json.loads((workplace / "board.json").read_text())
    assert {row["name"] for row in board["members"]} == {"both", "parity", "range"}
    assert all(row["unparsed"] == {"parity": 0, "range": 0} for row in board["members"])
    assert len({row["mean"] for row in board["members"]}) > 1
    soup = board["soup"]
    assert soup["mean"] >= max(row["mean"] for row in board["members"])
    manifest = json.loads((workplace / "soup-greedy" / "soup.json").read_text())
    measured = manifest["measured_with"][0]
    assert measured["transformers"] == "4.46.3"
    assert measured["wrapper"] == "InternVLChat"
    alone = subprocess.run(
        [old_python, BUILD / "ask.py", soup["out"], *(f"benchmarks/{name}.tsv" for name in BENCH)],
        cwd=workplace,
        env=os.environ | modules,
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    shown = [soup["scores"][name] for name in BENCH]
    assert json.loads(alone.stdout) == pytest.approx(shown, abs=1e-9)


def test_our_own_transformers_is_too_new_for_it(workplace: Path) -> None:
    """Known before a worker starts: which one is needed, and how to come by it."""
    done = run(workplace, "score", "ckpts/*", *ASKED, "--trust-remote-code")
    line = fails(done, 1)
    family = named("internvl-1.5")
    assert family is not None
    assert f"{family.title} needs {requirement(family)}, {sys.executable} has " in line
    assert "as soup doctor CKPT says, and name its --worker-python" in line
    assert not (workplace / ".soup" / "worker.log").exists()


def test_custom_code_runs_only_when_it_may(workplace: Path, old_python: str) -> None:
    """Without --trust-remote-code: one line that says so, from the other side."""
    done = run(workplace, "score", "ckpts/*", *ASKED, "--worker-python", old_python)
    assert "brings its own Python code; read it, then add --trust-remote-code" in fails(done, 1)


def test_the_command_line_goes_before_a_familys_own_interpreter(
    workplace: Path, old_python: str
) -> None:
    """And a family's own before that of all."""
    (workplace / "soup.toml").write_text(
        'worker-python = "all/python"\n[family.internvl-1.5]\nworker-python = "own/python"\n'
    )
    asked = ["score", "ckpts/*", *ASKED, "--trust-remote-code"]
    assert "own/python: no such" in fails(run(workplace, *asked), 1)
    done = run(workplace, *asked, "--worker-python", "mine/python")
    assert "mine/python: no such" in fails(done, 1)
