"""Faults put into whole runs, and what comes of them; ``python -m tests.faults`` prints a table."""
