"""evaluators/workers/environment.py: what an interpreter has, what it lacks."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from soup.errors import ScoringError
from soup.evaluators.models.families import Family
from soup.evaluators.workers import environment
from soup.evaluators.workers.environment import (
    ANY,
    PACKAGES,
    Environment,
    find_python,
    look,
    require,
    requirement,
)


def program(path: Path, *lines: str) -> str:
    """A program that is not Python."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


def test_our_own_interpreter_has_what_it_takes() -> None:
    """Versions as pip knows them."""
    found = look(find_python(None))
    assert found.python == sys.executable
    assert found.version == sys.version_info[:3]
    assert found.missing() == []
    assert found.packages["torch"].startswith("2.")
    require(found)


def test_an_interpreter_is_known_by_the_path_that_was_given(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link stays a link, for its packages stand beside it; a bare name is looked for."""
    monkeypatch.chdir(bare)
    assert find_python("bin/python") == str(bare / "bin" / "python")
    monkeypatch.setenv("PATH", str(bare / "bin"))
    assert find_python("python3") == str(bare / "bin" / "python3")
    monkeypatch.setenv("HOME", str(bare))
    assert find_python("~/bin/python") == str(bare / "bin" / "python")


def test_what_is_missing_is_named_with_the_command_that_installs_it(bare: Path) -> None:
    """For another interpreter with its path, for ours as an extra of our own."""
    python = str(bare / "bin" / "python")
    with pytest.raises(ScoringError) as error:
        require(look(python))
    packages = "torch torchvision transformers pillow ms-vlmeval"
    assert str(error.value) == (
        f"{python} lacks {packages.replace(' ', ', ')}, which a model of no known family needs; "
        f"run: {python} -m pip install torch torchvision 'transformers>=4.46' pillow ms-vlmeval"
    )
    ours = Environment(sys.executable, (3, 11, 0), dict.fromkeys(packages.split()[:-1], "1"))
    with pytest.raises(ScoringError, match=r"needs ms-vlmeval, .* pip install 'vlm-soup\[vlmeval"):
        require(ours)


def family(**changed: object) -> Family:
    """A family whose models need what nobody has."""
    base = Family(
        name="odd",
        title="Odd",
        marks=frozenset({"odd"}),
        wrapper="Odd",
        transformers=("4.37", "4.49"),
        packages={"pytest": "pytest", "no_such": "no-such", "odd": "the odd package, by hand"},
    )
    return replace(base, **changed)


def test_a_family_needs_more() -> None:
    """Its packages, found by name or module; those that pip cannot install are told in words."""
    found = look(sys.executable, family())
    assert found.missing(family()) == ["no-such", "the odd package, by hand"]
    with pytest.raises(ScoringError) as error:
        require(found, family())
    assert str(error.value) == (
        f"{sys.executable} lacks no-such, the odd package, by hand, which Odd needs; run: "
        f"{sys.executable} -m pip install no-such, then install the odd package, by hand"
    )


def test_a_family_needs_its_transformers(bare: Path) -> None:
    """Out of range: which one, and how to get it."""
    odd = family(packages={})
    assert requirement(odd) == "transformers>=4.37,<4.50"
    assert requirement(ANY) == "transformers>=4.46"
    for version, fits in (("4.36.9", 0), ("4.37.0", 1), ("4.49.9", 1), ("4.50.0", 0), ("5.1", 0)):
        packages = {name: version for name in PACKAGES}
        assert Environment("python", (3, 11, 0), packages).in_range(odd) == fits
    ours = Environment(sys.executable, (3, 11, 0), packages)
    with pytest.raises(ScoringError, match=r"Odd needs transformers>=4.37,<4.50, .*has 5.1; make"):
        require(ours, odd)
    with pytest.raises(ScoringError, match=r"run: other -m pip install 'transformers>=4.37,<4.50'"):
        require(replace(ours, python="other"), odd)


def test_what_is_no_interpreter_is_one_clear_line(bare: Path, tmp_path: Path) -> None:
    """What was expected, what was found, and what to do."""
    with pytest.raises(ScoringError, match="nowhere/python: no such Python interpreter; .*-m venv"):
        find_python("nowhere/python")
    with pytest.raises(ScoringError, match=f"found a directory; did you mean {bare}/bin/python"):
        find_python(bare)
    plain = tmp_path / "plain"
    plain.write_text("text")
    with pytest.raises(ScoringError, match="plain: cannot be run as a Python .*Permission denied"):
        look(find_python(plain))
    with pytest.raises(ScoringError, match=r"does not answer as .* \(exit code 3\): who is there"):
        look(program(tmp_path / "other", "echo who is there >&2", "exit 3"))
    with pytest.raises(ScoringError, match=r"does not answer .* \(exit code 0\)$"):
        look(program(tmp_path / "silent"))


def test_an_interpreter_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, with one line."""
    monkeypatch.setattr(environment, "PATIENCE", 0.2)
    with pytest.raises(ScoringError, match="no answer in 0.2 s"):
        look(program(tmp_path / "slow", "exec sleep 60"))


def test_an_old_interpreter_says_how_old_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And which one is needed (here no Python is young enough)."""
    monkeypatch.setattr(environment, "OLDEST", (99, 1))
    with pytest.raises(ScoringError, match=r"Python 3\.\d+\.\d+; expected 99.1 or newer"):
        look(sys.executable)


def test_the_working_directory_is_not_looked_at(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that is called transformers is no transformers."""
    (tmp_path / "transformers").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "transformers" in look(os.fspath(bare / "bin" / "python")).missing()
