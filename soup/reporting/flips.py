"""Questions that the soup and the best single member did not do alike, with small pictures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from soup.choosing.journal import Journal
from soup.choosing.scoring import recorded, result_key
from soup.choosing.side_by_side import Compared, SideBySide
from soup.errors import JournalError
from soup.evaluators.kit.answers import Answer, kept_answers

MOST = 36
"""Questions on the page."""

SIDE = 240
"""Pixels of a picture's longer edge, at most."""

SMALL = 4096
"""Bytes of a picture that is shown as it is."""

BUDGET = 1_500_000
"""Bytes of all pictures together, as they stand in the page."""


@dataclass(frozen=True)
class Flip:
    """One question.

    Attributes:
        benchmark: its name.
        index: of the question in it.
        won: whether the soup did better.
        asked: question, options and expected answer; None where the answers are not kept any more.
        soup: what the soup said; None where it is not kept.
        best: what the best single member said.
        picture: a data URI; empty where there is none.
        tiny: whether the picture has so few pixels that they should stay sharp.
    """

    benchmark: str
    index: str
    won: bool
    asked: Answer | None
    soup: str | None
    best: str | None
    picture: str = ""
    tiny: bool = False


def flips(
    work: Path, journal: Journal, found: SideBySide, soup: str, best: str, most: int = MOST
) -> list[Flip]:
    """Some of the questions that flipped: of all benchmarks and both ways, in turn.

    Args:
        work: the directory of journal and caches.
        journal: holds the results.
        found: the comparison, the soup first.
        soup: digest of its blend.
        best: the same of the best single member.
        most: how many.
    """
    sides = [
        _side(work, journal, one, soup, best, won)
        for one in found.benchmarks
        for won in (True, False)
    ]
    shown: list[Flip] = []
    room = BUDGET
    for flip in filter(None, chain.from_iterable(zip_longest(*sides))):
        if len(shown) == most:
            break
        if flip.asked is not None and flip.asked.image:
            picture, tiny = thumbnail(first_file(flip.asked.image))
            if len(picture) <= room:
                room -= len(picture)
                flip = Flip(**{**vars(flip), "picture": picture, "tiny": tiny})
        shown.append(flip)
    order = {one.name: k for k, one in enumerate(found.benchmarks)}
    return sorted(shown, key=lambda flip: (order[flip.benchmark], not flip.won))


def _side(
    work: Path, journal: Journal, one: Compared, soup: str, best: str, won: bool
) -> Iterator[Flip]:
    said = [_answers(work, journal, blend, one.digest) for blend in (soup, best)]
    for key in one.won if won else one.lost:
        both = [kept.get(key) for kept in said]
        first, second = (None if answer is None else answer.said for answer in both)
        yield Flip(one.name, key, won, both[0] or both[1], first, second)


def _answers(work: Path, journal: Journal, blend: str, benchmark: str) -> Mapping[str, Answer]:
    result = recorded(journal, result_key(blend, benchmark))
    try:
        return kept_answers(work, blend, benchmark, result.settings if result else {})
    except (JournalError, OSError, ValueError):  # pruned, or damaged: the page does without
        return {}


def first_file(image: str) -> Path:
    """Of an answer's images, which are named one after another, the first."""
    whole = Path(image)
    return whole if whole.is_file() else Path(re.split(r" (?=/)", image)[0])


def thumbnail(file: Path) -> tuple[str, bool]:
    """A small copy of an image as a data URI, and whether it is tiny; empty where it is none."""
    try:
        from PIL import Image
    except ImportError:  # what is missing is told when the page is drawn
        return "", False
    try:
        with Image.open(file) as image:
            image.load()
            tiny = max(image.size) <= SIDE // 3
            copy = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        copy.thumbnail((SIDE, SIDE))
        written = io.BytesIO()
        copy.save(written, "PNG")
        kind = "png"
        if written.tell() > SMALL:
            written = io.BytesIO()
            copy.save(written, "WEBP", quality=70)
            kind = "webp"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return "", False
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}", tiny
