"""Quantiles of two distributions, without the time that importing scipy takes.

Showing a table again should not cost more than reading it. Tested against ``scipy.special``.
"""

import math
from functools import lru_cache
from statistics import NormalDist

SUMMED = 400
"""Degrees of freedom up to which Student's distribution is summed term by term."""


def normal(value: float) -> float:
    """The share of the standard normal distribution below a value."""
    return math.erfc(-value / math.sqrt(2)) / 2


@lru_cache(maxsize=64)
def student(degrees: int, share: float) -> float:
    """The value below which a share of Student's t distribution lies.

    An expansion in 1/degrees (Abramowitz & Stegun 1964, Handbook of Mathematical Functions,
    26.7.5), made exact for few degrees by Newton's method. Right to 12 digits.

    Args:
        degrees: of freedom, at least 1.
        share: above 0 and below 1.
    """
    x, n = NormalDist().inv_cdf(share), float(degrees)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    if degrees == 1:
        return math.tan(math.pi * (share - 0.5))
    if degrees == 2:
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    found = x + sum(term / n ** (k + 1) for k, term in enumerate(terms))
    if degrees > SUMMED:
        return found
    scale = math.exp(math.lgamma((n + 1) / 2) - math.lgamma(n / 2)) / math.sqrt(n * math.pi)
    for _ in range(50):
        density = scale * (1 + found * found / n) ** (-(n + 1) / 2)
        step = (_below(degrees, found) - share) / density
        found -= step
        if abs(step) < 1e-14 * max(abs(found), 1):
            break
    return found


def _below(degrees: int, value: float) -> float:
    """The share below a value (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4: finite sums)."""
    angle = math.atan(value / math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    between = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + between / 2
