"""Words for people: what comes from a file is made safe and short before it is shown.

A tensor, a path, a token or a benchmark may be called anything: escape sequences that move a
terminal's cursor, line breaks that look like messages of ours, markup, a hundred thousand letters.
Whatever is shown goes through one of these functions, and none of them is needed twice.
"""

import difflib
import re
import textwrap
from collections.abc import Iterable, Sequence
from unicodedata import category

WORD = 300
"""The longest run of characters without a space in a message; paths are rarely longer."""

MESSAGE = 2000
"""The longest message."""

NAME = 80
"""The longest name in a table."""

_LONG = re.compile(rf"\S{{{WORD + 1},}}")

_SPECIAL = re.compile(r"([\\`*\[\]~$|@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.)")
"""What means something in a line of Markdown: an underscore at the edge of a word; what GitHub
makes links of."""


def plain(text: object, lines: bool = False) -> str:
    r"""A text without characters that command a terminal: each is spelled, e.g. ``\x1b``.

    These are all that are not printable: control characters, line breaks, lone surrogates, and
    those that turn the direction of writing.

    Args:
        text: anything; its ``str`` is taken.
        lines: leave line breaks as they are.
    """
    found = str(text)
    if found.isprintable():
        return found
    return "".join(char if _harmless(char, lines) else _spelled(char) for char in found)


def _harmless(char: str, lines: bool) -> bool:
    return char.isprintable() or (char == "\n" and lines) or category(char) == "Zs"


def _spelled(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def shown(name: object, limit: int = NAME) -> str:
    """One name out of a file: in one line, safe, at most ``limit`` characters long.

    Of a longer one both ends are shown, and how long it is.
    """
    text = str(name)
    if len(text) <= limit and len(safe := plain(text)) <= limit:
        return safe
    middle = f"…({len(text):,} characters)…"
    room = max(limit - len(middle), 2)
    last = room // 2
    return f"{plain(text[:room])[: room - last]}{middle}{plain(text[-room:])[-last:]}"


def sentence(text: object) -> str:
    """A message in one line: safe, no word over ``WORD`` characters, ``MESSAGE`` in all."""
    found = str(text)
    if len(found) > WORD:
        found = _LONG.sub(lambda word: shown(word.group(), WORD), found)
    return shown(found, MESSAGE)


def markdown(text: object, limit: int = NAME) -> str:
    """One name in a line or a table's cell of Markdown: nothing in it is markup."""
    safe = shown(text, limit)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        safe = safe.replace(char, entity)
    return _SPECIAL.sub(r"\\\1", safe)


def counted(count: int, thing: str, things: str | None = None) -> str:
    """``1 tensor``, ``2 tensors``, ``1,500 entries``."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def listed(names: Sequence[object], most: int = 3) -> str:
    """``a``, ``a and b``, ``a, b and 8 more``."""
    found = [shown(name, WORD) for name in names]
    if len(found) > most:
        rest = len(found) - (most - 1)
        found = [*found[: most - 1], f"{rest:,} more"]
    return " and ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))


def closest(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Those of the known names that a mistyped one may mean, the likeliest first, none twice.

    Capitals, and whether words are joined by ``-``, ``_`` or nothing, do not count.
    """
    by_key: dict[str, list[str]] = {}
    for name in dict.fromkeys(known):
        by_key.setdefault(_key(name), []).append(name)
    keys = difflib.get_close_matches(_key(word[:NAME]), by_key, most, 0.6)
    return [name for key in keys for name in by_key[key]][:most]


def _key(name: str) -> str:
    return re.sub(r"[-_. ]", "", name).lower()


def did_you_mean(word: str, known: Iterable[str], most: int = 3) -> str:
    """``did you mean A, B or C?``, else ``expected one of`` all that are known."""
    known = list(dict.fromkeys(known))
    close = closest(word, known, most)
    if not close:
        return f"expected one of {', '.join(known)}" if known else ""
    return f"did you mean {either(close)}?"


def either(names: Sequence[object]) -> str:
    """``A``, ``A or B``, ``A, B or C``."""
    found = [shown(name, WORD) for name in names]
    return " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))


def folded(text: str, width: int | None) -> str:
    """Text in lines of at most so many columns, broken between words; a longer word stays whole.

    A terminal would break the lines anywhere. None is as wide as it takes: a pipe.
    """
    if width is None:
        return text
    lines = []
    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line,
            max(width, 20),
            subsequent_indent=indent,
            replace_whitespace=False,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [line]
    return "\n".join(lines)
