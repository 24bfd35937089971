"""Differences between blends as they are recorded and shown; no numpy is needed for these."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One blend minus another, in points.

    Attributes:
        gain: of the numbers themselves.
        low: lower end of the 95% interval; None where it cannot be told.
        high: upper end.
        p: two-sided; that a difference like this is chance.
        above: one-sided; that a gain like this is chance.
        unknown: why there is no interval; empty where there is one.
    """

    gain: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    above: float | None = None
    unknown: str = ""

    @property
    def noise(self) -> bool:
        """Whether it is within the noise: chance alone does this more often than once in 20."""
        return self.p is not None and self.p > 0.05

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"gain": self.gain, "low": self.low, "high": self.high, "p": self.p}
        return found | ({"unknown": self.unknown} if self.unknown else {})


@dataclass(frozen=True)
class Corrected:
    """Points of gain to expect on new questions, and a 95% interval."""

    gain: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"gain": self.gain, "low": self.low, "high": self.high}
