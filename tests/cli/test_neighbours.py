"""Folders of the user's own, with names that are ours, too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import fails

ROOT = Path(__file__).resolve().parents[2]


def soup(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m soup` in a folder, which Python then looks into first."""
    return python(cwd, "-m", "soup", *arguments)


def python(cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """With our packages behind the first place that Python looks in, as when they are installed."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", ["cli", "evaluators", "tests", "benchmarks"])
def test_folders_beside_are_not_ours(tmp_path: Path, name: str) -> None:
    """A package of the user's in the working directory: help and tables come up all the same."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    done = soup(tmp_path, "families")
    assert done.returncode == 0, done.stderr
    assert "qwen2-vl" in done.stdout
    assert "no run is recorded" in fails(soup(tmp_path, "leaderboard"), 1)


def test_a_folder_of_data_called_soup_is_no_matter(tmp_path: Path) -> None:
    """Without an __init__.py it is no package, and ours is found behind it."""
    (tmp_path / "soup" / "model").mkdir(parents=True)
    assert soup(tmp_path, "--version").stdout.startswith("soup ")


EDITED = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location

class Edited:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "soup":
            return spec_from_file_location(name, {ours!r} + "/__init__.py")
        return PathFinder.find_spec(name, [{ours!r}]) if name.startswith("soup.") else None

sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Edited)
"""
"""What setuptools puts behind Python's own finder for a package that is installed to be edited."""


def test_nor_is_it_where_ours_is_installed_to_be_edited(tmp_path: Path) -> None:
    """There Python finds that folder first."""
    (tmp_path / "soup" / "model").mkdir(parents=True)
    (tmp_path / "site").mkdir()
    code = EDITED.format(ours=str(ROOT / "soup"))
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "soup", "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("soup "), done.stderr


def test_the_command_is_not_taken_in_by_a_package_called_soup(tmp_path: Path) -> None:
    """`python -m soup` would run that one, which nothing of ours can help; `soup` does not."""
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    script = tmp_path / "bin" / "command"  # as pip writes it: Python looks beside it, not here
    script.parent.mkdir()
    script.write_text("from soup.cli.__main__ import main\nmain()\n")
    assert python(tmp_path, script, "--version").stdout.startswith("soup ")
