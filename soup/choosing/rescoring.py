"""A run's results under another VLMEvalKit or another judge: what changes, and what it decides.

The answers stay as they are; only what is made of them is new. Which soup a greedy or maximum soup
would have been is found by following the recipe on the new numbers as far as somebody scored what
it would have tried. A trial counts as tried whatever order its members came in: the average of the
same members in another order differs in its last bits alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soup.choosing.accepting import Significant
from soup.choosing.comparing import results_of, shares_in
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import Leaderboard
from soup.choosing.questions import Questions
from soup.choosing.scoring import (
    Benchmark,
    Result,
    Score,
    benchmark_digest,
    mean_of,
    recorded,
    result_key,
    result_to_json,
)
from soup.choosing.weighing import shares_of
from soup.errors import BenchmarkError, JournalError, UsageError

VERSION = 1

Records = Sequence[Mapping[str, Any]]
"""Of one run, its start first."""

GENERATED = "answered_by"
"""In a result's settings: the VLMEvalKit whose prompts were answered, where another one scored."""


@dataclass(frozen=True)
class Scored:
    """One result of a run.

    Attributes:
        blend: its digest.
        name: the blend, for people.
        benchmark: the benchmark's or hold-out's name.
        digest: how it was measured.
        result: what it was.
    """

    blend: str
    name: str
    benchmark: str
    digest: str
    result: Result

    @property
    def key(self) -> str:
        """Of the result."""
        return result_key(self.blend, self.digest)


@dataclass(frozen=True)
class Change:
    """A result before and after.

    Attributes:
        scored: before.
        result: after.
    """

    scored: Scored
    result: Result

    @property
    def difference(self) -> float:
        """New minus old, points."""
        return round(self.result.value - self.scored.result.value, 10)

    @property
    def better(self) -> list[str]:
        """Questions whose outcome rose."""
        return self._flipped(1)

    @property
    def worse(self) -> list[str]:
        """Questions whose outcome fell."""
        return self._flipped(-1)

    def _flipped(self, sign: int) -> list[str]:
        old, new = self.scored.result.outcomes, self.result.outcomes
        return [key for key in old if key in new and sign * (new[key] - old[key]) > 1e-9]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.scored.name,
            "blend": self.scored.blend,
            "benchmark": self.scored.benchmark,
            "old": self.scored.result.value,
            "new": self.result.value,
            "difference": self.difference,
            "better": self.better,
            "worse": self.worse,
        }


@dataclass(frozen=True)
class Verdict:
    """Which members the soup would have had.

    Attributes:
        was: those that it has.
        members: those that it would have; as far as they are known, where ``unknown`` says why.
        unknown: why that cannot be told; empty where it can.
    """

    was: tuple[str, ...]
    members: tuple[str, ...]
    unknown: str = ""

    @property
    def same(self) -> bool | None:
        """Whether it would have been the same soup; None where that cannot be told."""
        return None if self.unknown else set(self.was) == set(self.members)

    def __str__(self) -> str:
        was, members = " + ".join(self.was), " + ".join(self.members)
        if self.unknown:
            return f"whether the soup would be another cannot be told: {self.unknown}"
        if self.same:
            return f"the soup would be the same: {was}"
        return f"the soup would be another: {members} instead of {was}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = {"was": list(self.was), "members": list(self.members), "same": self.same}
        return found | ({"unknown": self.unknown} if self.unknown else {})


