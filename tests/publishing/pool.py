"""A pool that answers by its weights, and a scorer that reads them: a fake, but for real blends.

Each benchmark is a tensor of that name; its k-th element says how its k-th question is answered:
rightly where it is above zero. So an average answers rightly what its members know together, and a
soup that was written answers exactly as the blend it was written from.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from soup.blending.blend import Blend
from soup.blending.streaming import stream
from soup.checkpoints.checkpoint import TensorInfo
from soup.evaluators.fake import FakeScorer
from tests.conftest import make_checkpoint

QUESTIONS = 200
BENCHMARKS = ("x", "y", "z")
KNOWS, LACKS = 1.0, -0.25


def member(path: Path, known: Iterable[int], lacks: float = LACKS) -> Path:
    """A checkpoint that answers some questions, of every benchmark the same."""
    answers = torch.full((QUESTIONS,), lacks)
    answers[list(known)] = KNOWS
    tensors = {name: answers.clone() for name in BENCHMARKS}
    return make_checkpoint(path, tensors, files={"tokenizer_config.json": "{}"})


class ReadingScorer(FakeScorer):
    """Answers by the weights of a blend; stands in for a VLMEvalKitScorer on the command line."""

    def __init__(self, **options: Any) -> None:
        """Scores by reading."""
        super().__init__(right=self.answer, samples=QUESTIONS, **options)
        self._read: dict[str, dict[str, torch.Tensor]] = {}

    def answer(self, blend: Blend, name: str, sample: int) -> float:
        """Whether a question is answered rightly."""
        if blend.digest not in self._read:
            self._read = {blend.digest: weights(blend)}
        read = self._read[blend.digest]
        tensor = read.get(name, read.get(f"{name}.weight"))
        tensor = read[BENCHMARKS[0]] if tensor is None else tensor
        return float(tensor.view(-1)[sample] > 0)

    def __enter__(self) -> "ReadingScorer":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def require_sources(self, names: object) -> None:
        """Any name is a benchmark."""

    def remembered(self, reference: object, names: object) -> None:
        """What is known can only a run tell."""


def weights(blend: Blend) -> dict[str, torch.Tensor]:
    """The bytes that would be written, as float32."""
    found = {name: torch.empty(info.shape) for name, info in blend.reference.tensors.items()}

    class Sink:
        def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
            found[info.name].view(-1)[start : start + len(values)] = values.float()

    stream(blend, Sink())
    return found
