"""Which image files a model is shown for each question of a benchmark."""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from soup.errors import BenchmarkError
from soup.evaluators.kit.images import BYTES, Item, decoded, look_at, safe_suffix, unpack
from soup.evaluators.kit.own_tables import resolve
from soup.evaluators.kit.regular import read_regular
from soup.evaluators.kit.tables import Found

LINKED = "paths in image_path begin in the table's directory, or in the working directory"


class Shown:
    """A benchmark's images, unpacked and looked at.

    Attributes:
        digest: SHA-256 of the data: the table, and the image files that it names.
        files: the table, and the files that it names; absolute paths.
        contents: by question a digest of its images, in order; empty for VLMEvalKit's own.
        notes: what a user should know.
    """

    def __init__(
        self, found: Found, name: str, cache: Path, progress: Callable[[int, int], None]
    ) -> None:
        """Unpack what is not there yet.

        Args:
            found: the benchmark.
            name: how it is called.
            cache: images are unpacked below it, by content.
            progress: called with the number of images unpacked, and of all.

        Raises:
            BenchmarkError: an image cannot be read; the message names its index.
        """
        self.contents: list[str] = []
        self.notes: list[str] = []
        self._linked = hashlib.sha256()
        self._known: dict[Path, tuple[str, bool]] = {}
        self._files: dict[Any, list[Path | Item]] = {}
        self._name = name
        content = found.content if found.own else file_content(found.file, name)
        self.digest = hashlib.sha256(content).hexdigest()
        if found.own is not None:
            self._take_own(found)
        elif "image" in found.kit.data:
            self._take_kits(found.kit.data)
        elif "image_path" in found.kit.data:
            self._take_links(found.kit)
        if self._known:
            both = f"{self.digest} {self._linked.hexdigest()}"
            self.digest = hashlib.sha256(both.encode()).hexdigest()
        self.files = sorted({os.path.abspath(path) for path in (found.file, *self._known)})
        self._place = cache / "images" / self.digest[:32]
        self._items = [f for files in self._files.values() for f in files if isinstance(f, Item)]
        if self._items:
            note = unpack(self._items, name, self._place, progress)
            self.notes += [note] if note else []

    def paths(self, line: Any) -> list[str]:
        """The images of a row of the data, in place of VLMEvalKit's ``dump_image``."""
        files = [
            self._place / file.name if isinstance(file, Item) else file
            for file in self._files[line["index"]]
        ]
        if not all(file.is_file() for file in files):  # somebody cleaned up meanwhile
            unpack(self._items, self._name, self._place, lambda done, total: None)
        return [str(file) for file in files]

    def names(self, index: Any) -> str:
        """The images of a question, to be kept beside its answer: one a line, below ``place``."""
        files = self._files.get(index, [])
        return "\n".join(file.name if isinstance(file, Item) else str(file) for file in files)

    def _take_own(self, found: Found) -> None:
        assert found.own is not None
        for row, (index, pictures) in enumerate(
            zip(found.own.frame["index"], found.own.pictures, strict=True)
        ):
            files: list[Path | Item] = []
            total = hashlib.sha256()
            for number, picture in enumerate(pictures):
                file = f"{row}-{number}.png"
                if picture.data is not None:
                    files.append(Item(index, file, partial(decoded, picture.data)))
                    total.update(hashlib.sha256(picture.data.encode()).digest())
                    continue
                path = resolve(picture, found.file.parent)
                digest, usual = self._look(path, index)
                # Models would cut what is darker or lighter than eight bits can say.
                load = partial(read_regular, path, BYTES)
                files.append(path if usual else Item(index, file, load))
                total.update(bytes.fromhex(digest))
            self._files[index] = files
            self.contents.append(total.hexdigest()[:16])

    def _take_kits(self, data: Any) -> None:
        """Files as VLMEvalKit would write them, but for their names."""
        named = "image_path" in data
        for row in range(len(data)):
            line = data.iloc[row]
            index, cells = line["index"], line["image"]
            cells = cells if isinstance(cells, list) else [cells]
            ends = line["image_path"] if named else []
            ends = [*(ends if isinstance(ends, list) else [ends]), *[".png"] * len(cells)]
            self._files[index] = [
                Item(
                    index,
                    f"{row}-{k}{safe_suffix(ends[k]) if named else '.png'}",
                    partial(decoded, cell),
                    as_it_is=True,
                )
                for k, cell in enumerate(cells)
            ]

    def _take_links(self, kit: Any) -> None:
        for index, path in _linked(kit):
            self._look(path, index)
            self._files.setdefault(index, []).append(path)

    def _look(self, path: Path, index: Any) -> tuple[str, bool]:
        if path not in self._known:
            self._known[path] = look_at(path, index, self._name, LINKED)
        self._linked.update(f"{self._known[path][0]}\n".encode())
        return self._known[path]


def _linked(kit: Any) -> Iterator[tuple[Any, Path]]:
    """The files that one of VLMEvalKit's benchmarks names, where it looks for them."""
    for index, paths in zip(kit.data["index"], kit.data["image_path"], strict=True):
        for path in paths if isinstance(paths, list) else [paths]:
            beside = Path(kit.img_root) / path
            here = os.path.exists(path) or not os.path.exists(beside)  # what is no path is neither
            yield index, Path(path) if here else beside


def file_content(file: Path, name: str) -> bytes:
    """What a benchmark's file holds."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"{name}: {file}: cannot be read: {error.strerror}") from error
