"""When work is done that others can join, and which guess pays: work that is only likely wanted.

A guess that comes true with a chance of p saves at most the time until it is decided, D. One that
does not keeps its worker from what is wanted then, for L = max(S + slice - D, slice / 2) seconds,
as what is begun is not broken off; S is the time of a swap. It pays where p·D > c·(1 - p)·L·u; of N
workers those matter that could join what is wanted then, u = R / (S·N), at most 1, for R seconds of
work; c is caution.
"""

from collections.abc import Iterable

from soup.evaluators.workers.jobs import Group

CAUTION = 2.0
"""How much a wrong guess counts: all these times are estimates, and waiting costs nothing new."""


def end_of(left: float, count: int, swap: float, workers: int) -> float:
    """Seconds until work is done that all join who end it sooner by that.

    Args:
        left: seconds of it, what those who are at it are busy with included.
        count: how many these are.
        swap: seconds until another one could begin.
        workers: how many there are.
    """
    if count and left <= count * swap:
        return left / count
    return (left + (workers - count) * swap) / workers


def best_guess(
    groups: Iterable[Group],
    held: Group | None,
    *,
    swap: float,
    slice_: float,
    decided: float,
    workers: int,
) -> Group | None:
    """The likeliest guess that pays; None where none does.

    Args:
        groups: what there is to do, the likeliest first.
        held: that of them which the worker holds already; then it is this one or none.
        swap: seconds to load a blend.
        slice_: seconds of the shortest slice.
        decided: seconds until it is known what is wanted.
        workers: how many there are.
    """
    for group in [held] if held is not None else groups:
        share = group.likelihood
        joins = group is not held and group.holders > 0
        if share >= 1 or (joins and group.seconds <= group.holders * swap):
            continue
        late = max((0.0 if group is held else swap) + slice_ - decided, slice_ / 2)
        of_use = min(1.0, group.seconds / (swap * workers)) if swap else 1.0
        if share * decided > CAUTION * (1 - share) * late * of_use:
            return group
    return None
