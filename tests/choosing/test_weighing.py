"""soup/choosing/weighing.py: how much each benchmark counts, and where that is seen."""

import json
import math
from pathlib import Path
from statistics import stdev

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.scoring import Benchmark, Result, Score
from soup.choosing.weighing import shares_of
from soup.cli.given import weighted
from soup.errors import ScoringError, UsageError
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors

X, Y = Benchmark("x", 300, "dx"), Benchmark("y", 100, "dy")


def score(x: float, y: float) -> Score:
    """Of two benchmarks."""
    return Score({"x": Result("x", x, 300, 0.0), "y": Result("y", y, 100, 0.0)})


def test_shares() -> None:
    """Equal ones are none; weights multiply what a mean says; they sum to one."""
    assert shares_of([X, Y], {}, "macro") == {}
    assert shares_of([X, Y], {"x": 2.0, "y": 2.0}, "macro") == {}
    assert shares_of([X, Y], {"y": 0.5}, "macro") == pytest.approx({"x": 2 / 3, "y": 1 / 3})
    assert shares_of([X, Y], {}, "samples") == pytest.approx({"x": 0.75, "y": 0.25})
    assert shares_of([X, Y], {"y": 3.0}, "samples") == pytest.approx({"x": 0.5, "y": 0.5})
    members = [score(50, 10), score(52, 30), score(51, 50)]
    a, b = 1 / stdev([50, 52, 51]), 1 / stdev([10, 30, 50])
    found = shares_of([X, Y], {}, "z", members)
    assert found == pytest.approx({"x": a / (a + b), "y": b / (a + b)})


def test_z_needs_a_spread() -> None:
    """Said in one line that names the benchmark."""
    with pytest.raises(ScoringError, match="all members score the same on x"):
        shares_of([X, Y], {}, "z", [score(50, 10), score(50, 20)])


def test_the_mean_goes_by_shares() -> None:
    """Of a score whose benchmarks have some; else all count alike."""
    results = score(50, 10).results
    assert Score(results).mean == 30
    assert Score(results, {"x": 0.75, "y": 0.25}).mean == 40


def ability(blend: Blend, benchmark: str, sample: int) -> float:
    """A is best on x, b on y; together they are as b."""
    names = "".join(sorted(m.name for m in blend.members))
    right = {"ax": 60, "ay": 10, "bx": 40, "by": 20, "abx": 50, "aby": 17}
    return float(sample < right[names + benchmark])


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Two members."""
    return Pool.open(
        *(make_checkpoint(tmp_path / n, random_tensors(k)) for k, n in enumerate("ab"))
    )


def test_weights_decide_and_are_recorded(pool: Pool, tmp_path: Path) -> None:
    """Alike, a is best; where y counts ten times, b; manifest and JSON say so, p is theirs."""

    def run(name: str, **changes: object) -> dict[str, object]:
        given = Settings(("x", "y"), out=tmp_path / name, work=tmp_path / "work", **changes)  # type: ignore[arg-type]
        board = make("greedy", pool, FakeScorer(right=ability, samples=100), given)
        return board.to_dict()

    plain = run("plain")
    assert plain["shares"] == {}
    assert plain["members"][0]["name"] == "a"  # type: ignore[index]
    heavy = run("heavy", bench_weights={"y": 10.0})
    assert heavy["shares"] == pytest.approx({"x": 1 / 11, "y": 10 / 11})
    best = heavy["members"][0]  # type: ignore[index]
    assert best["name"] == "b"
    assert best["mean"] == pytest.approx((40 + 200) / 11)
    other = heavy["members"][1]["difference"]  # type: ignore[index]
    assert other["gain"] == pytest.approx((20 - 100) / 11)
    manifest = json.loads((tmp_path / "heavy" / "soup.json").read_text())
    assert manifest["shares"] == pytest.approx({"x": 1 / 11, "y": 10 / 11})
    again = run("again")
    assert again["members"][0]["mean"] == plain["members"][0]["mean"]  # type: ignore[index]


def test_confident_runs_with_weights_end_where_full_ones_do(pool: Pool, tmp_path: Path) -> None:
    """The same soup; a trial under other weights is another trial."""
    for weight in (1.0, 10.0):
        kept = []
        for confident in (None, 0.95):
            given = Settings(
                ("x", "y"), bench_weights={"y": weight}, out=tmp_path / f"{weight} {confident}",
                work=tmp_path / f"work {confident}", confident=confident,
            )  # fmt: skip
            board = make("greedy", pool, FakeScorer(right=ability, samples=100), given)
            assert board.soup is not None
            kept.append(dict(board.soup.members))
        assert kept[0] == kept[1]


def test_weights_on_the_command_line(tmp_path: Path) -> None:
    """NAME=WEIGHT; a file whose name has a sign of equality is a file."""
    odd = tmp_path / "a=1.tsv"
    odd.write_text("x")
    names, weights = weighted(["MMStar", "MMVet=0.5", str(odd)])
    assert (names, weights) == (["MMStar", "MMVet", str(odd)], {"MMVet": 0.5})
    with pytest.raises(UsageError, match="expected a number after =, found 'half'"):
        weighted(["MMVet=half"])


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_is_above_zero(weight: float) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError, match="expected a weight above 0"):
        Settings(("x",), bench_weights={"x": weight})
    with pytest.raises(UsageError, match="mean both: expected one of macro"):
        Settings(("x",), mean="both")
