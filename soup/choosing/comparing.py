"""How sure a run's differences are, from what the journal holds of it.

``soup.choosing.statistics`` and ``soup.choosing.corrected`` have the numbers; here is which blends
of a run are compared with which. numpy is imported when there is something to compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, Any

from soup.choosing.journal import Journal
from soup.choosing.questions import Questions
from soup.choosing.scoring import Result, recorded, result_key

if TYPE_CHECKING:
    from soup.choosing.corrected import Corrected
    from soup.choosing.statistics import Difference, Paired


@dataclass(frozen=True)
class Differences:
    """Of one run.

    Attributes:
        members: each against the best single member, by the digest of its blend.
        steps: each decision's trial against the soup so far; None where nothing was compared.
        soup: against the best single member.
        holdout: the same for the mean of the hold-outs.
        corrected: the soup's gain over the best single member, cleared of selection; for greedy.
        disagree: median share of questions, those of one image as one, on which another member
            and the best did not do alike.
        differ: the same share of every two members, by the digests of their blends.
    """

    members: Mapping[str, Difference] = field(default_factory=dict)
    steps: Sequence[Difference | None] = ()
    soup: Difference | None = None
    holdout: Difference | None = None
    corrected: Corrected | None = None
    disagree: float | None = None
    differ: Mapping[tuple[str, str], float] = field(default_factory=dict)


def run_differences(journal: Journal, records: Sequence[Mapping[str, Any]]) -> Differences:
    """The differences of a run, given its records, its start first."""
    start = records[0]
    decisions = [r for r in records if r["kind"] == "decision"]
    soups = [r["blend"] for r in records if r["kind"] == "soup"]
    benchmarks: Mapping[str, str] = start["benchmarks"]
    weights = weights_of(records)
    # In the order of ``recipes.settled``: that in which they were named changes no number.
    settled = sorted(start["members"], key=lambda m: (m["digest"], m["name"]))
    members = [m["blend"] for m in settled]
    blends = [
        blend
        for blend in dict.fromkeys([*members, *(d["blend"] for d in decisions), *soups])
        if results_of(journal, blend, benchmarks) is not None
    ]
    if not benchmarks or not blends:
        return Differences(steps=[None] * len(decisions))
    place = {blend: k for k, blend in enumerate(blends)}
    paired = pair(journal, benchmarks, blends, weights)
    ranked = sorted((k for b, k in place.items() if b in members), key=lambda k: -paired.means[k])
    if not ranked:
        return Differences(steps=[None] * len(decisions))
    best = ranked[0]
    asked: list[tuple[int, int]] = [(place[m], best) for m in members if m in place]
    path = _path(decisions, place)
    asked += [step for step in path if step is not None]
    asked += [(place[b], best) for b in soups[-1:] if b in place]
    found = dict(zip(asked, paired.differences(asked), strict=True))
    soup = place.get(soups[-1]) if soups else None
    return Differences(
        {m: found[place[m], best] for m in members if m in place},
        [None if step is None else found[step] for step in path],
        None if soup is None else found[soup, best],
        _holdout(journal, start["holdouts"], blends, soup, best),
        _corrected(paired, start, decisions, place, soup, best),
        _disagreement(paired, ranked),
        _differ(paired, {m: place[m] for m in members if m in place}),
    )


def _differ(paired: Paired, place: Mapping[str, int]) -> dict[tuple[str, str], float]:
    if paired.unknown:
        return {}
    pairs = combinations(place, 2)
    half = {(a, b): paired.disagreement(place[a], place[b]) for a, b in pairs}
    return half | {(b, a): share for (a, b), share in half.items()}


def _disagreement(paired: Paired, ranked: Sequence[int]) -> float | None:
    if paired.unknown or len(ranked) < 2:
        return None
    return median(paired.disagreement(other, ranked[0]) for other in ranked[1:])


def shares_in(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By benchmark of a run its share of the mean; empty where all count alike."""
    return next((dict(r["shares"]) for r in records if r["kind"] == "shares"), {})


