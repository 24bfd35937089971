"""soup/choosing/leaderboard.py: the footer says when answers do not depend on others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from soup.checkpoints.pool import Pool
from soup.choosing.leaderboard import INVARIANT
from soup.choosing.scoring import Benchmark
from soup.evaluators.fake import FakeScorer
from soup.events import ignore
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors


class Steady(FakeScorer):
    """One that says of some benchmarks that its engine is batch-invariant."""

    said: tuple[str, ...] = ()

    def benchmarks(self, reference: Any, names: Any, observe: Any = ignore) -> list[Benchmark]:
        """With settings as the worker's engine has them."""
        return [
            replace(one, settings={"batch_invariant": one.name in self.said})
            for one in super().benchmarks(reference, names, observe)
        ]


def test_the_footer_says_so_where_all_answers_are(tmp_path: Path) -> None:
    """Not where those to one benchmark were given otherwise."""
    pool = Pool.open(
        *(make_checkpoint(tmp_path / n, random_tensors(k)) for k, n in enumerate("ab"))
    )
    for name, said in (("all", ("x", "y")), ("one", ("x",)), ("none", ())):
        scorer = Steady()
        scorer.said = said
        given = Settings(("x", "y"), out=tmp_path / name / "out", work=tmp_path / name)
        board = make("max", pool, scorer, given)
        assert (INVARIANT in board.footer()) == (name == "all")
