"""Two blends side by side: per benchmark and category how far apart, how surely, on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soup.choosing.comparing import pair, questions_of
from soup.choosing.journal import Journal
from soup.choosing.naming import Named, common_benchmarks
from soup.choosing.questions import Questions
from soup.choosing.scoring import Result, recorded, result_key
from soup.errors import JournalError, UsageError

if TYPE_CHECKING:
    from soup.choosing.difference import Difference

VERSION = 1


@dataclass(frozen=True)
class Compared:
    """One benchmark, or one category of it; of a category the values are means of outcomes.

    Attributes:
        name: the benchmark's, or the category's.
        first: the first blend's value, 0–100.
        second: the second's.
        difference: first minus second.
        won: questions that the first got more right.
        lost: those that the second did.
        categories: of a benchmark that has any.
        digest: of the benchmark.
    """

    name: str
    first: float
    second: float
    difference: Difference
    won: Sequence[str] = ()
    lost: Sequence[str] = ()
    categories: Sequence[Compared] = ()
    digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {
            "name": self.name,
            "first": self.first,
            "second": self.second,
            "difference": self.difference.to_dict(),
            "won": list(self.won),
            "lost": list(self.lost),
        }
        return found | {"categories": [one.to_dict() for one in self.categories]}


@dataclass(frozen=True)
class SideBySide:
    """Two blends on all benchmarks that both were scored on; the mean counts them alike."""

    first: str
    second: str
    benchmarks: Sequence[Compared]
    mean: Compared

    def to_dict(self) -> dict[str, Any]:
        """The document that docs/statistics.md describes."""
        return {
            "version": VERSION,
            "first": self.first,
            "second": self.second,
            "mean": self.mean.to_dict(),
            "benchmarks": [one.to_dict() for one in self.benchmarks],
        }


def side_by_side(
    journal: Journal, first: Named, second: Named, only: Sequence[str] = ()
) -> SideBySide:
    """Compare two blends question by question.

    Args:
        journal: holds their results.
        first: one blend.
        second: the other.
        only: names of benchmarks; none means all that both were scored on.

    Raises:
        JournalError: there is no benchmark on which both were scored.
        UsageError: one that was asked for is none of these, or both are the same.
    """
    if first.blend == second.blend:
        raise UsageError(f"{first.name} and {second.name} are the same: nothing to compare")
    blends = [first.blend, second.blend]
    common = common_benchmarks(journal, blends)
    if not common:
        raise JournalError(
            f"{first.name} and {second.name} were scored on no benchmark in the same way; score "
            "both in one run, e.g. soup score A B --bench NAME"
        )
    for name in only:
        if name not in common:
            raise UsageError(f"--bench {name}: expected one of {', '.join(common)}")
    chosen = {name: common[name] for name in only or common}
    found = [_benchmark(journal, name, digest, blends) for name, digest in chosen.items()]
    paired = pair(journal, chosen, blends, {name: 1 / len(chosen) for name in chosen})
    (difference,) = paired.differences([(0, 1)])
    a, b = (round(float(mean), 10) for mean in paired.means)
    return SideBySide(first.name, second.name, found, Compared("mean", a, b, difference))


def _benchmark(journal: Journal, name: str, digest: str, blends: Sequence[str]) -> Compared:
    first, second = (_result(journal, blend, digest) for blend in blends)
    paired = pair(journal, {name: digest}, blends, {name: 1.0})
    (difference,) = paired.differences([(0, 1)])
    common = [key for key in first.outcomes if key in second.outcomes]
    won = [key for key in common if first.outcomes[key] > second.outcomes[key]]
    lost = [key for key in common if first.outcomes[key] < second.outcomes[key]]
    questions = questions_of(journal, digest)
    categories = _categories(questions, first, second, common) if questions else []
    return Compared(name, first.value, second.value, difference, won, lost, categories, digest)


def _categories(
    questions: Questions, first: Result, second: Result, keys: Sequence[str]
) -> list[Compared]:
    from soup.choosing.statistics import Paired, Told

    members: dict[str, list[str]] = {}
    for key in keys:
        if key in questions.categories:
            members.setdefault(questions.categories[key], []).append(key)
    found = []
    for name, part in sorted(members.items()):
        outcomes: list[Mapping[str, float]] = [
            {key: result.outcomes[key] for key in part} for result in (first, second)
        ]
        values = [100 * sum(o.values()) / len(part) for o in outcomes]
        told = Told(name, Questions(clusters=questions.clusters), outcomes, values, 1.0)
        (difference,) = Paired([told]).differences([(0, 1)])
        won = [key for key in part if outcomes[0][key] > outcomes[1][key]]
        lost = [key for key in part if outcomes[0][key] < outcomes[1][key]]
        found.append(Compared(name, values[0], values[1], difference, won, lost))
    return found if len(found) > 1 else []


def _result(journal: Journal, blend: str, digest: str) -> Result:
    found = recorded(journal, result_key(blend, digest))
    if found is None:  # what is scored is compared; but what was read may be none of ours
        raise JournalError(
            f"{journal.path}: a result of what is compared cannot be one; run its command again: "
            "it measures only what is lost"
        )
    return found
