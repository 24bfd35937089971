"""Members from elsewhere, before a night looks at what is ready: fetched, or left out and named."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soup.checkpoints.origins import Origin
from soup.errors import CheckpointError, UnfinishedError, UnreachableError
from soup.events import Observer, ignore
from soup.publishing.sifting import DAMAGED, UNFINISHED, UNREACHABLE, LeftOut
from soup.remote.address import elsewhere, parse


@dataclass(frozen=True)
class Landed:
    """What was given, with directories in place of addresses.

    Attributes:
        paths: of members; those that could not be had are not among them.
        opening: as it was given: base and processor.
        reference: a member's name or path.
        left_out: what could not be had.
    """

    paths: Sequence[str | os.PathLike[str]]
    opening: Mapping[str, Any]
    reference: str | None
    left_out: tuple[LeftOut, ...] = ()


def land(
    paths: Sequence[str | os.PathLike[str]],
    opening: Mapping[str, Any],
    reference: str | None = None,
    *,
    whole: bool = True,
    skip_bad: bool = True,
    cache: str | os.PathLike[str] | None = None,
    observe: Observer = ignore,
) -> Landed:
    """Fetch what is elsewhere.

    A place that cannot be reached, lets nobody read, or has half a model is left out like a
    checkpoint here that is not ready.

    Args:
        paths: model directories, quoted globs, addresses.
        opening: more for ``Pool.open``; ``base`` and ``processor`` may be addresses, too.
        reference: a member's name, path or address.
        whole: fetch everything; else what a look at the pool needs.
        skip_bad: leave out what is there and no model; else that is an error.
        cache: where to; by default ``SOUP_CACHE``, or the user's cache.
        observe: told of progress.

    Raises:
        UsageError: an address that names no model.
        CheckpointError: the base or the processor cannot be had; or a member is no model, and
            ``skip_bad`` is off.
        OutputError: the cache cannot be written, or has no room.
    """
    base, processor = opening.get("base"), opening.get("processor")
    if not elsewhere(*paths, base, processor):
        return Landed(paths, opening, reference)
    from soup.checkpoints.arriving import arrive  # only where something is to be fetched

    left: list[LeftOut] = []

    def leave(text: str, error: CheckpointError) -> None:
        how = DAMAGED
        if isinstance(error, (UnreachableError, UnfinishedError)):
            how = UNREACHABLE if isinstance(error, UnreachableError) else UNFINISHED
        elif not skip_bad:
            raise error
        address = parse(text)
        name = Origin(address.where, address.revision).parts[-1]
        left.append(LeftOut(name, str(address), how, str(error).partition("\n")[0]))

    found = arrive(
        paths,
        base,
        reference,
        processor,
        whole=whole,
        cache=cache,
        observe=observe,
        leave=leave,
    )
    there = {**opening, "base": found.base, "processor": found.processor}
    order = [str(parse(path)) for path in paths if elsewhere(path)]
    left.sort(key=lambda one: order.index(one.path))
    return Landed(found.paths, there, found.reference, tuple(left))
