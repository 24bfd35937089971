"""Every error that a user can cause or meet, as one tree.

    SoupError                one clear line for the terminal; exit code 1
    ├── UsageError           the command itself cannot be understood; exit code 2
    ├── CheckpointError      one model directory cannot be read
    │   ├── QuantisedError   its weights are packed integers, which cannot be averaged
    │   ├── UnfinishedError  it is not complete: perhaps it is still being written
    │   ├── RewrittenError   its bytes are not those that are remembered of these very files
    │   └── UnreachableError it is elsewhere, and cannot be read from there now
    ├── PoolError            the checkpoints cannot be blended with each other
    ├── BlendError           a tensor's values cannot be blended (NaN, overflow, unequal integers)
    ├── OutputError          the result cannot be written where it was asked for
    ├── JournalError         the record of earlier work cannot be read or extended
    ├── BenchmarkError       a benchmark is unknown, missing, or cannot be scored as configured
    └── ScoringError         a model could not be loaded or could not answer

A message says what is wrong, where, what was expected, what was found and what to do. Anything
that is not a SoupError is a defect of ours, and keeps its traceback.
"""

import re

from soup.words import plain, sentence

_LOGIN = re.compile(r"(:/{1,2})[^/\s@:]+:[^/\s@]+@")
"""A name and a password in an address, whatever it was mistaken for."""


class SoupError(Exception):
    """A mistake or a failure that the user can act on.

    Whatever names of files its message holds, it is one line that no terminal takes for commands.
    """

    exit_code = 1

    def __init__(self, message: str = "", details: str = "") -> None:
        """Make the message safe to show.

        Args:
            message: one line.
            details: more lines below it, e.g. the last ones of a log; shown as they are, but for
                what commands a terminal.
        """
        text = sentence(_LOGIN.sub(r"\1…@", str(message)))
        super().__init__(f"{text}\n{plain(details, lines=True)}" if details else text)


class UsageError(SoupError):
    """The command cannot be understood."""

    exit_code = 2


class CheckpointError(SoupError):
    """One model directory cannot be read."""


class QuantisedError(CheckpointError):
    """A model's weights are packed integers, which cannot be averaged."""


class UnfinishedError(CheckpointError):
    """A model directory is not complete: perhaps it is still being written."""


class RewrittenError(CheckpointError):
    """A model's bytes are not those that are remembered of its files, whatever these look like."""


class UnreachableError(CheckpointError):
    """A model is elsewhere, and the place cannot be reached, or does not let it be read."""


class PoolError(SoupError):
    """The checkpoints cannot be blended with each other."""


class BlendError(SoupError):
    """A tensor's values cannot be blended."""


class OutputError(SoupError):
    """The result cannot be written where it was asked for."""


class JournalError(SoupError):
    """The record of earlier work cannot be read or extended."""


class BenchmarkError(SoupError):
    """A benchmark is unknown, missing, or cannot be scored as configured."""


class ScoringError(SoupError):
    """A model could not be loaded or could not answer."""


BY_NAME: dict[str, type[SoupError]] = {
    error.__name__: error
    for error in (
        SoupError,
        UsageError,
        CheckpointError,
        QuantisedError,
        UnfinishedError,
        RewrittenError,
        UnreachableError,
        PoolError,
        BlendError,
        OutputError,
        JournalError,
        BenchmarkError,
        ScoringError,
    )
}
"""The tree by class name: how an error crosses from a worker process to ours."""
