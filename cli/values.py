"""What an option may be in soup.toml: its own type, as the command line has it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from typer.models import OptionInfo

from soup.errors import UsageError
from soup.words import shown


class Count:
    """The kind of an option that is a number or a word; on the command line it is text."""


COUNT = Count()
"""Stands in the annotation of such an option."""

WANTED: Mapping[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    Path: ((str,), "a path in quotes"),
    str: ((str,), "text in quotes"),
    Count: ((int, str), 'a whole number, or "auto"'),
}
"""By an option's type: what TOML has for it, and how to say that."""


@dataclass(frozen=True)
class Option:
    """What an option may be.

    Attributes:
        kind: a key of ``WANTED``.
        several: whether it may be given several times.
        least: the smallest number; None where any will do.
        most: the largest.
    """

    kind: type
    several: bool = False
    least: float | None = None
    most: float | None = None

    @property
    def wanted(self) -> str:
        """It in words."""
        texts = [f"{self.least:g} or more"] if self.least is not None else []
        texts += [f"{self.most:g} or less"] if self.most is not None else []
        text = WANTED[self.kind][1] + (f", {' and '.join(texts)}" if texts else "")
        return f"{text}, or a list of such" if self.several else text

    def fits(self, value: Any) -> bool:
        """Whether one value is of the type and in range."""
        types = WANTED[self.kind][0]
        if not isinstance(value, types) or isinstance(value, bool) != (bool in types):
            return False
        if not isinstance(value, (int, float)):
            return True
        return (self.least is None or value >= self.least) and (
            self.most is None or value <= self.most
        )


def options_of(command: Callable[..., Any]) -> dict[str, Option]:
    """The options of a command, by their names without the dashes in front."""
    found = {}
    for name, hint in get_type_hints(command, include_extras=True).items():
        kind, *infos = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        info = next((info for info in infos if isinstance(info, OptionInfo)), None)
        if info is None:
            continue
        # In an annotation, the first of the names is where a default would stand otherwise.
        given = [n for n in (info.default, *(info.param_decls or ())) if isinstance(n, str)]
        long = max([n for n in given if n.startswith("-")] or [f"--{name}"], key=len)
        kind = Count if COUNT in infos else kind
        found[long.lstrip("-").replace("_", "-")] = _option(kind, info)
    return found


def _option(kind: Any, info: OptionInfo) -> Option:
    """From a type such as ``list[Path] | None``."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    several = get_origin(kind) is list
    return Option(get_args(kind)[0] if several else kind, several, info.min, info.max)


def require(option: Option, value: Any, where: str) -> Any:
    """A value that an option can have; one where several are allowed becomes a list of one.

    Args:
        option: which.
        value: as TOML has it.
        where: file, table and key, for people.

    Raises:
        UsageError: it is of another type, or out of range; the message says what is wanted.
    """
    values = value if option.several and isinstance(value, list) else [value]
    for each in values:
        if not option.fits(each):
            raise UsageError(f"{where}: expected {option.wanted}, found {_found(each)}")
    return values if option.several else str(value) if option.kind is Count else value


def _found(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a table" if isinstance(value, dict) else "a list"
    return shown(repr(value) if isinstance(value, str) else str(value).lower(), 60)
