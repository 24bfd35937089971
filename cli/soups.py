"""The commands that score a pool and make a soup of it: max, average, greedy, blend, score.

What they do is imported when they do it (``_make``): help and mistakes need none of it.
"""

from typing import TYPE_CHECKING, Annotated

import typer

import soup
from soup.cli import console
from soup.cli.given import scorer_of, settings_of
from soup.cli.grouping import grouped
from soup.cli.merging import BLEND_HELP
from soup.cli.options import (
    CHOOSING,
    Accept,
    BenchmarkOptions,
    Confident,
    MergeOptions,
    OutputOptions,
    PoolOptions,
    RunOptions,
    ScoringOptions,
    ShowOptions,
)

if TYPE_CHECKING:
    from soup.evaluators import VLMEvalKitScorer
    from soup.settings import Settings


@grouped
def max_(
    context: typer.Context,
    pool: PoolOptions,
    benchmarks: BenchmarkOptions,
    scoring: ScoringOptions,
    output: OutputOptions,
    display: ShowOptions,
    run: RunOptions,
) -> None:
    """Maximum Soup: score every member, write the best one.

    Example: soup max ckpts/* --bench MMStar -o best
    """
    settings = settings_of(pool, benchmarks, run, output, scoring=scoring)
    scorer = scorer_of(context, scoring, run.work, benchmarks)
    _make("max", pool, settings, scorer, display, run, output.charts)


@grouped
def average(
    context: typer.Context,
    pool: PoolOptions,
    merging: MergeOptions,
    benchmarks: BenchmarkOptions,
    scoring: ScoringOptions,
    output: OutputOptions,
    display: ShowOptions,
    run: RunOptions,
) -> None:
    """Average Soup: the mean of all members; scored only when benchmarks are given.

    Example: soup average ckpts/* -o averaged --dtype bfloat16
    """
    settings = settings_of(pool, benchmarks, run, output, merging, scoring=scoring)
    scorer = scorer_of(context, scoring, run.work, benchmarks)
    _make("average", pool, settings, scorer, display, run, output.charts)


@grouped
def greedy(
    context: typer.Context,
    pool: PoolOptions,
    merging: MergeOptions,
    benchmarks: BenchmarkOptions,
    scoring: ScoringOptions,
    output: OutputOptions,
    display: ShowOptions,
    run: RunOptions,
    min_gain: Annotated[
        float,
        typer.Option(
            "--min-gain",
            metavar="POINTS",
            min=0,
            help="Points of mean that a member must add to be kept.",
            rich_help_panel=CHOOSING,
        ),
    ] = 0.0,
    accept: Accept = "gain",
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha",
            metavar="P",
            help="With --accept significant: the chance that a run keeps anybody where nobody "
            "helps.",
            rich_help_panel=CHOOSING,
        ),
    ] = 0.05,
    confident: Confident = None,
) -> None:
    """Greedy Soup: best member first, keep each next one only if the average improves.

    Stopped or crashed? Run the same command again: nothing that was scored is scored again.

    Example: soup greedy ckpts/* --bench MMStar --bench AI2D_TEST --holdout MMMU_DEV_VAL
    """
    settings = settings_of(
        pool,
        benchmarks,
        run,
        output,
        merging,
        scoring=scoring,
        min_gain=min_gain,
        accept=accept,
        alpha=alpha,
        confident=confident,
    )
    scorer = scorer_of(context, scoring, run.work, benchmarks)
    _make("greedy", pool, settings, scorer, display, run, output.charts)


@grouped
def plan(
    context: typer.Context,
    pool: PoolOptions,
    merging: MergeOptions,
    benchmarks: BenchmarkOptions,
    scoring: ScoringOptions,
    run: RunOptions,
) -> None:
    """Say before a greedy run what it would cost, and the smallest gain that it could tell.

    By speeds and outcomes of earlier runs in [bold]--work[/], where there are any.

    Example: soup plan ckpts/* --bench MMStar --bench AI2D_TEST
    """
    from soup.cli.plan import show_plan

    scorer = scorer_of(context, scoring, run.work, benchmarks)
    show_plan(
        "greedy", pool, settings_of(pool, benchmarks, run, merging=merging, scoring=scoring), scorer
    )


@grouped
def blend(
    context: typer.Context,
    pool: PoolOptions,
    merging: MergeOptions,
    benchmarks: BenchmarkOptions,
    scoring: ScoringOptions,
    output: OutputOptions,
    display: ShowOptions,
    run: RunOptions,
    weight: Annotated[
        list[float] | None,
        typer.Option(
            "--weight",
            metavar="W",
            help="One per member, in their order; used as given. Repeatable.",
            rich_help_panel=MergeOptions.PANEL,
        ),
    ] = None,
) -> None:
    """Blend all members by a method."""
    settings = settings_of(
        pool, benchmarks, run, output, merging, scoring=scoring, weights=weight or None
    )
    scorer = scorer_of(context, scoring, run.work, benchmarks)
    _make("blend", pool, settings, scorer, display, run, output.charts)


blend.__doc__ = BLEND_HELP


@grouped
def score(
    context: typer.Context,
    pool: PoolOptions,
    benchmarks: BenchmarkOptions,
    scoring: ScoringOptions,
    display: ShowOptions,
    run: RunOptions,
) -> None:
    """Score every member, show the leaderboard, write no model. A later soup reuses the scores.

    Example: soup score ckpts/* --bench MMStar
    """
    settings = settings_of(pool, benchmarks, run, scoring=scoring)
    scorer = scorer_of(context, scoring, run.work, benchmarks)
    _make("score", pool, settings, scorer, display, run)


def _make(
    kind: str,
    pool: PoolOptions,
    settings: "Settings",
    scorer: "VLMEvalKitScorer",
    display: ShowOptions,
    run: RunOptions,
    charts: bool = False,
) -> None:
    """Options are values by now: plan it, or do it and show what came out."""
    if run.dry_run:
        from soup.cli.plan import show_plan

        show_plan(kind, pool, settings, scorer, display.json)
        return
    from soup.cli.progress import Watch
    from soup.cli.report import drawing
    from soup.cli.results import failure_shown, open_pool, require_places, show

    require_places(display)
    draw = drawing(charts)
    with failure_shown(kind, settings, display):
        scorer.require_sources([*settings.benchmarks, *settings.holdouts])
        opened = open_pool(kind, pool, settings, display.quiet)
        with Watch(console.err, display.quiet) as watch, scorer:
            if kind == "score":
                board = soup.score(opened, scorer, settings, watch)
            else:
                board = soup.make(kind, opened, scorer, settings, watch, draw=draw)
    show(board, display)
