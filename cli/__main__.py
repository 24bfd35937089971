"""The `soup` command; also `python -m soup`."""

import signal


def main() -> None:
    """Import the command line and run it."""
    # Importing takes a moment: Ctrl-C then just ends the process, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from soup.cli.app import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
