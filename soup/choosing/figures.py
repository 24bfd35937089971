"""Scores, differences and rates as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soup.choosing.difference import Difference

NOISE = " ~"
"""After a difference that chance alone could have made."""


def number(value: float | None) -> str:
    """A score with two decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.2f}"


def aligned(differences: list[str]) -> list[str]:
    """Numbers above numbers, where some have the mark of noise behind them."""
    if not any(text.endswith(NOISE) for text in differences):
        return differences
    room = " " * len(NOISE)
    return [text if text.endswith(NOISE) else text + room for text in differences]


def gained(value: float, difference: Difference | None) -> str:
    """A difference with its sign, marked where it is within the noise."""
    noise = difference is not None and difference.noise and value != 0
    return f"{value:+.2f}{NOISE if noise else ''}"


def sure(difference: Difference | None) -> list[str]:
    """Gain, 95% interval and p as words."""
    if difference is None:
        return ["", "", ""]
    if difference.low is None or difference.high is None or difference.p is None:
        return [f"{difference.gain:+.2f}", "–", "–"]
    low, high = difference.low, difference.high
    return [f"{difference.gain:+.2f}", f"{low:+.2f} … {high:+.2f}", p_value(difference.p)]


def p_value(p: float) -> str:
    """Never 0: as small as can be told."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def percent(rate: float | None) -> str:
    """A rate, 0–1, as per cent."""
    return "–" if rate is None else f"{100 * rate:.1f}%"
