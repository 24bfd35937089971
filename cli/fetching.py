"""Members from elsewhere on the command line: what is fetched for a command is shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from soup.cli import console
from soup.cli.options import PoolOptions
from soup.events import Observer, ignore
from soup.remote.address import elsewhere


@contextmanager
def watched(pool: PoolOptions, quiet: bool = False) -> Iterator[Observer]:
    """An observer for what is fetched; nobody where all is here."""
    if not elsewhere(*pool.ckpts, pool.base, pool.processor):
        yield ignore
        return
    from soup.cli.progress import Watch

    with Watch(console.err, quiet) as watch:
        yield watch


def local(pool: PoolOptions, whole: bool, observe: Observer) -> PoolOptions:
    """The same pool with directories in place of addresses.

    Args:
        pool: as it was given.
        whole: fetch everything, rather than headers alone.
        observe: told of progress.
    """
    if not elsewhere(*pool.ckpts, pool.base, pool.processor):
        return pool
    from soup.checkpoints.arriving import arrive

    found = arrive(
        pool.ckpts,
        pool.base,
        pool.reference,
        pool.processor,
        whole=whole,
        cache=pool.cache,
        observe=observe,
    )
    return replace(
        pool,
        ckpts=[str(path) for path in found.paths],
        base=None if found.base is None else Path(found.base),
        reference=found.reference,
        processor=None if found.processor is None else Path(found.processor),
    )
