"""What a benchmark's questions have in common, and how their outcomes make its number.

A scorer says so once for each benchmark; the journal keeps it beside the results. Two things follow
from it. Questions about one image (or one image seen from several benchmarks) are right or wrong
together more often than by chance: they are one cluster, and the statistics resample clusters, not
questions (Cameron & Miller 2015, J. Human Resources 50(2)). And a number that is no plain mean of
outcomes, such as HallusionBench's, can be made again from any others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Term:
    """A mean over groups of questions; a group counts as its worst question.

    Attributes:
        share: of the benchmark's number, 0–1; the shares of its terms sum to one.
        groups: by question the group it is in; those that are in none do not count. None where
            every question is a group of its own.
    """

    share: float = 1.0
    groups: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Questions:
    """Of one benchmark; a question is a key of ``Result.outcomes``.

    Attributes:
        clusters: by question a name of what it shares with others, in any benchmark; a question
            that is not named here shares nothing.
        categories: by question, where the benchmark has any.
        terms: the number is 100 times the sum of their shares times their means.
        positive: where it is not empty, the number is instead 100 · F1, and these questions, by how
            often they count, are those with the answer yes.
        negative: the same for no.
    """

    clusters: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    terms: Sequence[Term] = (Term(),)
    positive: Mapping[str, float] = field(default_factory=dict)
    negative: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As the journal keeps it, and as a worker says it."""
        return {
            "clusters": dict(self.clusters),
            "categories": dict(self.categories),
            "terms": [[term.share, term.groups and dict(term.groups)] for term in self.terms],
            "positive": dict(self.positive),
            "negative": dict(self.negative),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Questions":
        """The other way."""
        return cls(
            record["clusters"],
            record["categories"],
            tuple(Term(share, groups) for share, groups in record["terms"]),
            record["positive"],
            record["negative"],
        )
