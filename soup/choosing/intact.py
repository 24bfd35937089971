"""Whether a run's numbers are all there: what is left of a damaged journal might tell others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from soup.choosing.journal import Journal
from soup.choosing.scoring import recorded, result_key
from soup.errors import JournalError
from soup.words import counted


def require_intact(journal: Journal, records: Sequence[Mapping[str, Any]]) -> None:
    """Show no run that has lost results: the best of what is left is not the best there was.

    Args:
        journal: where lines were damaged; without any, what is missing was never measured.
        records: of the run, its start first.

    Raises:
        JournalError: results are missing that the run must have had.
    """
    if not journal.lost:
        return
    missing = {key for key in _needed(journal, records) if recorded(journal, key) is None}
    if missing:
        raise JournalError(
            f"{journal.path}: {counted(len(missing), 'result')} of the last run "
            f"{'was' if len(missing) == 1 else 'were'} damaged and cannot be shown; run its "
            "command again: it measures only what is lost"
        )


def _needed(journal: Journal, records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Keys of the results that a run has, by what it recorded afterwards."""
    start, later = records[0], records[1:]
    deciding = list(start["benchmarks"].values())
    every = deciding + list(start["holdouts"].values())
    keys = [[result_key(m["blend"], digest) for digest in every] for m in start["members"]]
    if all(record["kind"] == "failed" for record in later):  # members are scored one by one
        known = [k for k, of in enumerate(keys) if any(key in journal.results for key in of)]
        keys = keys[: max(known, default=0)]
    for of in keys:
        yield from of
    for record in later:
        if record["kind"] == "decision" and record["mean"] is not None:
            yield from (result_key(record["blend"], digest) for digest in deciding)
        elif record["kind"] == "soup":
            yield from (result_key(record["blend"], digest) for digest in every)
