"""Every error that a user can cause or meet, as one tree.

    SoupError                one clear line for the terminal; exit code 1
    ├── UsageError           the command itself cannot be understood; exit code 2
    ├── CheckpointError      one model directory cannot be read
    ├── PoolError            the checkpoints cannot be blended with each other
    ├── BlendError           a tensor's values cannot be blended (NaN, overflow, unequal integers)
    ├── OutputError          the result cannot be written where it was asked for
    ├── JournalError         the record of earlier work cannot be read or extended
    ├── BenchmarkError       a benchmark is unknown, missing, or cannot be scored as configured
    └── ScoringError         a model could not be loaded or could not answer

A message says what is wrong, where, what was expected, what was found and what to do. Anything
that is not a SoupError is a defect of ours, and keeps its traceback.
"""


class SoupError(Exception):
    """A mistake or a failure that the user can act on."""

    exit_code = 1


class UsageError(SoupError):
    """The command cannot be understood."""

    exit_code = 2


class CheckpointError(SoupError):
    """One model directory cannot be read."""


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
        PoolError,
        BlendError,
        OutputError,
        JournalError,
        BenchmarkError,
        ScoringError,
    )
}
"""The tree by class name: how an error crosses from a worker process to ours."""
