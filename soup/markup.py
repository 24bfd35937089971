"""Tables as Markdown and HTML, for pages and notebooks; whatever a name holds is only text."""

import html
from collections.abc import Iterable, Sequence

from soup.words import MESSAGE, sentence
from soup.words import markdown as in_markdown

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Heads, and rows of as many cells."""


class Strong(str):
    """A cell to stand out."""

    __slots__ = ()


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A GitHub table; it ends without a line break."""
    lines = [_line(heads), "|" + "---|" * len(heads)]
    return "\n".join([*lines, *map(_line, rows)])


def page(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table."""
    head = "".join(f"<th>{text(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text(words: str) -> str:
    """Words as HTML, in one line that is not too long."""
    escaped = html.escape(sentence(words))
    return f"<strong>{escaped}</strong>" if isinstance(words, Strong) else escaped


def paragraphs(lines: Iterable[str]) -> str:
    """Lines as HTML, each a paragraph of its own."""
    return "".join(f"<p>{text(line)}</p>" for line in lines)


def inline(words: str) -> str:
    """Words as Markdown, in one line: no cell, link, tag or emphasis comes of them."""
    escaped = in_markdown(" ".join(words.split()), MESSAGE)
    return f"**{escaped}**" if isinstance(words, Strong) else escaped


def size(count: int) -> str:
    """Bytes for people: kB, MB, GB of thousands."""
    value, unit = float(count), "bytes"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, bigger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def some(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f", … ({rest} more)" if rest > 0 else "")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(inline, cells)) + " |"


def markdown_row(cells: Sequence[str]) -> str:
    """One row of a GitHub table."""
    return "| " + " | ".join(cells) + " |"
