"""The walk: paths → pool → recipe → scores → decisions → written soup → leaderboard."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup.blending.blend import Blend
from soup.blending.methods import METHODS, find, require_weights
from soup.blending.stack import stack
from soup.blending.writer import Written, check_target, write
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.described import describe
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, same_content
from soup.checkpoints.problems import summary, together
from soup.checkpoints.soundness import problems as unsound
from soup.checkpoints.soundness import remarks
from soup.choosing.accepting import Significant
from soup.choosing.ahead import Ahead, plan
from soup.choosing.attempts import Attempt, circumstances, failures_recorded
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import Leaderboard, last_leaderboard
from soup.choosing.leaderboard import show as show  # known from here, too
from soup.choosing.likeness import known_distances, remember_distances
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
    settled,
)
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
from soup.choosing.weighing import MEANS, require_weight, shares_of
from soup.errors import PoolError, UsageError
from soup.events import Evaluation, Note, Observer, Progress
from soup.holding import alone
from soup.watching.state import stated
from soup.watching.watch import around
from soup.words import counted

if TYPE_CHECKING:
    from soup.blending.card import Picture

KINDS = ("max", "average", "greedy", "blend")
UNSCORED = ("average", "blend")
"""Those that need no benchmark."""

ACCEPT = ("gain", "significant")
"""What a greedy step must do to keep a member."""


@dataclass(frozen=True)
class Settings:
    """Everything a run needs besides its pool and its scorer.

    Attributes:
        benchmarks: names or TSV paths; their mean decides. A single one need not be a list.
        bench_weights: by name in ``benchmarks``, where a benchmark's weight in the mean is not 1.
        mean: how benchmarks count: ``macro``, all alike; ``samples``; ``z``; see
            ``soup.choosing.weighing``.
        holdouts: scored for members and soup, never used to decide.
        out: the directory to write; by default ``soup-<kind>``.
        work: the directory of journal and caches; a scorer that was given none of its own works
            there, too.
        dtype: output dtype, a key of ``checkpoints.tensors.ITEMSIZES``; None keeps the members'.
        method: how members are merged, see ``blending.methods``; for all but a maximum soup. Greedy
            and average keep a single member as it is.
        parameters: of the method, by name; those not named have their defaults.
        weights: one per member in the pool's order; only for a blend, where None means that all
            count the same. Used as they are, not scaled to a sum of one.
        min_gain: points that a greedy step must gain, see ``soup.choosing.recipes.greedy``.
        confident: stop greedy trials early, so that with this chance, above 0.5 and below 1, none
            is stopped that would win, see ``soup.choosing.confident``; None measures all in full.
        accept: ``gain`` keeps every trial that rises, as POINTS does; ``significant`` only those
            whose rise is significant, see ``soup.choosing.accepting``.
        alpha: the chance that a significant greedy run keeps anybody where nobody helps.
        overwrite: delete an earlier, different soup at ``out`` instead of moving it aside.
        as_adapter: write a LoRA adapter; all members must be such, of one base.
        same_companions: score every member with the reference's companion files (template,
            processor, tokenizer and generation settings, code), rather than with its own.
    """

    benchmarks: Sequence[str] = ()
    holdouts: Sequence[str] = ()
    out: str | os.PathLike[str] | None = None
    work: str | os.PathLike[str] = ".soup"
    dtype: str | None = None
    method: str = "linear"
    parameters: Mapping[str, float] = field(default_factory=dict)
    weights: Sequence[float] | None = None
    min_gain: float = 0.0
    confident: float | None = None
    accept: str = "gain"
    alpha: float = 0.05
    overwrite: bool = False
    as_adapter: bool = False
    bench_weights: Mapping[str, float] = field(default_factory=dict)
    mean: str = "macro"
    same_companions: bool = False

    def __post_init__(self) -> None:
        for name in ("benchmarks", "holdouts"):
            given: Any = getattr(self, name)
            several = [given] if isinstance(given, (str, os.PathLike)) else given
            object.__setattr__(self, name, tuple(map(os.fspath, several)))
        if self.confident is not None and not 0.5 < self.confident < 1:  # NaN, too, fails this
            raise UsageError(
                f"confident {self.confident:g}: expected more than 0.5 and less than 1, e.g. 0.95"
            )
        if self.mean not in MEANS:
            raise UsageError(f"mean {self.mean}: expected one of {', '.join(MEANS)}")
        for name, weight in self.bench_weights.items():
            require_weight(name, weight)
        if self.accept not in ACCEPT:
            raise UsageError(f"accept {self.accept}: expected one of {', '.join(ACCEPT)}")
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha {self.alpha:g}: expected more than 0 and less than 1")


def make(
    kind: str,
    pool: Pool,
    scorer: Scorer | None = None,
    settings: Settings = Settings(),
    observe: Observer | None = None,
    gate: "Gate | None" = None,
    draw: "Draw | None" = None,
) -> Leaderboard:
    """Make a soup and write it.

    Args:
        kind: ``max``, ``average``, ``greedy``, or ``blend``: all members, merged as the settings
            say.
        pool: what to blend.
        scorer: needed for all but an average or a blend without benchmarks.
        settings: benchmarks, places, dtype.
        observe: told of progress; by default ``soup.watch()`` in a terminal and in a notebook, and
            nobody elsewhere. ``soup.events.ignore`` is nobody everywhere.
        gate: asked, before the soup is written, where to write it rather than at ``out``, if at
            all.
        draw: asked for charts for its model card.

    Raises:
        SoupError: see ``soup.errors``; scores already measured stay recorded.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind of soup {kind!r}; expected one of {', '.join(KINDS)}")
    if not settings.benchmarks and kind not in UNSCORED:
        raise UsageError(
            f"a {kind} soup needs a benchmark to choose by: add --bench NAME, "
            "e.g. --bench MMBench_DEV_EN or --bench path/to/questions.tsv"
        )
    out = Path(os.path.abspath(settings.out or f"soup-{kind}"))
    every = whole(kind, pool, settings)
    check_target(out, every)
    if settings.as_adapter:
        stack(every)  # an error now, not after hours of scoring
    with (
        around(observe) as shown,
        alone(settings.work, lambda text: shown(Note(text, warning=True))),
        stated(shown, settings.work, kind) as told,
        failures_recorded(kind, asdict(settings)) as attempt,
    ):
        return _make(kind, pool, scorer, settings, out, told, attempt, gate, draw)


