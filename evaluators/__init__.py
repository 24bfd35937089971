"""Scorers: VLMEvalKit on a resident model, and a deterministic fake; suites of benchmarks."""

from evaluators.fake import FakeScorer
from evaluators.scorer import VLMEvalKitScorer
from evaluators.suites import SUITES

__all__ = ["SUITES", "FakeScorer", "VLMEvalKitScorer"]
