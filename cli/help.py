"""Help without words that say nothing: the room is for what an option does."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import typer
import typer.main

from soup.cli.coercing import lighten


def command(app: typer.Typer) -> Any:
    """An application as a command, whose help shows the type of nothing that has no metavar.

    Typer would write ``<bool>`` beside a switch, ``<list[str]>`` beside a name, ``[x>=1]`` beside a
    number: a third of the width of a terminal with eighty columns.
    """
    built: Any = typer.main.get_command(app)
    names = built.context_settings["help_option_names"]
    for each in (built, *built.commands.values()):
        asked = each.get_help_option(typer.Context(each, help_option_names=names))
        asked.metavar = ""
        lighten(asked)
        for parameter in each.params:
            _shorten(parameter)
            lighten(parameter)
        each.format_help = _closer(each.format_help)
    return built


def _closer(format_help: Callable[..., None]) -> Callable[..., None]:
    """The same with less room between the columns, some of which are empty."""

    def format_closer(context: Any, formatter: Any) -> None:
        with _unneeded("rich.markdown", "Markdown"), _unneeded("rich.traceback", "Traceback"):
            drawing: Any = import_module("typer.rich_utils")  # imports rich: only help needs it
        drawing.STYLE_OPTIONS_TABLE_PADDING = (0, 1, 0, 0)
        format_help(context, formatter)

    return format_closer


@contextmanager
def _unneeded(module: str, name: str) -> Iterator[None]:
    """Let an import of one name from a module find an empty class, unless the module is there.

    What draws help imports parsers of Markdown and of source code, which no help of ours uses and
    which take a third of its time.
    """
    if module in sys.modules:
        yield
        return
    stand_in = ModuleType(module)
    setattr(stand_in, name, type(name, (), {}))
    sys.modules[module] = stand_in
    try:
        yield
    finally:
        del sys.modules[module]


def _shorten(parameter: Any) -> None:
    if parameter.param_type_name == "argument":
        parameter.display_type = lambda context: ""
        parameter.get_usage_pieces = lambda context: [parameter.metavar]
    elif parameter.metavar is None and parameter.is_flag:
        parameter.metavar = ""
    parameter._get_number_range_help_str = lambda: ""  # what is out of range is told when it is
