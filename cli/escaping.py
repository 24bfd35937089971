"""Names from files on their way to the terminal: neither control characters nor rich's markup."""

from rich.markup import escape as _escape

from soup.words import WORD, shown


def escape(text: object, limit: int = WORD) -> str:
    """A text in one line, safe, not over ``limit`` characters, to stand in rich's markup."""
    return _escape(shown(text, limit))
