"""Scorers: VLMEvalKit on a resident model, and a deterministic fake."""

from evaluators.fake import FakeScorer
from evaluators.scorer import VLMEvalKitScorer

__all__ = ["FakeScorer", "VLMEvalKitScorer"]
