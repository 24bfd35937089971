"""A benchmark's images as files, which is how VLMEvalKit shows them to a model."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from soup.errors import BenchmarkError

THREADS = min(16, os.cpu_count() or 1)
"""Images unpacked at the same time; most of it is compressing, which threads do side by side."""


def unpack(kit: Any, name: str, place: Path, progress: Callable[[int, int], None]) -> None:
    """Have VLMEvalKit write all images of a dataset into ``place``, unless they are there.

    All of them or none: it takes a file with a good beginning for a good file, so one that a crash
    or another run has written in part must never be seen.

    Args:
        kit: VLMEvalKit's dataset; from now on it finds its images there.
        name: the benchmark's.
        place: a directory for these very images, named by their content.
        progress: called with the number of rows done, and of all.

    Raises:
        BenchmarkError: an image cannot be read, or its file not written.
    """
    if not place.is_dir():
        temporary = _directory_beside(place)
        try:
            kit.img_root = str(temporary)
            _write_all(kit, name, place, progress)
            _become(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    kit.img_root = str(place)


def _directory_beside(place: Path) -> Path:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as error:
        raise _unwritable(place, error) from error


def _write_all(kit: Any, name: str, place: Path, progress: Callable[[int, int], None]) -> None:
    rows = kit.data

    def write(k: int) -> None:
        try:
            kit.dump_image(rows.iloc[k])
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise _unwritable(place, error) from error
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if isinstance(error, UnidentifiedImageError):  # says where in memory it looked
                text = "it is no image"
            raise BenchmarkError(
                f"{name}: the image of index {rows['index'].iloc[k]} cannot be read "
                f"({text}); expected a whole image file as base64"
            ) from error

    with ThreadPoolExecutor(THREADS) as executor:
        try:
            for done, _ in enumerate(executor.map(write, range(len(rows))), 1):
                progress(done, len(rows))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _become(temporary: Path, place: Path) -> None:
    try:
        temporary.chmod(0o755)
        temporary.rename(place)
    except OSError as error:
        if not place.is_dir():  # else another run was there first, with the same content
            raise _unwritable(place, error) from error


def _unwritable(place: Path, error: OSError) -> BenchmarkError:
    return BenchmarkError(
        f"{place}: images cannot be unpacked there: {error.strerror}; free some room, or choose "
        "another --work"
    )


def digest_of_linked(kit: Any, name: str) -> str:
    """SHA-256 of the image files that a table names instead of holding them.

    Raises:
        BenchmarkError: one is not there.
    """
    total = hashlib.sha256()
    known: dict[Path, str] = {}
    for index, file in linked(kit):
        if file not in known:
            try:
                with Image.open(file):
                    known[file] = file_digest(file)
            except OSError as error:
                raise BenchmarkError(
                    f"{name}: the image of index {index} cannot be read "
                    f"({error.strerror or 'no image'}: {file}); paths in image_path begin in the "
                    "working directory"
                ) from error
        total.update(f"{known[file]}\n".encode())
    return total.hexdigest()


def linked(kit: Any) -> Iterator[tuple[Any, Path]]:
    """The image files that a table names, each with the index of its row."""
    for index, paths in zip(kit.data["index"], kit.data["image_path"], strict=True):
        for path in paths if isinstance(paths, list) else [paths]:
            beside = Path(kit.img_root) / path  # where VLMEvalKit looks, too
            yield index, beside if not Path(path).exists() and beside.exists() else Path(path)


def file_digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
