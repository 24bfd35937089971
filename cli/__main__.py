"""`python -m cli`, and by way of it `python -m soup`."""

from cli.app import main

if __name__ == "__main__":
    main()