@dataclass(frozen=True)
class Rescored:
    """A run under another VLMEvalKit or judge.

    Attributes:
        run: its id.
        changes: every result, before and after.
        ways: by benchmark, the settings that differ: as they were, as they are.
        board: the run's leaderboard with the new numbers; its decisions are those that were made.
        verdict: which soup it would have been; None where none was chosen by numbers.
        recorded: benchmarks whose new results stand in the journal, under a key of their own.
    """

    run: str
    changes: Sequence[Change]
    ways: Mapping[str, Mapping[str, tuple[Any, Any]]]
    board: Leaderboard
    verdict: Verdict | None
    recorded: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The document that docs/rescoring.md describes."""
        return {
            "version": VERSION,
            "run": self.run,
            "ways": {
                name: {key: {"old": old, "new": new} for key, (old, new) in way.items()}
                for name, way in self.ways.items()
            },
            "recorded": list(self.recorded),
            "results": [change.to_dict() for change in self.changes],
            "soup": None if self.verdict is None else self.verdict.to_dict(),
            "leaderboard": self.board.to_dict(),
        }


def find_run(journal: Journal, run: str | None = None) -> Records:
    """The newest run that scored anything, or the one whose id begins so.

    Raises:
        JournalError: there is none.
    """
    fitting: list[Records] = [
        r for i, r in journal.runs.items() if run is None or i.startswith(run)
    ]
    for records in reversed(fitting):
        if scored_in(journal, records):
            return records
    which = "" if run is None else f" whose id begins with {run}"
    raise JournalError(f"{journal.path}: no run{which} has results that could be scored again")


def scored_in(journal: Journal, records: Records, only: Sequence[str] = ()) -> list[Scored]:
    """Every result of a run: of members, trials and the soup, on benchmarks and hold-outs.

    Args:
        journal: that the run is in.
        records: of the run.
        only: names of benchmarks; none means all.

    Raises:
        UsageError: one of these is not the run's.
    """
    start = records[0]
    blends: dict[str, str] = {}
    for member in start["members"]:
        blends.setdefault(member["blend"], member["name"])
    for record in records:
        if record["kind"] == "decision":
            blends.setdefault(record["blend"], " + ".join(record["members"]))
        elif record["kind"] == "soup":
            blends.setdefault(record["blend"], f"{record['soup']} soup")
    measured = {**start["benchmarks"], **start["holdouts"]}
    for name in only:
        if name not in measured:
            raise UsageError(f"--bench {name}: expected one of {', '.join(measured)}")
    return [
        Scored(blend, called, name, digest, result)
        for name, digest in measured.items()
        if not only or name in only
        for blend, called in blends.items()
        if (result := recorded(journal, result_key(blend, digest))) is not None
    ]


def rescored(scored: Scored, found: Benchmark) -> Benchmark:
    """How a result is measured when its answers are evaluated as ``found`` would be today.

    What generated the answers stays in its settings. Where VLMEvalKit is another one, so may its
    prompts be, and the answers are none to these: then the settings name the one that asked, so
    that no run takes such a result for its own. Under another judge alone they are what a run with
    that judge would measure.

    Raises:
        BenchmarkError: the questions are others, or VLMEvalKit has not scored them.
    """
    old, new = dict(scored.result.settings), found.settings
    if not {"vlmeval", "judge", "data"} <= old.keys():
        raise BenchmarkError(
            f"{scored.benchmark}: it was not scored by VLMEvalKit, so it cannot score it again"
        )
    if old["data"] != new["data"]:
        raise BenchmarkError(
            f"{scored.benchmark}: the table, or an image of it, is not the one that was answered; "
            "give that one as --bench PATH"
        )
    asked = old.pop(GENERATED, old["vlmeval"])
    settings = old | dict(new)
    if asked != new["vlmeval"]:
        settings[GENERATED] = asked
    digest = benchmark_digest(settings)
    return replace(found, name=scored.benchmark, digest=digest, settings=settings)


def follow(
    journal: Journal,
    records: Records,
    benchmarks: Mapping[str, Benchmark],
    changes: Sequence[Change],
) -> tuple[Journal, list[dict[str, Any]]]:
    """The run's results and its records, in memory alone, as if they had been measured so.

    Decisions stay what they were; their means are new.

    Args:
        journal: that the run is in; not changed.
        records: of the run.
        benchmarks: in the new way, by name, those that changed.
        changes: every result on them.
    """
    found = Journal(journal.path)
    for scored in scored_in(journal, records):
        found.results[scored.key] = journal.results[scored.key]
        if scored.digest in journal.benchmarks:
            found.benchmarks[scored.digest] = journal.benchmarks[scored.digest]
    for change in changes:
        benchmark = benchmarks[change.scored.benchmark]
        key = result_key(change.scored.blend, benchmark.digest)
        result = result_to_json(change.result, benchmark.settings)
        found.results[key] = {"kind": "result", "key": key, "result": result}
    for benchmark in benchmarks.values():
        questions = benchmark.questions or Questions()
        found.benchmarks[benchmark.digest] = {"questions": questions.to_json()}
    start = dict(records[0])
    for kind in ("benchmarks", "holdouts"):
        start[kind] = {
            name: benchmarks[name].digest if name in benchmarks else digest
            for name, digest in start[kind].items()
        }
    shares = _shares(found, start, records)
    later: list[dict[str, Any]] = [
        dict(record) for record in records[1:] if record["kind"] != "shares"
    ]
    later += [{"kind": "shares", "run": start["run"], "shares": shares}] if shares else []
    for record in later:
        if record["kind"] == "decision" and record["mean"] is not None:
            record["mean"] = _mean(found, record["blend"], start["benchmarks"], shares)
    return found, [start, *later]


def verdict(journal: Journal, records: Records) -> Verdict | None:
    """What the recipe makes of the numbers in ``journal``; None where it makes nothing of them.

    An average or a blend is not chosen by numbers, and scoring alone makes no soup.
    """
    start = records[0]
    soups = [record for record in records if record["kind"] == "soup"]
    if not soups or start["command"] not in ("max", "greedy"):
        return None
    was = tuple(soups[-1]["members"])
    shares = shares_in(records)
    means = {
        m["name"]: _mean(journal, m["blend"], start["benchmarks"], shares) for m in start["members"]
    }
    missing = [name for name, mean in means.items() if mean is None]
    if missing:
        return Verdict(was, (), f"{missing[0]} was not scored in full")
    # As ``recipes.rank`` and ``recipes.distinct`` have it.
    order = sorted(start["members"], key=lambda m: (m["digest"], m["name"]))
    order.sort(key=lambda m: -(means[m["name"]] or 0.0))
    if start["command"] == "max":
        return Verdict(was, (order[0]["name"],))
    best: dict[str, str] = {}
    for member in order:
        best.setdefault(member["digest"], member["name"])
    return _greedy(journal, records, was, list(best.values()), shares)


def _greedy(
    journal: Journal,
    records: Records,
    was: tuple[str, ...],
    ranked: Sequence[str],
    shares: Mapping[str, float],
) -> Verdict:
    """``soup.choosing.recipes.greedy`` by names, on what is recorded."""
    start = records[0]
    settings = start.get("settings", {})
    blends = {frozenset([m["name"]]): m["blend"] for m in start["members"]}
    blends |= {frozenset(r["members"]): r["blend"] for r in records if r["kind"] == "decision"}
    equal = {name: 1 / len(start["benchmarks"]) for name in start["benchmarks"]}
    accept = Significant(
        journal,
        [Benchmark(name, 0, digest) for name, digest in start["benchmarks"].items()],
        shares or equal,
        settings.get("alpha", 0.05),
        len(ranked) - 1,
    )
    kept = [ranked[0]]
    highest = _mean(journal, blends[frozenset(kept)], start["benchmarks"], shares)
    assert highest is not None, "members are scored"
    for name in ranked[1:]:
        trial = blends.get(frozenset([*kept, name]))
        mean = None if trial is None else _mean(journal, trial, start["benchmarks"], shares)
        if trial is None or mean is None:
            tried = " + ".join([*kept, name])
            how = "was stopped early" if trial is not None else "was never scored"
            why = f"the new numbers lead to {tried}, which {how}"
            return Verdict(was, tuple(kept), why)
        rises = mean - highest > settings.get("min_gain", 0.0)
        sure = settings.get("accept", "gain") == "gain" or (
            rises and accept.of(trial, blends[frozenset(kept)])
        )
        if rises and sure:
            kept.append(name)
            highest = mean
    return Verdict(was, tuple(kept))


def _shares(journal: Journal, start: Mapping[str, Any], records: Records) -> dict[str, float]:
    """The run's shares; those that depend on the members' numbers are found anew."""
    recorded_shares = shares_in(records)
    settings = start.get("settings", {})
    if not recorded_shares or settings.get("mean") != "z":
        return recorded_shares
    names = list(start["benchmarks"])
    sources = dict(zip(settings["benchmarks"], names, strict=True))
    weights = {sources[s]: w for s, w in settings["bench_weights"].items() if s in sources}
    found = (results_of(journal, m["blend"], start["benchmarks"]) for m in start["members"])
    scores = [Score(results) for results in found if results is not None]
    return shares_of([Benchmark(name, 0, "") for name in names], weights, "z", scores)


def _mean(
    journal: Journal, blend: str, benchmarks: Mapping[str, str], shares: Mapping[str, float]
) -> float | None:
    results = results_of(journal, blend, benchmarks)
    if not results:
        return None
    return mean_of({name: result.value for name, result in results.items()}, shares)
