"""The walk: paths → pool → recipe → scores → decisions → written soup → leaderboard."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup.blending.blend import Blend
from soup.blending.draft import Draft
from soup.blending.stack import stack
from soup.blending.writer import check_target, write
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.attempts import Attempt, failures_recorded
from soup.choosing.leaderboard import Leaderboard
from soup.choosing.retelling import show as show  # known from here
from soup.choosing.scoring import Scorer, forgetting
from soup.errors import UsageError
from soup.events import Note, Observer
from soup.holding import alone
from soup.identifying import Loadable, compare_weights
from soup.remote.address import elsewhere
from soup.settings import Settings as Settings  # known from here, too
from soup.settings import whole
from soup.walk import Draw, Gate, begin, decisions
from soup.watching.state import stated
from soup.watching.watch import around

if TYPE_CHECKING:
    from soup.remote.sending import Target

KINDS = ("max", "average", "greedy", "blend")

UNSCORED = ("average", "blend")
"""Those that need no benchmark."""


def make(
    kind: str,
    pool: Pool,
    scorer: Scorer | None = None,
    settings: Settings = Settings(),
    observe: Observer | None = None,
    gate: Gate | None = None,
    draw: Draw | None = None,
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
    target: Target | None = None
    if elsewhere(settings.out):
        from soup.remote.sending import made_in, target_of  # only where something is to be sent

        target = target_of(settings.out or "")
        out = made_in(settings.work, target.address)
    else:
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
        Loadable(_unscored(pool, settings), settings.work, told) as loadable,
        Draft(every, out, loadable.observe) as draft,
    ):
        if target is not None:
            target.require_takeable(told, write=True)
        return _make(
            kind, pool, scorer, settings, out, loadable, attempt, draft, target, gate, draw
        )


def _unscored(pool: Pool, settings: Settings) -> Checkpoint | None:
    """What may be no working model, without a scorer that finds out by itself."""
    scored = settings.benchmarks or settings.holdouts
    return None if scored or settings.as_adapter else pool.reference


def _make(
    kind: str,
    pool: Pool,
    scorer: Scorer | None,
    settings: Settings,
    out: Path,
    loadable: Loadable,
    attempt: Attempt,
    draft: Draft,
    there: "Target | None",
    gate: Gate | None = None,
    draw: Draw | None = None,
) -> Leaderboard:
    observe = loadable.observe
    unscored = kind in UNSCORED and not (settings.benchmarks or settings.holdouts)
    one_pass = unscored and settings.weights is None and not settings.as_adapter
    walk = begin(kind, pool, scorer, settings, observe, attempt, draft if one_pass else None)
    if kind == "greedy":
        compare_weights(pool, walk.journal, observe)
    walk.score_members()

    for decision in decisions(kind, pool.members, walk):
        walk.decide(decision)
    soup = next(d for d in reversed(walk.decisions) if d.kept).blend
    facts = walk.score_soup(soup)
    target = out if gate is None else gate(walk.chosen(soup))
    walk.scored()
    if target is None:
        walk.record("soup", **_about(kind, soup), out="", digest="")
        return walk.leaderboard()
    with forgetting(walk.journal, soup):
        written = write(
            soup,
            target,
            kind=kind,
            facts=facts,
            overwrite=settings.overwrite or there is not None,
            as_adapter=settings.as_adapter,
            known=walk.journal.digest_of,
            pictures=draw(walk.journal, soup.key, observe) if draw else (),
            observe=observe,
            draft=draft,
            require=loadable.require,
        )
    walk.remember_soup(written, soup)
    place = str(written.path)
    if there is not None:
        from soup.remote.sending import deliver, forget

        place = deliver(there, written.path, settings.overwrite, observe)
    walk.record("soup", **_about(kind, soup), out=place, digest=written.digest)
    if there is not None:
        forget(written.path)  # until it had arrived, the same command would have gone on
    return walk.leaderboard()


def _about(kind: str, soup: Blend) -> dict[str, Any]:
    """A soup, for the journal."""
    weights = {m.name: w for m, w in zip(soup.members, soup.weights, strict=True)}
    return {"soup": kind, "blend": soup.key, "members": weights, "merging": soup.merging}


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
        walk = begin("score", pool, scorer, settings, told, attempt)
        walk.score_members()
        walk.scored()
        walk.record("end")
        return walk.leaderboard()
