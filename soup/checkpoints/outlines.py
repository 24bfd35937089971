"""Models of which only headers were fetched: their weight files end where the tensors begin.

So whoever reads a tensor there finds the end of the file, which is an error; nothing can take it
for zeros.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from soup.remote.cache import OUTLINES

SIZES = ".outline/sizes.json"
"""In an outline's directory: by the weight files' names, how large they are where they are whole.
Hidden folders are no part of a model."""


def sizes_file(sizes: Mapping[str, int]) -> bytes:
    """The content of ``SIZES``."""
    return json.dumps(dict(sizes)).encode()


def is_outline(file: Path) -> bool:
    """Whether a weight file is of an outline."""
    return file.parent.parent.name == OUTLINES and (file.parent / SIZES).is_file()


def whole_size(file: Path, size: int) -> int:
    """Bytes of a weight file, of an outline's those that it has where it is whole."""
    if file.parent.parent.name != OUTLINES:
        return size
    try:
        return int(json.loads((file.parent / SIZES).read_text())[file.name])
    except (OSError, ValueError, KeyError, TypeError):
        return size
