"""What README and docs tell people to type works: every command and block that can run here."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from soup.cli import app, config
from tests.cli.test_cli import run

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])

SCORING = {"max", "average", "greedy", "blend", "score", "nightly"}
ABSENT = {"MMStar", "AI2D_TEST", "MMMU_DEV_VAL", "MMVet", "--suite", "--judge", "--worker-python"}
"""Benchmarks of a hub, judges and other Pythons: commands with these are planned, not run."""

SCRIPT = r"`(?:python )?((?:benchmarks|tests|soup|evaluators|cli)/[\w/]+\.\w+)"

ELSEWHERE = {"make", "pip", "python3", "pre-commit", "export", "git", "source", "old/bin/python",
    "envs/vllm/bin/python",
}  # fmt: skip
"""What sets a machine up: done by whoever runs these tests."""


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Fenced blocks of a language, without their indentation."""
    for page in PAGES:
        for indent, text in re.findall(
            rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.M | re.S
        ):
            yield page, re.sub(rf"^{indent}", "", text, flags=re.M)


class Line(NamedTuple):
    """A command line of a page, and the exit code that a comment beside it names."""

    page: Path
    words: list[str]
    code: int = 0


def lines() -> Iterator[Line]:
    """Every command line: of the shell blocks, and those that stand in the text as code."""
    for page, text in blocks("sh"):
        there: list[str] = []
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            place = there
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["cd"]:
                    place = words
                elif words:
                    said = re.search(r"#.*exit code (\d+)", part)
                    yield Line(page, [*place, *words], int(said[1]) if said else 0)
            if "&&" not in line:
                there = place  # a line of its own goes there for those below
    for page in PAGES:
        prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.M | re.S)
        for text in re.findall(r"`(soup [a-z]+ [^`]+)`", prose):
            if "…" not in text and "[" not in text:
                yield Line(page, shlex.split(text))


def identity(line: Line) -> str:
    """A line as pytest shows it."""
    return f"{line.page.stem}: {' '.join(line.words)}" + (f" # {line.code}" if line.code else "")


COMMANDS = [line for line in lines() if "soup" in line.words[:3:2]]
OTHERS = [line for line in lines() if "soup" not in line.words[:3:2]]


@pytest.fixture(scope="module")
def workplace(demo: Path, small_benchmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as a reader's might be: a pool, two models, their base, questions."""
    place = tmp_path_factory.mktemp("workplace")
    members = sorted(path for path in (demo / "ckpts").iterdir() if path.is_dir())
    (place / "ckpts").mkdir()
    (place / "models").mkdir()
    for member in members[:2]:
        (place / "ckpts" / member.name).symlink_to(member)
    for name, member in zip(("a", "b", "c", "CKPT"), (*members[:3], members[0]), strict=True):
        (place / name).symlink_to(member)
    (place / "ckpts" / "run-1").symlink_to(members[2])
    (place / "base").symlink_to(demo / "base")
    for name, table in [("questions", "parity"), ("exam", "range")]:
        text = (small_benchmarks / f"{table}.tsv").read_text()
        (place / f"{name}.tsv").write_text(text)
    shutil.copytree(place / "ckpts", place / "soup-demo" / "ckpts", symlinks=True)
    (place / "soup-demo" / "soup.toml").write_text(f"bench = ['{place / 'questions.tsv'}']\n")
    return place


@pytest.mark.parametrize("line", COMMANDS, ids=map(identity, COMMANDS))
def test_every_command_of_the_pages_works(line: Line, workplace: Path) -> None:
    """README's as they stand; of the others, and where something is not here, the plan is made."""
    page, words, code = line
    if words[0] == "cd":
        workplace, words = workplace / words[1], words[2:]
    _, command, *arguments = words
    if command == "demo":
        return  # `make demo`: minutes
    if any("runs/" in word or "models/" in word for word in arguments):
        return  # adapters: tests/checkpoints
    if any(word.startswith(("hf://", "s3://", "gs://", "https://")) for word in arguments):
        return  # a network: tests/remote
    if command == "rollback":
        return  # needs two soups: tests/publishing
    if "--gpus-per-worker" in words:
        return  # GPUs: tests/workers/test_fleet.py has what is said without
    if command == "rescore":
        return  # another Python with another VLMEvalKit: tests/workers/test_rescorer.py
    if command == "cache":
        arguments += ["--cache", "cache"]  # nobody's own
    if command in SCORING:
        asked = "--bench" in arguments or "--suite" in arguments
        arguments += ["--max-new-tokens", "4", "--device", "cpu"]
        arguments += ["--settle", "0"] if command == "nightly" else []  # the pool is just trained
        if asked and (page.name != "README.md" or ABSENT & set(words)):
            arguments += ["--dry-run"]
    if command in ("leaderboard", "report") and not (workplace / ".soup").is_dir():
        run(workplace, "score", "ckpts/*", "--bench", "questions.tsv", "--max-new-tokens", "4")
    if code == 3 and not (workplace / "published").is_dir():
        run(workplace, command, *arguments)  # the night before it
    done = run(workplace, command, *arguments)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize("line", OTHERS, ids=map(identity, OTHERS))
def test_every_other_line_names_what_is_there(line: Line) -> None:
    """Targets of the Makefile, scripts of the repository, programs of another kind."""
    words = line.words
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file() or words[1:3] == ["-m", "tests.test_architecture"]
    else:
        assert words[0] in ELSEWHERE


def test_every_script_that_the_pages_name_is_there() -> None:
    """A figure's command can be run by anyone."""
    for page in PAGES:
        for name in re.findall(SCRIPT, page.read_text()):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"


def test_every_link_between_pages_leads_somewhere() -> None:
    """Files, and headings in them."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.md)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"


PROGRAMS = [*blocks("python")]


@pytest.mark.parametrize("case", PROGRAMS, ids=lambda case: case[0].stem)
def test_every_program_of_the_pages_runs(case: tuple[Path, str], workplace: Path) -> None:
    """With a small file in the place of a benchmark that is not here."""
    text = case[1].replace('"MMStar"', '"questions.tsv"').replace('"AI2D_TEST"', '"exam.tsv"')
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=workplace, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("case", [*blocks("toml")], ids=lambda case: case[0].stem)
def test_every_toml_of_the_pages_is_understood(case: tuple[Path, str], tmp_path: Path) -> None:
    """Its options are known."""
    (tmp_path / "soup.toml").write_text(case[1])
    done = run(tmp_path, "families")
    assert done.returncode == 0, done.stderr
    assert config.read(tmp_path / "soup.toml")


def test_readme_is_a_front_page() -> None:
    """At most 150 lines."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_command_is_on_its_page() -> None:
    """docs/commands.md names each."""
    text = (ROOT / "docs" / "commands.md").read_text()
    for name in app.COMMANDS:
        assert f"`soup {name}" in text, name
