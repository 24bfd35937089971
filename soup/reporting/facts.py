"""All that the page says, gathered from a journal; pure but for the answers' files."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soup.choosing.figures import number, p_value
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import Leaderboard, SoupRow
from soup.choosing.naming import Named
from soup.choosing.retelling import last_leaderboard, leaderboard_of
from soup.choosing.side_by_side import SideBySide, side_by_side
from soup.errors import JournalError, OutputError, SoupError
from soup.publishing.gate import Rail, Verdict
from soup.publishing.shelf import Shelf
from soup.reporting.cost import Cost, cost_of
from soup.reporting.flips import Flip, flips
from soup.reporting.history import Past, history
from soup.words import counted

FLAGS: Mapping[str, str] = {
    "out": "-o",
    "dtype": "--dtype",
    "min_gain": "--min-gain",
    "confident": "--confident",
    "accept": "--accept",
    "alpha": "--alpha",
    "mean": "--mean",
    "method": "--method",
}
"""Settings that are an option each."""

USUAL: Mapping[str, Any] = {
    "min_gain": 0.0, "accept": "gain", "alpha": 0.05, "mean": "macro", "method": "linear",
}  # fmt: skip
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Facts:
    """What is known of a run.

    Attributes:
        board: the run.
        soups: of earlier runs with the same members and questions, and of this one.
        word: ``better``, ``not better``, ``cannot tell``, or what became of the run.
        verdict: the same in a sentence, with the gain and its interval.
        more: further sentences: new questions, hold-outs, noise, why few were kept.
        gains: the soup against the best single member, by benchmark and category.
        held: the same on the hold-outs.
        flipped: some of the questions on which they did not do alike.
        past: runs over time.
        cost: of this run.
        command: to repeat it.
        base: digest of the base; empty where there was none.
        work: the journal's directory.
    """

    board: Leaderboard
    soups: Sequence[SoupRow]
    word: str
    verdict: str
    more: Sequence[str]
    gains: SideBySide | None
    held: SideBySide | None
    flipped: Sequence[Flip]
    past: Sequence[Past]
    cost: Cost
    command: str
    base: str
    work: str


def gather(work: str | os.PathLike[str]) -> Facts:
    """What the journal in ``work`` holds of its last run.

    Raises:
        JournalError: no run is recorded there.
    """
    journal = Journal.open(work, create=False)
    records = journal.last_run()
    board = last_leaderboard(journal)
    if records is None or board is None:
        raise JournalError(
            f"{work}: no run is recorded there yet; `soup greedy CKPT...` makes one, or name "
            "another place with --work"
        )
    soup = next((r["blend"] for r in reversed(records) if r["kind"] == "soup"), None)
    best = _best(board, records)
    gains = held = None
    flipped: Sequence[Flip] = ()
    if soup is not None and best is not None and soup != best.blend and board.benchmarks:
        named = Named(f"{records[0]['command']} soup", soup)
        gains = _compared(journal, named, best, board.benchmarks)
        held = _compared(journal, named, best, board.holdouts) if board.holdouts else None
        if gains is not None:
            flipped = flips(journal.path.parent, journal, gains, soup, best.blend)
    word, verdict = _verdict(board)
    night = next((r for r in reversed(records) if r["kind"] == "verdict"), None)
    more = [line for line in board.footer() if not line.startswith(f"{board.command} soup to the")]
    repeated = board
    if night is not None:  # where a night writes is the gate's to say
        out = Path(board.soup.out) if board.soup is not None and board.soup.out else None
        gate = [*_taken_back(out, soup)] if out is not None and soup is not None else []
        if board.error is None:  # what people ask in the morning comes first
            gate += [*_rests_on(night), verdict]
            word, verdict = str(night["word"]), _night_verdict(night, out)
        more = [*gate, *more]
        settings = {**board.about.settings, "out": None}
        repeated = replace(board, about=replace(board.about, settings=settings))
    return Facts(
        board,
        _soups(journal, records, board),
        word,
        verdict,
        more,
        gains,
        held,
        flipped,
        history(journal, records[0]),
        cost_of(journal, records, [step.stopped for step in board.path if step.stopped]),
        command_of(repeated, _relative(journal), records[0].get("base_path")),
        str(records[0].get("base") or ""),
        str(journal.path.parent),
    )


def _night_verdict(night: Mapping[str, Any], out: Path | None) -> str:
    """The gate's verdict in a sentence; ``out`` is where the soup was published, if it was."""
    said = night.get("gain") is None or "the published soup" in night["why"]
    against = "" if said else ", against the published one"
    text = f"The night's soup{against}: {night['why']}"
    if night.get("low") is not None and night.get("high") is not None:
        text += f" (95% interval {night['low']:+.2f} … {night['high']:+.2f})"
    return text + (f"; it was published as {out.name}." if out is not None else ".")


def _rests_on(night: Mapping[str, Any]) -> list[str]:
    """What a gate required, a line each; the gain itself stands in the sentence."""
    rails = [{k: v for k, v in rail.items() if k != "broken"} for rail in night.get("rails", ())]
    verdict = Verdict(
        str(night["word"]),
        str(night["why"]),
        tellable=night.get("tellable"),
        step=night.get("step"),
        level=night.get("level"),
        nights=int(night.get("nights", 0)),
        rails=tuple(Rail(**rail) for rail in rails),
    )
    return verdict.facts


