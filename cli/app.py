"""`soup`: options become one library call; errors become one line and an exit code."""

import importlib.metadata
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console

import soup
from soup.blending.methods import describe
from soup.blending.stack import stack
from soup.blending.writer import check_target
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, Report, same_content
from soup.choosing.journal import Journal
from soup.cli import config, render
from soup.cli.given import dtype_of, scorer_of, settings_of
from soup.cli.options import (
    BLEND_HELP,
    AsAdapter,
    Base,
    BatchSize,
    Bench,
    Ckpts,
    ComputeDtype,
    Confident,
    Device,
    DryRun,
    Dtype,
    FamilyName,
    Holdout,
    Json,
    Judge,
    JudgeUrl,
    Markdown,
    MaxNewTokens,
    MethodName,
    MinGain,
    Out,
    Overwrite,
    Quiet,
    Set,
    Suite,
    Trust,
    Weight,
    Work,
    WorkerPython,
)
from soup.cli.progress import Watch
from soup.cli.results import require_places, show
from soup.errors import PoolError, ScoringError, SoupError, UsageError
from soup.evaluators.models.families import FAMILIES
from soup.evaluators.workers.doctor import ask_once, examine
from soup.run import Settings, identify, whole

CommandError: Any = typer.BadParameter.__mro__[2]
"""Click's base of all usage errors; newer typers carry their own click, older ones import it."""

