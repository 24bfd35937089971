"""Answers to one benchmark, kept as they come, so that what follows a crash asks only the rest."""

import hashlib
import json
from pathlib import Path
from typing import IO, Any

from soup.evaluators.writing import write_whole, writing

ANSWERS = ".answers"
"""The end of such a file's name."""

DAMAGED = ".damaged"
"""The end of the name under which lines are set aside that are not as they were written."""

MOST = 4 << 30
"""Bytes of such a file, at most."""


class Kept:
    """A file of JSON lines: the key of the result that they are for, then one answer each.

    The key is of weights, questions and settings, so no other model inherits an answer. Every line
    ends in a checksum of the key and of itself: a damaged one is no answer, it is set aside and its
    question asked again. A line cut short by a crash is dropped, and so is a file that is for
    another result.

    Attributes:
        known: answers by position.
        damaged: lines that were set aside.
        aside: where they are.
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
        self.damaged = 0
        self.aside = file.with_name(f"{file.name}{DAMAGED}")
        self._file = file
        self._key = key
        broken = self._read()
        if broken:
            self.damaged = len(broken)
            write_whole(self.aside, lambda path: path.write_bytes(b"\n".join(broken) + b"\n"))
        lines = [self._line(index, answer) for index, answer in self.known.items()]
        text = "".join(f"{line}\n" for line in [self._head(), *lines])
        write_whole(file, lambda path: path.write_text(text))
        with writing(file):
            self._stream: IO[str] = file.open("a", buffering=1)  # a line at a time

    def _read(self) -> list[bytes]:
        """Take what is whole and ours; the lines that are damaged."""
        try:
            if not self._file.is_file() or self._file.stat().st_size > MOST:
                return []
            content = self._file.read_bytes()
        except OSError:
            return []
        *lines, _ = content.split(b"\n")  # what stands behind the last break was cut short
        if not lines:
            return []
        broken = []
        if lines[0] != self._head().encode():
            if _is_whole_head(lines[0]):
                return []  # another result's
            broken.append(lines[0])
        for line in lines[1:]:
            try:
                index, answer, _ = json.loads(line)
                if type(index) is not int or line != self._line(index, answer).encode():
                    raise ValueError
                self.known[index] = answer
            except (ValueError, TypeError, RecursionError):
                broken.append(line)
        return broken

    def _head(self) -> str:
        return json.dumps([self._key, _checksum(self._key, "")])

    def _line(self, index: int, answer: str) -> str:
        content = json.dumps([index, answer])
        return json.dumps([index, answer, _checksum(self._key, content)])

    def add(self, index: int, answer: str) -> None:
        """Keep one answer."""
        with writing(self._file):
            self._stream.write(self._line(index, answer) + "\n")

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()


def _is_whole_head(line: bytes) -> bool:
    """Whether a line is the head of some result's file, of this version or of one before it."""
    try:
        head: Any = json.loads(line)
        return isinstance(head, str) or head[1] == _checksum(str(head[0]), "")
    except (ValueError, TypeError, IndexError, KeyError, RecursionError):
        return False


def _checksum(key: str, content: str) -> str:
    return hashlib.blake2b(f"{key}\n{content}".encode(), digest_size=8).hexdigest()
