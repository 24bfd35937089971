"""`soup`: options become one library call; errors become one line and an exit code."""

import gc
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

import soup
from soup.cli import stopping
from soup.cli.help import command
from soup.cli.streams import ReaderGone
from soup.errors import SoupError
from soup.words import folded, plain

COMMANDS = {
    "max": "soups.max_",
    "average": "soups.average",
    "greedy": "soups.greedy",
    "blend": "soups.blend",
    "score": "soups.score",
    "plan": "soups.plan",
    "nightly": "nightly.nightly",
    "rollback": "nightly.rollback",
    "journal": "journal.journal",
    "check": "looking.check",
    "leaderboard": "looking.leaderboard",
    "compare": "differing.compare",
    "answers": "differing.answers",
    "line": "line.line",
    "report": "report.report",
    "rescore": "rescoring.rescore",
    "status": "status.status",
    "verify": "verifying.verify",
    "families": "models.families",
    "doctor": "models.doctor",
    "cache": "caching.cache",
    "demo": "demo.demo",
}
"""In the order of the help: module and function of each, imported when it is asked for."""

GARBAGE = 100_000
"""Objects made from one search for garbage to the next: what a command makes stays, nearly all, and
of tens of thousands of tensors looking at it again and again takes a tenth of the time."""

CommandError: Any = typer.BadParameter.__mro__[2]
"""Click's base of all usage errors; newer typers carry their own click, older ones import it."""


def _version(value: bool) -> None:
    if value:
        print(f"soup {soup.__version__}")
        raise typer.Exit


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
      soup greedy ckpts/* --suite points --judge MODEL --judge-url URL
      soup average ckpts/run-1 ckpts/run-2 -o averaged
      soup blend ckpts/* --method ties --base base

    Every option can stand in a soup.toml in the working directory; the command line wins.
    """
    from soup.cli import config

    if config.there():
        from soup.cli.values import options_of

        commands = {name: options_of(_imported(name)) for name in COMMANDS}
        context.default_map = config.defaults(commands)


def application(asked: str | None = None) -> typer.Typer:
    """The command line: with the one command that is asked for, or with all of them."""
    app = typer.Typer(
        name="soup",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    for name in COMMANDS if asked is None else (asked,):
        app.command(name)(_imported(name))
    return app


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = COMMANDS[name].partition(".")
    found: Callable[..., Any] = getattr(import_module(f"soup.cli.{module}"), function)
    return found


def main() -> None:
    """Run the command line; the one place where errors become a line and an exit code."""
    first = sys.argv[1] if len(sys.argv) > 1 else None
    gc.set_threshold(GARBAGE)
    try:
        # Others need not be imported, nor their options made; where none is named, help lists all.
        app = application(first if first in COMMANDS else None)
        code = command(app)(standalone_mode=False)
        sys.stdout.flush()
    except SoupError as error:
        _fail(str(error), error.exit_code)
    except CommandError as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = stopping.CODE
    except ReaderGone:
        os._exit(ReaderGone.CODE)
    except FileNotFoundError:
        if _here():
            raise
        _fail("the working directory is not there any more; change to one that is", 1)
    if code == stopping.CODE:  # typer, too, returns this for Ctrl-C
        _fail(stopping.TEXT, code)
    sys.exit(code if isinstance(code, int) else 0)


def _here() -> bool:
    """Whether there is a working directory."""
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def _fail(text: str, code: int) -> None:
    # By hand: a mistake should not wait for rich.
    bare = not sys.stderr.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    if text:  # none where help was shown instead
        mark = "error:" if bare else "\x1b[1;31merror:\x1b[0m"
        text = f"error: {plain(text, lines=True)}"
        if sys.stderr.isatty():
            text = folded(text, os.get_terminal_size(sys.stderr.fileno()).columns or None)
        print(mark + text.removeprefix("error:"), file=sys.stderr)
    sys.exit(code)
