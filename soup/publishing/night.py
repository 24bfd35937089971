"""One night: what has landed → what is ready → a greedy soup → the gate → published, or not.

Nothing is scored twice: the journal is the cache, by content. So a night that was killed is simply
run again, a checkpoint that vanished and came back costs nothing, and one that has new content
under its old name is a new member.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.comparing import pair, results_of
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import About, Leaderboard
from soup.choosing.scoring import Scorer, result_key
from soup.errors import BlendError, CheckpointError, PoolError, SoupError, UsageError
from soup.events import Note, Observer
from soup.publishing.diary import NIGHT, Diary
from soup.publishing.gate import BETTER, CANNOT_TELL, NOT_BETTER, Pair, Rules, Verdict, judge
from soup.publishing.landing import land
from soup.publishing.shelf import NIGHTS, Shelf, manifest
from soup.publishing.sifting import LeftOut, Sifted, sift
from soup.run import make
from soup.settings import Settings, mix_of
from soup.walk import Chosen, Draw
from soup.watching.watch import around
from soup.words import counted, listed

FEWEST = 2
"""Members that are needed to choose among."""


def clock() -> datetime:
    """The time, UTC."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True)
class Plan:
    """What a night is asked to do, besides how its soup is made.

    Attributes:
        publish: the directory to publish in, see ``soup.publishing.shelf``.
        rules: what a soup must do to be published.
        settle: seconds for which no file of a checkpoint may have changed.
        skip_bad: leave out what is damaged or does not fit; else that is an error.
        keep: older soups that stay; None keeps all.
        opening: more for ``Pool.open``: dtype, base, processor.
        reference: the member whose files the soup gets; None is the first.
        cache: where members from elsewhere are put; see ``soup.remote.cache``.
    """

    publish: str | os.PathLike[str]
    rules: Rules = field(default_factory=Rules)
    settle: float = 60.0
    skip_bad: bool = True
    keep: int | None = 3
    opening: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    cache: str | os.PathLike[str] | None = None


@dataclass(frozen=True)
class Night:
    """What came out.

    Attributes:
        verdict: on tonight's soup.
        board: the run's leaderboard; without members where too few were ready.
        left_out: checkpoints that were not used, and why.
        changes: what is different from the last night's pool, in words.
        published: the directory of tonight's soup, where it was published.
        current: the soup in use after this night; None where there is none.
        deleted: old soups that went.
        history: all nights of this place, the oldest first, this one last.
    """

    verdict: Verdict
    board: Leaderboard
    left_out: tuple[LeftOut, ...]
    changes: tuple[str, ...]
    published: Path | None
    current: Path | None
    deleted: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...] = field(repr=False, default=())


def nightly(
    paths: Sequence[str | os.PathLike[str]],
    scorer: Scorer,
    plan: Plan,
    settings: Settings = Settings(),
    observe: Observer | None = None,
    now: Callable[[], datetime] = clock,
    draw: Draw | None = None,
) -> Night:
    """Make tonight's greedy soup, and publish it if it is better than the published one.

    Args:
        paths: model directories, quoted globs, and addresses of models elsewhere.
        scorer: asks the questions.
        plan: where and by which rules to publish.
        settings: of the soup; ``out`` is not used.
        observe: told of progress, as in ``soup.run.make``.
        now: the clock; soups are called by its date.
        draw: as in ``soup.run.make``.

    Raises:
        UsageError: no benchmark, or a guard rail that names none.
        OutputError: the place to publish in cannot be used.
        SoupError: see ``soup.errors``; scores already measured stay recorded.
    """
    if not settings.benchmarks:
        raise UsageError("nothing to decide by: add --bench NAME, e.g. --bench MMBench_DEV_EN")
    with around(observe) as told:
        shelf = Shelf.open(plan.publish)
        with shelf.alone():
            return _Night(paths, scorer, plan, settings, told, now, shelf, draw).play()


