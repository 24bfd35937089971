"""Charts for a soup's model card: SVG files beside it, on white, as any page shows a picture.

They are the report's own: the path, and gains over the best single member. Hubs show a card's
pictures as files, without its page's style: so colours are written out, and the ground is white.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from soup.blending.picture import Picture
from soup.choosing.journal import Journal
from soup.choosing.naming import Named
from soup.choosing.retelling import last_leaderboard
from soup.choosing.side_by_side import side_by_side
from soup.errors import SoupError
from soup.events import Note, Observer

COLOURS = {
    "ink": "#1b1f24", "soft": "#5b6470", "rule": "#dde1e6", "main": "#2458c5",
    "good": "#13754a", "bad": "#b23a24", "third": "#7b4fb5",
}  # fmt: skip
"""By the report's variables, as it is by day."""

GROUND = '<rect width="100%" height="100%" fill="#ffffff"/>'


def can_draw() -> bool:
    """Whether what draws is installed."""
    return find_spec("altair") is not None and find_spec("vl_convert") is not None


def pictures(journal: Journal, soup: str, observe: Observer) -> list[Picture]:
    """A soup's charts; none where that fails, with a warning: a soup is worth more than its chart.

    Args:
        journal: its last run is the soup's.
        soup: the key of its blend.
        observe: told of what failed.
    """
    try:
        return list(_drawn(journal, soup))
    except Exception as error:  # a defect of ours or of what draws
        text = f"no charts in the model card: {type(error).__name__}: {error}"
        observe(Note(text, warning=True))
        return []


def _drawn(journal: Journal, soup: str) -> Iterator[Picture]:
    from soup.reporting import charts

    board = last_leaderboard(journal)
    records = journal.last_run()
    if board is None or records is None:
        return
    if board.command == "greedy" and len(board.path) > 1:
        yield _picture("path", "What was tried, and kept", charts.path(board.path))
    if not board.members or board.members[0].mean is None:
        return
    best = board.members[0].name
    blend = next(m["blend"] for m in records[0]["members"] if m["name"] == best)
    if blend == soup:
        return
    mine, single = Named("soup", soup), Named(best, blend)
    try:
        found = side_by_side(journal, mine, single, board.benchmarks)
        held = side_by_side(journal, mine, single, board.holdouts) if board.holdouts else None
    except SoupError:  # not scored on all of them, or in another way
        return
    if any(one.difference.low is not None for one in found.benchmarks):
        yield _picture("gains", "Against the best single member", charts.gains(found, held))


def _picture(name: str, title: str, chart: Any) -> Picture:
    return Picture(f"soup-{name}.svg", title, chart.words, standing_alone(chart.wide))


def standing_alone(svg: str) -> str:
    """A drawing of the report's as a file: its colours written out, on white."""
    text = re.sub(r"var\(--(\w+)\)", lambda found: COLOURS[found[1]], svg)
    head, rest = text.split(">", 1)
    return f"{head}>{GROUND}{rest}\n"
