"""A run's leaderboard, from the journal's records of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from soup.choosing.companionship import Companionship
from soup.choosing.comparing import Differences, shares_in
from soup.choosing.confident import Stopped
from soup.choosing.explaining import why_few
from soup.choosing.fetched import source_of
from soup.choosing.intact import require_intact
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import LINEAR, About, Leaderboard, Row, SoupRow, Step
from soup.choosing.likeness import Likeness, likeness_of
from soup.choosing.lines import Line, recorded_lines
from soup.choosing.reckoned import differences_of
from soup.choosing.scoring import Result, mean_of, recorded, result_key
from soup.errors import JournalError
from soup.events import Note, Observer, ignore

if TYPE_CHECKING:
    from soup.choosing.difference import Difference


def show(work: str | os.PathLike[str] = ".soup", observe: Observer = ignore) -> Leaderboard:
    """The last run's leaderboard again; ``observe`` is told of a damaged journal.

    Raises:
        JournalError: no run is recorded in ``work``, or what is left of it would tell another
            story.
    """
    journal = Journal.open(work, create=False)
    if (damage := journal.words()) is not None:
        observe(Note(damage, warning=True))
    found = last_leaderboard(journal)
    if found is None:
        raise JournalError(
            f"{work}: no run is recorded there yet; `soup score CKPT...` or `soup greedy CKPT...` "
            "makes one, or name another place with --work"
        )
    return found


def last_leaderboard(journal: Journal, keep: bool = False) -> Leaderboard | None:
    """The newest run as far as it came; None where there was none."""
    records = journal.last_run()
    return None if records is None else leaderboard_of(journal, records, keep)


def leaderboard_of(
    journal: Journal, records: Sequence[dict[str, Any]], keep: bool = False
) -> Leaderboard:
    """One run as far as it came, given its records, its start first; see ``reckoned`` for ``keep``.

    Raises:
        JournalError: records of it were damaged.
    """
    require_intact(journal, records)
    start, later = records[0], records[1:]
    benchmarks: dict[str, str] = start["benchmarks"]
    holdouts: dict[str, str] = start["holdouts"]
    moved = partial(_moved, was=start.get("work"), now=str(journal.path.parent))
    sure = differences_of(journal, records, keep)
    shares = shares_in(records)
    rows = []
    invariant = []
    for member in start["members"]:
        scores = _results(journal, member["blend"], benchmarks)
        held = _results(journal, member["blend"], holdouts)
        invariant += [r.settings.get("batch_invariant") is True for r in (scores | held).values()]
        rows.append(
            Row(
                member["name"],
                moved(member["path"]),
                member["digest"],
                _values(scores),
                _values(held),
                _unparsed(scores | held),
                _mean(scores, benchmarks, shares),
                _unjudged(scores | held),
                sure.members.get(member["blend"]),
                member.get("companions", ""),
                source_of(member),
            )
        )
    rows.sort(key=_place)
    names = {row.digest: row.name for row in reversed(rows)}
    lines = tuple(recorded_lines(journal, names))
    blends = {m["name"]: m["blend"] for m in start["members"]}
    ranked = [(row.name, row.digest, blends[row.name]) for row in rows]
    alike = likeness_of(journal, ranked, start.get("base"), sure.differ)
    decisions = [r for r in later if r["kind"] == "decision"]
    path = tuple(_step(*pair) for pair in zip(decisions, sure.steps, strict=True))
    soups = [r | {"out": r["out"] and moved(r["out"])} for r in later if r["kind"] == "soup"]
    return Leaderboard(
        start["command"],
        tuple(benchmarks),
        tuple(holdouts),
        tuple(rows),
        path,
        _soup_row(journal, soups[-1], benchmarks, holdouts, sure, shares) if soups else None,
        finished=any(r["kind"] in ("soup", "end") for r in later),
        error=next((r["error"] for r in reversed(later) if r["kind"] == "failed"), None),
        about=About(
            start["run"], start["time"], start.get("versions", {}), start.get("settings", {})
        ),
        why=_why(rows, path, sure, alike, lines) if start["command"] == "greedy" and soups else "",
        shares=shares,
        companions=Companionship(**start.get("companions", {})),
        likeness=alike,
        lines=lines,
        invariant=bool(invariant) and all(invariant),
    )


def _place(row: Row) -> tuple[float, str, str]:
    """Best first; of equal means in the order of ``recipes.settled``."""
    return float("inf") if row.mean is None else -row.mean, row.digest, row.name


def _moved(path: str, was: str | None, now: str) -> str:
    """Where a run's path lies now: what has moved together with the journal is found there.

    Args:
        path: as it was recorded.
        was: the journal's directory at that time; None where nobody wrote it down.
        now: the same today.
    """
    if was is None or was == now or os.path.exists(path):
        return path
    moved = os.path.normpath(os.path.join(now, os.path.relpath(path, was)))
    return moved if os.path.exists(moved) else path


def _why(
    rows: Sequence[Row],
    path: Sequence[Step],
    sure: Differences,
    alike: Likeness | None,
    lines: Sequence[Line],
) -> str:
    trials = [(step.tried, step.difference) for step in path[1:] if step.difference is not None]
    means = [row.mean for row in rows if row.mean is not None]
    behind = means[0] - median(means[1:]) if len(means) > 1 else None
    kept = sum(step.kept for step in path[1:])
    stopped = sum(step.stopped is not None for step in path[1:])
    return why_few(kept, trials, stopped, behind, sure.disagree, alike, lines)


def _step(record: dict[str, Any], difference: Difference | None) -> Step:
    stopped = record.get("stopped")
    stop = stopped and Stopped(**stopped)
    doubted = record.get("doubted", False)
    return Step(record["tried"], record["mean"], record["kept"], stop, difference, doubted)


def _soup_row(
    journal: Journal,
    soup: dict[str, Any],
    benchmarks: dict[str, str],
    holdouts: dict[str, str],
    sure: Differences,
    shares: Mapping[str, float],
) -> SoupRow:
    scores = _results(journal, soup["blend"], benchmarks)
    held = _results(journal, soup["blend"], holdouts)
    return SoupRow(
        soup["soup"],
        soup["members"],
        _values(scores),
        _values(held),
        _unparsed(scores | held),
        _mean(scores, benchmarks, shares),
        soup["out"],
        soup["digest"],
        soup.get("merging", LINEAR),
        _unjudged(scores | held),
        sure.soup,
        sure.holdout,
        sure.corrected,
    )


def _results(journal: Journal, blend: str, benchmarks: dict[str, str]) -> dict[str, Result]:
    found = {}
    for name, digest in benchmarks.items():
        result = recorded(journal, result_key(blend, digest))
        if result is not None:
            found[name] = result
    return found


def _values(results: dict[str, Result]) -> dict[str, float]:
    return {name: result.value for name, result in results.items()}


def _unparsed(results: dict[str, Result]) -> dict[str, float]:
    return {name: result.unparsed for name, result in results.items()}


def _unjudged(results: dict[str, Result]) -> dict[str, int]:
    return {name: result.unjudged for name, result in results.items()}


def _mean(
    results: dict[str, Result], benchmarks: dict[str, str], shares: Mapping[str, float]
) -> float | None:
    if not benchmarks or len(results) < len(benchmarks):
        return None
    return mean_of(_values(results), shares)
