"""Transformers, asked in a process of its own: it takes seconds to import, and is not always there.

``describe.py`` is what runs there.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.installed import version_of

PATIENCE = 300  # seconds for transformers to be imported, from a slow disk, too
SCRIPT = Path(__file__).with_name("describe.py")


def unknown(checkpoint: Checkpoint) -> str:
    """Why transformers need not be asked of a model; empty where it may know. Imports nothing."""
    found = importlib.util.find_spec("transformers")
    if found is None or importlib.util.find_spec("torch") is None or not found.origin:
        return "transformers is not installed here"
    kind = checkpoint.config.get("model_type")
    folder = Path(found.origin).parent / "models" / str(kind).replace("-", "_").replace("/", "_")
    if not kind or not os.path.isdir(folder):
        return f"transformers {version_of('transformers')} has no model_type {kind!r}"
    return ""


def ask(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What ``describe.py`` answers; ``{"unknown": why, "again": true}`` where it could not."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        done = subprocess.run(
            [sys.executable, str(SCRIPT)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment,
            check=False,
        )
        said = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"unknown": f"transformers took more than {PATIENCE} s", "again": True}
    except (OSError, ValueError) as error:
        return {"unknown": f"transformers cannot be asked ({error})", "again": True}
    assert isinstance(said, dict)
    return said


def file_names(model: Checkpoint) -> Mapping[str, str]:
    """What files call the tensors of a model that has other names in memory, as transformers says.

    Empty where transformers does not know. Takes seconds, once for each directory.
    """
    return {} if unknown(model) else _file_names(str(model.home))


@lru_cache(maxsize=8)
def _file_names(home: str) -> Mapping[str, str]:
    found = ask({"path": home, "rewritten": {}, "tensors": [], "names": True}).get("names", {})
    return found if isinstance(found, dict) else {}
