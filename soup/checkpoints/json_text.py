"""JSON that others wrote: whatever is wrong with it is an error of ours, in one line."""

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soup.checkpoints.safe import LARGEST, read_bounded
from soup.checkpoints.tensors import LFS_POINTER, LFS_PREFIX
from soup.errors import CheckpointError

DEEPEST = 100
"""Levels of objects and lists; a config.json has about five."""

MOST = 1_000_000
"""Objects and lists in one text: a header has three for each tensor, the largest tokenizer half a
million."""

Pairs = Callable[[list[tuple[str, Any]]], Any]


def parse(text: str | bytes, pairs: Pairs | None = None) -> Any:
    """As ``json.loads``; ``pairs`` makes an object of its names and values.

    Raises:
        ValueError: it is no JSON, nested deeper than Python's stack, or of too many pieces.
    """
    if len(text) > MOST and _pieces(text) > MOST:
        raise ValueError(f"more than {MOST:,} objects and lists")
    collects = gc.isenabled()
    gc.disable()  # nothing of JSON is garbage: looking for it takes most of the time
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    finally:
        if collects:
            gc.enable()


def _pieces(text: str | bytes) -> int:
    """How many objects and lists there are, at most."""
    if isinstance(text, str):
        return text.count("[") + text.count("{")
    return text.count(b"[") + text.count(b"{")


def parse_distinct(text: bytes) -> Any:
    """As ``parse`` of an object whose names, and those of the objects in it, all differ.

    A hook that is called for each object takes as long as all the rest, so names are counted where
    that is safe: each is a quote, nothing escaped, a quote and a colon. What stands twice, or
    deeper, or begins with a colon, only makes the count larger than that of the names found.

    Raises:
        ValueError: it is no JSON; or a name stands twice, and which.
    """
    spaced = any(b'"' + space in text for space in (b" ", b"\n", b"\t", b"\r"))
    if b"\\" in text or spaced or not text.startswith(b'{"'):  # the last is UTF-8 then
        return parse(text, distinct)
    found = parse(text)
    names = len(found) + sum([len(v) for v in found.values() if type(v) is dict])
    return found if names == text.count(b'":') else parse(text, distinct)


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose names stands twice, where the format forbids that.

    Raises:
        ValueError: names the first that does.
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name} stands there twice")
        found[name] = value
    return found


def shallow(value: Any, most: int = DEEPEST) -> Any:
    """``value`` itself, if nothing in it is nested deeper than ``most``.

    Raises:
        ValueError: something is, and what looks through it would fail.
    """
    level = [value] if type(value) is dict or type(value) is list else []
    for _ in range(most):
        level = [  # a text may hold millions of values: a look at a type is the cheapest
            inner
            for outer in level
            for inner in (outer.values() if type(outer) is dict else outer)
            if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return value
    raise ValueError(f"nested more than {most} levels deep")


def read_object(file: Path, most: int = LARGEST) -> dict[str, Any]:
    """A file that holds a JSON object, of at most so many bytes.

    Raises:
        CheckpointError: it cannot be read, or holds something else; the message says what.
    """
    content = b""
    try:
        content = read_bounded(file, most)
        found = shallow(parse(content))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        what = LFS_POINTER if content.startswith(LFS_PREFIX) else f"not JSON ({error})"
        raise CheckpointError(f"{file}: {what}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: expected a JSON object")
    return found
