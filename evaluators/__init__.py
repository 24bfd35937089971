"""Scorers: VLMEvalKit on a resident model, and a deterministic fake; suites of benchmarks.

Each name is imported when it is first used: ``import soup.evaluators`` alone costs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soup.evaluators.fake import FakeScorer
    from soup.evaluators.kit.suites import SUITES
    from soup.evaluators.workers.scorer import VLMEvalKitScorer

_HOME = {
    "FakeScorer": "soup.evaluators.fake",
    "SUITES": "soup.evaluators.kit.suites",
    "VLMEvalKitScorer": "soup.evaluators.workers.scorer",
}

__all__ = ["SUITES", "FakeScorer", "VLMEvalKitScorer"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'soup.evaluators' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found  # looked up once
    return found
