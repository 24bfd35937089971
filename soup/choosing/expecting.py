"""Before a greedy trial is decided: which trials may follow it, and how likely each of them is.

Whoever has nothing better to do may begin with them; decisions wait for the results that they are
about, so that none of them depends on it.
"""

import heapq
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def chance(kept: int, tried: int) -> float:
    """That the next trial is kept, by the trials before it.

    Laplace's rule of succession: (kept + 1) / (tried + 2), a half where nothing is known.
    """
    return (kept + 1) / (tried + 2)


def trials(
    kept: Sequence[T], untried: Sequence[T], likely: float, most: int
) -> list[tuple[tuple[T, ...], float]]:
    """The trial at hand and those that may follow, the likeliest first.

    Args:
        kept: members of the soup so far.
        untried: members that are still to be tried, in order; the first is being tried.
        likely: the chance that a trial is kept, 0–1; every trial's alike.
        most: how many trials, at most.

    Returns:
        The members of each trial, and how likely it is to be made. The first is certain.
    """
    found: list[tuple[tuple[T, ...], float]] = []
    waiting = [(-1.0, 0, 0, tuple(kept))] if untried else []
    number = 0  # of two that are equally likely, the one that was thought of first
    while waiting and len(found) < most:
        minus, _, at, soup = heapq.heappop(waiting)
        trial = (*soup, untried[at])
        found.append((trial, -minus))
        if at + 1 == len(untried):
            continue
        for share, after in ((likely, trial), (1 - likely, soup)):
            if share > 0:
                number += 1
                heapq.heappush(waiting, (minus * share, number, at + 1, after))
    return found
