"""Progress on the command line's console; see ``soup.watching``."""

from soup.watching.terminal import Watch

__all__ = ["Watch"]
