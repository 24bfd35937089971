"""What is known of a checkpoint's content: its digest, who has found it, what its values are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soup.checkpoints.digests import Place, place
from soup.checkpoints.soundness import Soundness
from soup.checkpoints.tensors import TensorInfo
from soup.errors import CheckpointError

UNREAD = "0" * 64
"""Stands for the digest of a checkpoint of which nothing will be recorded; nobody compares it."""

FileState = tuple[str, int, int, int, int]
"""Path, size, mtime (ns), inode and ctime (ns) of a file: while none differs, its content is the
same. The last is the kernel's: no program that writes a file can set it back."""


def file_states(files: Iterable[Path]) -> tuple[FileState, ...]:
    """What is known of files without reading them.

    Raises:
        CheckpointError: one is not there any more.
    """
    try:
        pairs = [(str(file.resolve()), file.stat()) for file in files]
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return tuple((path, s.st_size, s.st_mtime_ns, s.st_ino, s.st_ctime_ns) for path, s in pairs)


@dataclass
class Known:
    """What was told of a checkpoint, or was found in its bytes.

    Attributes:
        digest: of its content; None where nobody has told it, ``UNREAD`` where nobody will.
        soundness: what is wrong with its values; None before there is a digest.
        roots: by stored tensor's name the root of its values (``digests``), in hexadecimal digits;
            empty where they are not known.
        states: what its files were when they were last compared with what they had been; None
            before that.
    """

    digest: str | None = None
    soundness: Soundness | None = None
    roots: Mapping[str, str] = field(default_factory=dict)
    states: tuple[FileState, ...] | None = None
    _found: str | None = None
    _by_place: dict[Place, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: it has found nothing in the bytes itself."""
        return vars(self) | {"_found": None}

    @property
    def told(self) -> str | None:
        """The digest, if it is one."""
        return None if self.digest == UNREAD else self.digest

    @property
    def unproven(self) -> bool:
        """Whether the digest was told, and was not found by this process in the bytes."""
        return self.told is not None and self._found != self.digest

    def take(self, digest: str, values: Soundness, roots: Mapping[str, str] | None) -> None:
        """Take what was told, or remembered; roots that are known already are kept."""
        self.digest, self.soundness = digest, values
        if roots:
            self.roots, self._by_place = roots, {}

    def prove(self) -> None:
        """The digest was found in the bytes."""
        self._found = self.digest

    def root_at(self, info: TensorInfo, stored: Mapping[str, Sequence[TensorInfo]]) -> str | None:
        """The root of the values that lie where a tensor lies, by whatever name.

        Args:
            info: the tensor.
            stored: by name what ``roots`` are of, in the first of each.
        """
        if not self._by_place:
            named = ((name, infos[0]) for name, infos in stored.items() if name in self.roots)
            self._by_place = {place(one): self.roots[name] for name, one in named}
        return self._by_place.get(place(info))
