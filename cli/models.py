"""The commands about models and what runs them: families, doctor.

What they do is imported when they do it: help and mistakes need none of it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from soup.cli import console
from soup.cli.given import scorer_of
from soup.cli.grouping import grouped
from soup.cli.options import WORK, Base, Cache, PoolOptions, ScoringOptions, Work
from soup.errors import ScoringError, UsageError

ANSWER = 64  # tokens of the made-up question's answer, unless told otherwise


def families() -> None:
    """List the families of models that are asked as VLMEvalKit asks them, and what they need.

    Options of a family's wrapper stand in soup.toml, in a table named family.NAME.

    Example: soup families
    """
    from soup.checkpoints.installed import version_of
    from soup.cli import render
    from soup.evaluators.models.families import FAMILIES

    render.families(FAMILIES, version_of("transformers"), console.out)


@grouped
def doctor(
    context: typer.Context,
    scoring: ScoringOptions,
    ckpt: Annotated[
        Path | None,
        typer.Argument(metavar="[CKPT]", help="A model directory or an adapter's, or its address."),
    ] = None,
    base: Base = None,
    cache: Cache = None,
    try_: Annotated[
        bool, typer.Option("--try", help="Load the model and put one made-up question to it.")
    ] = False,
    work: Work = WORK,
) -> None:
    """Say what scoring a checkpoint needs, what of it is there, and how to set up the rest.

    Looks at the Python that would load it. Exit code 1 when something is missing. Without CKPT:
    about that Python alone.

    Example: soup doctor ckpts/run-1 --try
    """
    if try_ and ckpt is None:
        raise UsageError("--try: name the checkpoint to load")
    from soup.checkpoints.opening import open_checkpoint
    from soup.cli import render
    from soup.cli.fetching import local
    from soup.cli.progress import Watch
    from soup.evaluators.workers.doctor import ask_once, examine

    work = work / "doctor"
    scoring = replace(scoring, max_new_tokens=scoring.max_new_tokens or ANSWER)
    with Watch(console.err) as watch, scorer_of(context, scoring, work) as scorer:
        model = None
        if ckpt is not None:
            there = local(PoolOptions([str(ckpt)], base=base, cache=cache), try_, watch)
            model = open_checkpoint(there.ckpts[0], base=there.base)
        python, kind = scorer.python_for(model)
        engine = scorer.engine_for(model)
        found = examine(python, model, kind, scoring.trust_remote_code, engine)
        render.diagnosis(found, console.out)
        if not found.healthy:
            raise ScoringError("something is missing: see above")
        if try_ and model is not None:
            render.trial(ask_once(scorer, model, work, watch), console.out)
