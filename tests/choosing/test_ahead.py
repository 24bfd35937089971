"""soup/choosing/ahead.py: how far the whole run has come, told as it goes."""

from pathlib import Path

import pytest

from soup.checkpoints.pool import Pool
from soup.choosing.ahead import plan
from soup.choosing.scoring import Benchmark
from soup.evaluators.fake import FakeScorer, by_names
from soup.events import Evaluation, Event, Work
from soup.run import make, score
from tests.test_forecast import Slow
from tests.test_run import TABLE, settings


@pytest.mark.parametrize(
    ("kind", "members", "holdouts", "evaluations", "soup"),
    [
        ("greedy", 6, False, 11, None),
        ("greedy", 6, True, 12, 12),
        ("greedy", 1, True, 1, None),
        ("max", 6, True, 6, None),
        ("score", 6, True, 6, None),
        ("average", 6, False, 7, 7),
        ("average", 1, False, 1, None),
        ("blend", 2, False, 3, 3),
    ],
)
def test_a_plan_is_the_most_that_is_evaluated(
    kind: str, members: int, holdouts: bool, evaluations: int, soup: int | None
) -> None:
    """Members, a greedy soup's trials, and the soup where something of it is not known by then."""
    x, z = (Benchmark(name, 10, name) for name in "xz")
    found = plan(kind, members, members, [x], [z] if holdouts else [])
    assert (len(found.evaluations), found.soup) == (evaluations, soup)


def told(events: list[Event]) -> list[Evaluation]:
    """The events about the whole run."""
    return [event for event in events if isinstance(event, Evaluation)]


def test_each_measurement_is_told_before_it_begins(pool_paths: list[Path], tmp_path: Path) -> None:
    """Which evaluation of how many, on what, and what is left; at the end that it is over."""
    events: list[Event] = []
    make("greedy", Pool.open(*pool_paths), Slow(by_names(TABLE)), settings(tmp_path), events.append)
    found = told(events)
    assert [(e.number, e.benchmark) for e in found[:4]] == [(1, "x"), (1, "y"), (1, "z"), (2, "x")]
    assert [e.number for e in found[12:]] == [5, 5, 6, 6, 7, 7, 8, 0]
    assert {e.of for e in found[:-1]} == {8}
    assert (found[0].label, found[0].task) == ("a (1 of 4)", "a (1 of 4) on x")
    assert found[0].pace is None
    assert found[0].rest == Work(0.0, 20)
    assert found[0].later == Work(0.0, 3 * 30 + 3 * 20 + 10)
    assert found[3].pace is not None, "learned from the first evaluation"
    assert found[3].later.questions == 0
    last = found[-2]
    assert (last.number, last.benchmark, last.later) == (8, "z", Work())
    assert found[-1].benchmark == ""


def test_what_is_known_is_not_ahead(pool_paths: list[Path], tmp_path: Path) -> None:
    """A run that goes on has less before it."""
    asked = settings(tmp_path)
    score(Pool.open(*pool_paths[1:]), FakeScorer(by_names(TABLE)), asked)
    events: list[Event] = []
    make("max", Pool.open(*pool_paths), FakeScorer(by_names(TABLE)), asked, events.append)
    assert [(e.number, e.of, e.later) for e in told(events)[:-1]] == [(1, 4, Work())] * 3
