"""What every place elsewhere can do: name its files, say their sizes and versions, read ranges."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from soup.errors import CheckpointError, UnfinishedError, UsageError
from soup.remote.address import Address


@dataclass(frozen=True)
class Entry:
    """One file of a place.

    Attributes:
        name: relative to the place, with ``/``.
        size: in bytes; None where the place does not say.
        version: changes when the content does; empty where the place has no such thing.
        sha256: of the content, as hexadecimal digits, where the place knows it.
        ranged: whether it can be read from another byte than the first.
    """

    name: str
    size: int | None
    version: str
    sha256: str = ""
    ranged: bool = True

    @property
    def key(self) -> str:
        """The same for the same content of the same file."""
        text = "\n".join([self.name, str(self.size), self.version, self.sha256])
        return hashlib.sha256(text.encode()).hexdigest()[:40]


class Cut(Exception):
    """A transfer ended early, or did not begin; it may be tried again."""


class Place(Protocol):
    """Where a model is.

    Every method may raise ``CheckpointError`` with the place's address, and ``read`` ``Cut``.
    """

    address: Address

    def names(self) -> Sequence[str] | None:
        """The files that are there; None where the place cannot tell."""
        ...

    def stat(self, names: Sequence[str]) -> Mapping[str, Entry]:
        """What is known of files; those that are not there are left out."""
        ...

    def revision(self) -> str:
        """The state that ``names`` and ``stat`` spoke of; empty where files' versions tell it."""
        ...

    def read(self, entry: Entry, start: int, end: int | None) -> Iterator[bytes]:
        """Bytes ``start`` up to ``end`` of a file, in pieces; None is its end."""
        ...

    def require_same(self, entry: Entry) -> None:
        """A file that was read is what it was before, as far as ``read`` has not seen to it."""
        ...


def changed(address: Address, name: str) -> CheckpointError:
    """A file is another one than when it was listed."""
    return UnfinishedError(
        f"{address}: {name} was changed while it was read; run the command again when it is "
        "complete"
    )


def missing_package(address: Address, package: str) -> UsageError:
    """A library that reads such places is not installed."""
    return UsageError(
        f"{address}: needs {package}, which is not installed here; run: "
        "pip install 'vlm-soup[remote]'"
    )


def is_plain(name: str) -> bool:
    """Whether a file's name stays within the directory that it is put into."""
    parts = name.split("/")
    printable = name.isprintable() and "\\" not in name
    return printable and all(0 < len(part) < 250 and part not in (".", "..") for part in parts)
