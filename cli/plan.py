"""`--dry-run`: everything that can be known before anything is read, scored or written."""

import os
from pathlib import Path

import soup
from soup.blending.methods import describe
from soup.blending.stack import stack
from soup.blending.writer import check_target
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.cli import console, render
from soup.cli.looking import compared
from soup.cli.options import PoolOptions
from soup.errors import PoolError
from soup.run import Settings, whole


def show_plan(kind: str, pool: PoolOptions, settings: Settings) -> None:
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
    done = len(Journal.open(settings.work, create=False).results)
    lines.append(f"{settings.work}: {done} result(s) recorded so far; those that fit are reused")
    for line in lines:
        console.out.print(line, markup=False, highlight=False, soft_wrap=True)
