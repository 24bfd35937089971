"""The `soup` command; also `python -m soup`."""

from soup.cli import stopping


def main() -> None:
    """Import the command line and run it."""
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
