"""Companion files that decide answers and differ between members: named by file, key and value.

Each member is scored with its own, so whoever compares their numbers must know what else than
weights is different; and a soup of several has the reference's.
"""

from collections.abc import Iterator, Sequence

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.companions import (
    PROCESSOR_PARTS,
    TOKENS,
    Companions,
    Setting,
    kind_of,
    shown_key,
)
from soup.words import counted, shown

KEYS = 4  # of a file are shown
VALUE = 60  # characters of a value


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
        if setting is None or setting.file == "config.json" or _is_vocabulary(key, setting):
            continue
        if "tokenizer/json/" in key and None in (one, other):
            continue  # the same may stand in files of another form
        if (one and one.value) == (other and other.value):
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
