"""Score the straight line between two members: do they lie in one basin?"""

from collections.abc import Sequence

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.ahead import Ahead, Plan
from soup.choosing.journal import Journal
from soup.choosing.lines import KIND, Line, line_of, remember_line
from soup.choosing.scoring import Benchmark, HousedScorer, RecordedScorer, Scorer, result_key
from soup.choosing.weighing import shares_of
from soup.errors import UsageError
from soup.events import Evaluation, Note, Observer
from soup.holding import alone
from soup.identifying import identify
from soup.settings import Settings
from soup.watching.state import stated
from soup.watching.watch import around
from soup.words import counted

FEWEST = 3
"""Places on a line: both ends and one between them."""


def line(
    pool: Pool,
    scorer: Scorer,
    settings: Settings = Settings(),
    points: int = 11,
    observe: Observer | None = None,
) -> Line:
    """Score blends (1 − t)·A + t·B at equal steps of t, and record them as a line.

    Every place is asked with the first member's companion files, so that nothing but weights
    changes along the line; where the second's are others, that is said.

    Results that are known are not measured again: members' own, and the middle's where a greedy
    soup has tried the two together. It is no run of its own: ``show`` goes on to show the last one.

    Args:
        pool: two members.
        scorer: of blends.
        settings: benchmarks and their weights, work, dtype; nothing else of it is used.
        points: how many places, both ends among them.
        observe: as in ``soup.run.make``.

    Raises:
        UsageError: not two members, no benchmark, too few points, or a mean that needs a pool.
        SoupError: see ``soup.errors``; scores already measured stay recorded.
    """
    if len(pool.members) != 2:
        raise UsageError(f"a line has two ends: expected 2 members, found {len(pool.members)}")
    if points < FEWEST:
        raise UsageError(f"--points {points}: expected {FEWEST} or more, e.g. 11")
    if not settings.benchmarks:
        raise UsageError("a line needs a benchmark: add --bench NAME, e.g. --bench MMStar")
    if settings.mean == "z":
        raise UsageError("--mean z goes by the spread of a pool, a line has none; use macro")
    with (
        around(observe) as shown,
        alone(settings.work, lambda text: shown(Note(text, warning=True))),
        stated(shown, settings.work, "line") as told,
    ):
        return _line(pool, scorer, settings, points, told)


def _line(pool: Pool, scorer: Scorer, settings: Settings, points: int, observe: Observer) -> Line:
    journal = Journal.open(settings.work)
    if isinstance(scorer, HousedScorer):
        scorer.work_in(settings.work)
    observe(Note(f"looking up {counted(len(settings.benchmarks), 'benchmark')}"))
    benchmarks = scorer.benchmarks(pool.reference, list(settings.benchmarks), observe)
    identify(pool.members, journal, observe)
    first, second = pool.members
    if first.digest == second.digest:
        raise UsageError(f"{first.name} and {second.name} hold the same weights: no line is there")
    places = [
        (k / (points - 1), _at(pool, settings.dtype, k / (points - 1), journal, benchmarks))
        for k in range(points)
    ]
    weights = {
        benchmark.name: settings.bench_weights[source]
        for source, benchmark in zip(settings.benchmarks, benchmarks, strict=True)
        if source in settings.bench_weights
    }
    ahead = Ahead(Plan(tuple(tuple(benchmarks) for _ in places)), journal)
    ahead.look_up([blend.key for _, blend in places])
    recording = RecordedScorer(scorer, journal, observe, ahead=ahead)
    scores = [
        recording.score(blend, benchmarks, f"{first.name} → {second.name} at {t:.2f}", number)
        for number, (t, blend) in enumerate(places, 1)
    ]
    observe(Evaluation(0, 0))
    shares = shares_of(benchmarks, weights, settings.mean, [scores[0], scores[-1]])
    remember_line(
        journal,
        [{"name": member.name, "digest": member.digest} for member in pool.members],
        {benchmark.name: benchmark.digest for benchmark in benchmarks},
        [(t, blend.key) for t, blend in places],
        shares,
        differ=first.companions.digest != second.companions.digest,
    )
    found = line_of(journal, journal.others[KIND][-1], [first.name, second.name])
    assert found is not None, "all of it has just been scored"
    return found


def _at(
    pool: Pool, dtype: str | None, t: float, journal: Journal, benchmarks: Sequence[Benchmark]
) -> Blend:
    """The blend at t; of the middle the one of both orders whose results are known."""
    first, second = pool.members
    if t in (0, 1):
        return Blend((second if t else first,), pool.reference, dtype=dtype)
    if t != 0.5:
        return Blend((first, second), pool.reference, (1 - t, t), dtype)
    # A sum of two has the same bits in either order.
    middle, turned = (
        Blend(m, pool.reference, dtype=dtype) for m in ((first, second), (second, first))
    )
    known = all(result_key(turned.key, b.digest) in journal.results for b in benchmarks)
    return turned if known else middle