app = typer.Typer(
    name="soup",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

out_console = Console()
err_console = Console(stderr=True)

WORK = Path(".soup")
STOPPED = 130  # the exit code of a command that Ctrl-C ended


def _version(value: bool) -> None:
    if value:
        out_console.print(f"soup {soup.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a pool of fine-tuned vision-language checkpoints into the one best model.

    [bold]Examples[/]

      soup check ckpts/*
      soup greedy ckpts/* --bench MMStar --bench AI2D_TEST -o my-soup
      soup greedy ckpts/* --bench questions.tsv --holdout exam.tsv
      soup greedy ckpts/* --suite points --judge MODEL --judge-url http://localhost:8000/v1
      soup average ckpts/run-1 ckpts/run-2 -o averaged
      soup blend ckpts/* --method ties --base base

    Every option can stand in a soup.toml in the working directory; the command line wins.
    """
    commands: dict[str, dict[str, bool]] = {}
    group = context.command
    assert isinstance(group, typer.core.TyperGroup)
    for name, command in group.commands.items():
        commands[name] = {
            max(parameter.opts, key=len).lstrip("-"): parameter.multiple
            for parameter in command.params
            if isinstance(parameter, typer.core.TyperOption)
        }
        commands[name].pop("help", None)
    context.default_map = config.defaults(commands)


@app.command("max")
def max_(
    context: typer.Context,
    ckpts: Ckpts,
    bench: Bench = None,
    suite: Suite = None,
    holdout: Holdout = None,
    out: Out = None,
    work: Work = WORK,
    dtype: Dtype = None,
    base: Base = None,
    device: Device = "auto",
    compute_dtype: ComputeDtype = "auto",
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    judge: Judge = None,
    judge_url: JudgeUrl = None,
    trust_remote_code: Trust = False,
    worker_python: WorkerPython = None,
    family: FamilyName = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_adapter: AsAdapter = False,
    quiet: Quiet = False,
    json: Json = None,
    markdown: Markdown = None,
) -> None:
    """Maximum Soup: score every member, write the best one.

    Example: soup max ckpts/* --bench MMStar -o best
    """
    _make("max", locals())


@app.command()
def average(
    context: typer.Context,
    ckpts: Ckpts,
    bench: Bench = None,
    suite: Suite = None,
    holdout: Holdout = None,
    out: Out = None,
    work: Work = WORK,
    dtype: Dtype = None,
    base: Base = None,
    method: MethodName = "linear",
    set: Set = None,
    device: Device = "auto",
    compute_dtype: ComputeDtype = "auto",
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    judge: Judge = None,
    judge_url: JudgeUrl = None,
    trust_remote_code: Trust = False,
    worker_python: WorkerPython = None,
    family: FamilyName = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_adapter: AsAdapter = False,
    quiet: Quiet = False,
    json: Json = None,
    markdown: Markdown = None,
) -> None:
    """Average Soup: the mean of all members; scored only when benchmarks are given.

    Example: soup average ckpts/* -o averaged --dtype bfloat16
    """
    _make("average", locals())


@app.command()
def greedy(
    context: typer.Context,
    ckpts: Ckpts,
    bench: Bench = None,
    suite: Suite = None,
    holdout: Holdout = None,
    out: Out = None,
    work: Work = WORK,
    dtype: Dtype = None,
    base: Base = None,
    method: MethodName = "linear",
    set: Set = None,
    device: Device = "auto",
    compute_dtype: ComputeDtype = "auto",
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    judge: Judge = None,
    judge_url: JudgeUrl = None,
    min_gain: MinGain = 0.0,
    confident: Confident = None,
    trust_remote_code: Trust = False,
    worker_python: WorkerPython = None,
    family: FamilyName = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_adapter: AsAdapter = False,
    quiet: Quiet = False,
    json: Json = None,
    markdown: Markdown = None,
) -> None:
    """Greedy Soup: best member first, keep each next one only if the average improves.

    Stopped or crashed? Run the same command again: nothing that was scored is scored again.

    Example: soup greedy ckpts/* --bench MMStar --bench AI2D_TEST --holdout MMMU_DEV_VAL
    """
    _make("greedy", locals())


@app.command(help=BLEND_HELP)
def blend(
    context: typer.Context,
    ckpts: Ckpts,
    method: MethodName = "linear",
    base: Base = None,
    weight: Weight = None,
    set: Set = None,
    bench: Bench = None,
    suite: Suite = None,
    holdout: Holdout = None,
    out: Out = None,
    work: Work = WORK,
    dtype: Dtype = None,
    device: Device = "auto",
    compute_dtype: ComputeDtype = "auto",
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    judge: Judge = None,
    judge_url: JudgeUrl = None,
    trust_remote_code: Trust = False,
    worker_python: WorkerPython = None,
    family: FamilyName = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_adapter: AsAdapter = False,
    quiet: Quiet = False,
    json: Json = None,
    markdown: Markdown = None,
) -> None:
    """Blend all members by a method."""
    _make("blend", locals())


@app.command()
def score(
    context: typer.Context,
    ckpts: Ckpts,
    bench: Bench = None,
    suite: Suite = None,
    holdout: Holdout = None,
    work: Work = WORK,
    dtype: Dtype = None,
    base: Base = None,
    device: Device = "auto",
    compute_dtype: ComputeDtype = "auto",
    batch_size: BatchSize = None,
    max_new_tokens: MaxNewTokens = None,
    judge: Judge = None,
    judge_url: JudgeUrl = None,
    trust_remote_code: Trust = False,
    worker_python: WorkerPython = None,
    family: FamilyName = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    json: Json = None,
    markdown: Markdown = None,
) -> None:
    """Score every member, show the leaderboard, write no model. A later soup reuses the scores.

    Example: soup score ckpts/* --bench MMStar
    """
    given = locals()
    settings = settings_of(given)
    if dry_run:
        _plan("score", given, settings)
        return
    require_places(given)
    pool = soup.Pool.open(*ckpts, dtype=settings.dtype, base=base)
    with Watch(err_console, quiet) as watch, scorer_of(given) as scorer:
        board = soup.score(pool, scorer, settings, watch)
    show(board, given, out_console)


@app.command()
def check(
    ckpts: Ckpts,
    dtype: Dtype = None,
    base: Base = None,
    digest: Annotated[
        bool, typer.Option("--digest", help="Read all bytes, to find members that are equal.")
    ] = False,
    work: Work = WORK,
) -> None:
    """Say from headers alone whether a pool can be blended, and if not, exactly why.

    Duplicates are found by their files, and by content where it is known from an earlier run
    or [bold]--digest[/] is given. Exit code 1 when the pool cannot be blended.

    Example: soup check ckpts/*
    """
    report = soup.inspect(ckpts, dtype_of(dtype), base)
    known = {*report.duplicates, *_known_duplicates(report, work, digest)}
    render.check(
        Report(report.members, report.problems, report.warnings, tuple(sorted(known))), out_console
    )
    if report.problems:
        count = len(report.problems)
        raise PoolError(f"the pool cannot be blended: {count} problem(s), listed above")


@app.command()
def leaderboard(
    work: Work = WORK,
    quiet: Quiet = False,
    json: Json = None,
    markdown: Markdown = None,
) -> None:
    """Show the last run's table again, or write it for machines.

    Example: soup leaderboard --json board.json --markdown board.md
    """
    show(soup.show(work), locals(), out_console)


@app.command()
def families() -> None:
    """List the families of models that are asked as VLMEvalKit asks them, and what they need.

    Options of a family's wrapper stand in soup.toml, in a table named family.NAME.

    Example: soup families
    """
    render.families(FAMILIES, _installed("transformers"), out_console)


@app.command()
def doctor(
    context: typer.Context,
    ckpt: Annotated[
        Path | None, typer.Argument(metavar="[CKPT]", help="A model directory, or an adapter's.")
    ] = None,
    base: Base = None,
    worker_python: WorkerPython = None,
    family: FamilyName = None,
    trust_remote_code: Trust = False,
    try_: Annotated[
        bool, typer.Option("--try", help="Load the model and put one made-up question to it.")
    ] = False,
    device: Device = "auto",
    compute_dtype: ComputeDtype = "auto",
    max_new_tokens: MaxNewTokens = 64,
    work: Work = WORK,
) -> None:
    """Say what scoring a checkpoint needs, what of it is there, and how to set up the rest.

    Looks at the Python that would load it. Exit code 1 when something is missing. Without CKPT:
    about that Python alone.

    Example: soup doctor ckpts/run-1 --try
    """
    given = locals() | {"work": work / "doctor", "batch_size": None}
    given |= {"judge": None, "judge_url": None}
    if try_ and ckpt is None:
        raise UsageError("--try: name the checkpoint to load")
    with Watch(err_console) as watch, scorer_of(given) as scorer:
        model = None if ckpt is None else open_checkpoint(ckpt, base=base)
        python, kind = scorer.python_for(model)
        found = examine(python, model, kind, trust_remote_code)
        render.diagnosis(found, out_console)
        if not found.healthy:
            raise ScoringError("something is missing: see above")
        if try_ and model is not None:
            render.trial(ask_once(scorer, model, given["work"], watch), out_console)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("soup-demo"),
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a real small pool, make all three soups of it, show the leaderboard.

    Takes about two minutes on two cores, without a GPU or a network.

    Example: soup demo && cd soup-demo && soup greedy ckpts/*
    """
    from soup.cli.demo import run

    with Watch(err_console, quiet) as watch:
        boards = run(directory, device, watch)
    if not quiet:
        render.leaderboard(boards[-1], out_console, others=boards[:-1])
    # `make demo` leaves the user outside the environment: then only the whole path works.
    command = "soup" if shutil.which("soup") else Path(sys.executable).with_name("soup")
    text = f"\nNext, in the same pool:  cd {directory} && {command} greedy ckpts/*"
    out_console.print(text, highlight=False, soft_wrap=True)


def _make(kind: str, given: dict[str, Any]) -> None:
    settings = settings_of(given)
    if given["dry_run"]:
        _plan(kind, given, settings)
        return
    require_places(given)
    pool = soup.Pool.open(*given["ckpts"], dtype=settings.dtype, base=given["base"])
    with Watch(err_console, given["quiet"]) as watch, scorer_of(given) as scorer:
        board = soup.make(kind, pool, scorer, settings, watch)
    show(board, given, out_console)


def _plan(kind: str, given: dict[str, Any], settings: Settings) -> None:
    """Everything that can be known before anything is read, scored or written."""
    report = soup.inspect(given["ckpts"], settings.dtype, given["base"])
    render.check(report, out_console)
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
        out_console.print(line, markup=False, highlight=False, soft_wrap=True)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _known_duplicates(report: Report, work: Path, read: bool) -> list[tuple[str, str]]:
    journal = Journal.open(work, create=read)
    if read:
        with Watch(err_console) as watch:
            identify(report.members, journal, watch)
        return same_content(report.members)
    known = []
    for member in report.members:
        digest = journal.digest_of(member)
        if digest is not None:
            member.remember_digest(digest)
            known.append(member)
    return same_content(known)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; the one place where errors become a line and an exit code."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(standalone_mode=False)
    except SoupError as error:
        _fail(str(error), error.exit_code)
    except CommandError as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = STOPPED
    except BrokenPipeError:
        os._exit(141)  # whoever read our output has gone
    if code == STOPPED:  # typer, too, returns this for Ctrl-C
        _fail("stopped; what has been scored is kept, the same command goes on from there", code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str, code: int) -> None:
    err_console.print("error:", style="bold red", end=" ")
    err_console.print(text, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
