"""Help at eighty columns: panels, no type words, and room for what an option does."""

import os
import re
from pathlib import Path

import pytest
import typer.main

from soup.cli.app import application
from tests.cli.test_cli import run

COMMANDS = sorted(typer.main.get_command(application()).commands)  # type: ignore[attr-defined]
WIDE = 45
"""Characters that a description has at least."""


@pytest.mark.parametrize("command", COMMANDS)
def test_descriptions_have_room(tmp_path: Path, command: str) -> None:
    """No word of a type stands in it, no panel comes twice, nothing is cut."""
    os.environ.pop("TERMINAL_WIDTH", None)
    text = run(tmp_path, command, "--help", COLUMNS="80").stdout
    assert not re.search(r"\[x[<>]|<(bool|str|int|path|file|dir|float|list)", text)
    assert "…" not in text.replace("…/v1", "")
    panels = re.findall(r"^╭─ (\w+) ─", text, re.M)
    assert len(panels) == len(set(panels)) > 0
    for panel in re.split(r"^╭─ ", text, flags=re.M)[1:]:
        rows = [line for line in panel.splitlines() if line.startswith("│")]
        starts = [
            match.end()
            for row in rows
            if (match := re.match(r"│ .*?(?:--|CKPT|DIR|NAME|ACTION|\* +A\b)", row))
        ]
        assert starts, panel
        # every description of a panel begins in one column: where those that go on are indented
        words = [re.search(r"\S", row[1:]) for row in rows]
        indent = max(match.start() + 1 for match in words if match)
        if indent > 20:  # a description that goes on in a line of its own
            assert 79 - indent - 1 >= WIDE - 1, panel


def test_quiet_says_what_it_does(tmp_path: Path) -> None:
    """Where nothing is scored there is no progress to be quiet about."""
    looked = run(tmp_path, "leaderboard", "--help", COLUMNS="200").stdout
    assert "No table: just the path of the soup, where one was written." in looked
    assert "No progress, no table" in run(tmp_path, "greedy", "--help", COLUMNS="200").stdout