def _make(
    kind: str,
    pool: Pool,
    scorer: Scorer | None,
    settings: Settings,
    out: Path,
    observe: Observer,
    attempt: Attempt,
    gate: "Gate | None" = None,
    draw: "Draw | None" = None,
) -> Leaderboard:
    if not settings.benchmarks and not settings.holdouts and not settings.as_adapter:
        _require_described(pool.reference, settings.work, observe)  # a scorer would find out itself
    walk = _begin(kind, pool, scorer, settings, observe, attempt)
    if kind == "greedy":
        compare_weights(pool, walk.journal, observe)
    walk.score_members()

    for decision in _decisions(kind, pool.members, walk):
        walk.decide(decision)
    soup = next(d for d in reversed(walk.decisions) if d.kept).blend
    facts = walk.score_soup(soup)
    target = out if gate is None else gate(walk.chosen(soup))
    walk.scored()
    if target is None:
        walk.record("soup", **_about(kind, soup), out="", digest="")
        return walk.leaderboard()
    written = write(
        soup,
        target,
        kind=kind,
        facts=facts,
        overwrite=settings.overwrite,
        as_adapter=settings.as_adapter,
        known=walk.journal.digest_of,
        pictures=draw(walk.journal, soup.key, observe) if draw else (),
        observe=observe,
    )
    walk.remember_soup(written, soup)
    walk.record("soup", **_about(kind, soup), out=str(written.path), digest=written.digest)
    return walk.leaderboard()


def _about(kind: str, soup: Blend) -> dict[str, Any]:
    """A soup, for the journal."""
    weights = {m.name: w for m, w in zip(soup.members, soup.weights, strict=True)}
    return {"soup": kind, "blend": soup.key, "members": weights, "merging": soup.merging}


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

Draw = Callable[[Journal, str, Observer], Sequence["Picture"]]
"""Charts of the run that is the last in a journal, given its soup's key."""


def _require_described(
    reference: Checkpoint, work: str | os.PathLike[str], observe: Observer
) -> None:
    found = describe(reference, work, observe)
    for note in found.notes:
        observe(Note(f"{reference.name}: {note}"))
    problems = found.problems(reference.name)
    if problems:
        first, *more = summary(problems, len(reference.tensors))
        raise PoolError(first + (f" (and {len(more)} more)" if more else ""))


