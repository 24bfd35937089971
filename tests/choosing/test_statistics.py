"""soup/choosing/statistics.py: every number against an independent computation."""

import itertools
import time
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from soup.choosing.corrected import IMAGINED, Trial, corrected_gain
from soup.choosing.questions import Questions, Term
from soup.choosing.statistics import Paired, Told, sign_flip, values_of


def told(
    rows: Sequence[Sequence[float]],
    name: str = "x",
    questions: Questions | None = None,
    weight: float = 1.0,
    value: Sequence[float] | None = None,
) -> Told:
    """A benchmark of which each blend's outcomes are a row."""
    outcomes = [{f"q{k}": float(v) for k, v in enumerate(row)} for row in rows]
    means = [100 * float(np.mean(row)) for row in rows]
    return Told(name, questions, outcomes, means if value is None else value, weight)


def pair_of(seed: int, n: int) -> list[list[float]]:
    """Two models that agree on most questions."""
    generator = np.random.default_rng(seed)
    hard = generator.standard_normal(n)
    return [list((hard + 0.7 * generator.standard_normal(n) < 0.5).astype(float)) for _ in "ab"]


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (5, 0), (12, 5), (40, 60), (700, 640)])
def test_one_benchmark_without_clusters_is_mcnemar(won: int, lost: int) -> None:
    """The exact test: a binomial one of the questions on which the two differ."""
    parts = np.concatenate([np.full(won, 0.4), np.full(lost, -0.4), np.zeros(50)])
    two, above = sign_flip(parts)
    if won + lost == 0:
        assert (two, above) == (1, 1)
        return
    assert two == pytest.approx(stats.binomtest(won, won + lost).pvalue, rel=1e-8)
    one = stats.binomtest(won, won + lost, alternative="greater").pvalue
    assert above == pytest.approx(one, rel=1e-8)


@pytest.mark.parametrize("parts", [[0.5, 0.5, -0.25, 1.0, 0.75, 0.5, -0.5, 0.25, 1, 1], [3, -1, 2]])
def test_parts_of_one_measure_are_counted_over_all_swaps(parts: list[float]) -> None:
    """As by going through all of them."""
    sums = [np.dot(signs, parts) for signs in itertools.product((1, -1), repeat=len(parts))]
    two, above = sign_flip(np.array(parts))
    assert two == pytest.approx(np.mean(np.abs(sums) >= abs(sum(parts)) - 1e-9))
    assert above == pytest.approx(np.mean(np.array(sums) >= sum(parts) - 1e-9))


def test_parts_without_a_measure_are_sampled_near_the_truth() -> None:
    """And the same each time."""
    parts = np.random.default_rng(3).standard_normal(14) + 0.35
    sums = np.array([np.dot(s, parts) for s in itertools.product((1, -1), repeat=14)])
    two, above = sign_flip(parts)
    assert two == pytest.approx(np.mean(np.abs(sums) >= abs(parts.sum())), abs=0.015)
    assert above == pytest.approx(np.mean(sums >= parts.sum()), abs=0.015)
    assert sign_flip(parts) == (two, above)


def test_interval_of_one_benchmark_is_that_of_paired_differences() -> None:
    """Student's, with one imagined pair won and one lost."""
    rows = pair_of(1, 400)
    (found,) = Paired([told(rows)]).differences([(0, 1)])
    d = np.subtract(*rows)
    variance = d.var(ddof=1) / 400 + 2 / 400**2
    reach = 100 * stats.t.ppf(0.975, 399) * variance**0.5
    assert found.gain == pytest.approx(100 * d.mean())
    assert found.low == pytest.approx(found.gain - reach)
    assert found.high == pytest.approx(found.gain + reach)


def test_benchmarks_are_pooled_by_their_weights() -> None:
    """Strata: variances add up by squared weights; p is that of the weighted sum."""
    first, second = pair_of(2, 300), pair_of(3, 90)
    paired = Paired([told(first, "x", weight=0.7), told(second, "y", weight=0.3)])
    (found,) = paired.differences([(0, 1)])
    d, e = np.subtract(*first), np.subtract(*second)
    assert found.gain == pytest.approx(100 * (0.7 * d.mean() + 0.3 * e.mean()))
    clusters = 390 / 389
    variance = 0.49 * (d.var() / 300 + 2 / 300**2) + 0.09 * (e.var() / 90 + 2 / 90**2)
    variance += (clusters - 1) * (0.49 * d.var() / 300 + 0.09 * e.var() / 90)
    assert found.high is not None
    reach = found.high - found.gain
    assert reach == pytest.approx(100 * stats.t.ppf(0.975, 389) * variance**0.5)
    generator = np.random.default_rng(0)
    parts = np.concatenate([0.7 / 300 * d, 0.3 / 90 * e])
    sums = (2 * generator.integers(0, 2, (20_000, 390)) - 1) @ parts
    assert found.p == pytest.approx(np.mean(np.abs(sums) >= abs(parts.sum()) - 1e-12), abs=0.02)


