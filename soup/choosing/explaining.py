"""Why a greedy soup kept nobody, or few: a paragraph from what the run itself recorded."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from soup.choosing.foreseeing import detectable
from soup.words import counted

if TYPE_CHECKING:
    from soup.choosing.difference import Difference
    from soup.choosing.likeness import Likeness
    from soup.choosing.lines import Line

ALIKE = 0.05
"""Share of questions below which members are too much alike to help each other."""

APART = 3.0
"""Points by which trials lose where members are not worth averaging as they are."""

SAME = 0.95
"""Cosine of differences to the base from which on members have learned the same."""


def why_few(
    kept: int,
    trials: Sequence[tuple[str, Difference]],
    stopped: int,
    behind: float | None,
    disagree: float | None,
    alike: Likeness | None = None,
    lines: Sequence[Line] = (),
) -> str:
    """One paragraph; empty where at least half of the trials were kept.

    Args:
        kept: trials that were kept.
        trials: who was added and its difference to the soup so far, of those measured in full.
        stopped: trials that were given up early.
        behind: points by which the median other member is behind the best.
        disagree: median share of questions on which a member and the best differ.
        alike: the members' weights beside each other.
        lines: scores between two of them, where they were recorded.
    """
    count = len(trials) + stopped
    if not count or 2 * kept >= count:
        return ""
    words = [f"greedy kept {kept or 'nobody'} of {counted(count, 'trial')}."]
    closest = [(name, d) for name, d in trials if d.low is not None]
    if closest:
        name, best = max(closest, key=lambda pair: pair[1].gain)
        words.append(
            f"The best was + {name}: {best.gain:+.2f} ({best.low:+.2f} … {best.high:+.2f})."
        )
    if disagree is not None:
        words.append(
            f"Members and the best single differ on {100 * disagree:.0f}% of the questions (those "
            "about one image taken as one)."
        )
    if alike is not None and alike.median is not None:
        words.append(
            f"The cosine of two members' weight differences to the "
            f"{'base' if alike.to == 'base' else 'mean of all'} is {alike.median:+.2f} in the "
            f"median ({alike.independent:+.2f} where they changed independently)."
        )
    if lines:
        worst = max(lines, key=lambda line: line.barrier)
        below = worst.words()[0]
        words.append(f"{below[0].upper()}{below[1:]}.")
    floor = _floor(closest)
    if floor is not None:
        words.append(f"These questions cannot tell gains below {floor:.1f} points from noise.")
    barrier = max((line.barrier for line in lines), default=None)
    same = alike is not None and alike.to == "base" and (alike.median or 0) > SAME
    words.append(_advice(closest, behind, disagree, floor, same, barrier))
    return " ".join(words)


def _floor(trials: Sequence[tuple[str, Difference]]) -> float | None:
    ends = [(d.low, d.high) for _, d in trials]
    errors = [(high - low) / 3.92 for low, high in ends if low is not None and high is not None]
    return detectable(median(errors)) if errors else None


def _advice(
    trials: Sequence[tuple[str, Difference]],
    behind: float | None,
    disagree: float | None,
    floor: float | None,
    same: bool,
    barrier: float | None,
) -> str:
    """What would help, by the first reason that the numbers show."""
    middle = median(d.gain for _, d in trials) if trials else None
    if same or (disagree is not None and disagree < ALIKE):
        return (
            "They are too much alike to correct each other: train members on other data or with "
            "other settings."
        )
    if barrier is not None and barrier > APART:
        return (
            "There is a barrier between members, so that averaging leaves their basin: train them "
            "from one base with smaller learning rates, or try --method ties --base BASE."
        )
    if behind is not None and behind > APART:
        return (
            f"Half of the members are more than {behind:.1f} points behind the best: averaging "
            "pulls it down; leave out the weakest, or add better ones."
        )
    if middle is not None and middle < -APART:
        return (
            "Averaging makes them worse than either: they may lie in different basins; try members "
            "from one base with smaller learning rates, or --method ties --base BASE."
        )
    if floor is not None and middle is not None and abs(middle) < floor:
        return "Most trials are within the noise: more questions, or more benchmarks, would decide."
    return "The others add nothing here: try members trained on other data."
