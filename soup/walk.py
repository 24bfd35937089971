"""One run's journal and scorer, and what it has decided so far: steps that ``soup.run`` takes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from soup.blending.blend import Blend
from soup.blending.draft import Draft
from soup.blending.writer import Written
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, same_content
from soup.choosing.accepting import Significant
from soup.choosing.ahead import Ahead, plan
from soup.choosing.attempts import Attempt, circumstances
from soup.choosing.fetched import moved, recorded
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import Leaderboard
from soup.choosing.recipes import (
    Accept,
    Decision,
    Expect,
    Mix,
    Trial,
    as_given,
    average,
    greedy,
    maximum,
)
from soup.choosing.retelling import last_leaderboard
from soup.choosing.scoring import (
    Benchmark,
    Expected,
    HousedScorer,
    PartialScorer,
    RecordedScorer,
    Scorer,
    TidyScorer,
)
from soup.choosing.trials import Trials, means_of_outcomes
from soup.choosing.weighing import shares_of
from soup.errors import PoolError, UsageError
from soup.events import Evaluation, Note, Observer
from soup.identifying import identify, require_sound
from soup.settings import Settings, mix_of, of_all, ordered
from soup.words import counted


@dataclass(frozen=True)
class Chosen:
    """A soup that a run has chosen and scored, and not written: what a gate looks at.

    Attributes:
        run: the run's id in the journal.
        soup: what was chosen.
        scorer: of the run, for what the gate compares it with.
        benchmarks: those that decide.
        holdouts: the others.
    """

    run: str
    soup: Blend
    scorer: RecordedScorer
    benchmarks: Sequence[Benchmark]
    holdouts: Sequence[Benchmark]


Gate = Callable[[Chosen], Path | None]
"""Where a soup is to be written; None where it is not to be."""


@dataclass
class Walk:
    """One run's journal, scorer and what it has decided so far."""

    run: str
    pool: Pool
    mix: Mix
    journal: Journal
    scorer: RecordedScorer | None
    settings: Settings
    benchmarks: list[Benchmark]
    holdouts: list[Benchmark]
    decisions: list[Decision]
    last: int | None = None
    """The soup's number among the evaluations, where it is one of its own."""

    def scored(self) -> None:
        """Tell that nothing more is asked."""
        if self.scorer is not None:
            self.scorer.expect([])
            self.scorer.observe(Evaluation(0, 0))

    def score_members(self) -> None:
        """On everything; then it is known how much each benchmark counts."""
        if self.scorer is None:
            return
        count, every = len(self.pool.members), self.benchmarks + self.holdouts
        members = [
            Expected(self.mix([member]), every, f"{member.name} ({k} of {count})")
            for k, member in enumerate(self.pool.members, 1)
        ]
        self.scorer.expect(members)
        for k, one in enumerate(members, 1):
            self.scorer.score(one.blend, every, one.label, k)
        self.weigh()

    def weigh(self) -> None:
        """Settle how much each benchmark counts, and record it where they do not count alike."""
        assert self.scorer is not None
        given = self.settings.bench_weights
        pairs = zip(self.settings.benchmarks, self.benchmarks, strict=True)
        weights = {b.name: given[source] for source, b in pairs if source in given}
        members = [self.mix([member]) for member in self.pool.members]
        scores = [self.scorer.score(m, self.benchmarks, "") for m in members]
        shares = shares_of(self.benchmarks, weights, self.settings.mean, scores)
        if shares:
            self.scorer.shares = shares
            self.record("shares", shares=shares, mean=self.settings.mean)

    def acc(self) -> Callable[[Blend], float]:
        """What recipes choose by: a blend's mean, 0–100."""

        def mean(blend: Blend) -> float:
            assert self.scorer is not None
            return self.scorer.score(blend, self.benchmarks, _label(blend)).mean

        return mean

    def attempt(self, candidates: int) -> Trial | None:
        """Trials that may end early, where that was asked for."""
        if self.settings.confident is None:
            return None
        assert self.scorer is not None
        members = [self.mix([member]) for member in self.pool.members]
        return Trials(
            self.scorer,
            self.benchmarks,
            (1 - self.settings.confident) / max(candidates - 1, 1),
            self.settings.min_gain,
            means_of_outcomes([self.scorer.score(m, self.benchmarks, "") for m in members]),
            _label,
        )

    def expect(self) -> Expect | None:
        """Tells a scorer that can work ahead which trials may follow."""
        scorer = self.scorer
        if scorer is None or not scorer.foresees:
            return None

        def tell(trials: Sequence[tuple[Blend, float]]) -> None:
            # A trial that may be stopped early is asked bit by bit.
            ahead = trials if self.settings.confident is None else trials[1:]
            scorer.expect([Expected(b, self.benchmarks, _label(b), p) for b, p in ahead])

        return tell

    def accept(self, members: int) -> Accept | None:
        """What a rise must be to count, where that is more than a rise."""
        if self.settings.accept == "gain":
            return None
        assert self.scorer is not None
        equal = {benchmark.name: 1 / len(self.benchmarks) for benchmark in self.benchmarks}
        alpha, trials = self.settings.alpha, members - 1
        shares = self.scorer.shares or equal
        return Significant(self.journal, self.benchmarks, shares, alpha, trials)

    def decide(self, decision: Decision) -> None:
        """Tell and record it."""
        before = next((d.mean for d in reversed(self.decisions) if d.kept), None)
        self.decisions.append(decision)
        if self.scorer is not None and decision.stopped is not None:
            self.scorer.observe(Note(f"+ {decision.tried}: {decision.stopped}, not kept"))
        if self.scorer is not None and before is not None and decision.mean is not None:
            verdict = "kept" if decision.kept else "not kept"
            verdict += ": not significant" if decision.doubted else ""
            text = f"+ {decision.tried}: {before:.2f} → {decision.mean:.2f}, {verdict}"
            self.scorer.observe(Note(text))
        self.record(
            "decision",
            tried=decision.tried,
            members=[member.name for member in decision.blend.members],
            blend=decision.blend.key,
            mean=decision.mean,
            kept=decision.kept,
            **({"stopped": asdict(decision.stopped)} if decision.stopped else {}),
            **({"doubted": True} if decision.doubted else {}),
        )

    def score_soup(self, soup: Blend) -> dict[str, Any]:
        """The soup's scores on everything, as facts for its manifest."""
        if self.scorer is None:
            return {}
        score = self.scorer.score(soup, self.benchmarks + self.holdouts, "soup", self.last)
        values = {name: result.value for name, result in score.results.items()}
        chosen = self.scorer.score(soup, self.benchmarks, "soup") if self.benchmarks else None
        settings = [b.settings for b in (*self.benchmarks, *self.holdouts)]
        return {
            "scores": values,
            "mean": chosen.mean if chosen else None,
            "measured_with": [dict(s) for s in settings],
            **({"shares": dict(self.scorer.shares)} if self.scorer.shares else {}),
        }

    def chosen(self, soup: Blend) -> Chosen:
        """What a gate is shown."""
        assert self.scorer is not None, "a gate compares scores"
        return Chosen(self.run, soup, self.scorer, self.benchmarks, self.holdouts)

    def remember_soup(self, written: Written, soup: Blend) -> None:
        """The same run again need not read what it has written to know it."""
        there = open_checkpoint(written.path, base=soup.reference.base)
        if self.journal.digest_of(there) is None:
            there.remember_digest(written.digest)
            self.journal.remember_digest(there)

    def record(self, kind: str, **fields: Any) -> None:
        """Add to the journal, under this run."""
        self.journal.append(kind, run=self.run, **fields)

    def leaderboard(self) -> Leaderboard:
        """As far as it has come."""
        found = last_leaderboard(self.journal, keep=True)
        assert found is not None
        return found


