"""Before a run: the smallest gain that its benchmarks could tell from noise, and what it costs.

A gain of g points is found by a two-sided test at 5% with a chance of 80% where

    g = (z_0.975 + z_0.8) · SE = 2.80 · SE

(Cohen 1988, chapter 6). SE is that of a trial's difference to the soup so far: the median of an
earlier run's own, where the journal has one on these benchmarks; else, with a share d of questions
on which two blends differ, that of B independent benchmarks,

    SE = 100 · √( Σ_b w_b² · d / N_b ).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, median

from soup.choosing.comparing import run_differences
from soup.choosing.journal import Journal

DISAGREE = 0.15
"""Share of questions on which two fine-tunes of one base differ, where nothing is recorded."""

POWER = 0.8
LEVEL = 0.05


@dataclass(frozen=True)
class Foreseen:
    """What can be said of a run before it.

    Attributes:
        gain: the smallest that could be told from noise, in points; None where sizes are unknown.
        measured: whether it comes from recorded outcomes.
        evaluations: of each benchmark that decides, at most.
        samples: questions to answer in all, at most; None where sizes are unknown.
        seconds: for that, by recorded speeds; None where there are none.
        unknown: benchmarks whose number of questions is not known here.
    """

    gain: float | None
    measured: bool
    evaluations: int
    samples: int | None
    seconds: float | None
    unknown: tuple[str, ...] = ()


def foresee(
    journal: Journal,
    kind: str,
    members: int,
    benchmarks: Sequence[str],
    holdouts: Sequence[str],
    sizes: Mapping[str, int],
) -> Foreseen:
    """What a run would cost, and could tell.

    Args:
        journal: of earlier runs.
        kind: of soup, or ``score``.
        members: how many.
        benchmarks: names, those that decide.
        holdouts: names.
        sizes: questions by name, for benchmarks that were never scored.
    """
    known = {**sizes, **_recorded_sizes(journal)}
    more = {"score": 0, "max": 0, "greedy": members - 1}.get(kind, 1)
    evaluations = members + more
    times = {**dict.fromkeys(benchmarks, evaluations)}
    times |= dict.fromkeys(holdouts, members + (kind != "score" and kind != "max"))
    unknown = tuple(name for name in times if name not in known)
    samples = None if unknown else sum(known[name] * many for name, many in times.items())
    speeds = _speeds(journal)
    seconds = None
    if not unknown and times and all(name in speeds for name in times):
        seconds = sum(known[name] * many * speeds[name] for name, many in times.items())
    error, measured = _error_of(journal, benchmarks), True
    if error is None and benchmarks and not set(benchmarks) & set(unknown):
        weight = 1 / len(benchmarks)
        error = 100 * sqrt(sum(weight**2 * DISAGREE / known[name] for name in benchmarks))
        measured = False
    return Foreseen(
        None if error is None else detectable(error),
        measured,
        evaluations,
        samples,
        seconds,
        unknown,
    )


def detectable(error: float) -> float:
    """The smallest gain that a difference with this standard error would show."""
    normal = NormalDist()
    return (normal.inv_cdf(1 - LEVEL / 2) + normal.inv_cdf(POWER)) * error


def _error_of(journal: Journal, benchmarks: Sequence[str]) -> float | None:
    """The median standard error of trials, else of members, in the newest run on these."""
    for records in reversed(list(journal.runs.values())):
        if not benchmarks or set(records[0]["benchmarks"]) != set(benchmarks):
            continue
        found = run_differences(journal, records)
        for differences in (found.steps, list(found.members.values())):
            errors = [
                (d.high - d.low) / (2 * 1.96)
                for d in differences
                if d is not None and d.low is not None and d.high is not None and d.high > d.low
            ]
            if errors:
                return median(errors)
    return None


def _recorded_sizes(journal: Journal) -> dict[str, int]:
    results = [record["result"] for record in journal.results.values()]
    return {result["benchmark"]: result["samples"] for result in results}


def _speeds(journal: Journal) -> dict[str, float]:
    """Seconds per question by benchmark, the median of all that were timed."""
    times: dict[str, list[float]] = {}
    for record in journal.results.values():
        result = record["result"]
        if record.get("seconds") is not None and result["samples"]:
            speed = record["seconds"] / result["samples"]
            times.setdefault(result["benchmark"], []).append(speed)
    return {name: median(values) for name, values in times.items()}
