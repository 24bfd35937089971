"""Processes without a model, which evaluate what others have answered.

A metric (VLMEvalKit's ``dataset.evaluate``) needs no device, and a judge is mostly waited for. Who
has a model would keep its device idle meanwhile, so where the processor has cores to spare these do
it: the same code, in a process that never loads weights.
"""

from math import ceil
from pathlib import Path

EVALUATORS = 1_000_000
"""Their numbers begin here; those of workers are below."""

EACH = 4
"""Of so many evaluators that there may be, one is there from the beginning."""

WORTH = 20.0
"""Seconds of metrics that wait, for each evaluator that there is, from which on one more is
started: about what it takes until it is up."""


def log_of(log: Path, number: int) -> Path:
    """What a process prints, by its number: the first worker's is ``log``, others are beside it."""
    if number >= EVALUATORS:
        log, number = log.with_stem("evaluator"), number - EVALUATORS
    return log.with_stem(f"{log.stem}-{number + 1}") if number else log


def wants_more(there: int, most: int, backlog: float) -> bool:
    """Whether to start one more.

    Args:
        there: how many there are, or will be when they are up.
        most: how many there may be.
        backlog: seconds of metrics that are not done.
    """
    return there < most and (there < ceil(most / EACH) or backlog > WORTH * there)
