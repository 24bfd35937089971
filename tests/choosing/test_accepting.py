"""soup/choosing/accepting.py: what keeps a member when a rise must be significant."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.leaderboard import Leaderboard
from soup.errors import ScoringError, UsageError
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors

SIZE = 200


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Five small members."""
    place = tmp_path_factory.mktemp("pool")
    paths = [make_checkpoint(place / name, random_tensors(k)) for k, name in enumerate("abcde")]
    return Pool.open(*paths)


def luck(seed: int, bonus: float = 0.0) -> FakeScorer:
    """All members are equally able, and a soup of two or more by ``bonus`` more."""

    def right(blend: Blend, benchmark: str, sample: int) -> float:
        names = "".join(member.name for member in blend.members)
        text = f"{seed} {names} {benchmark} {sample}".encode()
        chance = int.from_bytes(hashlib.sha256(text).digest()[:4], "big") / 2**32
        return float(chance < 0.5 + bonus * (len(names) > 1))

    return FakeScorer(right=right, samples=SIZE)


def run(pool: Pool, place: Path, scorer: FakeScorer, **changes: object) -> Leaderboard:
    """A greedy run on one benchmark."""
    values: dict[str, object] = {"accept": "significant", "out": place / "out", "work": place}
    return make("greedy", pool, scorer, Settings(("x",), **{**values, **changes}))  # type: ignore[arg-type]


def test_luck_keeps_somebody_less_often_than_alpha(pool: Pool, tmp_path: Path) -> None:
    """Of 16 runs of equals most keep somebody for any gain; at alpha 0.2 at most a few do."""
    kept = {"gain": 0, "significant": 0}
    for seed in range(16):
        for rule in kept:
            work = tmp_path / f"{seed} {rule}"
            board = run(pool, work, luck(seed), accept=rule, alpha=0.2)
            kept[rule] += sum(step.kept for step in board.path) > 1
    assert kept["gain"] > 6
    assert kept["significant"] <= stats.binom.ppf(0.999, 16, 0.2)


def test_a_rise_is_tested_at_alpha_by_the_number_of_trials(pool: Pool, tmp_path: Path) -> None:
    """Four trials of five members: McNemar's one-sided p against a quarter of alpha."""
    board = run(pool, tmp_path, luck(3, bonus=0.12))
    assert any(step.kept for step in board.path[1:])
    for step in board.path[1:]:
        assert step.difference is not None
        assert step.difference.above is not None
        assert step.kept == (step.difference.above <= 0.05 / 4)
        assert step.doubted == (step.difference.gain > 0 and not step.kept)
    doubted = [step for step in board.path if step.doubted]
    assert doubted
    assert doubted[0].verdict == "no: not significant"
    again = run(pool, tmp_path, luck(3, bonus=0.12), alpha=1e-9)
    assert [step.kept for step in again.path] == [True] + [False] * 4


def test_min_gain_must_be_exceeded_as_well(pool: Pool, tmp_path: Path) -> None:
    """However sure the rise is."""
    board = run(pool, tmp_path, luck(3, bonus=0.2), min_gain=50.0)
    assert sum(step.kept for step in board.path) == 1
    assert not any(step.doubted for step in board.path)


def test_without_outcomes_nothing_can_be_significant(pool: Pool, tmp_path: Path) -> None:
    """Said in one line that names the other rule."""
    scorer = FakeScorer(value=lambda blend, name: 50.0 + len(blend.members))
    with pytest.raises(ScoringError, match="no outcomes of single questions.*use --accept gain"):
        run(pool, tmp_path, scorer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accept": "sure"}, "accept sure: expected one of gain, significant"),
        ({"alpha": 0.0}, "alpha 0: expected more than 0"),
        ({"alpha": float("nan")}, "alpha nan: expected"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError, match=message):
        Settings(**changes)  # type: ignore[arg-type]


def test_the_test_is_one_sided() -> None:
    """A trial that is worse is never kept, however surely."""
    from soup.choosing.statistics import sign_flip

    assert sign_flip(np.array([-1.0] * 30))[1] == pytest.approx(1.0)
    assert sign_flip(np.array([1.0] * 30))[1] < 1e-8