def whole(kind: str, pool: Pool, settings: Settings) -> Blend:
    """The blend of all members: what ``soup blend`` makes, and the most that the others could.

    Raises:
        UsageError: members, base, weights or parameters are not what the method takes, or a
            setting is not for this kind; nothing has been read for it but headers.
    """
    if settings.confident is not None and kind != "greedy":
        raise UsageError(f"confident is for a greedy soup; {kind} has no trials to stop")
    if settings.weights is not None and kind != "blend":
        raise UsageError(f"weights are for a blend; {kind} gives all kept members the same")
    if kind == "max":
        return Blend(pool.members, pool.reference, dtype=settings.dtype)
    find(settings.method, settings.parameters)
    if settings.weights is not None:
        require_weights(settings.method, settings.weights, len(pool.members))
    return _merged(pool.members, pool, settings)


def _merged(members: Sequence[Checkpoint], pool: Pool, settings: Settings) -> Blend:
    method = find(settings.method, settings.parameters)
    return Blend(
        tuple(members),
        pool.reference,
        None if settings.weights is None else tuple(settings.weights),
        settings.dtype,
        settings.method,
        pool.base,
        # With defaults, so that naming one does not make another blend of it.
        tuple({**method.parameters, **settings.parameters}.items()),
    )


def score(
    pool: Pool, scorer: Scorer, settings: Settings = Settings(), observe: Observer | None = None
) -> Leaderboard:
    """Score every member on benchmarks and hold-outs; write nothing but the journal.

    ``observe`` is as in ``make``.

    Raises:
        SoupError: see ``soup.errors``; scores already measured stay recorded.
    """
    if not settings.benchmarks and not settings.holdouts:
        raise UsageError(
            "nothing to score with: add --bench NAME, e.g. --bench MMBench_DEV_EN or "
            "--bench path/to/questions.tsv"
        )
    with (
        around(observe) as shown,
        alone(settings.work, lambda text: shown(Note(text, warning=True))),
        stated(shown, settings.work, "score") as told,
        failures_recorded("score", asdict(settings)) as attempt,
    ):
        walk = _begin("score", pool, scorer, settings, told, attempt)
        walk.score_members()
        walk.scored()
        walk.record("end")
        return walk.leaderboard()


def identify(members: Sequence[Checkpoint], journal: Journal, observe: Observer) -> None:
    """Give each checkpoint its content digest: from the journal where its files are unchanged,
    else by reading it once.
    """
    unknown = [member for member in members if not journal.recall(member)]
    total = sum(member.nbytes for member in unknown)
    done = 0

    lock = threading.Lock()

    def progress(count: int) -> None:
        nonlocal done
        with lock:  # the threads that digest report at the same time
            done += count
            observe(Progress("read and digest the pool", done, total, "B"))

    for member in unknown:
        before = journal.rewritten(member)
        if before is not None and member.compute_digest(progress) != before:
            text = "holds other weights than before, though its files' size and time are the same"
            observe(Note(f"{member.name}: {text}; they are read anew", warning=True))
        elif before is None:
            member.compute_digest(progress)
        journal.remember_digest(member)


def compare_weights(pool: Pool, journal: Journal, observe: Observer) -> None:
    """Record how far members lie apart, and from the base where there is one.

    It takes one reading of the pool, once: distances of known members are not computed again.
    """
    sources = [*pool.members, *([pool.base] if pool.base else [])]
    distinct = {source.digest: source for source in sources}
    if len(distinct) < 2 or known_distances(journal, list(distinct)) is not None:
        return
    from soup.blending.apart import squared_distances

    squares = squared_distances(list(distinct.values()), observe)
    remember_distances(journal, list(distinct), squares)


def _require_sound(members: Sequence[Checkpoint], observe: Observer) -> None:
    """No member holds NaN, Inf or a file cut short: an error now, not after hours of scoring."""
    if found := summary(unsound(members), others=len(members) - 1):
        more = f" (and {len(found) - 1} more: `soup check` lists them)" if len(found) > 1 else ""
        raise PoolError(f"{found[0]}{more}")
    for line in together(remarks(members), [member.name for member in members]):
        observe(Note(line, warning=True))


