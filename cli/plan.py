"""`--dry-run`: everything that can be known before anything is read, scored or written."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import soup
from soup.blending.methods import describe
from soup.blending.stack import stack
from soup.blending.writer import check_target
from soup.checkpoints.pool import Pool
from soup.choosing.foreseeing import DISAGREE, foresee
from soup.choosing.journal import Journal
from soup.cli import console, documents, render
from soup.cli.fetching import watched
from soup.cli.looking import compared
from soup.cli.options import PoolOptions
from soup.errors import PoolError, SoupError, UsageError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.kit.suites import distinct_names, questions_in
from soup.forecast import Forecast, forecast
from soup.remote.address import elsewhere
from soup.settings import Settings, whole
from soup.watching.lines import duration
from soup.words import counted, folded, plain


def show_plan(
    kind: str,
    pool: PoolOptions,
    settings: Settings,
    scorer: VLMEvalKitScorer,
    document: Path | None = None,
) -> None:
    """Print what a command would do, or write it as JSON.

    Raises:
        SoupError: what can be known to fail by then; the document is written all the same.
    """
    if str(document) == "-":
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            _plan(kind, pool, settings, scorer, document, Console(file=nowhere))
    else:
        _plan(kind, pool, settings, scorer, document, console.out)


def _plan(
    kind: str,
    pool: PoolOptions,
    settings: Settings,
    scorer: VLMEvalKitScorer,
    document: Path | None,
    out: Console,
) -> None:
    content: dict[str, Any] = {"dry_run": True}
    try:
        _tell(kind, pool, settings, scorer, content, out)
    except UsageError:
        raise
    except SoupError as error:
        content |= {"error": str(error)}
        raise
    finally:
        if document is not None and len(content) > 1:
            documents.put(document, kind, content)


def _tell(
    kind: str,
    pool: PoolOptions,
    settings: Settings,
    scorer: VLMEvalKitScorer,
    content: dict[str, Any],
    out: Console,
) -> None:
    """Print the plan, and collect it for the document."""
    with watched(pool) as observe:
        seen = soup.inspect(
            pool.ckpts,
            settings.dtype,
            pool.base,
            pool.reference,
            pool.processor,
            pool.cache,
            observe,
        )
    report = compared(seen, Path(settings.work))
    content |= {
        "pool": documents.pool_found(report),
        "benchmarks": list(map(str, settings.benchmarks)),
        "holdouts": list(map(str, settings.holdouts)),
        "method": settings.method,
        "parameters": dict(settings.parameters),
        "out": None,
        "results": None,
        "error": None,
    }
    render.check(report, out)
    if report.problems:
        raise PoolError("the pool cannot be blended: see above")
    opened = Pool(report.members, base=report.base, chosen=report.reference)
    count = len(report.members)
    how = ""
    if kind != "score":
        every = whole(kind, opened, settings)
        if settings.as_adapter:
            stack(every)
    if kind not in ("score", "max") and settings.method != "linear":
        how = f" by {describe(settings.method, settings.parameters)}"
    names = ", ".join([*settings.benchmarks, *(f"{h} (hold-out)" for h in settings.holdouts)])
    lines = [f"plan: {kind} of {counted(count, 'member')}{how} on {names or 'no benchmark'}"]
    if settings.confident is not None:
        lines.append(
            f"losing trials end early; with a chance of {settings.confident:g} none would have won"
        )
    if kind != "score":
        target, said, content["out"] = _target(kind, settings)
        check_target(target, every)
        lines.append(said)
    _print(out, lines)
    sources = [*settings.benchmarks, *settings.holdouts]
    if sources:
        found = None
        try:
            found = scorer.remembered(opened.reference, sources)
        except SoupError as error:
            content["error"] = str(error)
            _print(out, [f"as things are, a run would fail: {error}"])
        else:
            expected = None if found is None else forecast(kind, opened, found, settings)
            content["results"] = None if expected is None else _counts(expected)
            _print(out, [_unknown(settings) if expected is None else _known(kind, expected)])
        journal = Journal.open(settings.work, create=False)
        _print(out, [*_foreseen(journal, kind, count, settings, timed=found is None)])


def _target(kind: str, settings: Settings) -> tuple[Path, str, str]:
    """Where a soup would be made, what is said of it, and where it would be in the end."""
    if not elsewhere(settings.out):
        target = Path(os.path.abspath(settings.out or f"soup-{kind}"))
        return target, f"would write {target}", str(target)
    from soup.remote.sending import made_in, target_of

    there = target_of(settings.out or "")
    there.require_takeable(console.tell)
    address = str(there.address)
    made = made_in(settings.work, there.address)
    return made, f"would make it on this machine and send it to {address}", address


def _counts(found: Forecast) -> dict[str, Any]:
    """Of results, at most; seconds and questions of unknown speed that measuring takes."""
    return {
        "all": found.results,
        "missing": found.missing,
        "seconds": found.work.seconds,
        "questions_of_unknown_speed": found.work.questions,
        "unread": list(found.unread),
    }


def _print(out: Console, lines: Sequence[str]) -> None:
    for line in lines:
        text = folded(plain(line), out.width if out.is_terminal else None)
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def _unknown(settings: Settings) -> str:
    done = len(Journal.open(settings.work, create=False).results)
    text = "how many results are known, only a run can tell: these benchmarks have not been looked "
    text += "up like this before, or something has changed since"
    return f"{text} ({done} recorded in {settings.work} in all; those that fit are reused)"


def _known(kind: str, found: Forecast) -> str:
    """How many results are known, how many are to be measured, and how long that takes."""
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
