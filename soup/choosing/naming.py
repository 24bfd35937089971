"""Names for what a journal holds results of: members, trials, soups."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from soup.choosing.journal import Journal
from soup.choosing.scoring import result_key
from soup.errors import JournalError


@dataclass(frozen=True)
class Named:
    """One blend that was scored.

    Attributes:
        name: for people.
        blend: its digest.
        aliases: what else it may be called: a path, a shorter name.
    """

    name: str
    blend: str
    aliases: tuple[str, ...] = ()


def scored_blends(journal: Journal) -> Iterator[Named]:
    """Every blend of every run, the newest run first, soups before members before trials."""
    for records in reversed(list(journal.runs.values())):
        start, later = records[0], records[1:]
        for soup in (r for r in reversed(later) if r["kind"] == "soup"):
            out = soup["out"]
            aliases = (soup["soup"], "soup", out, Path(out).name)
            yield Named(f"{soup['soup']} soup", soup["blend"], aliases)
        for member in start["members"]:
            yield Named(member["name"], member["blend"], (member["path"],))
        for decision in (r for r in later if r["kind"] == "decision"):
            members = decision["members"]
            plus = ("+".join(members), "+".join(sorted(members)))
            yield Named(" + ".join(members), decision["blend"], plus)


def find_blend(journal: Journal, text: str) -> Named:
    """What a user means: a member's name or path, ``soup``, ``greedy``, a soup's directory, a
    trial as ``a+b+c``, or the beginning of a digest.

    Raises:
        JournalError: nothing is called so, or several things.
    """
    known = list(scored_blends(journal))
    as_path = str(Path(text).absolute())
    as_trial = "+".join(sorted(part.strip() for part in text.split("+")))
    for blend in known:
        if text in (blend.name, *blend.aliases) or as_path in blend.aliases:
            return blend
    for blend in known:
        if "+" in text and as_trial in blend.aliases:
            return blend
    by_digest = {b.blend: b for b in known if len(text) >= 6 and b.blend.startswith(text)}
    if len(by_digest) == 1:
        return next(iter(by_digest.values()))
    names = list(dict.fromkeys(blend.name for blend in known))
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    there = journal.path.parent
    if not shown:
        raise JournalError(
            f"{text}: nothing is recorded yet in {there}; `soup score CKPT...` scores a pool, or "
            "name another place with --work"
        )
    raise JournalError(f"{text}: nothing scored is called so in {there}; expected one of: {shown}")


def common_benchmarks(journal: Journal, blends: list[str]) -> dict[str, str]:
    """By name the digest of each benchmark, or hold-out, on which all of these are scored.

    Of one name that was measured in several ways the newest counts.
    """
    found: dict[str, str] = {}
    for records in reversed(list(journal.runs.values())):
        for name, digest in {**records[0]["benchmarks"], **records[0]["holdouts"]}.items():
            keys = [result_key(blend, digest) for blend in blends]
            if name not in found and all(key in journal.results for key in keys):
                found[name] = digest
    return found


def keys_of_runs(journal: Journal, newest: int) -> set[str]:
    """The keys of all results that the newest runs have looked at: members, trials, soups."""
    keys = set()
    for records in list(journal.runs.values())[max(len(journal.runs) - newest, 0) :]:
        start = records[0]
        blends = [member["blend"] for member in start["members"]]
        blends += [r["blend"] for r in records if r["kind"] in ("decision", "soup")]
        digests = [*start["benchmarks"].values(), *start["holdouts"].values()]
        keys |= {result_key(blend, digest) for blend in blends for digest in digests}
    return keys
