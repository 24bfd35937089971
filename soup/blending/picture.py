"""A chart that stands beside a soup and in its model card."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """A chart beside a model card: its file, its heading, what it shows in words, its SVG."""

    file: str
    title: str
    words: str
    svg: str
