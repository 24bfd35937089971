"""soup/choosing/comparing.py: what a run says of its differences, with the fake scorer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.leaderboard import Leaderboard
from soup.choosing.questions import Questions
from soup.choosing.scoring import Benchmark
from soup.evaluators.fake import FakeScorer, by_digest
from soup.events import Observer, ignore
from soup.run import Settings, make, show
from tests.conftest import make_checkpoint, random_tensors

SIZE = 300
ABILITY = {"a": 0.7, "b": 0.69, "c": 0.68, "d": 0.4}


def right(blend: Blend, benchmark: str, sample: int) -> float:
    """Blends of many are a little better; all find the same questions hard."""
    names = [member.name for member in blend.members]
    ability = np.mean([ABILITY[name] for name in names]) + 0.1 * (1 - 1 / len(names))
    return float(0.7 * chance(benchmark, sample) + 0.3 * chance(names, sample) < ability)


def chance(*parts: object) -> float:
    """A number in 0–1 that only its arguments decide."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class Described(FakeScorer):
    """A fake whose benchmarks say that ten questions share an image."""

    def benchmarks(
        self, reference: Checkpoint, names: Sequence[str], observe: Observer = ignore
    ) -> list[Benchmark]:
        """Any name."""
        shared = Questions(clusters={str(k): f"image {k // 10}" for k in range(SIZE)})
        found = super().benchmarks(reference, names, observe)
        return [replace(benchmark, questions=shared) for benchmark in found]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Four small members."""
    place = tmp_path_factory.mktemp("pool")
    return Pool.open(*(make_checkpoint(place / n, random_tensors(k)) for k, n in enumerate("abcd")))


def board(pool: Pool, place: Path, scorer: FakeScorer, kind: str = "greedy") -> Leaderboard:
    """A run on two benchmarks and a hold-out."""
    given = Settings(("x", "y"), ("z",), out=place / "out", work=place / "work")
    return make(kind, pool, scorer, given)


def outcomes(place: Path) -> Mapping[str, Mapping[str, np.ndarray]]:  # type: ignore[type-arg]
    """By blend and benchmark, as the journal has them."""
    found: dict[str, dict[str, np.ndarray]] = {}  # type: ignore[type-arg]
    for line in (place / "work" / "journal.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "result":
            values = np.array(list(record["result"]["outcomes"].values()))
            found.setdefault(record["blend"], {})[record["result"]["benchmark"]] = values
    return found


def test_every_difference_of_a_run_is_an_exact_test(pool: Pool, tmp_path: Path) -> None:
    """Two benchmarks of one size: McNemar's test of both together."""
    found = board(pool, tmp_path, FakeScorer(right=right, samples=SIZE)).to_dict()
    recorded = outcomes(tmp_path)
    records = [json.loads(t) for t in (tmp_path / "work" / "journal.jsonl").open()]
    decisions = [r for r in records if r["kind"] == "decision"]
    blends = {m["name"]: m["blend"] for r in records if r["kind"] == "run" for m in r["members"]}

    def p(one: str, other: str) -> float:
        d = np.concatenate([recorded[one][b] - recorded[other][b] for b in "xy"])
        won, all_ = int((d > 0).sum()), int((d != 0).sum())
        return float(stats.binomtest(won, all_).pvalue) if all_ else 1.0

    best = blends[found["members"][0]["name"]]
    for row in found["members"]:
        assert row["difference"]["p"] == pytest.approx(p(blends[row["name"]], best))
    before = decisions[0]["blend"]
    assert "difference" not in found["path"][0]
    for step, decision in zip(found["path"][1:], decisions[1:], strict=True):
        assert step["difference"]["p"] == pytest.approx(p(decision["blend"], before))
        before = decision["blend"] if decision["kept"] else before
    assert found["soup"]["difference"]["p"] == pytest.approx(p(before, best))
    d = recorded[before]["z"] - recorded[best]["z"]
    assert found["soup"]["holdout_difference"]["gain"] == pytest.approx(100 * d.mean())
    corrected = found["soup"]["corrected"]
    assert corrected["low"] < corrected["gain"] < corrected["high"]
    # A gain of many standard errors stays; it may be the best single that was the luckier.
    assert corrected["gain"] == pytest.approx(found["soup"]["difference"]["gain"], abs=1)


def test_clusters_are_recorded_once_and_widen_intervals(pool: Pool, tmp_path: Path) -> None:
    """A second run, also of a leaderboard alone, knows them from the journal."""
    plain = board(pool, tmp_path / "plain", FakeScorer(right=right, samples=SIZE))

    def by_tens(blend: Blend, benchmark: str, sample: int) -> float:
        return right(blend, benchmark, sample // 10)

    scorer = Described(right=by_tens, samples=SIZE)
    first = board(pool, tmp_path / "shared", scorer)
    board(pool, tmp_path / "shared", scorer)
    text = (tmp_path / "shared" / "work" / "journal.jsonl").read_text()
    assert text.count('"kind":"benchmark"') == 3
    assert show(tmp_path / "shared" / "work").members[-1] == first.members[-1]
    width = {}
    for name, one in (("plain", plain), ("shared", first)):
        difference = one.members[-1].difference
        assert difference is not None
        assert difference.high is not None
        width[name] = difference.high - difference.gain
    assert width["shared"] > 2 * width["plain"]


def test_without_outcomes_it_says_what_it_cannot_tell(pool: Pool, tmp_path: Path) -> None:
    """As in journals of scorers that record none."""
    found = board(pool, tmp_path, FakeScorer(value=by_digest))
    reason = "x: no outcomes of single questions are recorded"
    assert found.footer()[:1] == [f"which differences are noise cannot be told: {reason}"]
    assert found.to_dict()["members"][1]["difference"]["low"] is None
    assert found.soup is not None
    assert found.soup.corrected is None
    assert "~" not in found.to_markdown()


def test_noise_is_marked_and_explained(pool: Pool, tmp_path: Path) -> None:
    """In the table, in Markdown, and in words below."""
    text = board(pool, tmp_path, FakeScorer(right=right, samples=SIZE)).to_markdown()
    row = next(line for line in text.splitlines() if line.startswith("| 4 | d"))
    assert "~" not in row
    assert r" \~ |" in text  # the escape shows as ~
    assert "chance alone makes such a difference" in text
    assert "on new questions expect" in text
    assert "on the hold-outs, by which nothing was chosen" in text


def test_a_maximum_soup_is_compared_but_not_corrected(pool: Pool, tmp_path: Path) -> None:
    """It is the best single member."""
    found = board(pool, tmp_path, FakeScorer(right=right, samples=SIZE), "max").soup
    assert found is not None
    assert found.difference is not None
    assert found.difference.gain == 0
    assert found.corrected is None
