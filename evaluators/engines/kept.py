"""Answers to one benchmark, kept as they come, so that what follows a crash asks only the rest."""

import json
from pathlib import Path
from typing import IO, Any

from soup.evaluators.writing import write_whole, writing

ANSWERS = ".answers"
"""The end of such a file's name."""


class Kept:
    """A file of JSON lines: the key of the result that they are for, then one answer each.

    The key is of weights, questions and settings, so no other model inherits an answer. A line cut
    short by a crash is dropped, and so is a file that is for another result.
    """

    def __init__(self, file: Path, key: str) -> None:
        """Read what is there, and be ready to go on.

        Args:
            file: where; its directory is made.
            key: of the result, see ``soup.choosing.scoring.result_key``.

        Raises:
            ScoringError: it cannot be written; nor can what is added.
        """
        self.known: dict[int, str] = {}
        self._file = file
        lines = self._valid(key)
        text = "".join(json.dumps(line) + "\n" for line in [key, *lines])
        write_whole(file, lambda path: path.write_text(text))
        with writing(file):
            self._stream: IO[str] = file.open("a", buffering=1)  # a line at a time

    def _valid(self, key: str) -> list[Any]:
        lines: list[Any] = []
        try:
            head, *rest = self._file.read_text().splitlines()
            if json.loads(head) != key:
                return []
            for text in rest:
                index, answer = json.loads(text)
                self.known[index] = answer
                lines.append([index, answer])
        except (OSError, ValueError, TypeError):  # none, or cut short from here on
            pass
        return lines

    def add(self, index: int, answer: str) -> None:
        """Keep one answer."""
        with writing(self._file):
            self._stream.write(json.dumps([index, answer]) + "\n")

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()
