"""Answers to one benchmark, kept as they come, so that what follows a crash asks only the rest."""

import json
import os
from pathlib import Path
from typing import IO, Any


class Kept:
    """A file of JSON lines: the key of the result that they are for, then one answer each.

    The key is of weights, questions and settings, so no other model inherits an answer. A line cut
    short by a crash is dropped, and so is a file that is for another result.
    """

    def __init__(self, file: Path, key: str) -> None:
        """Read what is there, and be ready to go on.

        Args:
            file: where; its directory is made.
            key: of the result, see ``soup.scoring.result_key``.
        """
        self.known: dict[int, str] = {}
        self._file = file
        lines = self._valid(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in [key, *lines]))
        temporary.replace(file)
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
        self._stream.write(json.dumps([index, answer]) + "\n")

    def close(self, remove: bool) -> None:
        """Let go of the file; ``remove`` it when the answers have become a result."""
        self._stream.close()
        if remove:
            self._file.unlink(missing_ok=True)
