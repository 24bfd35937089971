"""How a model is asked: a question becomes inputs, tokens become an answer.

A wrapper (VLMEvalKit's word) knows one kind of model: how it is built, in which words and at which
resolution it is asked, how its tokens are read. It knows no weights but the reference's: the
resident model swaps them under it, see ``soup.evaluators.engines.resident``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from soup.errors import ScoringError, SoupError

Message = Sequence[dict[str, str]]
"""One question as VLMEvalKit builds it: items ``{"type": "image" or "text", "value": ...}``."""


class QuestionError(ScoringError):
    """One question cannot be put to the model, or not be answered.

    Attributes:
        position: its place in the benchmark; who knows the benchmark says its index.
        reason: what is wrong, in one line.
    """

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"question {position}: {reason}")
        self.position = position
        self.reason = reason


@contextmanager
def about(position: int) -> Iterator[None]:
    """Whatever a library raises inside is about one question, and says which.

    Out of memory is not: with fewer questions at a time it may fit.

    Raises:
        QuestionError: in place of any other exception.
    """
    try:
        yield
    except (QuestionError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        if not isinstance(error, SoupError):
            text = f"{type(error).__name__}: {text}" if text else type(error).__name__
        raise QuestionError(position, text) from error


@dataclass(frozen=True)
class Options:
    """How a resident model is built and asked.

    Attributes:
        device: a torch device; ``auto`` is the first GPU, else the CPU.
        compute_dtype: a torch dtype's name; ``auto`` is the checkpoint's on a GPU, float32 on CPU.
        batch_size: most questions in a batch; None finds it out, see ``engines.batches.Limit``.
        max_new_tokens: longest answer; None is what the wrapper has for this kind of model.
        trust_remote_code: whether Python code inside the checkpoint may run.
        family: a name of ``models.families``; None is what the checkpoint's config says.
        families: options of VLMEvalKit's wrappers, by the name of the family.
    """

    device: str = "auto"
    compute_dtype: str = "auto"
    batch_size: int | None = None
    max_new_tokens: int | None = None
    trust_remote_code: bool = False
    family: str | None = None
    families: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """One question as its model takes it, on the CPU; it does not depend on the weights.

    Attributes:
        inputs: tensors for ``generate``, of a batch of one: ``input_ids`` [1, L], others [1, L]
            that go with it token by token, images in whatever shape the processor gives them.
        generation: the other arguments of ``generate``: its settings for this question.
    """

    inputs: Mapping[str, torch.Tensor]
    generation: Mapping[str, Any] = field(default_factory=dict)


class Wrapper(Protocol):
    """One kind of model."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What of the wrapper decides the answers, to read and to hash; known before ``build``."""
        ...

    @property
    def batched(self) -> bool:
        """Whether ``prepare`` and ``decode`` work; else only ``answer``, one at a time."""
        ...

    @property
    def pad_token(self) -> int:
        """Fills short rows of ``input_ids`` on the left; known after ``build``."""
        ...

    @property
    def processor(self) -> Any:
        """Transformers' processor of words and images, where there is one; known after ``build``.

        ``prepare`` calls it with ``text`` and ``images``.
        """
        ...

    @property
    def image_tokens(self) -> tuple[str, ...]:
        """Texts that the model takes for an image or the edge of one; known after ``build``."""
        ...

    def build(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        """The reference's model, loaded from its files, in ``eval``; the wrapper keeps using it.

        On the device ``meta`` it has no weights: then ``prepare`` and ``decode`` are all it is for.

        Raises:
            ScoringError: it cannot be built; the message says why.
        """
        ...

    def adopt(self, model: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
        """Ask a model that another wrapper has built, from the same config and code, in the way
        that this wrapper's own files say; in place of ``build``, or to come back to it.

        Returns:
            Whether that is possible; if not, this wrapper must build its own.

        Raises:
            ScoringError: as ``build``.
        """
        ...

    def let_go(self) -> None:
        """Forget the model: another wrapper asks it now, or it is to be freed."""
        ...

    def replace(self, state: dict[str, torch.Tensor]) -> nn.Module:
        """A model from a state dict by file names, through transformers' own loading.

        For models whose tensors are fused on loading, so that they cannot be swapped in place.
        """
        ...

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether ``build_prompt`` is to be used for a dataset, by its VLMEvalKit name."""
        ...

    def build_prompt(self, row: Any, dataset: str) -> Message:
        """The question of one row of a dataset, in this wrapper's words."""
        ...

    def set_dump_image(self, dump_image: Any) -> None:
        """Takes the dataset's function from a row to image paths, for ``build_prompt``."""
        ...

    def prepare(self, message: Message, dataset: str) -> Prepared:
        """What the model gets for a question; called from one other thread while it generates."""
        ...

    def decode(self, tokens: torch.Tensor) -> str:
        """The answer that new tokens [n] spell, as VLMEvalKit's wrapper would return it."""
        ...

    def answer(self, message: Message, dataset: str) -> str:
        """The whole way at once, where it cannot be taken apart."""
        ...


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn what transformers raises for a user's checkpoint into one line."""
    try:
        yield
    except (ValueError, OSError, ImportError, KeyError) as error:
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise ScoringError(
                f"{path}: the checkpoint brings its own Python code; read it, then add "
                "--trust-remote-code to let it run"
            ) from error
        raise ScoringError(f"{path}: {text[:400]}") from error
