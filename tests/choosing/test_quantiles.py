"""Quantiles without scipy are scipy's."""

import pytest
from scipy import special

from soup.choosing.quantiles import normal, student


@pytest.mark.parametrize("share", [0.025, 0.9, 0.975, 0.995])
def test_students_quantiles_are_scipys(share: float) -> None:
    """For few and for many degrees of freedom, summed or expanded."""
    for degrees in [*range(1, 60), 399, 400, 401, 402, 900, 15_000]:
        expected = float(special.stdtrit(degrees, share))
        assert student(degrees, share) == pytest.approx(expected, rel=1e-11, abs=0)


def test_the_normal_distribution_is_scipys() -> None:
    """Also far out, where one minus it would have no digits."""
    for value in (-30.0, -8.0, -1.5, 0.0, 0.3, 9.0):
        assert normal(value) == pytest.approx(float(special.ndtr(value)), rel=1e-12, abs=0)
