"""soup.toml: every option may stand there; the command line wins."""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soup.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "soup.toml"


def defaults(commands: Mapping[str, Mapping[str, bool]]) -> dict[str, dict[str, Any]]:
    """Option values by command, from ``soup.toml`` in the working directory.

    A key at the top holds for every command that has that option; a key in a table named after a
    command, e.g. ``[greedy]``, for that command alone.

    Args:
        commands: per command, its options (as on the command line, without dashes in front) and
            whether each may be given several times.

    Raises:
        UsageError: not TOML, or a key that is no option.
    """
    file = Path(FILE)
    if not file.is_file():
        return {}
    content = read(file)
    found: dict[str, dict[str, Any]] = {command: {} for command in commands}
    known = sorted({option for options in commands.values() for option in options})
    for key, value in content.items():
        if key in commands and isinstance(value, dict):
            for option, inner in value.items():
                if option not in commands[key]:
                    raise _unknown(f"[{key}] {option}", option, sorted(commands[key]))
                found[key][_name(option)] = _several(inner, commands[key][option])
        elif key in known and not isinstance(value, dict):
            for command, options in commands.items():
                if key in options:
                    found[command].setdefault(_name(key), _several(value, options[key]))
        else:
            raise _unknown(key, key, [*known, *(f"[{command}]" for command in commands)])
    return found


def read(file: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read as TOML: {error}") from error


def _unknown(where: str, option: str, known: list[str]) -> UsageError:
    close = difflib.get_close_matches(option, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
    return UsageError(f"{FILE}: unknown option {where}; {hint}")


def _name(option: str) -> str:
    return option.replace("-", "_")


def _several(value: Any, several: bool) -> Any:
    return [value] if several and not isinstance(value, list) else value
