"""evaluators/workers/known.py: an answer counts while nothing that it came from has changed."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from soup.checkpoints.opening import open_checkpoint
from soup.evaluators.workers.environment import Environment
from soup.evaluators.workers.known import SETTLED, Known, now
from tests.conftest import make_checkpoint

REQUEST = {"do": "benchmark", "source": "digit.tsv"}


@dataclass
class Place:
    """A directory with all that an answer comes from."""

    root: Path
    packages: dict[str, str] = field(default_factory=lambda: {"torch": "2.11.0"})
    request: dict[str, str] = field(default_factory=lambda: dict(REQUEST))

    def known(self) -> Known:
        """What is known there, as things are now."""
        records = {name: str(self.root / f"{name}.dist-info") for name in self.packages}
        environment = Environment(sys.executable, (3, 11, 0), self.packages, records)
        return Known(self.root / "work", environment, open_checkpoint(self.root / "model"))

    def answer(self) -> object:
        """What is known of the request."""
        return self.known().answer(self.request)

    def remember(self, later: int = 2 * SETTLED) -> None:
        """As if a worker had been asked some time after all was put there."""
        answer = {"name": "digit", "files": [str(self.root / "digit.tsv"), str(self.root / ".env")]}
        self.known().remember(self.request, answer, now() + later)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With an answer that is known."""
    make_checkpoint(tmp_path / "model", {"a": torch.zeros(2)}, files={"tokenizer.json": "{}"})
    (tmp_path / "digit.tsv").write_text("index")
    (tmp_path / "torch.dist-info").mkdir()
    (tmp_path / "torch.dist-info" / "RECORD").write_text("")
    made = Place(tmp_path)
    made.remember()
    return made


def replace(file: str) -> Callable[[Place, pytest.MonkeyPatch], None]:
    """Another file of the same size and times in the place of one."""

    def change(place: Place, patch: pytest.MonkeyPatch) -> None:
        path = place.root / file
        before = path.stat()
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(path)

    return change


CHANGES: dict[str, Callable[[Place, pytest.MonkeyPatch], object]] = {
    "table": replace("digit.tsv"),
    "weights": replace("model/model.safetensors"),
    "companion": replace("model/tokenizer.json"),
    "new companion": lambda place, patch: (place.root / "model" / "x.py").write_text(""),
    "absent file": lambda place, patch: (place.root / ".env").write_text("LMUData=/elsewhere"),
    "installation": replace("torch.dist-info/RECORD"),
    "version": lambda place, patch: place.packages.update(torch="2.11.1"),
    "editable": lambda place, patch: (
        place.root / "torch.dist-info" / "direct_url.json"
    ).write_text(json.dumps({"dir_info": {"editable": True}})),
    "variable": lambda place, patch: patch.setenv("CUDA_VISIBLE_DEVICES", "7"),
    "request": lambda place, patch: place.request.update(source="parity.tsv"),
    "damaged": lambda place, patch: (place.root / "work" / "known.json").write_text("{"),
    "letter": lambda place, patch: (place.root / "work" / "known.json").write_text(
        (place.root / "work" / "known.json")
        .read_text()
        .replace('"name": "digit"', '"name": "eigit"')
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_answer_counts_until_something_changes(
    place: Place, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing that an answer came from, one at a time; and nothing but these."""
    assert place.answer() == {
        "name": "digit",
        "files": [str(place.root / "digit.tsv"), str(place.root / ".env")],
    }
    CHANGES[change](place, monkeypatch)
    assert place.answer() is None


def test_what_torch_sets_where_it_is_imported_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo imports torch and asks a worker; the next command does not, and need not ask one."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/tmp/torchinductor_me")
    assert place.answer() is not None


def test_where_the_command_stands_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table is the same file however it is spelled, and a worker finds nothing by where it is."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)  # cv2 ends it in a path from here
    place.request["source"] = str(place.root / "digit.tsv")
    place.remember()
    monkeypatch.chdir(place.root)
    assert place.answer() is not None
    place.request["source"] = "digit.tsv"
    assert place.answer() is not None
    (place.root / "model" / "digit.tsv").write_text("index")
    monkeypatch.chdir(place.root / "model")
    assert place.answer() is None


@pytest.mark.parametrize("value", ["here", "cache/hub", "./hub", "/usr/lib::/lib"])
def test_a_variable_that_is_a_path_from_here_ties_an_answer_to_the_directory(
    place: Place, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From elsewhere it is another path, so a worker is asked there."""
    (place.root / "here").mkdir()
    monkeypatch.chdir(place.root)
    monkeypatch.setenv("HF_HOME", value)
    place.remember()
    assert place.answer() is not None
    monkeypatch.chdir(place.root / "here")
    assert place.answer() is None


def test_what_was_changed_just_before_is_not_remembered(place: Place) -> None:
    """Within the coarseness of a file system's clock nobody knows what was read."""
    place.known().forget()
    place.remember(later=SETTLED // 2)
    assert place.answer() is None


def test_a_package_without_a_record_leaves_nothing_known(place: Place) -> None:
    """From a source tree: what it is now is not known from its version."""
    place.known().forget()
    environment = Environment(sys.executable, (3, 11, 0), {"torch": ""}, {"torch": ""})
    known = Known(place.root / "work", environment, open_checkpoint(place.root / "model"))
    known.remember(REQUEST, {"files": []}, now() + 2 * SETTLED)
    assert known.answer(REQUEST) is None
