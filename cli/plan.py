"""`--dry-run`: everything that can be known before anything is read, scored or written."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import soup
from soup.blending.methods import describe
from soup.blending.stack import stack
from soup.blending.writer import check_target
from soup.checkpoints.pool import Pool
from soup.choosing.foreseeing import DISAGREE, foresee
from soup.choosing.journal import Journal
from soup.choosing.scoring import Benchmark
from soup.cli import console, render
from soup.cli.looking import compared
from soup.cli.options import PoolOptions
from soup.errors import PoolError, SoupError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.kit.suites import distinct_names, questions_in
from soup.forecast import forecast
from soup.run import Settings, whole
from soup.watching.lines import duration


def show_plan(kind: str, pool: PoolOptions, settings: Settings, scorer: VLMEvalKitScorer) -> None:
    """Print what a command would do.

    Raises:
        SoupError: what can be known to fail by then.
    """
    report = compared(soup.inspect(pool.ckpts, settings.dtype, pool.base), Path(settings.work))
    render.check(report, console.out)
    if report.problems:
        raise PoolError("the pool cannot be blended: see above")
    count = len(report.members)
    how = ""
    if kind != "score":
        every = whole(kind, Pool(report.members, base=report.base), settings)
        if settings.as_adapter:
            stack(every)
    if kind not in ("score", "max") and settings.method != "linear":
        how = f" by {describe(settings.method, settings.parameters)}"
    names = ", ".join([*settings.benchmarks, *(f"{h} (hold-out)" for h in settings.holdouts)])
    lines = [f"plan: {kind} of {count} members{how} on {names or 'no benchmark'}"]
    if settings.confident is not None:
        lines.append(f"trials that cannot win with confidence {settings.confident:g} end early")
    if kind != "score":
        target = Path(os.path.abspath(settings.out or f"soup-{kind}"))
        check_target(target, every)
        lines.append(f"would write {target}")
    _print(lines)
    sources = [*settings.benchmarks, *settings.holdouts]
    if sources:
        opened = Pool(report.members, base=report.base)
        found = None
        try:
            found = scorer.remembered(opened.reference, sources)
        except SoupError as error:
            _print([f"as things are, a run would fail: {error}"])
        else:
            _print([_unknown(settings) if found is None else _known(kind, opened, found, settings)])
        journal = Journal.open(settings.work, create=False)
        _print([*_foreseen(journal, kind, count, settings, timed=found is None)])


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        console.out.print(line, markup=False, highlight=False, soft_wrap=True)


def _unknown(settings: Settings) -> str:
    done = len(Journal.open(settings.work, create=False).results)
    text = "how many results are known, only a run can tell: these benchmarks have not been looked "
    text += "up like this before, or something has changed since"
    return f"{text} ({done} recorded in {settings.work} in all; those that fit are reused)"


def _known(kind: str, pool: Pool, benchmarks: Sequence[Benchmark], settings: Settings) -> str:
    """How many results are known, how many are to be measured, and how long that takes."""
    found = forecast(kind, pool, benchmarks, settings)
    known = found.results - found.missing
    text = f"{known} of {found.results} results are known, "
    most = " at most" if kind == "greedy" and found.missing else ""
    text += f"{found.missing or 'nothing'} must be measured{most}"
    work = found.work
    if found.missing and work.seconds:
        text += f", about {duration(work.seconds)} at the speed of earlier ones"
        if work.questions:
            text += f", and {work.questions:,} questions of unknown speed"
    elif found.missing:
        text += f": {work.questions:,} questions, how fast is not known yet"
    if found.unread:
        names = ", ".join(found.unread)
        text += f" (all results of {names} count as missing: read it to know, soup check --digest)"
    return text


def _foreseen(
    journal: Journal, kind: str, count: int, settings: Settings, timed: bool
) -> Iterator[str]:
    """What the run costs at most, and what it could tell."""
    sources = [*settings.benchmarks, *settings.holdouts]
    names = dict(zip(sources, distinct_names(sources), strict=True))
    sizes = {names[source]: questions_in(source) for source in sources}
    found = foresee(
        journal,
        kind,
        count,
        [names[source] for source in settings.benchmarks],
        [names[source] for source in settings.holdouts],
        {name: size for name, size in sizes.items() if size is not None},
    )
    if found.samples is not None and timed:
        text = f"up to {found.evaluations} evaluations, {found.samples:,} answers"
        if found.seconds is not None:
            text += f", {found.seconds / 3600:.1f} hours at the speed of earlier runs"
        yield text
    elif found.samples is None:
        yield f"how many questions {', '.join(found.unknown)} has is known when it is looked up"
    if found.gain is not None:
        basis = (
            "by earlier runs" if found.measured else f"if blends differ on {DISAGREE:.0%} of them"
        )
        yield (
            f"these questions tell a gain of {found.gain:.1f} points of the mean from noise (4 "
            f"times in 5, at p 0.05; {basis}); smaller ones often go unnoticed, or are luck"
        )