@dataclass
class _Night:
    paths: Sequence[str | os.PathLike[str]]
    scorer: Scorer
    plan: Plan
    settings: Settings
    observe: Observer
    now: Callable[[], datetime]
    shelf: Shelf
    draw: Draw | None = None
    verdict: Verdict | None = None
    candidate: str | None = None
    pool: Pool | None = None
    away: tuple[LeftOut, ...] = ()

    def play(self) -> Night:
        if (damage := self.shelf.diary.words()) is not None:
            self.observe(Note(f"{self.shelf.path / NIGHTS}: {damage}", warning=True))
        self.land()
        journal = Journal.open(self.settings.work)
        sifted = self.sift(journal)
        told: set[str] = set()
        self.tell_of(sifted, told)
        tries = len(sifted.ready) + 1  # one for each that may still turn out bad
        while len(sifted.ready) >= FEWEST:
            try:
                return self.decide(sifted)
            except (CheckpointError, BlendError, PoolError):
                tries -= 1
                if not self.plan.skip_bad or not tries:
                    raise
                again = self.sift(Journal.open(self.settings.work))
                if set(again.ready) == set(sifted.ready) and not sifted.changed():
                    raise  # it is not a member that failed
                self.tell_of(again, told)
                sifted = again
        return self.too_few(sifted)

    def land(self) -> None:
        """Fetch what is elsewhere, once."""
        plan = self.plan
        landed = land(
            self.paths,
            plan.opening,
            plan.reference,
            skip_bad=plan.skip_bad,
            cache=plan.cache,
            observe=self.observe,
        )
        self.paths, self.away = landed.paths, landed.left_out
        self.plan = replace(plan, opening=landed.opening, reference=landed.reference)

    def sift(self, journal: Journal) -> Sifted:
        if not self.paths and self.away:
            return Sifted((), self.away, {})
        found = sift(
            self.paths,
            journal,
            settle=self.plan.settle,
            skip_bad=self.plan.skip_bad,
            opening=self.plan.opening,
            observe=self.observe,
        )
        return replace(found, left_out=(*self.away, *found.left_out))

    def tell_of(self, sifted: Sifted, told: set[str]) -> None:
        """Say what is left out, once."""
        for one in sifted.left_out:
            if one.path not in told:
                told.add(one.path)
                text = f"{one.name}: left out, {one.how}: {one.why}"
                self.observe(Note(text, warning=True))

    def too_few(self, sifted: Sifted) -> Night:
        found = len(sifted.ready)
        why = f"{counted(found, 'good checkpoint')} of {found + len(sifted.left_out)}, "
        verdict = Verdict(CANNOT_TELL, f"{why}at least {FEWEST} are needed to choose among")
        time = self.now().isoformat(timespec="seconds")
        board = Leaderboard(
            "greedy",
            tuple(self.settings.benchmarks),
            tuple(self.settings.holdouts),
            (),
            about=About("", time),
        )
        return self.end(verdict, board, sifted, (), None)

    def decide(self, sifted: Sifted) -> Night:
        pool = Pool.open(*sifted.ready, **self.plan.opening, reference=self.plan.reference)
        self.pool = pool
        self.published = self.shelf.current
        self.older = self._published(pool)
        changes = self._changes(pool, {one.name for one in sifted.left_out})
        for change in changes:
            self.observe(Note(change))
        date = f"{self.now():%Y-%m-%d}"
        settings = replace(self.settings, out=self.shelf.place(date, ""))

        def gate(chosen: Chosen) -> Path | None:
            self.verdict = self.judged(chosen)
            self.candidate = scored_as(chosen.soup)
            chosen.scorer.journal.append("verdict", run=chosen.run, **self.verdict.to_dict())
            if self.verdict.word != BETTER:
                return None
            return self.shelf.place(date, chosen.soup.key)  # a killed night may have written it

        board = make("greedy", pool, self.scorer, settings, self.observe, gate, self.draw)
        assert self.verdict is not None
        out = Path(board.soup.out) if board.soup and board.soup.out else None
        return self.end(self.verdict, board, sifted, changes, out)

    def _published(self, pool: Pool) -> Blend | None:
        """The published soup as a blend of this pool.

        Raises:
            PoolError: it does not fit.
        """
        if self.published is None:
            return None
        reference = pool.reference.path
        try:
            both = Pool.open(reference, self.published, **self.plan.opening)
        except SoupError as error:
            raise PoolError(
                f"{self.published}: the published soup cannot be compared with this pool: {error}; "
                "choose another --publish for another kind of model"
            ) from error
        return mix_of(both, self.settings)([both.members[1]])

    def judged(self, chosen: Chosen) -> Verdict:
        """The verdict on what the run has chosen."""
        diary = self.shelf.diary
        names = [b.name for b in (*chosen.benchmarks, *chosen.holdouts)]
        self.plan.rules.require_known(names)
        new = scored_as(chosen.soup)
        if self.published is None or self.older is None:
            return Verdict(BETTER, "nothing was published here before")
        if self._is_published(chosen.soup):
            return Verdict(NOT_BETTER, f"the same soup is published already, {self.published.name}")
        back = diary.taken_back
        if new in back:
            when = back[new][:10]
            return Verdict(NOT_BETTER, f"this soup was taken back on {when}, by soup rollback")
        old = self._answered(chosen, diary)
        journal = chosen.scorer.journal
        digests = {b.name: b.digest for b in chosen.benchmarks}
        equal = {name: 1 / len(digests) for name in digests}
        paired = pair(journal, digests, [new, old], chosen.scorer.shares or equal)
        pairs = []
        for benchmark in (*chosen.benchmarks, *chosen.holdouts):
            one = {benchmark.name: benchmark.digest}
            there = [results_of(journal, blend, one) or {} for blend in (new, old)]
            mine, theirs = (found[benchmark.name].value for found in there)
            held = benchmark.name not in digests
            pairs.append(Pair(benchmark.name, mine, theirs, held))
        return judge(paired, pairs, self.plan.rules, diary.asked(digests, new))

    def _is_published(self, soup: Blend) -> bool:
        """Whether the very same weights and companion files are in use."""
        assert self.published is not None
        there = manifest(self.published)
        beside = there.get("companions", soup.companions.files_digest)
        return there.get("blend") == soup.digest and beside == soup.companions.files_digest

    def _answered(self, chosen: Chosen, diary: Diary) -> str:
        """Under which key the published soup's results are recorded; it is asked what is missing.

        What it was asked when it was tonight's soup counts: the weights that were written are those
        that answered, bit for bit. Where benchmarks or versions have changed since, they are asked.
        """
        assert self.published is not None and self.older is not None
        every = [*chosen.benchmarks, *chosen.holdouts]
        wanted = {benchmark.name: benchmark.digest for benchmark in every}
        keys = [
            str(record["candidate"])
            for record in reversed(diary.records)
            if record.get("published") == self.published.name and record.get("candidate")
        ]
        there = manifest(self.published)  # where the history has been lost
        keys += [str(there.get("key") or there.get("blend", ""))]
        journal = chosen.scorer.journal
        for key in keys:
            if results_of(journal, key, wanted) is not None:
                return key
        mine = scored_as(self.older)
        for benchmark in every:
            _take_over(journal, benchmark.digest, keys, mine)
        if missing := [b.name for b in every if result_key(mine, b.digest) not in journal.results]:
            text = f"asking the published soup {self.published.name} what it was not asked: "
            self.observe(Note(text + listed(missing, 5)))
        chosen.scorer.score(self.older, every, f"published soup {self.published.name}")
        return mine

    def _changes(self, pool: Pool, left_out: Collection[str]) -> tuple[str, ...]:
        """What is different from the last night that had a pool, besides what is left out."""
        diary = self.shelf.diary
        before = diary.members
        today = {member.name: member.digest for member in self._known(pool)}
        if not before:
            return ()
        lines = []
        new = [name for name in today if name not in before]
        other = [n for n, digest in today.items() if n in before and before[n] != digest]
        gone = [name for name in before if name not in today and name not in left_out]
        back = [name for name in new if today[name] in diary.digests]
        new = [name for name in new if name not in back]
        if new:
            lines.append(f"new: {listed(new, 10)}")
        if back:
            lines.append(f"there before, back or renamed: {listed(back, 10)}")
        for name in other:
            lines.append(f"{name} has new content: it is a new member, the old one's scores stay")
        if gone:
            lines.append(f"no longer there: {listed(gone, 10)}; what was scored of them is kept")
        return tuple(lines or ["no new checkpoint since the last night"])

    def _known(self, pool: Pool) -> Sequence[Any]:
        journal = Journal.open(self.settings.work)
        for member in pool.members:
            digest = journal.digest_of(member)
            if digest is not None:
                member.remember_digest(digest)
        return pool.members

    def end(
        self,
        verdict: Verdict,
        board: Leaderboard,
        sifted: Sifted,
        changes: tuple[str, ...],
        published: Path | None,
    ) -> Night:
        """Remember the night, and only then swap the link: a kill between the two is repaired by
        the next night, which decides the same again.
        """
        record = {
            "time": self.now().isoformat(timespec="seconds"),
            "run": board.about.run,
            "verdict": verdict.word,
            **{k: v for k, v in verdict.to_dict().items() if k not in ("word", "pairs", "rails")},
            "benchmarks": list(board.benchmarks),
            "mean": board.soup.mean if board.soup else None,
            "candidate": self.candidate,
            "published": published.name if published else None,
            "members": {row.name: row.digest for row in board.members},
            "left_out": [{"name": one.name, "how": one.how} for one in sifted.left_out],
        }
        self.shelf.remember(NIGHT, **record)
        if published is not None:
            self.shelf.use(published)
        deleted = self._prune(sifted)  # also what a killed night has not come to
        history = (*self.shelf.diary.records,)
        current = self.shelf.current
        return Night(verdict, board, sifted.left_out, changes, published, current, deleted, history)

    def _prune(self, sifted: Sifted) -> tuple[str, ...]:
        if self.plan.keep is None or self.pool is None:
            return ()
        never = [*sifted.ready, *(Path(one.path) for one in sifted.left_out)]
        for source in (*self.pool.members, self.pool.base):
            if source is not None:  # an adapter's home is its base; shards may be links
                never += [source.path, source.home, *source.shards]
        try:
            gone = self.shelf.prune(self.plan.keep, never)
        except SoupError as error:  # the soup is published all the same
            self.observe(Note(str(error), warning=True))
            return ()
        return tuple(path.name for path in gone)


def scored_as(blend: Blend) -> str:
    """What a blend's results are recorded by."""
    return blend.key


def _take_over(journal: Journal, benchmark: str, keys: Sequence[str], mine: str) -> None:
    """Record under one key what was measured of the same weights under another."""
    to = result_key(mine, benchmark)
    known = (journal.results.get(result_key(key, benchmark)) for key in keys)
    found = next((record for record in known if record is not None), None)
    if found is None or to in journal.results:
        return
    left = ("kind", "seconds", "answered")  # it has taken no time
    fields = {name: value for name, value in found.items() if name not in left}
    journal.append("result", **fields | {"key": to, "blend": mine})
