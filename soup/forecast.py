"""What a run would have to measure, and how long: without reading weights or starting a worker."""

from collections.abc import Sequence
from dataclasses import dataclass

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool, same_content
from soup.choosing.ahead import Ahead, plan
from soup.choosing.journal import Journal
from soup.choosing.recipes import greedy
from soup.choosing.scoring import Benchmark, mean_of, recorded, result_key
from soup.events import Work
from soup.settings import Settings, mix_of, of_all


@dataclass(frozen=True)
class Forecast:
    """What is known of a run before it begins.

    Attributes:
        results: of the whole run, at most.
        missing: those of them that must be measured, at most.
        work: what that takes.
        unread: members whose files are new or were changed: only reading them tells which of their
            results are known. They count as missing.
    """

    results: int
    missing: int
    work: Work
    unread: tuple[str, ...] = ()


class _UnknownError(Exception):
    """A result that is not recorded."""

    def __init__(self, blend: Blend) -> None:
        super().__init__()
        self.blend = blend


def forecast(
    kind: str, pool: Pool, benchmarks: Sequence[Benchmark], settings: Settings = Settings()
) -> Forecast:
    """Look up what the journal knows of a run, by content.

    A greedy soup's trials are followed as far as their results are known; with ``confident``, and
    where only significant gains are accepted, they all count as missing.

    Args:
        kind: of soup, or ``score``.
        pool: what would be blended.
        benchmarks: as a scorer looked them up: those of the settings, then their hold-outs.
        settings: of the run.
    """
    journal = Journal.open(settings.work, create=False)
    unread = []
    for checkpoint in (*pool.members, *([pool.base] if pool.base else [])):
        digest = journal.digest_of(checkpoint)
        if digest is None:
            unread.append(checkpoint.name)
        else:
            checkpoint.remember_digest(digest)
    deciding = benchmarks[: len(settings.benchmarks)]
    mix = mix_of(pool, settings)
    repeated = [] if unread else same_content(pool.members)
    every = plan(
        kind,
        len(pool.members),
        len(pool.members) - len(repeated),
        deciding,
        benchmarks[len(settings.benchmarks) :],
    )
    ahead = Ahead(every, journal)
    ahead.look_up([None if m.name in unread else mix([m]).key for m in pool.members])
    soup: Blend | None = None
    plain = not settings.bench_weights and settings.mean == "macro"
    followed = settings.confident is None and settings.accept == "gain" and plain
    if kind == "greedy" and not unread and followed:
        number = len(pool.members)
        try:
            acc = _Known(journal, deciding)
            for decision in greedy(pool.members, mix, acc, settings.min_gain):
                soup = decision.blend if decision.kept else soup
                if len(decision.blend.members) > 1:  # a trial
                    number += 1
                    for benchmark in deciding:
                        ahead.done(number, benchmark)
        except _UnknownError as unknown:
            soup = None
            if len(unknown.blend.members) > 1:  # of this trial some results may be known
                ahead.look_up([unknown.blend.key], number + 1)
    elif kind in ("average", "blend") and not unread:
        soup = of_all(kind, pool, settings)
    if soup is not None and every.soup is not None:
        ahead.look_up([soup.key], every.soup)
    missing, results = ahead.count()
    return Forecast(results, missing, ahead.work(), tuple(unread))


@dataclass
class _Known:
    """Acc by the journal alone."""

    journal: Journal
    benchmarks: Sequence[Benchmark]

    def __call__(self, blend: Blend) -> float:
        values = {}
        for benchmark in self.benchmarks:
            found = recorded(self.journal, result_key(blend.key, benchmark.digest))
            if found is None:
                raise _UnknownError(blend)
            values[benchmark.name] = found.value
        return mean_of(values, {})
