"""`soup`: options become one library call; errors become one line and an exit code."""

import os
import sys
from typing import Annotated, Any

import typer

import soup
from soup.cli import (
    caching,
    config,
    demo,
    differing,
    journal,
    line,
    looking,
    models,
    nightly,
    report,
    rescoring,
    soups,
    status,
    stopping,
    verifying,
)
from soup.cli.help import command
from soup.cli.options import BLEND_HELP
from soup.cli.values import Option, options_of
from soup.errors import SoupError
from soup.words import plain

CommandError: Any = typer.BadParameter.__mro__[2]
"""Click's base of all usage errors; newer typers carry their own click, older ones import it."""

app = typer.Typer(
    name="soup",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"soup {soup.__version__}")
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
    commands: dict[str, dict[str, Option]] = {}
    for known in app.registered_commands:
        assert known.callback is not None
        commands[known.name or known.callback.__name__] = options_of(known.callback)
    context.default_map = config.defaults(commands)


app.command("max")(soups.max_)
app.command()(soups.average)
app.command()(soups.greedy)
app.command(help=BLEND_HELP)(soups.blend)
app.command()(soups.score)
app.command()(soups.plan)
app.command()(nightly.nightly)
app.command()(nightly.rollback)
app.command()(journal.journal)
app.command()(looking.check)
app.command()(looking.leaderboard)
app.command()(differing.compare)
app.command()(differing.answers)
app.command()(line.line)
app.command()(report.report)
app.command()(rescoring.rescore)
app.command()(status.status)
app.command()(verifying.verify)
app.command()(models.families)
app.command()(models.doctor)
app.command()(caching.cache)
app.command("demo")(demo.demo)


def main() -> None:
    """Run the command line; the one place where errors become a line and an exit code."""
    try:
        code = command(app)(standalone_mode=False)
        sys.stdout.flush()
    except SoupError as error:
        _fail(str(error), error.exit_code)
    except CommandError as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = stopping.CODE
    except BrokenPipeError:
        os._exit(141)  # whoever read our output has gone
    if code == stopping.CODE:  # typer, too, returns this for Ctrl-C
        _fail(stopping.TEXT, code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(text: str, code: int) -> None:
    # By hand: a mistake should not wait for rich.
    bare = not sys.stderr.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    if text:  # none where help was shown instead
        mark = "error:" if bare else "\x1b[1;31merror:\x1b[0m"
        print(mark, plain(text, lines=True), file=sys.stderr)
    sys.exit(code)
