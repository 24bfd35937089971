"""soup/choosing/rescoring.py: which soup other numbers would have made, by names alone."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.choosing.rescoring import (
    Change,
    Scored,
    find_run,
    follow,
    rescored,
    scored_in,
    verdict,
)
from soup.choosing.retelling import leaderboard_of
from soup.choosing.scoring import Benchmark, Result
from soup.errors import BenchmarkError, JournalError
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make, score
from tests.conftest import make_checkpoint, random_tensors

NAMES = "abcd"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Four members, of which the last repeats the second."""
    root = tmp_path_factory.mktemp("pool")
    seeds = [0, 1, 2, 1]
    return Pool.open(
        *(make_checkpoint(root / n, random_tensors(k)) for n, k in zip(NAMES, seeds, strict=True))
    )


def made(pool: Pool, place: Path, table: Mapping[str, float], kind: str = "greedy") -> Journal:
    """A run in which blends score as a table says; others score 1."""

    def value(blend: object, benchmark: str) -> float:
        names = sorted(member.name for member in blend.members)  # type: ignore[attr-defined]
        return table.get("".join(names), 1.0)

    settings = Settings(("x", "y"), out=place / "soup", work=place / ".soup")
    make(kind, pool, FakeScorer(value=value), settings)
    return Journal.open(place / ".soup")


TABLE = {"a": 60, "b": 50, "c": 40, "d": 50, "ab": 70, "abc": 65}


def after(journal: Journal, table: Mapping[str, float]) -> tuple[str, object]:
    """What the recipe makes of other numbers on x, and the leaderboard's first member."""
    records = find_run(journal)
    changes = []
    for scored in scored_in(journal, records, ["x"]):
        names = "".join(sorted(scored.name.split(" + ")))
        value = table.get(names, scored.result.value)
        changes.append(Change(scored, Result("x", value, 10, 0.0)))
    found = follow(journal, records, {"x": Benchmark("x", 10, "new")}, changes)
    board = leaderboard_of(*found)
    assert board.members[0].mean == max(m.mean for m in board.members if m.mean is not None)
    return str(verdict(*found)), board.members[0].name


@pytest.mark.parametrize("seed", range(12))
def test_the_same_numbers_make_the_same_soup(pool: Pool, tmp_path: Path, seed: int) -> None:
    """The recipe by names is the recipe; duplicates are left out here, too."""
    table = {
        "".join(sorted(names)): float((hash_of(f"{seed} {names}") % 1000) / 10)
        for names in ["a", "b", "c", "ab", "ac", "bc", "abc"]
    }
    table["d"] = table["b"]
    journal = made(pool, tmp_path, table)
    found = verdict(journal, find_run(journal))
    assert found is not None
    assert found.same is True
    assert found.members == found.was


def hash_of(text: str) -> int:
    """A number that is the same on every day."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def test_other_numbers_make_another_soup_or_one_that_nobody_knows(
    pool: Pool, tmp_path: Path
) -> None:
    """As far as trials were scored, whatever the order of their members."""
    journal = made(pool, tmp_path, TABLE)
    assert after(journal, {}) == ("the soup would be the same: a + b", "a")
    assert after(journal, {"ab": 45}) == (
        "whether the soup would be another cannot be told: the new numbers lead to a + c, which "
        "was never scored",
        "a",
    )
    assert after(journal, {"a": 79, "ab": 71, "abc": 80})[0] == (
        "the soup would be another: a + b + c instead of a + b"
    )
    assert after(journal, {"b": 80}) == ("the soup would be the same: a + b", "b")
    assert "lead to c + a, which was never scored" in after(journal, {"c": 99})[0]
    assert Journal.open(tmp_path / ".soup").results == journal.results


def test_of_a_maximum_soup_the_best_member_decides(pool: Pool, tmp_path: Path) -> None:
    """An average is not chosen by numbers, and scores alone are no soup."""
    journal = made(pool, tmp_path / "1", TABLE, "max")
    assert after(journal, {"c": 99}) == ("the soup would be another: c instead of a", "c")
    journal = made(pool, tmp_path / "2", TABLE, "average")
    assert verdict(journal, find_run(journal)) is None
    settings = Settings(("x",), work=tmp_path / "3")
    score(pool, FakeScorer(), settings)
    journal = Journal.open(tmp_path / "3")
    assert verdict(journal, find_run(journal)) is None


def test_an_earlier_run_is_found_by_its_id(pool: Pool, tmp_path: Path) -> None:
    """The newest is that which scored something."""
    made(pool, tmp_path, TABLE, "max")
    journal = made(pool, tmp_path, TABLE)
    first, second = journal.runs
    assert find_run(journal)[0]["run"] == second
    assert find_run(journal, first[:6])[0]["command"] == "max"
    with pytest.raises(JournalError, match="no run whose id begins with none"):
        find_run(journal, "none")


KIT = {"vlmeval": "1", "judge": "exact_matching", "data": "d", "torch": "2"}


def way(old: Mapping[str, object], **changes: object) -> Mapping[str, object]:
    """The settings in a new way."""
    found = rescored(
        Scored("blend", "a", "x", "digest", Result("x", 1.0, 1, 0.0, settings=old)),
        Benchmark("x", 1, "", {key: v for key, v in {**KIT, **changes}.items() if key != "torch"}),
    )
    return found.settings


def test_whose_prompts_were_answered_stays_known() -> None:
    """Under another judge a result is any run's; under another VLMEvalKit it is marked as such."""
    assert way(KIT, judge={"model": "m"}) == {**KIT, "judge": {"model": "m"}}
    newer = way(KIT, vlmeval="2")
    assert newer == {**KIT, "vlmeval": "2", "answered_by": "1"}
    assert way(newer, vlmeval="3") == {**KIT, "vlmeval": "3", "answered_by": "1"}
    assert way(newer, vlmeval="1") == KIT
    with pytest.raises(BenchmarkError, match="it was not scored by VLMEvalKit"):
        way({})
