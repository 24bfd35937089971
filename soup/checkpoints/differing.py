"""Companion files that decide answers and differ between members: named by file, key and value.

Each member is scored with its own, so whoever compares their numbers must know what else than
weights is different; and a soup of several has the reference's.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.companions import (
    PROCESSOR_PARTS,
    TOKENS,
    Companions,
    Setting,
    kind_of,
    shown_key,
)
from soup.checkpoints.json_text import parse
from soup.words import counted, shown

KEYS = 4  # of a file are shown
VALUE = 60  # characters of a value
MERGES, VOCABULARY, ADDED = (
    f"tokenizer/json/{part}" for part in ("merges", "vocabulary", "added_tokens")
)


def differing(reference: Checkpoint, members: Sequence[Checkpoint]) -> list[str]:
    """What a user should know of members' companion files, a line for each file that differs.

    What stands in config.json is compared elsewhere, see ``configs``, and so are tokens, whatever
    files hold them, see ``tokens``.
    """
    return [
        f"{member.name}: differs from {reference.name} in {line}; by default each member is "
        f"scored with its own, a soup of several with {reference.name}'s"
        for member in members
        if member.companions.digest != reference.companions.digest and not member.undecided
        for line in _lines(member.companions, reference.companions, reference.name)
    ]


def _lines(theirs: Companions, ours: Companions, reference: str) -> Iterator[str]:
    files: dict[str, list[str]] = {}
    code = []
    for key in sorted({*theirs.settings, *ours.settings}):
        one, other = theirs.settings.get(key), ours.settings.get(key)
        setting = one or other
        if (one and one.value) == (other and other.value):
            continue
        if setting is None or setting.file == "config.json":
            continue
        if "tokenizer/json/" in key and None in (one, other):
            continue  # the same may stand in files of another form
        if key == MERGES and _same(VOCABULARY, theirs, ours):
            files.setdefault(setting.file, []).append("how it merges pieces into tokens")
        if key == ADDED:
            if found := _added(theirs, ours, reference):
                files.setdefault(setting.file, []).extend(found)
            continue
        if _is_vocabulary(key, setting) or _is_one_id(key, one, other):
            continue
        if key == "chat template":
            files.setdefault("chat template", [])
        elif kind_of(setting.file) == "code":
            code.append(setting.file)
        elif key == setting.file:
            files.setdefault(setting.file, [])
        else:
            name = shown_key(key).removeprefix(PROCESSOR_PARTS.get(setting.file, ""))
            text = f"{shown(name)} {_value(one)} ({reference}: {_value(other)})"
            files.setdefault(setting.file, []).append(text)
    for file, found in files.items():
        more = len(found) - KEYS
        rest = f" and {counted(more, 'more setting')}" if more > 0 else ""
        yield shown(file) + (f": {', '.join(found[:KEYS])}{rest}" if found else "")
    if code:
        more = len(code) - KEYS
        rest = f" and {more:,} more" if more > 0 else ""
        yield f"code: {', '.join(map(shown, code[:KEYS]))}{rest}"


def _same(key: str, theirs: Companions, ours: Companions) -> bool:
    one, other = theirs.settings.get(key), ours.settings.get(key)
    return one is not None and other is not None and one.value == other.value


def _added(theirs: Companions, ours: Companions, reference: str) -> list[str]:
    """Added tokens that both have, in the same row, and that are found in a text otherwise."""
    one, other = (_added_tokens(companions) for companions in (theirs, ours))
    return [
        f"token {shown(token)!r} {key} {json.dumps(value)} "
        f"({reference}: {json.dumps(other[row, token].get(key))})"
        for (row, token), found in one.items()
        if (row, token) in other
        for key, value in found.items()
        if value != other[row, token].get(key)
    ]


def _added_tokens(companions: Companions) -> dict[tuple[Any, str], dict[str, Any]]:
    content = companions.read("tokenizer.json") or b"{}"
    try:
        tokens = parse(content).get("added_tokens") or ()
        return {(token["id"], str(token["content"])): token for token in tokens}
    except (ValueError, TypeError, AttributeError, KeyError):
        return {}


def _is_one_id(key: str, one: Setting | None, other: Setting | None) -> bool:
    """Whether one says ``[2]`` and the other ``2``: which token ends an answer."""
    if not key.endswith("_token_id") or one is None or other is None:
        return False
    return one.value.strip("[]") == other.value.strip("[]")


def _is_vocabulary(key: str, setting: Setting) -> bool:
    if kind_of(setting.file) != "tokenizer":
        return False
    if setting.file not in ("tokenizer.json", "tokenizer_config.json"):
        return True
    return shown_key(key).split(".")[0] in TOKENS | {"vocabulary", "merges", "added_tokens"}


def _value(setting: Setting | None) -> str:
    if setting is None:
        return "nothing"
    text = setting.value
    if text.startswith('"') and text.endswith('"'):
        text = text[1:-1]
    return shown(text, VALUE)
