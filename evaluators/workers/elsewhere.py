"""What a request is about, for a worker on another machine: the places that must be there, too.

A place is what a request names: a model's directory, that of a base or of companion files, or a
benchmark's table.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from blake3 import blake3

from soup.checkpoints.files import companions, weights_beside
from soup.evaluators.kit.suites import is_table

READ = 1 << 24
"""Bytes that are read at a time."""


def places_in(request: dict[str, Any]) -> list[str]:
    """The places that a request names, each once."""
    found: dict[str, None] = {}

    def look(place: str) -> str:
        found[place] = None
        return place

    moved(request, look)
    return list(found)


def moved(request: dict[str, Any], where: Callable[[str], str]) -> dict[str, Any]:
    """A request about the same things in other places; see ``workers.protocol`` for what it is.

    Args:
        request: it is left as it is.
        where: where something is, that is in a place here.
    """
    request = deepcopy(request)
    for checkpoint in _checkpoints(request):
        checkpoint[0] = where(checkpoint[0])
        checkpoint[2] = checkpoint[2] and where(checkpoint[2])
        checkpoint[3] = [[kind, where(place)] for kind, place in checkpoint[3]]
    for name in ("source", "benchmark"):
        if name in request and is_table(request[name]):
            request[name] = where(request[name])
    return request


def _checkpoints(request: dict[str, Any]) -> Iterator[list[Any]]:
    """Every checkpoint of a request, as ``encode_checkpoint`` has it."""
    if "reference" in request:
        yield request["reference"]
    blend = request.get("blend")
    if blend:
        yield from blend["members"]
        yield from (blend[name] for name in ("base", "files_of") if blend[name])


def files_of(place: Path) -> dict[str, int]:
    """What a worker may read of a place: files relative to it, and their bytes.

    Trainer's state is left out; of a table the one name is ``""``.

    Raises:
        CheckpointError: a directory cannot be read.
    """
    if place.is_file():
        return {"": place.stat().st_size}
    names = {str(name) for name in (*companions(place), *weights_beside(place, ()))}
    names |= {file.name for file in (*place.glob("*.index.json"), *place.glob("adapter_config.*"))}
    return {name: (place / name).stat().st_size for name in sorted(names)}


def digest_of(file: Path) -> str:
    """BLAKE3 of a file's content."""
    total = blake3(max_threads=blake3.AUTO)
    total.update_mmap(file)
    return total.hexdigest()