@dataclass
class _Walk:
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
            wanted, made = self.scorer.guessed
            if made:
                self.record("guesses", wanted=wanted, made=made)

    def score_members(self) -> None:
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
        def mean(blend: Blend) -> float:
            assert self.scorer is not None
            return self.scorer.score(blend, self.benchmarks, _label(blend)).mean

        return mean

    def attempt(self, candidates: int) -> Trial | None:
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
        if self.settings.accept == "gain":
            return None
        assert self.scorer is not None
        equal = {benchmark.name: 1 / len(self.benchmarks) for benchmark in self.benchmarks}
        alpha, trials = self.settings.alpha, members - 1
        shares = self.scorer.shares or equal
        return Significant(self.journal, self.benchmarks, shares, alpha, trials)

    def decide(self, decision: Decision) -> None:
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
        assert self.scorer is not None, "a gate compares scores"
        return Chosen(self.run, soup, self.scorer, self.benchmarks, self.holdouts)

    def remember_soup(self, written: Written, soup: Blend) -> None:
        """The same run again need not read what it has written to know it."""
        there = open_checkpoint(written.path, base=soup.reference.base)
        if self.journal.digest_of(there) is None:
            there.remember_digest(written.digest)
            self.journal.remember_digest(there)

    def record(self, kind: str, **fields: Any) -> None:
        self.journal.append(kind, run=self.run, **fields)

    def leaderboard(self) -> Leaderboard:
        found = last_leaderboard(self.journal)
        assert found is not None
        return found


def _label(blend: Blend) -> str:
    """A blend for people, short: its first and its newest member and how many stand between."""
    names = [member.name for member in blend.members]
    if len(names) > 3:
        names = [names[0], f"{len(names) - 2} more", names[-1]]
    return " + ".join(names)


def _begin(
    command: str,
    pool: Pool,
    scorer: Scorer | None,
    settings: Settings,
    observe: Observer,
    attempt: Attempt,
) -> _Walk:
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
    identify(everyone, journal, observe)
    _require_sound(everyone, observe)
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
            for member in pool.members
        ],
        companions={
            "reference": pool.reference.name,
            "differ": len({member.companions.digest for member in pool.members}) > 1,
            "same": settings.same_companions,
        },
    )
    walk = _Walk(run, pool, mix, journal, None, settings, benchmarks, holdouts, [])
    if found and scorer:
        candidates = len({member.digest for member in pool.members})
        every = plan(command, len(pool.members), candidates, benchmarks, holdouts)
        ahead = Ahead(every, journal)
        ahead.look_up([mix([member]).key for member in pool.members])
        walk.scorer = RecordedScorer(scorer, journal, observe, ahead=ahead, run=run)
        walk.last = every.soup
    return walk


def mix_of(pool: Pool, settings: Settings) -> Mix:
    """How a run blends some of its members; a single one is itself."""

    def mix(members: Sequence[Checkpoint]) -> Blend:
        if len(members) == 1:
            files_of = pool.reference if settings.same_companions else members[0]
            return Blend(tuple(members), pool.reference, dtype=settings.dtype, files_of=files_of)
        return _merged(members, pool, settings)

    return mix


def of_all(kind: str, pool: Pool, settings: Settings) -> Blend:
    """What ``soup average`` and ``soup blend`` make, summed in the order of ``recipes.settled``.

    Each weight stays with its member. Where a method gives places a meaning (slerp's two ends),
    the order is part of what was asked for, and stays.
    """
    if kind == "average":
        return mix_of(pool, settings)(_ordered(pool.members, settings))
    blend = whole(kind, pool, settings)
    if METHODS[blend.method].members is not None:
        return blend
    weights = blend.coefficients or (0.0,) * len(blend.members)
    pairs = sorted(
        zip(blend.members, weights, strict=True),
        key=lambda pair: (pair[0].digest, pair[1], pair[0].name),
    )
    return replace(
        blend,
        members=tuple(member for member, _ in pairs),
        coefficients=blend.coefficients and tuple(weight for _, weight in pairs),
    )


def _ordered(members: Sequence[Checkpoint], settings: Settings) -> list[Checkpoint]:
    """In the order of ``recipes.settled``, but for methods that give places a meaning."""
    fixed = METHODS[settings.method].members is not None
    return list(members) if fixed else settled(members)


def _decisions(kind: str, members: Sequence[Checkpoint], walk: _Walk) -> Iterator[Decision]:
    if kind == "max":
        return maximum(members, walk.mix, walk.acc())
    acc = walk.acc() if walk.benchmarks else None
    distinct = len({member.digest for member in members})
    if kind == "average":
        return average(_ordered(members, walk.settings), walk.mix, acc)
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
