"""soup.toml: every option may stand there; the command line wins."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soup.checkpoints.safe import read_bounded
from soup.cli.values import Option, require
from soup.errors import UsageError
from soup.words import did_you_mean

FILE = "soup.toml"
FAMILY = "family"
ENGINE = "engine"

LARGEST = 1 << 18
"""Bytes of it, at most."""

_STRING = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
_LONG_KEY = re.compile(r"(?<![\w-])(?:[\w-]+[ \t]*\.[ \t]*){20}")
"""Of more names than any of ours has: to read one takes its square."""


def there() -> bool:
    """Whether there is one, or something of its name that cannot be one."""
    return os.path.lexists(FILE)


def defaults(commands: Mapping[str, Mapping[str, Option]]) -> dict[str, dict[str, Any]]:
    """Option values by command, from ``soup.toml`` in the working directory.

    A key at the top holds for every command that has that option; a key in a table named after a
    command, e.g. ``[greedy]``, for that command alone. ``[family.NAME]`` is for ``families``,
    ``[engine.vllm]`` for ``vllm``; beside such a table, ``[engine] name`` is what ``engine`` is.

    Args:
        commands: per command, its options, see ``values.options_of``.

    Raises:
        UsageError: not TOML, a key that is no option, or a value that the option cannot have.
    """
    if not there():
        return {}
    content = read(Path(FILE))
    engines = content.get(ENGINE)
    if isinstance(engines, dict):
        others = [key for key in engines if key not in ("name", "vllm")]
        if others or not isinstance(engines.get("vllm", {}), dict):
            name = others[0] if others else "vllm"
            raise _unknown(f"[{ENGINE}] {name}", name, ["name", "vllm, a table"])
        content = {key: value for key, value in content.items() if key != ENGINE}
        content |= {ENGINE: engines["name"]} if "name" in engines else {}
    found: dict[str, dict[str, Any]] = {command: {} for command in commands}
    known = sorted({option for options in commands.values() for option in options})
    for key, value in content.items():
        if key in commands and isinstance(value, dict):
            for option, inner in value.items():
                if option not in commands[key]:
                    raise _unknown(f"[{key}] {option}", option, sorted(commands[key]))
                where = f"{FILE}: [{key}] {option}"
                found[key][_name(option)] = require(commands[key][option], inner, where)
        elif key in known and (key not in (FAMILY, ENGINE) or not isinstance(value, dict)):
            for command, options in commands.items():
                if key in options:
                    fitting = require(options[key], value, f"{FILE}: {key}")
                    found[command].setdefault(_name(key), fitting)
        elif key != FAMILY or not isinstance(value, dict):
            tables = [*commands, f"{FAMILY}.NAME", f"{ENGINE}.vllm"]
            raise _unknown(key, key, [*known, *(f"[{table}]" for table in tables)])
    return found


def families() -> dict[str, dict[str, Any]]:
    """Options of families of models: the tables ``[family.NAME]`` of ``soup.toml``, by name.

    A name with a dot need not be quoted: ``[family.ovis1.6]`` is the family ovis1.6.

    Raises:
        UsageError: not TOML, or an option outside of such a table.
    """
    content = read(Path(FILE)).get(FAMILY) if there() else None
    if not isinstance(content, dict):  # nothing, or an option's value
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, value in _leaves(content):
        family, _, option = name.rpartition(".")
        if not family:
            raise UsageError(
                f"{FILE}: [{FAMILY}] {option}: expected a table [{FAMILY}.NAME] around it"
            )
        found.setdefault(family, {})[_name(option)] = value
    return found


def vllm() -> dict[str, Any]:
    """Options of vLLM: the table ``[engine.vllm]`` of ``soup.toml``.

    Raises:
        UsageError: not TOML.
    """
    content = read(Path(FILE)).get(ENGINE) if there() else None
    table = content.get("vllm") if isinstance(content, dict) else None
    return {_name(key): value for key, value in table.items()} if isinstance(table, dict) else {}


def _leaves(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no table, with the names of the tables around it."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def read(file: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    if sys.version_info >= (3, 11):  # here: most commands find no such file
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = read_bounded(file, LARGEST).decode()
        if _LONG_KEY.search(_STRING.sub("x", text)):
            raise ValueError("a key of more than 20 names")
        return tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise UsageError(f"{file}: cannot be read as TOML: nested too deeply") from error
    except ValueError as error:  # TOML's own is one; so is Python's of a number of many digits
        raise UsageError(f"{file}: cannot be read as TOML: {error}") from error


def _unknown(where: str, option: str, known: list[str]) -> UsageError:
    return UsageError(f"{FILE}: unknown option {where}; {did_you_mean(option, known)}")


def _name(option: str) -> str:
    return option.replace("-", "_")
