"""The `soup` command; also `python -m soup`."""

import gc

from soup.cli import stopping

YOUNG = 50_000
"""Objects that are made before Python looks for circles among them; by default 700. A pool may have
hundreds of thousands of tensors, all of which stay, and looking at them again and again is a sixth
of a command's time."""


def main() -> None:
    """Import the command line and run it."""
    gc.set_threshold(YOUNG)
    stopping.catch(early=True)  # importing takes a moment
    from soup.cli import streams

    streams.open_closed()
    streams.guard()
    from soup.cli.app import main as run

    stopping.catch()
    try:
        run()
    except KeyboardInterrupt:  # while it was ending already
        stopping.at_once()


if __name__ == "__main__":
    main()
