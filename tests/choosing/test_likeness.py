"""soup/choosing/likeness.py: cosines of weight differences, from recorded distances."""

from pathlib import Path

import numpy as np
import pytest

from soup.choosing.journal import Journal
from soup.choosing.likeness import cosines, known_distances, likeness_of, remember_distances

WEIGHTS = np.random.default_rng(1).normal(size=(4, 50))
BASE = np.random.default_rng(2).normal(size=50)


def journal(tmp_path: Path, *weights: np.ndarray) -> Journal:  # type: ignore[type-arg]
    """A journal that knows how far these lie apart; they are called a, b, …"""
    points = np.stack(weights)
    squares = np.square(points[:, None] - points[None]).sum(-1)
    made = Journal.open(tmp_path)
    remember_distances(made, "abcdefgh"[: len(points)], squares.tolist())
    return Journal.open(tmp_path)


def by_hand(differences: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Cosines of rows."""
    unit = differences / np.linalg.norm(differences, axis=1, keepdims=True)
    return unit @ unit.T  # type: ignore[no-any-return]


def test_cosines_are_of_differences_to_the_base_or_the_mean(tmp_path: Path) -> None:
    """As computed from the weights themselves."""
    made = journal(tmp_path, *WEIGHTS, BASE)
    found, to = cosines(made, "abcd", "e")
    assert to == "base"
    assert np.allclose(found, by_hand(WEIGHTS - BASE), atol=1e-6)
    found, to = cosines(made, "abcd", None)
    assert to == "mean"
    assert np.allclose(found, by_hand(WEIGHTS - WEIGHTS.mean(0)), atol=1e-6)


def test_distances_stay_true_in_another_pool(tmp_path: Path) -> None:
    """Some of the members, in another order: nothing is read again. A new one is unknown."""
    made = journal(tmp_path, *WEIGHTS)
    some = known_distances(made, "dba")
    assert some is not None
    assert some[0][2] == pytest.approx(np.square(WEIGHTS[3] - WEIGHTS[0]).sum())
    assert known_distances(made, "abx") is None
    assert cosines(made, "abx", None)[0] is None


def test_what_has_no_angle_has_no_cosine(tmp_path: Path) -> None:
    """Two members are opposite to their mean by definition; a member may be the base itself."""
    made = journal(tmp_path, *WEIGHTS, WEIGHTS[0])
    assert cosines(made, "ab", None)[0] is None
    assert cosines(made, "abc", "e")[0] is None


def test_weights_that_are_not_finite_are_not_recorded(tmp_path: Path) -> None:
    """No NaN is written into the journal."""
    made = journal(tmp_path, *WEIGHTS, np.full(50, np.nan))
    assert made.others == {}


def test_members_of_one_content_are_one(tmp_path: Path) -> None:
    """And where nothing is recorded there is nothing to show."""
    made = journal(tmp_path, *WEIGHTS)
    members = [("one", "a", "1"), ("two", "b", "2"), ("copy", "a", "1"), ("three", "c", "3")]
    found = likeness_of(made, members, None, {})
    assert found is not None
    assert found.names == ["one", "two", "three"]
    assert found.differ is None
    assert found.to_dict()["cosine"][0][0] == 1.0
    assert likeness_of(made, [("x", "x", "1"), ("y", "y", "2")], None, {}) is None
    shares = {("1", "2"): 0.25, ("2", "1"): 0.25}
    answers = likeness_of(made, [("x", "x", "1"), ("y", "y", "2")], None, shares)
    assert answers is not None
    assert (answers.cosine, answers.differ) == (None, [[0.0, 0.25], [0.25, 0.0]])