def _taken_back(soup: Path, key: str) -> list[str]:
    """A line, where a published soup is not in use any more, because somebody said so."""
    shelf = Shelf.at(soup.parent)
    try:
        when = shelf.diary.taken_back.get(key)
    except OutputError:
        return []
    if when is None:
        return []
    line, now = f"it was taken back on {when[:10]}, by soup rollback", shelf.current
    if now is not None and now.name != soup.name:
        line += f"; the soup {now.name} is in use"
    return [line]


def _relative(journal: Journal) -> str:
    return str(journal.path.parent.parent)


def _best(board: Leaderboard, records: Sequence[Mapping[str, Any]]) -> Named | None:
    if not board.members or board.members[0].mean is None:
        return None
    row = board.members[0]
    blends = {m["name"]: m["blend"] for m in records[0]["members"]}
    return Named(row.name, blends[row.name])


def _compared(
    journal: Journal, soup: Named, best: Named, names: Sequence[str]
) -> SideBySide | None:
    try:
        return side_by_side(journal, soup, best, names)
    except SoupError:  # not scored on all of them, or in another way
        return None


def _soups(
    journal: Journal, records: Sequence[Mapping[str, Any]], board: Leaderboard
) -> list[SoupRow]:
    """The newest soup of each kind that was made of the same members by the same questions."""

    def about(start: Mapping[str, Any]) -> Any:
        members = frozenset(member["digest"] for member in start["members"])
        return members, start["benchmarks"], start["holdouts"]

    found: dict[str, SoupRow] = {}
    for earlier in journal.runs.values():
        if earlier[0] is records[0] or about(earlier[0]) != about(records[0]):
            continue
        if any(r["kind"] == "soup" for r in earlier) and earlier[0]["command"] != board.command:
            one = leaderboard_of(journal, earlier).soup
            if one is not None:
                found[one.kind] = one
    return [*found.values(), *([board.soup] if board.soup else [])]


def _verdict(board: Leaderboard) -> tuple[str, str]:
    """A word, and a sentence with the gain and how sure it is."""
    soup, count = board.soup, len(board.members)
    if board.error is not None:
        return "failed", f"This {board.command} run failed: {board.error}"
    if soup is None and not board.finished:
        return "not finished", f"This {board.command} run did not finish."
    if soup is None:
        best = board.members[0] if board.members else None
        if best is None or best.mean is None:
            return "scored", f"{counted(count, 'member')} scored."
        return "scored", f"Of {counted(count, 'member')}, {best.name} is the best: {best.mean:.2f}."
    what = f"The {soup.kind} soup of {len(soup.members)} of {count} members"
    if soup.mean is None or board.best is None:
        return "made", f"{what} was written; it was not scored."
    best_name = board.members[0].name
    if len(soup.members) == 1 and soup.merging["method"] == "linear":
        return "the best single", f"{what} is {best_name} itself: {soup.mean:.2f}."
    told = soup.difference
    gain = f"{soup.mean - board.best:+.2f} points"
    if told is None or told.low is None or told.high is None or told.p is None:
        return "cannot tell", f"{what} reaches {number(soup.mean)}, {gain} to {best_name}."
    word = "cannot tell" if told.noise else "better" if told.gain > 0 else "not better"
    tail = {
        "cannot tell": "that is within the noise",
        "better": "that is no luck",
        "not better": "it is worse",
    }[word]
    interval = f"95% interval {told.low:+.2f} … {told.high:+.2f}, p {p_value(told.p)}"
    sentence = f"{what} reaches {number(soup.mean)}, {gain} to the best single member, {best_name}"
    return word, f"{sentence} ({interval}): {tail}."


def command_of(board: Leaderboard, below: str, base: str | None = None) -> str:
    """The command that makes this run again; paths below a directory are shown relative to it."""
    settings = board.about.settings
    words = ["soup", board.command]
    members = sorted(board.members, key=lambda r: r.path)
    blended = board.soup.members if board.command == "blend" and board.soup else {}
    if blended.keys() == {row.name for row in members}:  # some methods give places a meaning
        members.sort(key=lambda row: list(blended).index(row.name))
    words += [_short(row.path, below) for row in members]
    reference = board.companions.reference
    if reference and members and members[0].name != reference:
        words += ["--reference", reference]
    weights = settings.get("bench_weights") or {}
    for name in settings.get("benchmarks", ()):
        weight = f"={weights[name]:g}" if name in weights else ""
        words += ["--bench", _short(name, below) + weight]
    for name in settings.get("holdouts", ()):
        words += ["--holdout", _short(name, below)]
    for name, flag in FLAGS.items():
        value = settings.get(name)
        if value is None or value == USUAL.get(name):
            continue
        text = DTYPES.get(str(value), str(value)) if name == "dtype" else str(value)
        words += [flag, _short(text, below) if name == "out" else text]
    for name, value in (settings.get("parameters") or {}).items():
        words += ["--set", f"{name}={value:g}"]
    for value in blended.values() if settings.get("weights") else ():
        words += ["--weight", repr(value)]
    words += ["--as-adapter"] if settings.get("as_adapter") else []
    words += ["--same-companions"] if settings.get("same_companions") else []
    words += ["--base", _short(base, below)] if base else []
    measured = (settings.get("measured_with") or {}).values()
    longest = {one.get("max_new_tokens") for one in measured}
    if len(longest) == 1 and isinstance(length := longest.pop(), int):
        words += ["--max-new-tokens", str(length)]
    return shlex.join(words)


def _short(path: str, below: str) -> str:
    """A path below a directory, relative to it; anything else as it is."""
    if os.path.isabs(path) and Path(path).is_relative_to(below):
        return os.path.relpath(path, below)
    return path
