"""A night told to an experiment tracker: MLflow, Weights & Biases, trackio.

Where the tracker lies, and who may write there, is said by its own environment variables
(``MLFLOW_TRACKING_URI``, ``WANDB_MODE``, ``TRACKIO_SPACE_ID`` …). Its library runs in a process of
its own (``soup.publishing.trackers``): whatever it does, hang, crash, print, or end its process,
the night's result stands.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from soup.errors import OutputError, UsageError
from soup.publishing import page
from soup.publishing.night import Night
from soup.publishing.trackers import TRACKERS
from soup.words import did_you_mean, plain

SECONDS = 120.0
"""That a tracker has, at most."""

PROJECT = "soup-nightly"
"""What the experiment is called where the tracker's environment names none."""

LONGEST = 500
"""Characters of a parameter; MLflow takes no more."""

CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from soup.publishing.trackers import main; main(sys.argv[2])"
)


def require_tracker(name: str) -> str:
    """A tracker's name, where there is such a one and its library is installed.

    Raises:
        UsageError: it is not.
    """
    if name not in TRACKERS:
        raise UsageError(f"--log {name}: no such tracker; {did_you_mean(name, list(TRACKERS))}")
    if find_spec(name) is None:
        raise UsageError(
            f"--log {name} needs {name}, which is not installed here; run: "
            f"pip install 'vlm-soup[{name}]'"
        )
    return name


def told_of(night: Night) -> dict[str, Any]:
    """What a tracker is told, as JSON: metrics, parameters, tags, and the document itself."""
    verdict, board = night.verdict, night.board
    metrics = {
        "mean": board.soup.mean if board.soup else None,
        **{
            name: getattr(verdict, name)
            for name in ("gain", "low", "high", "p", "tellable", "step", "level", "nights")
        },
        **(board.soup.scores if board.soup else {}),
        **(board.soup.holdouts if board.soup else {}),
        **{f"published {pair.benchmark}": pair.published for pair in verdict.pairs},
        "members": len(board.members),
        "left out": len(night.left_out),
    }
    settings = board.about.settings
    names = ("dtype", "method", "mean", "min_gain", "accept", "alpha", "confident")
    params = {
        "benchmarks": ", ".join(board.benchmarks),
        "holdouts": ", ".join(board.holdouts),
        "kept": ", ".join(board.soup.members) if board.soup else "",
        **{name: settings[name] for name in names if name in settings},
    }
    tags = {
        "verdict": verdict.word,
        "why": verdict.why,
        "published": night.published.name if night.published else "",
        "current": night.current.name if night.current else "",
        "run": board.about.run,
    }
    return {
        "name": f"{board.about.time[:10]} {verdict.word}",
        "metrics": _metrics(metrics),
        "params": _texts(params),
        "tags": _texts(tags),
        "document": page.to_dict(night),
        "markdown": page.to_markdown(night),
    }


def told_of_failure(error: str, time: str) -> dict[str, Any]:
    """What a tracker is told of a night that failed, or was stopped."""
    return {
        "name": f"{time[:10]} failed",
        "metrics": {},
        "params": {},
        "tags": _texts({"verdict": "failed", "why": error}),
        "document": {"error": error},
        "markdown": page.failed_to_markdown(error),
    }


def log(tracker: str, told: Mapping[str, Any], seconds: float = SECONDS) -> None:
    """Tell one tracker, in a process of its own.

    Raises:
        OutputError: it could not be told; the message has the last line of what its library said.
    """
    paths = [path for path in sys.path if path]
    words = [sys.executable, "-c", CHILD, json.dumps(paths), tracker]
    text = json.dumps({**told, "project": PROJECT})
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        try:
            _, said = child.communicate(text, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise OutputError(f"--log {tracker}: no end after {seconds:g} s: not told") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # and what it has started
    if child.returncode != 0:
        lines = [line for line in said.splitlines() if line.strip()]
        why = plain(lines[-1].strip()) if lines else f"exit code {child.returncode}"
        raise OutputError(f"--log {tracker}: {why}: not told")


def _metrics(found: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that are known, by names that every tracker takes; no two names become one."""
    metrics: dict[str, float] = {}
    for name, value in found.items():
        if value is None:
            continue
        key = safe = re.sub(r"[^A-Za-z0-9_\-. ]", "_", name)[:200] or "_"
        count = 1
        while key in metrics:
            count += 1
            key = f"{safe} {count}"
        metrics[key] = float(value)
    return metrics


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: plain(value)[:LONGEST] for name, value in found.items()}
