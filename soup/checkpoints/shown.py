"""A pool and what was found of it, for people: in a line, and in a notebook."""

from collections.abc import Iterator, Sequence

from soup import markup
from soup.checkpoints.checkpoint import Checkpoint


def line(kind: str, members: Sequence[Checkpoint], *facts: str) -> str:
    """What it is in one line, e.g. ``<Pool of 4 (1.2 GB each): a, b, c, d>``."""
    each = f" ({markup.size(members[0].nbytes)} each)" if members else ""
    names = markup.some([member.name for member in members])
    return f"<{kind} of {len(members)}{each}: {'; '.join([names, *facts])}>"


def table(members: Sequence[Checkpoint]) -> markup.Table:
    """One row for each member, with a column of kinds where not all are full models."""
    heads = ["member", "tensors", "parameters", "dtype", "size", "files"]
    kinds = any(member.kind for member in members)
    rows = [
        [
            member.name,
            f"{len(member.tensors):,}",
            f"{member.parameters:,}",
            "/".join(member.dtypes),
            markup.size(member.nbytes),
            str(len(member.shards)),
            *([member.kind or "full"] if kinds else []),
        ]
        for member in members
    ]
    return [*heads, *(["kind"] if kinds else [])], rows


def remarks(
    problems: Sequence[object], warnings: Sequence[str], duplicates: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """What is to be said below the table."""
    for first, second in duplicates:
        yield f"duplicate: {second} holds the same weights as {first}"
    for warning in warnings:
        yield f"warning: {warning}"
    for problem in problems:
        yield f"problem: {problem}"
