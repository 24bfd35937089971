"""A benchmark's images as files, which is how VLMEvalKit shows them to a model.

They are unpacked into a directory named by their content, under names of our own: no word of a
table becomes part of a path. A manifest holds each file's digest, and whatever does not match it
when a benchmark is looked up is made again.
"""

import base64
import hashlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from soup import holding
from soup.errors import BenchmarkError
from soup.evaluators.kit.regular import Unreadable, read_regular

THREADS = min(16, os.cpu_count() or 1)
"""Images unpacked at the same time; most of it is compressing, which threads do side by side."""

BYTES = 512 << 20
"""Of one image's file, at most. Of its pixels Pillow takes 179 million at most."""

Image.init()
FORMATS = tuple(
    name
    for name in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "ICO",
                 "TGA", "AVIF")
    if name in Image.OPEN
)  # fmt: skip
"""What is taken for an image. Others run programs (EPS) or are not pictures of anything."""

DEEP = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Modes of more than eight bits, which a conversion to RGB would cut off instead of scaling."""

MANIFEST = "digests.json"


@dataclass(frozen=True)
class Item:
    """One image to unpack.

    Attributes:
        index: of its question, for messages.
        name: its file's, given by us.
        load: its file's content; may raise Unreadable.
        as_it_is: left in the mode in which VLMEvalKit would leave it.
    """

    index: Any
    name: str
    load: Callable[[], bytes]
    as_it_is: bool = False


def decoded(text: str) -> bytes:
    """What base64 holds, as VLMEvalKit reads it: other characters in it do not count.

    Raises:
        Unreadable: it holds too much, or is cut short.
    """
    if len(text) > BYTES // 3 * 4:
        raise Unreadable(f"more than {BYTES:,} bytes")
    try:
        return base64.b64decode(text)
    except ValueError as error:
        raise Unreadable(f"{error}") from error


def unpack(
    items: Sequence[Item], name: str, place: Path, progress: Callable[[int, int], None]
) -> str | None:
    """Have all images in ``place``, each as it was when it was unpacked.

    All of them or none: one that a crash or another run has written in part must never be seen.

    Args:
        items: the images.
        name: the benchmark's.
        place: a directory for these very images, named by their content.
        progress: called with the number of images done, and of all that must be made.

    Returns:
        What to tell the user, if images that were there had changed.

    Raises:
        BenchmarkError: an image cannot be read, or its file not written.
    """
    known = _known(place) if place.is_dir() else {}
    wrong = [item for item in items if item.name not in known]
    if known:
        with ThreadPoolExecutor(THREADS) as executor:
            right = executor.map(lambda item: _matches(place / item.name, known), items)
            wrong = [item for item, same in zip(items, right, strict=True) if not same]
    if not wrong:
        return None
    with _directory_beside(place) as temporary:
        digests = _write_all(wrong, name, temporary, place, progress)
        again = place.is_dir()
        _write_manifest(temporary, known | digests)
        if again:
            _replace(temporary, place, [*digests, MANIFEST])
        else:
            _become(temporary, place)
    if not again:
        return None
    return (
        f"{name}: {len(wrong):,} of {len(items):,} images in {place} were not as they had been "
        "unpacked; they were made again"
    )


def _known(place: Path) -> dict[str, str]:
    """The digests of a directory's images by name; none, if that record is damaged."""
    try:
        found = json.loads(read_regular(place / MANIFEST, 1 << 30))
        digests = found["images"]
        return dict(digests) if found["check"] == _check(digests) else {}
    except (Unreadable, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _check(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def _write_manifest(directory: Path, digests: Mapping[str, str]) -> None:
    try:
        (directory / MANIFEST).write_text(
            json.dumps({"images": dict(digests), "check": _check(digests)})
        )
    except OSError as error:
        raise _unwritable(directory, error) from error


def _matches(file: Path, known: Mapping[str, str]) -> bool:
    try:
        return hashlib.sha256(read_regular(file, 4 * BYTES)).hexdigest() == known.get(file.name)
    except Unreadable:
        return False


@contextmanager
def _directory_beside(place: Path) -> Iterator[Path]:
    """To be filled and renamed; what others left of it when they were killed is removed."""
    with ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            made = stack.enter_context(holding.unfinished(place))
        except OSError as error:
            raise _unwritable(place, error) from error
        yield made


def _write_all(
    items: Sequence[Item],
    name: str,
    directory: Path,
    place: Path,
    progress: Callable[[int, int], None],
) -> dict[str, str]:
    """Write images into a directory; their digests by name."""

    def write(item: Item) -> tuple[str, str]:
        file = directory / item.name
        try:
            _write(item.load(), file, item.as_it_is)
            return item.name, hashlib.sha256(file.read_bytes()).hexdigest()
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise _unwritable(place, error) from error
            raise BenchmarkError(
                f"{name}: the image of index {item.index} cannot be read ({_why(error)}); "
                "expected a whole image file as base64"
            ) from error

    digests = {}
    with ThreadPoolExecutor(THREADS) as executor:
        try:
            for done, (file, digest) in enumerate(executor.map(write, items), 1):
                digests[file] = digest
                progress(done, len(items))
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    return digests


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # says where in memory it looked
        return "it is no image"
    if isinstance(error, Unreadable):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _write(content: bytes, file: Path, as_it_is: bool) -> None:
    """As VLMEvalKit writes it, pixel by pixel, where it can."""
    with _opened(content, None if as_it_is else FORMATS) as image:
        shown: Image.Image = image
        if image.mode in ("RGBA", "P", "LA"):
            shown = image.convert("RGB")
        elif image.mode in DEEP and not as_it_is:
            shown = _eight_bits(image)
        try:
            shown.save(file)
        except OSError as error:
            if error.errno is not None or "cannot write mode" not in str(error):
                raise
            (_eight_bits(shown) if shown.mode in DEEP else shown.convert("RGB")).save(file)


def _opened(content: bytes, formats: tuple[str, ...] | None) -> Image.Image:
    with warnings.catch_warnings():  # of images that are large, but not too large
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(content), formats=formats)
    image.load()
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits in 8; of 32 bits or floats by its own darkest and lightest."""
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    low, high = image.getextrema()
    scale = 255 / (high - low) if high > low else 0.0  # type: ignore[operator]
    return image.point(lambda value: value * scale - low * scale).convert("L")  # type: ignore[operator]


def _become(temporary: Path, place: Path) -> None:
    try:
        temporary.chmod(0o755)
        temporary.rename(place)
    except OSError as error:
        if not place.is_dir():  # else another run was there first, with the same content
            raise _unwritable(place, error) from error


def _replace(temporary: Path, place: Path, names: Iterable[str]) -> None:
    """Put files in the place of those that are there, each at once."""
    try:
        for name in names:
            target = place / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            (temporary / name).replace(target)
    except OSError as error:
        raise _unwritable(place, error) from error


def _unwritable(place: Path, error: OSError) -> BenchmarkError:
    return BenchmarkError(
        f"{place}: images cannot be unpacked there: {error.strerror}; free some room, or choose "
        "another --work"
    )


def safe_suffix(path: object) -> str:
    """The kind of file that VLMEvalKit would write under a table's ``image_path``."""
    suffix = Path(str(path)).suffix.lower()
    return suffix if suffix in Image.registered_extensions() and suffix.isascii() else ".png"


def look_at(file: Path, index: Any, name: str, note: str) -> tuple[str, bool]:
    """The SHA-256 of an image's file, and whether models take it as it is.

    Raises:
        BenchmarkError: it is not there, or no image.
    """
    try:
        content = read_regular(file, BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                usual = image.mode in ("1", "L", "P", "LA", "PA", "RGB", "RGBA")
    except Exception as error:
        why = "no image" if isinstance(error, UnidentifiedImageError) else _why(error)
        raise BenchmarkError(
            f"{name}: the image of index {index} cannot be read ({why}: {file}); {note}"
        ) from error
    return hashlib.sha256(content).hexdigest(), usual
