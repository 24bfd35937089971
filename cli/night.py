"""What ``soup nightly`` does with its options: the night, then everybody who is told of it.

The night's result stands before anybody is told. Whatever fails after it is a warning.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from soup.choosing.attempts import in_words
from soup.cli import board as boards
from soup.cli import console
from soup.cli.fetching import watched
from soup.cli.options import PoolOptions, RunOptions, ShowOptions
from soup.cli.progress import Watch
from soup.cli.report import drawing
from soup.cli.results import (
    SUMMARY,
    append_text,
    failure_shown,
    is_step_summary,
    require_places,
    write_documents,
    write_text,
)
from soup.errors import SoupError, UsageError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.kit.hub_names import HUB_DATASETS
from soup.evaluators.kit.suites import distinct_names
from soup.publishing import page
from soup.publishing.diary import SENT
from soup.publishing.gate import Rules
from soup.publishing.hub import foretell, push, require_repository
from soup.publishing.junit import failed_to_junit, to_junit
from soup.publishing.night import Night, Plan, clock, nightly
from soup.publishing.notify import notify, require_address
from soup.publishing.shelf import Shelf
from soup.publishing.tracking import log, require_tracker, told_of, told_of_failure
from soup.settings import Settings
from soup.words import folded, plain

AGAIN = 75
"""EX_TEMPFAIL: the time is over, the same command goes on from there."""


@dataclass(frozen=True)
class Asked:
    """The options of ``soup nightly`` that no other command has."""

    publish: Path
    settle: float = 60.0
    skip_bad: bool = True
    min_gain: float = 0.0
    alpha: float = 0.05
    no_worse: tuple[str, ...] = ()
    keep: int = 3
    junit: Path | None = None
    notify: str | None = None
    push: str | None = None
    log: tuple[str, ...] = ()
    charts: bool = True
    time_limit: str | None = None


class TimeIsOver(KeyboardInterrupt):
    """The time limit is near."""


def play(
    pool: PoolOptions,
    settings: Settings,
    scorer: VLMEvalKitScorer,
    asked: Asked,
    display: ShowOptions,
    run: RunOptions,
) -> int:
    """One night, or its plan; the exit code."""
    if run.dry_run:
        plan = _understood(asked, settings, pool)
        _foretell(pool, settings, scorer, plan, display, asked.push)
        return 0
    require_places(display)
    try:
        with failure_shown("greedy", settings, display), _failure_written(asked, display):
            plan = _understood(asked, settings, pool)
            draw = drawing(None if asked.charts else False)
            with _failure_told(asked), _limited(asked.time_limit):
                scorer.require_sources([*settings.benchmarks, *settings.holdouts])
                with Watch(console.err, display.quiet) as watch, scorer:
                    night = nightly(pool.ckpts, scorer, plan, settings, watch, draw=draw)
    except TimeIsOver:
        print("the time is over; the same command goes on from there", file=sys.stderr)
        return AGAIN
    _tell(night, asked, display)
    return night.verdict.exit_code


def _understood(asked: Asked, settings: Settings, pool: PoolOptions) -> Plan:
    """The plan, where every option is what it can be.

    Raises:
        UsageError: one is not.
    """
    plan = plan_of(asked, settings, pool)
    if asked.time_limit is not None:
        seconds_of(asked.time_limit)
    if asked.notify is not None:
        require_address(asked.notify)
    if asked.push is not None:
        require_repository(asked.push)
    for tracker in asked.log:
        require_tracker(tracker)
    return plan


def plan_of(asked: Asked, settings: Settings, pool: PoolOptions) -> Plan:
    """The options as the library wants them.

    Raises:
        UsageError: one is none of what it can be.
    """
    rules = Rules(asked.min_gain, asked.alpha, rails_of(asked.no_worse))
    rules.require_known(distinct_names([*settings.benchmarks, *settings.holdouts]))
    opening = {"dtype": settings.dtype, "base": pool.base, "processor": pool.processor}
    return Plan(
        asked.publish,
        rules,
        asked.settle,
        asked.skip_bad,
        asked.keep,
        opening,
        reference=pool.reference,
        cache=pool.cache,
    )


def rails_of(given: Sequence[str]) -> dict[str, float]:
    """Guard rails from ``NAME:POINTS``; without points, 0.

    Raises:
        UsageError: no number behind the colon, or a benchmark that is named twice.
    """
    found: dict[str, float] = {}
    for text in given:
        name, colon, points = text.rpartition(":")
        name = name if colon else text
        try:
            allowed = float(points) if colon else 0.0
        except ValueError:
            raise UsageError(f"--no-worse {text}: expected NAME:POINTS, e.g. MMStar:0.5") from None
        if name in found:
            raise UsageError(f"--no-worse {text}: {name} is given twice; give it once")
        found[name] = allowed
    return found


def seconds_of(text: str) -> float:
    """A time limit in seconds, from seconds, ``MM:SS``, ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises:
        UsageError: it is none of these.
    """
    days, dash, rest = text.rpartition("-")
    try:
        parts = [float(part) for part in rest.split(":")]
        if len(parts) > 3 or min(parts) < 0:
            raise ValueError
        total = float(days) * 86_400 if dash else 0.0
        total += sum(part * 60**k for k, part in enumerate(reversed(parts)))
    except ValueError:
        total = 0.0
    if not 0 < total < 1e9:
        raise UsageError(f"--time-limit {text}: expected seconds, or a time such as 3:50:00")
    return total


@contextmanager
def _limited(limit: str | None) -> Iterator[None]:
    """Raises TimeIsOver when all but a twentieth of the time is gone, or all but a minute of it."""
    if limit is None:
        yield
        return
    seconds = seconds_of(limit)

    def over(number: int, frame: FrameType | None) -> None:
        raise TimeIsOver

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds - 60, seconds * 0.95))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _failure_written(asked: Asked, display: ShowOptions) -> Iterator[None]:
    """Where the night fails, its other documents say so, too: JUnit, the page of the CI's step."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        said = _in_a_line(error)
        if asked.junit is not None:
            file = asked.junit
            _try(lambda: write_text(file, failed_to_junit(said, _now())))
        _summarise(display, page.failed_to_markdown(said))
        raise


