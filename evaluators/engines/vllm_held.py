"""What one of vLLM's workers was proven to hold, and what of another blend it must be sent.

vLLM loads a layer whole: of what it fuses (q, k and v; gate and up; the experts of a layer) every
part is sent where one differs. A layer that is sent nothing keeps what it has, and its bits must be
those that were proven when it was loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.evaluators.engines.ledger import bits

QUIET = "vllm.model_executor.model_loader.reload.layerwise"
"""Who warns of each layer that was sent nothing."""


@dataclass
class Seen:
    """What was found in a model after it was loaded.

    Attributes:
        groups: by layer, the file tensors that it was filled from.
        prints: by parameter or buffer, what its bits come to.
        probes: by parameter whose weights the engine keeps in a form of its own, what to multiply
            with: the product's bits are its print.
        unknown: file tensors that fill something which cannot be looked at again.
    """

    groups: dict[str, frozenset[str]] = field(default_factory=dict)
    prints: dict[str, int] = field(default_factory=dict)
    probes: dict[str, torch.Tensor] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()


@dataclass
class Held:
    """What a worker holds, proven.

    Attributes:
        values: by file tensor, names of its value, see ``soup.blending.common.held``.
        report: of the file tensors, as ``vllm_swap.load`` says: ``used``, ``sizes``, ``sums``.
        seen: in the model.
    """

    values: Mapping[str, frozenset[str]]
    report: Mapping[str, Mapping[str, int]]
    seen: Seen


def left(
    before: Held | None, now: Mapping[str, frozenset[str]], names: Iterable[str]
) -> frozenset[str]:
    """File tensors that need not be sent.

    Args:
        before: what is held; None where that is not known.
        now: names of the values that are wanted, as far as they have any.
        names: all file tensors.
    """
    if before is None:
        return frozenset()
    nothing: frozenset[str] = frozenset()
    every = frozenset(names)
    same = {n for n in every if not before.values.get(n, nothing).isdisjoint(now.get(n, nothing))}
    sent = every - same | before.seen.unknown
    groups = list(before.seen.groups.values())
    while more := {n for group in groups if not group.isdisjoint(sent) for n in group} - sent:
        sent |= more
    return every - sent


def after(
    before: Held | None,
    kept: frozenset[str],
    now: Mapping[str, frozenset[str]],
    report: Mapping[str, Any],
    seen: Seen,
) -> tuple[Held, dict[str, Any]]:
    """What is held once a blend was loaded, and the report of all its tensors.

    Args:
        before: what was held.
        kept: what was not sent.
        now: names of the blend's values.
        report: of the tensors that were sent.
        seen: what was found in the model; of layers that were sent nothing their prints.
    """
    if before is None:
        return Held(now, report, seen), dict(report)
    whole = dict(report)
    for what in ("used", "sizes", "sums"):
        whole[what] = {n: before.report[what][n] for n in kept} | report[what]
    values = dict(now) | {name: now[name] | before.values[name] for name in kept}
    found = Seen(
        {**before.seen.groups, **seen.groups},
        {**before.seen.prints, **seen.prints},
        {**before.seen.probes, **seen.probes},
        before.seen.unknown | seen.unknown,
    )
    return Held(values, whole, found), whole


def fingerprint(layer: Any, tensor: torch.Tensor, probe: torch.Tensor | None) -> int:
    """What a parameter's bits come to; where the engine has its weights in a form of its own, those
    of a product with them.
    """
    if probe is not None:
        tensor = layer.quant_method.apply(layer, probe, None)
    return int(bits(tensor)) % (1 << 64)


def met_again(blend: Blend, met: dict[Any, Checkpoint]) -> Blend:
    """A blend of the checkpoints that were met before, where it is of the same ones.

    What came from another process, or was pickled, is proven nowhere (``checkpoints.proving``): it
    would be read whole at every swap.

    Args:
        blend: just unpickled.
        met: all that were met so far; its own are added.
    """

    def known(one: Checkpoint) -> Checkpoint:
        where = one.path, one.base and one.base.path, one.left_out, one.ties
        return met.setdefault((*where, one.states, one.known_digest), one)

    base = None if blend.base is None else known(blend.base)
    members = tuple(map(known, blend.members))
    return replace(blend, members=members, reference=known(blend.reference), base=base)


@contextmanager
def quiet() -> Iterator[None]:
    """While inside, no warning of layers that were sent nothing: that is what was meant."""

    def other(record: logging.LogRecord) -> bool:
        return "Failed to load weights" not in record.getMessage()

    logger = logging.getLogger(QUIET)
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
