"""Transformers, asked in a process of its own: it takes seconds to import, and is not always there.

``describe.py`` is what runs there.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.describe import COSTLY
from soup.checkpoints.installed import version_of

PATIENCE = 300  # seconds for transformers to be imported, from a slow disk, too
POLL = 0.1  # seconds until it is seen that nobody wants the answer any more
SCRIPT = Path(__file__).with_name("describe.py")


def unknown(checkpoint: Checkpoint) -> str:
    """Why transformers need not be asked of a model; empty where it may know. Imports nothing."""
    found = importlib.util.find_spec("transformers")
    if found is None or importlib.util.find_spec("torch") is None or not found.origin:
        return "transformers is not installed here"
    kind = checkpoint.config.get("model_type")
    models = Path(found.origin).parent / "models"
    folder = models / str(kind).replace("-", "_").replace("/", "_")
    if not kind or not (os.path.isdir(folder) or f'"{kind}"' in _registered(models / "auto")):
        return f"transformers {version_of('transformers')} has no model_type {kind!r}"
    return ""


@lru_cache(maxsize=1)
def _registered(folder: Path) -> str:
    """The text of the modules in which transformers lists its kinds, some of which have no folder
    of their name.
    """
    files = sorted(folder.glob("*auto*.py"))
    return "".join(file.read_text(errors="replace") for file in files)


def ask(asked: Mapping[str, Any], stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """What ``describe.py`` answers; ``{"unknown": why, "again": true}`` where it could not.

    Args:
        asked: the question.
        stop: whether nobody wants the answer any more; asked several times a second.
    """
    said = _asked(asked, stop, ())
    if any(name in str(said.get("unknown", "")) for name in COSTLY):
        said = _asked(asked, stop, ("--whole",))
    return said


def _asked(
    asked: Mapping[str, Any], stop: Callable[[], bool], options: Sequence[str]
) -> dict[str, Any]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    pipe, end = subprocess.PIPE, time.monotonic() + PATIENCE
    question: str | None = json.dumps(asked)
    try:
        with subprocess.Popen(
            [sys.executable, str(SCRIPT), *options],
            stdin=pipe,
            stdout=pipe,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as process:
            try:
                while True:
                    try:
                        out, _ = process.communicate(question, timeout=POLL)
                        break
                    except subprocess.TimeoutExpired:
                        question = None  # it is on its way
                    if stop():
                        return {"unknown": "nobody waited for the answer", "again": True}
                    if time.monotonic() > end:
                        text = f"transformers took more than {PATIENCE} s"
                        return {"unknown": text, "again": True}
            finally:
                process.kill()  # nothing, where it has ended
        said = json.loads(out)
    except (OSError, ValueError) as error:
        return {"unknown": f"transformers cannot be asked ({error})", "again": True}
    assert isinstance(said, dict)
    return said


class Piece(NamedTuple):
    """Rows of a tensor in memory, and where files have them; all dimensions but the last one
    make the rows.
    """

    name: str
    """The tensor in files."""
    at: int
    """The first row there."""
    first: int
    """The first row in memory."""
    many: int
    """How many."""
    step: int = 1
    """From one row there to the next one."""


@dataclass(frozen=True)
class Stored:
    """What files call the tensors of a model that has other names in memory.

    Attributes:
        names: of tensors that are stored as they are, by their names in memory.
        rows: of tensors that files hold together with others, or in parts.
        tied: by the names of tensors that are not stored, those that they are.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, Sequence[Piece]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)


def stored_as(model: Checkpoint) -> Stored:
    """How files hold a model's tensors, as transformers says; it takes seconds, once for each
    directory. Empty where transformers does not know.
    """
    return Stored() if unknown(model) else _stored_as(str(model.home))


@lru_cache(maxsize=8)
def _stored_as(home: str) -> Stored:
    said = ask({"path": home, "rewritten": {}, "tensors": [], "names": True})
    if not isinstance(names := said.get("names"), dict):
        return Stored()
    rows = {name: [Piece(*piece) for piece in pieces] for name, pieces in said["rows"].items()}
    return Stored(names, rows, said["tied"])
