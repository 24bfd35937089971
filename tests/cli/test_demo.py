"""cli/demo.py: a pool in a directory of its own, complete or not at all."""

from pathlib import Path

import pytest

from soup.errors import OutputError
from soup.events import ignore


def test_a_directory_that_another_command_fills_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, what is there stays, nothing half-made beside it (training is faked here)."""
    pytest.importorskip("sklearn")
    from soup.cli.demo import run
    from soup.evaluators import demo

    root = tmp_path / "demo"

    def build(directory: Path, progress: object) -> None:
        root.mkdir()
        (root / "theirs").write_text("kept")

    monkeypatch.setattr(demo, "build", build)
    with pytest.raises(OutputError, match="demo: cannot be written: Directory not empty"):
        run(root, "cpu", ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert (root / "theirs").read_text() == "kept"
