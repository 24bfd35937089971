"""What the worker knows of what answers: four things that every engine can do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from soup.blending.blend import Blend
from soup.evaluators.engines.kept import Kept
from soup.evaluators.models.wrapper import Message, Wrapper
from soup.events import Observer


class Engine(Protocol):
    """A model that stays where it is while its weights change.

    To open one is to construct it: config and processor of the pool's reference are read, the model
    itself is built at the first ``load``. All it is asked is asked from one thread.
    """

    @property
    def wrapper(self) -> Wrapper:
        """How the reference's kind of model is asked."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What of the engine and the wrapper decides the answers, as JSON; part of results' keys.

        Known once the engine is open. Two engines with equal settings give equal answers.
        """
        ...

    def load(self, blend: Blend, digest: str, task: str, observe: Observer) -> None:
        """Make the model's weights those of ``blend``, as they would be written, and prove it.

        Args:
            blend: streamed from its members' files; no weights are written.
            digest: names the blend; when it is already loaded nothing is done.
            task: the name of the work, for progress.
            observe: told of bytes streamed, and of what is worth a line.

        Raises:
            ScoringError: the model cannot be built, or does not hold what was sent.
        """
        ...

    def answer(
        self,
        key: str,
        dataset: str,
        messages: Sequence[Message],
        progress: Callable[[int], None] = ...,
        only: Sequence[int] | None = None,
        kept: Kept | None = None,
    ) -> list[str]:
        """Greedy answers of the loaded blend, in the order of the questions.

        Args:
            key: names the questions; what is made of them once is used again for the same key.
            dataset: the name by which VLMEvalKit's wrappers know the benchmark.
            messages: the questions.
            progress: called with the number of questions answered since the last call.
            only: positions of the questions to answer, in this order; None is all.
            kept: answers that are known already, and where to keep new ones.

        Raises:
            ScoringError: a question cannot be put to this model, or does not fit.
        """
        ...

    def close(self) -> None:
        """Let go of the model, its device's memory, and processes of its own."""
        ...
