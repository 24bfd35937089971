"""How alike members are: the angle between their weight differences, and where answers differ.

With d_i = w_i − base, or w_i − the members' mean where there is no base, the cosine of two members
is d_i·d_j / (‖d_i‖ ‖d_j‖), from the squared distances D that the journal keeps of every pair:

    base:  d_i·d_j = (D_ib + D_jb − D_ij) / 2
    mean:  d_i·d_j = (r_i + r_j − D_ij − m) / 2,  r_i the mean of row i of D, m that of all of D

(the second is the double centring of classical scaling, Torgerson 1952). Independent changes of one
base have a cosine of 0 to it, and of −1/(n−1) to the mean of n members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import median
from typing import Any

from soup.choosing.journal import Journal

KIND = "apart"
"""Records of squared distances: ``digests``, and ``squares``, a row for each."""

Matrix = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Likeness:
    """Of a pool's members, in the leaderboard's order.

    Attributes:
        names: of the members.
        cosine: of their weight differences, (members, members), −1 … 1; None where not recorded.
        to: what the differences are to: ``"base"`` or ``"mean"``.
        differ: share of questions, 0–1, on which two members did not do alike, those about one
            image as one; None where outcomes are not recorded.
    """

    names: Sequence[str]
    cosine: Matrix | None = None
    to: str = "mean"
    differ: Matrix | None = None

    @property
    def median(self) -> float | None:
        """The median cosine of two members."""
        return None if self.cosine is None else median(_pairs(self.cosine))

    @property
    def independent(self) -> float:
        """The cosine of two members that changed independently of each other."""
        return 0.0 if self.to == "base" else -1 / (len(self.names) - 1)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "members": list(self.names),
            "cosine": None if self.cosine is None else [list(row) for row in self.cosine],
            "cosine_to": None if self.cosine is None else self.to,
            "differ": None if self.differ is None else [list(row) for row in self.differ],
        }


def known_distances(journal: Journal, digests: Sequence[str]) -> Matrix | None:
    """Squared distances of checkpoints, by content; None where one is not recorded."""
    squares: dict[tuple[str, str], float] = {}
    for record in journal.others.get(KIND, ()):
        for first, row in zip(record["digests"], record["squares"], strict=True):
            for second, value in zip(record["digests"], row, strict=True):
                squares[first, second] = value
    try:
        return [[0.0 if a == b else squares[a, b] for b in digests] for a in digests]
    except KeyError:
        return None


def remember_distances(journal: Journal, digests: Sequence[str], squares: Matrix) -> None:
    """Record them; not where a weight is NaN or infinite.

    Raises:
        JournalError: it cannot be written.
    """
    if all(isfinite(value) for row in squares for value in row):
        rows = [[float(f"{value:.12g}") for value in row] for row in squares]
        journal.append(KIND, digests=list(digests), squares=rows)


def cosines(
    journal: Journal, members: Sequence[str], base: str | None
) -> tuple[Matrix | None, str]:
    """Cosines of members, by digest, and what their differences are to.

    None where distances are not recorded, where a member is the base or the mean itself, and of two
    members without a base: those are opposite to their mean by definition.
    """
    if base is not None and base not in members:
        found = known_distances(journal, [*members, base])
        if found is not None and len(members) > 1:
            *_, own = zip(*found, strict=True)
            return _cosines(lambda i, j: (own[i] + own[j] - found[i][j]) / 2, len(members)), "base"
    found = known_distances(journal, members)
    count = len(members)
    if found is None or count < 3:
        return None, "mean"
    rows = [sum(row) / count for row in found]
    whole = sum(rows) / count
    return _cosines(lambda i, j: (rows[i] + rows[j] - found[i][j] - whole) / 2, count), "mean"


def _cosines(product: Any, count: int) -> Matrix | None:
    lengths = [sqrt(max(product(i, i), 0.0)) for i in range(count)]
    if not all(lengths):
        return None
    return [
        [
            1.0 if i == j else round(max(-1, min(1, product(i, j) / (lengths[i] * lengths[j]))), 6)
            for j in range(count)
        ]
        for i in range(count)
    ]


def _pairs(matrix: Matrix) -> list[float]:
    return [matrix[i][j] for i in range(len(matrix)) for j in range(i)]


def likeness_of(
    journal: Journal,
    members: Sequence[tuple[str, str, str]],
    base: str | None,
    differ: Mapping[tuple[str, str], float],
) -> Likeness | None:
    """How alike a run's members are; None where nothing of it is recorded.

    Args:
        journal: holds their distances.
        members: name, digest and blend's digest of each, in the order wanted; equal ones once.
        base: digest of the base; None where there was none.
        differ: share of questions on which two blends did not do alike.
    """
    first: dict[str, tuple[str, str]] = {}
    for name, digest, blend in members:
        first.setdefault(digest, (name, blend))
    distinct = list(first.items())
    if len(distinct) < 2:
        return None
    cosine, to = cosines(journal, [digest for digest, _ in distinct], base)
    blends = [blend for _, (_, blend) in distinct]
    shares: Matrix | None = None
    if all((a, b) in differ for a in blends for b in blends if a != b):
        shares = [[0.0 if a == b else differ[a, b] for b in blends] for a in blends]
    if cosine is None and shares is None:
        return None
    return Likeness([name for _, (name, _) in distinct], cosine, to, shares)
