"""How much each benchmark counts in the mean that decides.

``macro`` counts all alike, as POINTS does; ``samples`` by their numbers of questions; ``z`` by one
over the spread of the members' numbers, so that a benchmark on which all members are nearly equal
decides as much as one on which they are far apart (the order is that of the mean of z-scores, but
the mean stays on 0–100). Weights that were given multiply that. Shares sum to one.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import stdev

from soup.choosing.scoring import Benchmark, Score
from soup.errors import ScoringError, UsageError

MEANS = ("macro", "samples", "z")


def require_weight(name: str, weight: float) -> None:
    """Raises UsageError for a weight that is not a positive number."""
    if not isfinite(weight) or weight <= 0:
        raise UsageError(f"--bench {name}={weight:g}: expected a weight above 0")


def shares_of(
    benchmarks: Sequence[Benchmark],
    weights: Mapping[str, float],
    mean: str,
    members: Sequence[Score] = (),
) -> dict[str, float]:
    """By benchmark its share of the mean; empty where all count alike.

    Args:
        benchmarks: those that decide.
        weights: by name, where one is not 1.
        mean: one of ``MEANS``.
        members: their scores; needed for ``z``.

    Raises:
        ScoringError: all members have the same number, so that there is no spread.
    """
    if mean == "macro" and len({weights.get(b.name, 1.0) for b in benchmarks}) < 2:
        return {}
    parts = {b.name: weights.get(b.name, 1.0) for b in benchmarks}
    for benchmark in benchmarks:
        if mean == "samples":
            parts[benchmark.name] *= benchmark.samples
        elif mean == "z":
            values = [score.results[benchmark.name].value for score in members]
            spread = stdev(values) if len(values) > 1 else 0.0
            if spread == 0:
                raise ScoringError(
                    f"--mean z: all members score the same on {benchmark.name}, so its weight "
                    "would be infinite; leave it out, or use --mean macro"
                )
            parts[benchmark.name] /= spread
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()}
