"""Plain values without pydantic, which recent versions of typer import for the first of them.

That takes longer than all the rest of a quick command. Whatever is not plainly right is left to
typer: what it accepts, and what it says of mistakes, stays as it is.
"""

from pathlib import Path
from typing import Any, get_args, get_origin

PLAIN = (bool, int, float, str, Path)


def lighten(parameter: Any) -> None:
    """Let a parameter of a typer that imports pydantic try the plain way first."""
    descriptor: Any = getattr(parameter, "type_descriptor", None)
    info = getattr(descriptor, "parameter_info", None)
    if info is None or not hasattr(parameter, "get_runtime_param"):
        return  # an older typer, which has no such thing
    annotation = descriptor.annotation
    kind = get_args(annotation)[0] if get_origin(annotation) is list else annotation
    if kind in PLAIN and not getattr(info, "parser", None):
        built = parameter.get_runtime_param
        parameter.get_runtime_param = lambda: _Trying(kind, info, built)


class _Trying:
    """In the place of typer's own, for one parameter."""

    def __init__(self, kind: Any, info: Any, built: Any) -> None:
        self._kind, self._info, self._built = kind, info, built

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """What typer makes of a value, from the command line or from soup.toml."""
        several = param.multiple or param.nargs == -1
        if value is None:
            return () if several else None
        if several and not isinstance(value, str):
            found = [self._plain(each) for each in value]
            if None not in found:
                return found
        elif not several and (one := self._plain(value)) is not None:
            return one
        return self._built().coerce(value, param=param, ctx=ctx)

    def _plain(self, value: Any) -> Any:
        """The value in its type; None where typer should look at it."""
        if self._kind is Path:
            checked = ("exists", "resolve_path", "path_type", "allow_dash")
            if any(getattr(self._info, name, None) for name in checked):
                return None
            return Path(value) if isinstance(value, (str, Path)) else None
        if type(value) is self._kind:
            return value if self._kind in (bool, str) or self._within(value) else None
        if not isinstance(value, str) or self._kind not in (int, float) or not value.isascii():
            return None
        try:
            number = self._kind(value)
        except ValueError:
            return None
        return number if self._within(number) and "_" not in value else None

    def _within(self, number: float) -> bool:
        """Whether it is in the range; NaN is in none, and is not plain."""
        low, high = getattr(self._info, "min", None), getattr(self._info, "max", None)
        return (
            number == number and (low is None or number >= low) and (high is None or number <= high)
        )
