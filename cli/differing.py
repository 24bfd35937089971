"""The commands that look into results: compare, answers.

What they do is imported when they do it, as in ``soup.cli.looking``.
"""

from collections.abc import Sequence
from typing import Annotated

import typer

from soup.cli.grouping import grouped
from soup.cli.options import WORK, ShowOptions, Work
from soup.errors import UsageError
from soup.evaluators.kit.suites import distinct_names


@grouped
def compare(
    context: typer.Context,
    display: ShowOptions,
    first: Annotated[str, typer.Argument(metavar="A", help="A member, soup or trial.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    bench: Annotated[
        list[str] | None,
        typer.Option("--bench", metavar="NAME", help="On this benchmark alone. Repeatable."),
    ] = None,
    flips: Annotated[
        int,
        typer.Option(
            "--flips", metavar="N", min=0, help="Questions to show, each way, per benchmark."
        ),
    ] = 5,
    work: Work = WORK,
) -> None:
    """Say where two scored blends differ, how surely, and on which questions.

    A blend is a member's name or path, [bold]soup[/], [bold]greedy[/], a soup's directory, a trial
    as a+b+c, or the beginning of a digest. Nothing is scored.

    Example: soup compare greedy ckpts/run-1 --bench MMStar
    """
    from soup.cli.flips import show_comparison

    show_comparison(work, first, second, asked(context, bench), flips, display)


@grouped
def answers(
    context: typer.Context,
    display: ShowOptions,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A member, soup or trial.")
    ] = None,
    bench: Annotated[
        list[str] | None, typer.Option("--bench", metavar="NAME", help="On which benchmark.")
    ] = None,
    wrong: Annotated[
        bool, typer.Option("--wrong", help="Only those that are not fully right.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=0, help="At most so many; 0 is all.")
    ] = 20,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete kept answers instead; no score is lost.")
    ] = False,
    runs: Annotated[
        int,
        typer.Option(
            "--runs", metavar="N", min=0, help="With --prune: the newest N runs keep theirs."
        ),
    ] = 1,
    work: Work = WORK,
) -> None:
    """Show what a scored blend answered.

    Answers are kept, compressed, for every result. [bold]--prune[/] deletes those of older runs.

    Example: soup answers greedy --bench MMStar --wrong

    Example: soup answers --prune --runs 5
    """
    from soup.cli.flips import prune_kept, show_answers

    if prune and name is not None:
        raise UsageError(f"{name}: --prune deletes answers of whole runs; leave the name out")
    if prune:
        prune_kept(work, runs, display)
        return
    if name is None:
        raise UsageError("whose answers? Name a member, soup or trial, e.g. soup answers greedy")
    show_answers(work, name, asked(context, bench), wrong, limit, display)


def asked(context: typer.Context, bench: Sequence[str] | None) -> list[str]:
    """Benchmarks named on the command line; those of soup.toml are what runs are chosen by."""
    source = context.get_parameter_source("bench")
    if source is None or source.name != "COMMANDLINE":
        return []
    return distinct_names(bench or ())