def test_questions_about_one_image_count_as_one() -> None:
    """Copies of each question make the same difference no surer, also in another benchmark."""
    rows = pair_of(4, 200)
    (once,) = Paired([told(rows)]).differences([(0, 1)])
    images = {f"q{k}": f"image {k}" for k in range(200)}
    tripled = [row * 3 for row in rows]
    shared = Questions(clusters={f"q{k}": f"image {k % 200}" for k in range(600)})
    (thrice,) = Paired([told(tripled, questions=shared)]).differences([(0, 1)])
    two = [told(rows, name, Questions(clusters=images), weight=0.5) for name in "xy"]
    (twice,) = Paired(two).differences([(0, 1)])
    for other in (thrice, twice):
        assert other.p == pytest.approx(once.p)
        # Not to the digit: each benchmark has imagined pairs of its own.
        assert other.high == pytest.approx(once.high, rel=0.03)
    (apart,) = Paired([told(tripled)]).differences([(0, 1)])
    assert apart.p is not None
    assert once.p is not None
    assert apart.p < once.p


def test_groups_count_as_their_worst_question_and_hold_clusters_together() -> None:
    """As HallusionBench's figures and question sets do."""
    rows = [[1, 1, 1, 1, 1, 1], [1, 0, 1, 1, 0, 1]]
    pairs = {f"q{k}": f"g{k // 2}" for k in range(6)}
    questions = Questions(terms=(Term(0.5), Term(0.5, pairs)))
    values = [100, 50 * 4 / 6 + 50 * 1 / 3]
    keys = [f"q{k}" for k in range(6)]
    assert values_of(questions, keys, np.array(rows, float).T) == pytest.approx(values)
    paired = Paired([told(rows, questions=questions, value=values)])
    assert paired.clusters == 3
    (found,) = paired.differences([(0, 1)])
    assert found.gain == pytest.approx(2 * (50 / 6 + 50 / 3))
    assert found.p == pytest.approx(2 / 4)


def test_interval_of_an_f1_is_that_of_a_bootstrap() -> None:
    """Its influence says what resampling the clusters says."""
    generator = np.random.default_rng(5)
    n = 600
    rows = (generator.random((2, n)) < np.array([[0.85], [0.8]])).astype(float)
    keys = [f"q{k}" for k in range(n)]
    yes = {key: 1.0 for key in keys[:250]}
    questions = Questions(positive=yes, negative={key: 3.0 for key in keys[250:]})
    values = values_of(questions, keys, rows.T)
    tp, fn = rows[:, :250].sum(1), (1 - rows[:, :250]).sum(1)
    fp = 3 * (1 - rows[:, 250:]).sum(1)
    assert values == pytest.approx(100 * 2 * tp / (2 * tp + fp + fn))
    paired = Paired([told(list(rows), questions=questions, value=list(values))])
    (found,) = paired.differences([(0, 1)])
    again = []
    for _ in range(2000):
        drawn = generator.integers(0, n, n)
        right, weight = rows[:, drawn], np.where(drawn < 250, 1.0, 3.0)
        a = (2 * right * weight * (drawn < 250)).sum(1)
        again.append(100 * np.subtract(*(a / (a + ((1 - right) * weight).sum(1)))))
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(again), rel=0.08)
    assert found.p is not None
    assert abs(found.p - 2 * stats.norm.sf(abs(found.gain) / np.std(again))) < 0.05


def test_what_is_not_known_is_said() -> None:
    """No outcomes, other questions, a number that is not made of them: a reason, no interval."""
    rows = pair_of(6, 50)
    empty = Told("x", None, [{}, {}], [50.0, 60.0], 1.0)
    (found,) = Paired([empty]).differences([(1, 0)])
    assert (found.gain, found.low, found.p) == (10.0, None, None)
    assert found.unknown == "x: no outcomes of single questions are recorded"
    assert not found.noise
    (found,) = Paired([told(rows, value=[40.0, 90.0])]).differences([(0, 1)])
    assert "not made of" in found.unknown
    other = Told("y", None, [{"a": 1.0}, {"b": 1.0}], [100.0, 100.0], 1.0)
    assert "not the same questions" in Paired([other]).unknown


def test_covariance_is_that_of_the_differences() -> None:
    """The variance of a difference follows from it; a blend and itself differ by nothing."""
    paired = Paired([told([*pair_of(7, 120), *pair_of(8, 120)])])
    c = paired.covariance()
    for p, q in itertools.combinations(range(4), 2):
        (found,) = paired.differences([(p, q)])
        assert found.high is not None
        reach = stats.t.ppf(0.975, 119) * (c[p, p] + c[q, q] - 2 * c[p, q]) ** 0.5
        assert found.high - found.gain == pytest.approx(reach)
    (same,) = paired.differences([(2, 2)])
    assert (same.gain, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_questions_are_recorded_whole() -> None:
    """What is read back is what was written."""
    questions = Questions({"a": "i"}, {"a": "c"}, (Term(0.5), Term(0.5, {"a": "g"})), {"a": 2}, {})
    assert Questions.from_json(questions.to_json()) == questions


def test_a_large_suite_takes_no_two_seconds() -> None:
    """Twenty members and nineteen trials on nine thousand questions, one thread's time."""
    generator = np.random.default_rng(0)
    rows = (generator.random((39, 9000)) < 0.6).astype(float)
    parts = [rows[:, :3001], rows[:, 3001:5000], rows[:, 5000:]]
    suite = [told(list(part), str(k), weight=1 / 3) for k, part in enumerate(parts)]
    started = time.process_time()
    paired = Paired(suite)
    paired.differences([(k, 0) for k in range(1, 39)])
    trials = [Trial(19 + k if k else 0, k + 1, k + 1) for k in range(19)]
    found = corrected_gain(paired.means, paired.covariance(IMAGINED), trials, 38, 0)
    assert found.low < found.gain < found.high
    assert time.process_time() - started < 2
