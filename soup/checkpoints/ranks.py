"""Rank and scale of each module of an adapter, as PEFT matches ``rank_pattern`` and the like.

The patterns are regular expressions that strangers wrote, and some take years to match. Only those
of a simple form are matched, which is the form that trainers write.
"""

import importlib
import math
import re
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from soup.errors import CheckpointError

LONGEST = 500  # characters of a module's path or of a pattern that are matched
WILD = 2  # how many parts of a pattern may match any number of characters
PATIENCE = 10.0  # seconds for all modules of an adapter

_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")


class Ranks:
    """What an adapter's settings say of its modules.

    Args:
        file: where they stand, for errors.
        settings: ``r``, ``lora_alpha``, ``use_rslora``, ``rank_pattern``, ``alpha_pattern``.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self._file, self._settings = file, settings
        self._left = PATIENCE

    def of(self, module: str) -> tuple[int, float]:
        """Rank and scale (alpha/r, rank-stabilised alpha/√r) of a module, by its path.

        Raises:
            CheckpointError: they cannot be told; the message says why.
        """
        try:
            rank = int(self._find("rank_pattern", module, self._settings.get("r", 8)))
            alpha = float(self._find("alpha_pattern", module, self._settings.get("lora_alpha", 8)))
            stable = self._settings.get("use_rslora")
            scale = alpha / math.sqrt(rank) if stable else alpha / rank
            if not math.isfinite(scale):
                raise ValueError(f"the scale is {scale}")
        except (ValueError, TypeError, AttributeError, ArithmeticError, re.error) as error:
            text = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"{self._file}: rank or alpha of {module[:LONGEST]} cannot be told ({text})"
            ) from error
        return rank, scale

    def _find(self, pattern: str, module: str, default: Any) -> Any:
        given = self._settings.get(pattern) or {}
        started = time.monotonic()
        for key, value in given.items():
            if key == module or module.endswith(f".{key}"):
                return value
            if re.fullmatch(r"[\w.-]*", key) and "." not in key:
                continue  # a plain name, which is not this module's
            if len(module) > LONGEST:
                raise ValueError(f"{pattern}: a path of {len(module)} characters")
            if _simple(key).match(module):
                return value
            if time.monotonic() - started > self._left:
                raise ValueError(f"{pattern}: takes too long to match")
        self._left -= time.monotonic() - started
        return default


@lru_cache(maxsize=4096)
def _simple(key: str) -> "re.Pattern[str]":
    """A pattern as PEFT builds it, if it is of a form that cannot take long.

    Raises:
        ValueError: it is not; or too long.
    """
    if len(key) > LONGEST:
        raise ValueError(f"a pattern of {len(key)} characters")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a later Python may read otherwise
        try:
            wild = _wild(_parser.parse(key))
        except (RecursionError, OverflowError):
            wild = WILD + 1
        if wild > WILD:
            raise ValueError(f"the pattern {key!r} is too complicated; name the modules instead")
        return re.compile(rf"(.*\.)?({key})$")


def _wild(parsed: Iterable[Any]) -> int:
    """How many parts match any number of characters; more than ``WILD`` for what is not simple."""
    count = 0
    for kind, value in parsed:
        name = str(kind)
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT"):
            continue
        if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            most, body = value[1], list(value[2])
            if len(body) == 1 and str(body[0][0]) in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
                count += int(most) > 1
            elif int(most) <= 1:  # an optional group
                count += _wild(body)
            else:
                return WILD + 1
        elif name == "SUBPATTERN":
            count += _wild(value[-1])
        elif name == "BRANCH":
            count += max(map(_wild, value[1]))
        else:  # looks around, refers back
            return WILD + 1
    return count
