"""soup/forecast.py: what a run would have to measure, by content and without reading weights."""

import shutil
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.scoring import Benchmark, Result
from soup.errors import ScoringError
from soup.evaluators.fake import FakeScorer, by_names
from soup.events import Observer, Progress, Work
from soup.forecast import Forecast, forecast
from soup.run import Settings, make
from tests.test_run import TABLE, Stops, settings


class Slow(FakeScorer):
    """Says what it has answered as it goes, as a worker does."""

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """Measure, from the first question to the last."""
        observe(Progress(task, 0, benchmark.samples, "samples"))
        return super().measure(blend, benchmark, task, observe)


def looked_up(asked: Settings, pool: Pool) -> Forecast:
    """The forecast of a greedy soup with the fake's benchmarks."""
    names = [*asked.benchmarks, *asked.holdouts]
    return forecast("greedy", pool, FakeScorer().benchmarks(pool.reference, names), asked)


@pytest.mark.parametrize("after", [0, 4, 9, 13, 16, 18])
def test_what_a_stopped_run_has_measured_is_known(
    pool_paths: list[Path], tmp_path: Path, after: int
) -> None:
    """Members, the trials as far as they went, the soup's hold-out: the rest is measured later."""
    asked = settings(tmp_path)
    pool = Pool.open(*pool_paths)
    stops = Stops(after)
    with pytest.raises(ScoringError):
        make("greedy", pool, stops, asked)
    found = looked_up(asked, Pool.open(*pool_paths))
    assert (found.results, found.unread) == (4 * 3 + 3 * 2 + 1, ())
    rest = FakeScorer(by_names(TABLE))
    make("greedy", pool, rest, asked)
    assert found.missing == len(rest.calls) == found.results - after
    assert looked_up(asked, Pool.open(*pool_paths)).missing == 0


def test_unread_members_count_as_missing(
    pool_paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bytes are not read to find out."""
    asked = settings(tmp_path)
    make("greedy", Pool.open(*pool_paths), FakeScorer(by_names(TABLE)), asked)
    shutil.copytree(pool_paths[0], tmp_path / "new")
    pool = Pool.open(*pool_paths, tmp_path / "new")
    monkeypatch.setattr(Checkpoint, "compute_digest", lambda self: pytest.fail("read"))
    found = looked_up(asked, pool)
    assert found.unread == ("new",)
    assert (found.results, found.missing) == (5 * 3 + 4 * 2 + 1, 3 + 4 * 2 + 1)


def test_the_time_is_that_of_earlier_results(pool_paths: list[Path], tmp_path: Path) -> None:
    """Of the same benchmark; questions of one that has none are counted."""
    asked = settings(tmp_path, benchmarks=("x",), holdouts=())
    make("max", Pool.open(*pool_paths), Slow(by_names(TABLE)), asked)
    found = looked_up(settings(tmp_path), Pool.open(*pool_paths))
    assert found.missing == 4 * 2 + 3 * 2 + 1
    assert found.work.questions == 10 * (4 + 3 + 4 + 1), "of y and z"
    assert 0 < found.work.seconds < 5, "three trials on x"
    assert looked_up(asked, Pool.open(*pool_paths)).work.questions == 0
    nothing = Settings(("x",), work=tmp_path / "nowhere")
    assert looked_up(nothing, Pool.open(*pool_paths)).work == Work(0.0, 10 * 7)
