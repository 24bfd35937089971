"""soup/publishing/gate.py: numbers in, a verdict out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from soup.choosing.statistics import Paired, Told
from soup.errors import UsageError
from soup.publishing.gate import BETTER, CANNOT_TELL, NOT_BETTER, Pair, Rules, Verdict, judge

QUESTIONS = 300


def told(new: list[int], published: list[int]) -> Verdict:
    """The verdict on a soup that answers these rightly against one that answers those."""
    return verdict(*(np.isin(np.arange(QUESTIONS), right) for right in (new, published)))


def verdict(
    new: NDArray[np.bool_], published: NDArray[np.bool_], rules: Rules = Rules(), nights: int = 1
) -> Verdict:
    """The same from right (1) or wrong (0)."""
    outcomes = [{str(k): float(o) for k, o in enumerate(each)} for each in (new, published)]
    values = [100 * float(np.mean(each)) for each in (new, published)]
    paired = Paired([Told("x", None, outcomes, values, 1.0)])
    return judge(paired, [Pair("x", values[0], values[1])], rules, nights)


def test_the_three_verdicts() -> None:
    """Sure, not higher, and higher by luck at most."""
    half = list(range(150))
    assert told([*half, *range(150, 180)], half).word == BETTER
    assert told(half[:-1], half).word == NOT_BETTER
    assert told([*half, 200], half).word == CANNOT_TELL


def test_what_could_have_been_told_is_found_about_four_times_in_five() -> None:
    """A true gain of six points, where that is the smallest that could be told."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(80):
        draw = rng.random(QUESTIONS)  # won 11%, lost 5%, the rest alike
        old = np.where(draw < 0.16, draw >= 0.11, rng.random(QUESTIONS) < 0.5)
        new = np.where(draw < 0.16, draw < 0.11, old)
        found.append(verdict(new, old))
    tellable = [one.tellable for one in found if one.tellable is not None]
    assert abs(np.mean(tellable) - 6) < 0.5
    assert 0.65 < np.mean([one.word == BETTER for one in found]) < 0.92


def test_nights_with_nothing_to_find_hardly_ever_publish() -> None:
    """In worlds where every soup is equally good, at most alpha · (1 + ln K) of a publication."""
    rng = np.random.default_rng(1)
    worlds, nights, published = 25, 12, 0
    for _ in range(worlds):
        best = rng.random(QUESTIONS) < 0.7
        for night in range(1, nights + 1):
            tonight = np.where(rng.random(QUESTIONS) < 0.3, rng.random(QUESTIONS) < 0.7, best)
            if verdict(tonight, best, nights=night).word == BETTER:
                best, published = tonight, published + 1
    assert published <= 0.05 * (1 + np.log(nights)) * worlds


def test_the_step_binds_where_alpha_does_not() -> None:
    """A gain below one standard error is never enough, whatever alpha is."""
    half = np.arange(QUESTIONS) < 150
    new = half.copy()
    new[[200, 201]] = True
    new[[0]] = False
    found = verdict(new, half, Rules(alpha=0.9))
    assert found.word == CANNOT_TELL and "less than one standard error" in found.why


def test_a_number_that_is_not_made_of_outcomes_cannot_be_told() -> None:
    """It is said why."""
    paired = Paired([Told("x", None, [{}, {}], [60.0, 50.0], 1.0)])
    found = judge(paired, [Pair("x", 60.0, 50.0)], Rules(), 1)
    assert found.word == CANNOT_TELL and "no outcomes of single questions" in found.why
    assert found.tellable is None and found.level is None


@pytest.mark.parametrize(
    "rules", [{"min_gain": -1.0}, {"alpha": 0.0}, {"no_worse": {"x": float("nan")}}]
)
def test_rules_that_cannot_be_are_refused(rules: dict[str, object]) -> None:
    """A usage error."""
    with pytest.raises(UsageError):
        Rules(**rules)  # type: ignore[arg-type]