def _label(blend: Blend) -> str:
    """A blend for people, short: its first and its newest member and how many stand between."""
    names = [member.name for member in blend.members]
    if len(names) > 3:
        names = [names[0], f"{len(names) - 2} more", names[-1]]
    return " + ".join(names)


def begin(
    command: str,
    pool: Pool,
    scorer: Scorer | None,
    settings: Settings,
    observe: Observer,
    attempt: Attempt,
    draft: Draft | None = None,
) -> Walk:
    """Find out what benchmarks and members are, and record that a run begins.

    Where there is a draft, members are read while it is written.

    Raises:
        SoupError: something is wrong with any of them; nothing was scored.
    """
    journal = Journal.open(settings.work)
    if (damage := journal.words()) is not None:
        observe(Note(damage, warning=True))
    for warning in pool.warnings:
        observe(Note(warning, warning=True))
    scale = 1.0 if settings.weights is None else sum(settings.weights)
    if settings.method == "linear" and abs(scale - 1) > 1e-6:
        text = f"the weights sum to {scale:g}, so the blend is that many times an average"
        observe(Note(text, warning=True))
    if settings.same_companions:
        text = f"every member is scored with the companion files of {pool.reference.name}"
        observe(Note(f"{text} (--same-companions)"))
    names = [*settings.benchmarks, *settings.holdouts]
    found: list[Benchmark] = []
    if names:
        undecided = [m.undecided for m in pool.members if m.undecided]
        if undecided and not settings.same_companions:
            raise PoolError(undecided[0])
        if scorer is None:
            raise UsageError("benchmarks are given, but no scorer to run them")
        if settings.confident is not None and not isinstance(scorer, PartialScorer):
            raise UsageError(
                "confident needs a scorer that answers a benchmark bit by bit "
                "(soup.choosing.scoring.PartialScorer); leave it out, or use VLMEvalKitScorer"
            )
        if isinstance(scorer, HousedScorer):
            scorer.work_in(settings.work)
        if isinstance(scorer, TidyScorer):
            scorer.tidy(journal.results)
        observe(Note(f"looking up {counted(len(names), 'benchmark')}"))  # a worker starts: seconds
        found = scorer.benchmarks(pool.reference, names, observe)
        repeated = {b.name for b in found if [f.name for f in found].count(b.name) > 1}
        if repeated:
            raise UsageError(f"benchmark {min(repeated)} is named twice; name each one once")
    everyone = [*pool.members, *([pool.base] if pool.base else [])]
    identify(everyone, journal, observe, draft)
    require_sound(everyone, observe)
    for line in moved(journal, pool.members):
        observe(Note(line))
    for first, second in same_content(pool.members):
        rest = "; greedy takes them once" if command == "greedy" else ""
        observe(Note(f"{second} holds the same weights as {first}{rest}", warning=True))
    for benchmark in found:
        if benchmark.questions is not None and benchmark.digest not in journal.benchmarks:
            about = benchmark.questions.to_json()
            journal.append("benchmark", digest=benchmark.digest, questions=about)
    benchmarks = found[: len(settings.benchmarks)]
    holdouts = found[len(settings.benchmarks) :]
    mix = mix_of(pool, settings)
    run = attempt.run = journal.start(
        command,
        **circumstances(asdict(settings), found),
        benchmarks={b.name: b.digest for b in benchmarks},
        holdouts={b.name: b.digest for b in holdouts},
        base=pool.base.digest if pool.base else None,
        base_path=str(pool.base.path) if pool.base else None,
        members=[
            {
                "name": member.name,
                "path": str(member.path),
                "digest": member.digest,
                "blend": mix([member]).key,
                "companions": mix([member]).companions.digest,
                "bytes": member.nbytes,
            }
            | recorded(member)
            for member in pool.members
        ],
        companions={
            "reference": pool.reference.name,
            "differ": len({member.companions.digest for member in pool.members}) > 1,
            "same": settings.same_companions,
        },
    )
    walk = Walk(run, pool, mix, journal, None, settings, benchmarks, holdouts, [])
    if found and scorer:
        candidates = len({member.digest for member in pool.members})
        every = plan(command, len(pool.members), candidates, benchmarks, holdouts)
        ahead = Ahead(every, journal)
        ahead.look_up([mix([member]).key for member in pool.members])
        walk.scorer = RecordedScorer(scorer, journal, observe, ahead=ahead, run=run)
        walk.last = every.soup
    return walk


def decisions(kind: str, members: Sequence[Checkpoint], walk: Walk) -> Iterator[Decision]:
    """Those of the recipe that this kind of soup is made by."""
    if kind == "max":
        return maximum(members, walk.mix, walk.acc())
    acc = walk.acc() if walk.benchmarks else None
    distinct = len({member.digest for member in members})
    if kind == "average":
        return average(ordered(members, walk.settings), walk.mix, acc)
    if kind == "blend":
        return as_given(kind, of_all(kind, walk.pool, walk.settings), acc)
    return greedy(
        members,
        walk.mix,
        walk.acc(),
        walk.settings.min_gain,
        walk.attempt(distinct),
        walk.accept(distinct),
        walk.expect(),
    )
