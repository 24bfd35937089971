"""The commands for unattended nights: nightly, rollback.

What they do is imported when they do it, as in ``soup.cli.soups``.
"""

from pathlib import Path
from typing import Annotated

import typer

from soup.cli.given import scorer_of, settings_of
from soup.cli.grouping import grouped
from soup.cli.options import (
    Accept,
    BenchmarkOptions,
    Confident,
    MergeOptions,
    PoolOptions,
    RunOptions,
    ScoringOptions,
    ShowOptions,
)

READY = "Ready"
GATE = "Gate"
PUBLISHING = "Publishing"

Publish = Annotated[
    Path,
    typer.Option(
        "--publish",
        metavar="DIR",
        help="Where soups are published: dated directories, and latest, a link to the one in use.",
        rich_help_panel=PUBLISHING,
    ),
]


@grouped
def nightly(
    context: typer.Context,
    pool: PoolOptions,
    merging: MergeOptions,
    benchmarks: BenchmarkOptions,
    scoring: ScoringOptions,
    publish: Publish,
    display: ShowOptions,
    run: RunOptions,
    settle: Annotated[
        float,
        typer.Option(
            "--settle",
            metavar="S",
            min=0,
            help="Leave out a checkpoint with a file younger than so many seconds.",
            rich_help_panel=READY,
        ),
    ] = 60.0,
    skip_bad: Annotated[
        bool,
        typer.Option(
            "--skip-bad/--no-skip-bad",
            help="Leave out what is damaged or does not fit; else that is an error.",
            rich_help_panel=READY,
        ),
    ] = True,
    min_gain: Annotated[
        float,
        typer.Option(
            "--min-gain",
            metavar="POINTS",
            min=0,
            help="Points of mean that the new soup must gain by more than.",
            rich_help_panel=GATE,
        ),
    ] = 0.0,
    alpha: Annotated[
        float,
        typer.Option(
            "--alpha",
            metavar="P",
            help="The chance to publish what is not better; shared by all soups compared so far. "
            "With --accept significant it is greedy's, too.",
            rich_help_panel=GATE,
        ),
    ] = 0.05,
    no_worse: Annotated[
        list[str] | None,
        typer.Option(
            "--no-worse",
            metavar="NAME:POINTS",
            help="A benchmark or hold-out that may fall by so much at most. Repeatable.",
            rich_help_panel=GATE,
        ),
    ] = None,
    accept: Accept = "gain",
    confident: Confident = None,
    keep: Annotated[
        int,
        typer.Option(
            "--keep",
            metavar="N",
            min=0,
            help="Old soups that stay beside the one in use.",
            rich_help_panel=PUBLISHING,
        ),
    ] = 3,
    no_charts: Annotated[
        bool,
        typer.Option(
            "--no-charts",
            help="No charts in the model card; without it, where vlm-soup\\[report] is installed.",
            rich_help_panel=PUBLISHING,
        ),
    ] = False,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit",
            metavar="FILE",
            help="The verdict as JUnit XML; replaces FILE.",
            rich_help_panel=ShowOptions.PANEL,
        ),
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            "--notify",
            metavar="URL",
            envvar="SOUP_NOTIFY",
            help="Tell a webhook: JSON, with a text that Slack shows.",
            rich_help_panel=PUBLISHING,
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="ORG/NAME",
            help="Send what is published to this repository of the Hugging Face hub, private where "
            "it is new.",
            rich_help_panel=PUBLISHING,
        ),
    ] = None,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            metavar="NAME",
            help="Tell a tracker: mlflow, wandb, trackio; its own environment variables say where "
            "it is. Repeatable.",
            rich_help_panel=PUBLISHING,
        ),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            "--time-limit",
            metavar="TIME",
            help="Stop shortly before, with exit code 75; the same command goes on from there. "
            "Seconds, or as SLURM has it: 3:50:00.",
            rich_help_panel=RunOptions.PANEL,
        ),
    ] = None,
) -> None:
    """Make a greedy soup of what has landed, and publish it if it is better than the published one.

    Only what is new is scored. What is not ready, damaged or does not fit is left out and named.

    Exit codes: 0 published, 3 not better, 4 cannot tell, 1 error, 2 usage, 75 time over, 130
    stopped.

    Example: soup nightly 'ckpts/*' --bench MMStar --publish published --no-worse MMStar:0.5
    """
    from soup.cli.night import Asked, play

    settings = settings_of(
        pool,
        benchmarks,
        run,
        merging=merging,
        scoring=scoring,
        accept=accept,
        confident=confident,
        alpha=alpha if accept == "significant" else 0.05,
    )
    scorer = scorer_of(context, scoring, run.work, benchmarks)
    asked = Asked(
        publish=publish,
        settle=settle,
        skip_bad=skip_bad,
        min_gain=min_gain,
        alpha=alpha,
        no_worse=tuple(no_worse or ()),
        keep=keep,
        junit=junit,
        notify=notify,
        push=push,
        log=tuple(log or ()),
        charts=not no_charts,
        time_limit=time_limit,
    )
    raise typer.Exit(play(pool, settings, scorer, asked, display, run))


@grouped
def rollback(
    publish: Publish,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="NAME",
            help="Which one, e.g. 2026-11-26 (default: the one before).",
            rich_help_panel=PUBLISHING,
        ),
    ] = None,
) -> None:
    """Use an earlier published soup again. No night publishes again what was taken back.

    Example: soup rollback --publish published
    """
    from soup.publishing.night import clock
    from soup.publishing.shelf import Shelf, roll_back

    shelf = Shelf.open(publish, create=False, whole=False)
    before, now = roll_back(shelf, to, clock().isoformat(timespec="seconds"))
    print(f"{now.name} is in use{f', {before.name} is not any more' if before else ''}")
