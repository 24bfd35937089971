"""Where a directory of a cache came from: the address and the revision of its model."""

import json
from dataclasses import dataclass
from pathlib import Path

from soup.checkpoints import hub
from soup.remote.address import HUB, parse
from soup.remote.cache import ORIGIN, OUTLINES, SNAPSHOTS

DEEPEST = 6


@dataclass(frozen=True)
class Origin:
    """Where a model was fetched from.

    Attributes:
        where: its address, without secrets and revision.
        revision: a hub's commit; else what the versions of all its files make.
    """

    where: str
    revision: str

    def __str__(self) -> str:
        return parse(self.where).at(self.revision)

    @property
    def parts(self) -> tuple[str, ...]:
        """What it is called by, last part first to be used; of a hub the id is one."""
        scheme, _, rest = self.where.partition("://")
        return (rest,) if scheme == HUB else (f"{scheme}:", *filter(None, rest.split("/")))


def origin_of(directory: Path) -> Origin | None:
    """Of a model in our cache or in a hub's; None for any other directory."""
    for place in (directory, *directory.parents)[:DEEPEST]:
        if place.parent.name not in (SNAPSHOTS, OUTLINES):
            continue
        try:
            where = json.loads((place.parent.parent / ORIGIN).read_text())["address"]
            return Origin(str(where), place.name)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        if (known := hub.model_of(place)) is not None:
            inner = directory.relative_to(place).as_posix()
            return Origin(f"{HUB}://{known[0]}" + ("" if inner == "." else f"/{inner}"), known[1])
    return None


def called(directory: Path) -> str:
    """The name of a model, by its directory."""
    origin = origin_of(directory)
    return directory.name if origin is None else origin.parts[-1]