def weights_of(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By benchmark of a run its share of the mean; the shares sum to one."""
    names = list(records[0]["benchmarks"])
    return shares_in(records) or {name: 1 / len(names) for name in names}


def pair(
    journal: Journal,
    benchmarks: Mapping[str, str],
    blends: Sequence[str],
    weights: Mapping[str, float],
) -> Paired:
    """Blends on benchmarks (digest by name), all of them scored."""
    from soup.choosing.statistics import Paired, Told

    told = []
    for name, digest in benchmarks.items():
        results = [recorded(journal, result_key(blend, digest)) for blend in blends]
        assert all(results), "only blends that are scored"
        whole = [result for result in results if result is not None]
        questions = questions_of(journal, digest)
        outcomes = [result.outcomes for result in whole]
        told.append(Told(name, questions, outcomes, [r.value for r in whole], weights[name]))
    return Paired(told)


def questions_of(journal: Journal, digest: str) -> Questions | None:
    """What was recorded of a benchmark's questions; None in journals of earlier versions."""
    record = journal.benchmarks.get(digest)
    return None if record is None else Questions.from_json(record["questions"])


def results_of(
    journal: Journal, blend: str, benchmarks: Mapping[str, str]
) -> dict[str, Result] | None:
    """A blend's results on all benchmarks; None where one is missing."""
    found = {}
    for name, digest in benchmarks.items():
        result = recorded(journal, result_key(blend, digest))
        if result is None:
            return None
        found[name] = result
    return found


def _path(
    decisions: Sequence[Mapping[str, Any]], place: Mapping[str, int]
) -> list[tuple[int, int] | None]:
    """Per decision what was compared with what: the trial, the soup so far."""
    path: list[tuple[int, int] | None] = []
    before: int | None = None
    for decision in decisions:
        tried = place.get(decision["blend"])
        path.append(None if before is None or tried is None else (tried, before))
        if decision["kept"]:
            before = tried
    return path


def _holdout(
    journal: Journal,
    holdouts: Mapping[str, str],
    blends: Sequence[str],
    soup: int | None,
    best: int,
) -> Difference | None:
    if soup is None or not holdouts:
        return None
    two = [blends[soup], blends[best]]
    if any(results_of(journal, blend, holdouts) is None for blend in two):
        return None
    paired = pair(journal, holdouts, two, {name: 1 / len(holdouts) for name in holdouts})
    return paired.differences([(0, 1)])[0]


def _corrected(
    paired: Paired,
    start: Mapping[str, Any],
    decisions: Sequence[Mapping[str, Any]],
    place: Mapping[str, int],
    soup: int | None,
    best: int,
) -> Corrected | None:
    """The model of all members and trials; trials that were stopped early are not in it."""
    if start["command"] != "greedy" or soup is None or paired.unknown:
        return None
    from soup.choosing.corrected import IMAGINED, Trial, corrected_gain

    blend_of = {m["name"]: m["blend"] for m in start["members"]}
    order = [place[b] for b in dict.fromkeys(blend_of.values()) if b in place]
    number = {at: k for k, at in enumerate(order)}
    trials: list[Trial] = []
    before = number.get(place.get(decisions[0]["blend"], -1)) if decisions else None
    size = 1
    for decision in decisions[1:]:
        at, member = place.get(decision["blend"]), place.get(blend_of.get(decision["tried"], ""))
        if before is None or at is None or member is None or at in number:
            continue
        number[at] = len(order)
        order.append(at)
        trials.append(Trial(before, number[member], size))
        if decision["kept"]:
            before, size = number[at], size + 1
    if soup not in number or best not in number:
        return None
    covariance = paired.covariance(IMAGINED)[order][:, order]
    return corrected_gain(paired.means[order], covariance, trials, number[soup], number[best])
