"""Answers in the order that was asked for: those known already, and the rest as they come."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from soup.errors import ScoringError
from soup.evaluators.engines.kept import Kept
from soup.evaluators.models.wrapper import Message, clear_errors


def silent(count: int) -> None:
    """Nobody is told how many questions were answered."""


def answered(
    ask: Callable[[Sequence[int]], Iterator[tuple[int, str]]],
    where: Path,
    messages: Sequence[Message],
    progress: Callable[[int], None],
    only: Sequence[int] | None,
    kept: Kept | None,
) -> list[str]:
    """Have an engine answer what is not known yet; see ``Engine.answer`` for the rest.

    Args:
        ask: answers questions at these positions, in whatever order they come; asked for none
            where all are known.
        where: the model, for people.
        messages: all questions.
        progress: told of each answer.
        only: the positions that are wanted; None is all.
        kept: what is known, and where new answers go.

    Raises:
        ScoringError: the engine fails, or leaves one out.
    """
    wanted = range(len(messages)) if only is None else only
    answers = {} if kept is None else dict(kept.known)
    missing = [index for index in wanted if index not in answers]
    with clear_errors(where), torch.inference_mode():
        for index, text in ask(missing) if missing else ():
            answers[index] = text
            if kept is not None:
                kept.add(index, text)
            progress(1)
    unanswered = sum(index not in answers for index in wanted)
    if unanswered:
        raise ScoringError(f"{unanswered} of {len(wanted)} questions got no answer")
    return [answers[index] for index in wanted]
