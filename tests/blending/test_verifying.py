"""soup/blending/verifying.py: a soup is as it was written, or what is not is named."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.blending.verifying import verify
from soup.blending.writer import write
from soup.checkpoints.pool import Pool
from soup.errors import CheckpointError
from tests.cli.test_cli import run
from tests.conftest import make_checkpoint, random_tensors


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A soup of two small members."""
    place = tmp_path_factory.mktemp("verify")
    paths = [make_checkpoint(place / n, random_tensors(k)) for k, n in enumerate("ab")]
    pool = Pool.open(*paths)
    return write(Blend(pool.members, pool.reference), place / "out").path


def test_a_soup_is_as_it_was_written_wherever_it_is_moved(written: Path, tmp_path: Path) -> None:
    """Every file is compared, the weights by their content."""
    moved = shutil.copytree(written, tmp_path / "elsewhere")
    found = verify(moved)
    assert found.problems == ()
    assert found.digest == json.loads((written / "soup.json").read_text())["digest"]
    assert found.files == len(list(moved.rglob("*")))


def _flip(file: Path, at: int = -2) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", _flip, "weights: "),
        ("config.json", _flip, "config.json: changed since it was written"),
        ("README.md", Path.unlink, "README.md: missing"),
        ("extra.py", Path.touch, "extra.py: not part of the soup"),
        ("soup.json", lambda f: f.write_text(f.read_text().replace("linear", "x").replace(
            '"reference": "a"', '"reference": "b"')), "soup.json: changed"),
    ],
)  # fmt: skip
def test_what_was_changed_is_named(
    written: Path, tmp_path: Path, name: str, change: object, said: str
) -> None:
    """A bit in the weights or a file, one that is missing, one too many, another recipe."""
    copy = shutil.copytree(written, tmp_path / "copy")
    change(copy / name)  # type: ignore[operator]
    problems = verify(copy).problems
    assert any(problem.startswith(said) for problem in problems), problems


def _other_metadata(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw.replace(b'{"format":"pt"}', b'{"format":"tf"}'))


def _instead(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.unlink(missing_ok=True)
        make(file)

    return change


def _sparse(file: Path) -> None:
    with file.open("wb") as made:
        made.truncate(1 << 40)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("model.safetensors", _other_metadata, "model.safetensors: changed since"),
        ("model.safetensors", lambda f: _flip(f, 3000), "model.safetensors: changed since"),
        ("other.safetensors", Path.touch, "other.safetensors: not part of the soup"),
        ("code", lambda f: f.symlink_to("/etc"), "code: not part of the soup"),
        ("config.json", _instead(os.mkfifo), "config.json: cannot be what was written: .* a pipe"),
        ("README.md", _instead(lambda f: f.symlink_to("/dev/zero")), "README.md: .* a device"),
        ("README.md", _instead(_sparse), "README.md: cannot be what was written: 1,099"),
        ("model.safetensors", _instead(os.mkfifo), "model.safetensors: cannot .* a pipe"),
    ],
    ids=["metadata", "padding", "weights", "folder", "pipe", "device", "huge", "weights pipe"],
)
def test_every_byte_counts_and_nothing_is_waited_for(
    written: Path, tmp_path: Path, name: str, change: Callable[[Path], None], said: str
) -> None:
    """A header's padding and metadata, weights too many, links, pipes and devices are named."""
    copy = shutil.copytree(written, tmp_path / "copy")
    change(copy / name)
    problems = verify(copy).problems
    assert any(re.match(said, problem) for problem in problems), problems


def _deep(manifest: str) -> str:
    return f'{manifest.rstrip()[:-1]}, "deep": {"[" * 970}{"]" * 970}}}'


@pytest.mark.parametrize("make", [_instead(os.mkfifo), _instead(_sparse), None])
def test_a_manifest_that_is_none_is_one_line(
    written: Path, tmp_path: Path, make: Callable[[Path], None] | None
) -> None:
    """A pipe, a file without an end, and JSON that can be read but not be written."""
    file = shutil.copytree(written, tmp_path / "copy") / "soup.json"
    if make is None:
        file.write_text(_deep(file.read_text()))
    else:
        make(file)
    with pytest.raises(CheckpointError, match=r"soup\.json: damaged: it is not JSON any more"):
        verify(file.parent)


def test_what_is_no_soup_is_refused(tmp_path: Path) -> None:
    """A plain model, and a manifest that is not one."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    with pytest.raises(CheckpointError, match="expected a soup's directory"):
        verify(path)
    (path / "soup.json").write_text("{}")
    with pytest.raises(CheckpointError, match="names no files"):
        verify(path)


def test_the_command_says_so_in_one_line_each(written: Path, tmp_path: Path) -> None:
    """Exit code 0 and a line, or 1 and what differs."""
    good = run(tmp_path, "verify", str(written))
    assert good.returncode == 0
    assert "as it was written" in good.stdout
    copy = shutil.copytree(written, tmp_path / "copy")
    _flip(copy / "model.safetensors")
    bad = run(tmp_path, "verify", str(written), str(copy))
    assert bad.returncode == 1
    assert "1 of 2 soups not as written" in bad.stderr
