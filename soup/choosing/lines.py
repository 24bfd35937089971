"""The score along the straight line between two members' weights, as the journal keeps it.

Two fine-tunes lie in one basin where no model on the line (1 − t)·A + t·B is worse than the line
between their scores says. How much worse the worst is, is the *barrier* (Frankle et al. 2020, arXiv
1912.05671; Entezari et al. 2022, arXiv 2110.06296):

    barrier = max over t of (1 − t)·Acc(A) + t·Acc(B) − Acc(t), and 0 at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soup.choosing.journal import Journal, now
from soup.choosing.scoring import mean_of, recorded, result_key

KIND = "line"
"""Records of lines: both ends, benchmarks, and the blend at each place."""


@dataclass(frozen=True)
class Point:
    """One place on a line: ``t`` is the second member's share; scores are 0–100, by benchmark."""

    t: float
    mean: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Line:
    """Scores between two members.

    Attributes:
        first: the name of the one at t = 0.
        second: the name of the one at t = 1.
        points: in order of t, both ends among them.
        differ: whether the members' companion files differ: every place was asked with the first's,
            so that nothing but weights changes along the line.
    """

    first: str
    second: str
    points: Sequence[Point]
    differ: bool = False

    @property
    def barrier(self) -> float:
        """Points of the mean by which the worst place is below the straight line of scores."""
        start, end = self.points[0].mean, self.points[-1].mean
        below = [(1 - p.t) * start + p.t * end - p.mean for p in self.points]
        return max(0.0, *below)

    @property
    def best(self) -> Point:
        """The place with the highest mean, the first of several."""
        return max(self.points, key=lambda point: point.mean)

    def words(self) -> list[str]:
        """What the line says, in sentences."""
        best, ends = self.best, max(self.points[0].mean, self.points[-1].mean)
        below = (
            f"the mean falls up to {self.barrier:.2f} points below the straight line between "
            f"{self.first} and {self.second}"
            if self.barrier
            else f"no place between {self.first} and {self.second} is below the straight line"
        )
        at = f"the best place is t = {best.t:.2f}: {best.mean:.2f}"
        found = [below, f"{at} ({best.mean - ends:+.2f} to the better end)"]
        if self.differ:
            found.append(
                f"every place was asked with the companion files of {self.first}: those of "
                f"{self.second}, with which a run scores it, are others"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        points = [{"t": p.t, "mean": p.mean, "scores": dict(p.scores)} for p in self.points]
        ends = {"first": self.first, "second": self.second}
        asked = {"asked_with": self.first} if self.differ else {}
        return ends | {"barrier": round(self.barrier, 10), "points": points} | asked


def remember_line(
    journal: Journal,
    ends: Sequence[Mapping[str, str]],
    benchmarks: Mapping[str, str],
    points: Sequence[tuple[float, str]],
    shares: Mapping[str, float],
    differ: bool = False,
) -> None:
    """Record a line whose places are all scored.

    Args:
        journal: where to.
        ends: of both members name and digest.
        benchmarks: digest by name.
        points: t and the blend's digest.
        shares: of the mean, by benchmark; empty where all count alike.
        differ: see ``Line``.

    Raises:
        JournalError: it cannot be written.
    """
    journal.append(
        KIND,
        time=now(),
        ends=[dict(end) for end in ends],
        benchmarks=dict(benchmarks),
        points=[[t, blend] for t, blend in points],
        shares=dict(shares),
        **({"differ": True} if differ else {}),
    )


def recorded_lines(journal: Journal, names: Mapping[str, str]) -> list[Line]:
    """Lines between members, the newest of each two.

    Args:
        journal: holds them and their results.
        names: of the members, by digest.
    """
    found: dict[frozenset[str], Line] = {}
    for record in journal.others.get(KIND, ()):
        digests = [end["digest"] for end in record["ends"]]
        if not all(digest in names for digest in digests):
            continue
        line = line_of(journal, record, [names[digest] for digest in digests])
        if line is not None:
            found[frozenset(digests)] = line
    return list(found.values())


def line_of(journal: Journal, record: Mapping[str, Any], names: Sequence[str]) -> Line | None:
    """A recorded line; None where results of it are not there."""
    points = []
    for t, blend in record["points"]:
        scores = {}
        for name, digest in record["benchmarks"].items():
            result = recorded(journal, result_key(blend, digest))
            if result is None:
                return None
            scores[name] = result.value
        points.append(Point(t, mean_of(scores, record["shares"]), scores))
    return Line(names[0], names[1], points, bool(record.get("differ")))