@contextmanager
def _failure_told(asked: Asked) -> Iterator[None]:
    """Where the night fails, those who would have been told of its verdict are told so."""
    try:
        yield
    except TimeIsOver:
        raise  # it goes on
    except (Exception, KeyboardInterrupt) as error:
        said = _in_a_line(error)
        if asked.notify is not None:
            url = asked.notify
            _try(lambda: notify(url, f"soup nightly failed: {said}", {"error": said}))
        _log(asked, lambda: told_of_failure(said, _now()))
        raise


def _in_a_line(error: BaseException) -> str:
    return in_words(error).partition("\n")[0]


def _now() -> str:
    return clock().isoformat(timespec="seconds")


def _tell(night: Night, asked: Asked, display: ShowOptions) -> None:
    _try(lambda: _push(night, asked, display.quiet))
    taken = False

    def documents() -> None:
        nonlocal taken
        taken = str(display.json) == "-" or str(display.markdown) == "-"
        write_documents(display, lambda: page.to_json(night), lambda: page.to_markdown(night))

    _try(documents)
    _summarise(display, page.to_markdown(night))
    if asked.junit is not None:
        file = asked.junit
        _try(lambda: write_text(file, to_junit(night)))
    if asked.notify is not None:
        url = asked.notify
        _try(lambda: notify(url, page.text(night), page.to_dict(night)))
    _log(asked, lambda: told_of(night))
    if taken:
        return
    if display.quiet:
        if night.published is not None:
            print(night.published)
        return
    if night.board.members:
        boards.leaderboard(night.board, console.out)
    for line in (page.headline(night), *page.lines(night)):
        text = folded(plain(line), console.out.width if console.out.is_terminal else None)
        console.out.print(text, markup=False, highlight=False, soft_wrap=True)


def _summarise(display: ShowOptions, text: str) -> None:
    """Add to the page where CI collects Markdown, unless --markdown does so."""
    summary = os.environ.get(SUMMARY)
    if summary and not (display.markdown and is_step_summary(display.markdown)):
        _try(lambda: append_text(Path(summary), f"{text}\n"))


def _log(asked: Asked, told: Callable[[], dict[str, Any]]) -> None:
    """Tell the trackers, each by itself."""
    for tracker in dict.fromkeys(asked.log):
        _try(partial(lambda name: log(name, told()), tracker))


def _push(night: Night, asked: Asked, quiet: bool) -> None:
    """Send the soup in use, where the repository has not got it: also what an earlier night could
    not send, or what was rolled back to.
    """
    if asked.push is None or night.current is None:
        return
    shelf = Shelf.open(asked.publish)
    sent = [n["pushed"] for n in shelf.diary.records if n.get("repository") == asked.push]
    if sent[-1:] == [night.current.name]:
        return
    with Watch(console.err, quiet) as watch:
        address = push(night.current, asked.push, HUB_DATASETS, observe=watch)
    shelf.remember(SENT, time=_now(), pushed=night.current.name, repository=asked.push)
    print(f"sent {night.current.name} to {asked.push}: {plain(address)}", file=sys.stderr)


def _try(tell: Callable[[], None]) -> None:
    """Do what must not change the result."""
    try:
        tell()
    except Exception as error:  # a defect of ours, too, comes after the result
        what = str(error) if isinstance(error, SoupError) else f"{type(error).__name__}: {error}"
        print("warning:", plain(what), file=sys.stderr)


def _foretell(
    pool: PoolOptions,
    settings: Settings,
    scorer: VLMEvalKitScorer,
    plan: Plan,
    display: ShowOptions,
    repository: str | None,
) -> None:
    """What would be left out, what the rest would cost, and what would be sent."""
    from soup.choosing.journal import Journal
    from soup.cli.plan import show_plan
    from soup.errors import PoolError
    from soup.publishing.landing import land
    from soup.publishing.sifting import Sifted, sift

    journal = Journal.open(settings.work, create=False)
    with watched(pool) as observe:
        landed = land(
            pool.ckpts,
            plan.opening,
            plan.reference,
            whole=False,
            skip_bad=plan.skip_bad,
            cache=plan.cache,
            observe=observe,
        )
    sifted = Sifted((), (), {})
    if landed.paths:
        sifted = sift(
            landed.paths,
            journal,
            settle=plan.settle,
            skip_bad=plan.skip_bad,
            opening=landed.opening,
            read=False,
        )
    for one in (*landed.left_out, *sifted.left_out):
        line = f"{one.name}: would be left out, {one.how}: {one.why}"
        print("warning:", plain(line), file=sys.stderr)
    if len(sifted.ready) < 2:
        raise PoolError(f"{len(sifted.ready)} good checkpoints: at least 2 are needed")
    ready = replace(
        pool,
        ckpts=[str(path) for path in sifted.ready],
        base=landed.opening["base"],
        processor=landed.opening["processor"],
        reference=landed.reference,
    )
    would = replace(settings, out=Shelf.at(plan.publish).place(f"{clock():%Y-%m-%d}", ""))
    show_plan("greedy", ready, would, scorer, display.json)
    if repository is not None:
        for line in foretell(Shelf.at(plan.publish).current, repository, HUB_DATASETS):
            print(plain(line), file=sys.stderr)
