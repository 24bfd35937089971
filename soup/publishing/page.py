"""A night as JSON and as Markdown: for CI's summary page, and for a pull request's comment."""

import json
from typing import Any

from soup import markup
from soup.choosing.figures import number
from soup.publishing.gate import BETTER
from soup.publishing.night import Night
from soup.words import counted

MARK = "<!-- soup nightly -->"
"""The first line of the Markdown, by which a bot finds the comment that it has made before."""

LONGEST = 60_000
"""Characters; a comment on GitHub may have 65,536."""


def to_dict(night: Night) -> dict[str, Any]:
    """The leaderboard's document, and the verdict with all that belongs to it."""
    return night.board.to_dict() | {
        "verdict": night.verdict.to_dict(),
        "left_out": [
            {"name": one.name, "path": one.path, "how": one.how, "why": one.why}
            for one in night.left_out
        ],
        "changes": list(night.changes),
        "published": str(night.published) if night.published else None,
        "current": str(night.current) if night.current else None,
        "deleted": list(night.deleted),
    }


def to_json(night: Night) -> str:
    """The same as text."""
    return json.dumps(to_dict(night), indent=2) + "\n"


def headline(night: Night) -> str:
    """The verdict in a line."""
    text = f"{night.verdict.word}: {night.verdict.why}"
    if night.published is not None:
        return f"{text}; published as {night.published.name}"
    if night.current is not None:
        return f"{text}; {night.current.name} stays published"
    return f"{text}; nothing is published"


def lines(night: Night) -> list[str]:
    """What the headline rests on, what has changed, what was left out: a line each."""
    found = list(night.verdict.facts)
    found += night.changes
    found += [f"left out, {one.how}: {one.name}: {one.why}" for one in night.left_out]
    if night.deleted:
        found.append(f"deleted: {', '.join(night.deleted)}")
    return found


def to_markdown(night: Night) -> str:
    """Verdict first; the leaderboard is folded, and left out where a comment has no room for it."""
    word, _, rest = headline(night).partition(":")
    parts = [MARK, "## Nightly soup", f"**{markup.inline(word)}**: {markup.inline(rest)}"]
    if night.verdict.pairs:
        heads = ["benchmark", "tonight", "published", "difference"]
        rows = [
            [
                f"{pair.benchmark} (hold-out)" if pair.holdout else pair.benchmark,
                number(pair.new),
                number(pair.published),
                f"{pair.new - pair.published:+.2f}",
            ]
            for pair in night.verdict.pairs
        ]
        parts.append(markup.markdown(heads, rows))
    if said := lines(night):
        parts.append("\n".join(f"- {markup.inline(line)}" for line in said))
    if night.board.members:
        many = counted(len(night.board.members), "member")
        board = night.board.to_markdown()
        folded = f"<details><summary>Leaderboard of {many}</summary>\n\n{board}\n</details>"
        if sum(map(len, parts)) + len(folded) <= LONGEST:
            parts.append(folded)
    text = "\n\n".join(parts) + "\n"
    return text if len(text) <= LONGEST else text[:LONGEST] + "…\n"


def text(night: Night) -> str:
    """A few plain lines, for a chat."""
    said = [headline(night), *lines(night)]
    sign = "+" if night.verdict.word == BETTER else "–"
    return "\n".join([f"{sign} soup nightly: {said[0]}", *said[1:8]])
