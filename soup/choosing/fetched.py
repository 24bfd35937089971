"""Members that were fetched: their addresses and revisions in the journal, and which have moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from soup.checkpoints.origins import Origin, origin_of
from soup.choosing.journal import Journal

if TYPE_CHECKING:  # a leaderboard is shown without
    from soup.checkpoints.checkpoint import Checkpoint


def recorded(member: Checkpoint) -> dict[str, str]:
    """What the journal keeps of where a member came from; nothing where it was here."""
    origin = origin_of(member.path)
    return {} if origin is None else {"source": origin.where, "revision": origin.revision}


def source_of(record: Mapping[str, Any]) -> str | None:
    """A recorded member's address with its revision, for people."""
    if not record.get("source"):
        return None
    return str(Origin(str(record["source"]), str(record.get("revision", ""))))


def moved(journal: Journal, members: Sequence[Checkpoint]) -> Iterator[str]:
    """A line for each member whose address held another revision in the last run that had it.

    Its results are its own, as all are recorded by content: it is a new member.
    """
    last: dict[str, tuple[str, str]] = {}
    for records in journal.runs.values():
        for record in records[0].get("members", ()):
            if record.get("source"):
                last[record["source"]] = (str(record.get("revision")), str(record.get("digest")))
    for member in members:
        origin = origin_of(member.path)
        before = last.get(origin.where) if origin is not None else None
        if origin is None or before is None or before[0] == origin.revision:
            continue
        same = "with the same weights" if before[1] == member.digest else "a new member"
        yield (
            f"{member.name}: {origin.where} is at {origin.revision[:8]} now, in the last run "
            f"it was at {before[0][:8]}: {same}"
        )
