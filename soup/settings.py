"""What a run is asked for: its settings, and the blends that they make of a pool."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from soup.blending.blend import Blend
from soup.blending.methods import METHODS, find, require_weights
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.recipes import Mix, settled
from soup.choosing.weighing import MEANS, require_weight
from soup.errors import UsageError

ACCEPT = ("gain", "significant")
"""What a greedy step must do to keep a member."""


@dataclass(frozen=True)
class Settings:
    """Everything a run needs besides its pool and its scorer.

    Attributes:
        benchmarks: names or TSV paths; their mean decides. A single one need not be a list.
        bench_weights: by name in ``benchmarks``, where a benchmark's weight in the mean is not 1.
        mean: how benchmarks count: ``macro``, all alike; ``samples``; ``z``; see
            ``soup.choosing.weighing``.
        holdouts: scored for members and soup, never used to decide.
        out: the directory to write; by default ``soup-<kind>``.
        work: the directory of journal and caches; a scorer that was given none of its own works
            there, too.
        dtype: output dtype, a key of ``checkpoints.tensors.ITEMSIZES``; None keeps the members'.
        method: how members are merged, see ``blending.methods``; for all but a maximum soup. Greedy
            and average keep a single member as it is.
        parameters: of the method, by name; those not named have their defaults.
        weights: one per member in the pool's order; only for a blend, where None means that all
            count the same. Used as they are, not scaled to a sum of one.
        min_gain: points that a greedy step must gain, see ``soup.choosing.recipes.greedy``.
        confident: stop greedy trials early, so that with this chance, above 0.5 and below 1, none
            is stopped that would win, see ``soup.choosing.confident``; None measures all in full.
        accept: ``gain`` keeps every trial that rises, as POINTS does; ``significant`` only those
            whose rise is significant, see ``soup.choosing.accepting``.
        alpha: the chance that a significant greedy run keeps anybody where nobody helps.
        overwrite: delete an earlier, different soup at ``out`` instead of moving it aside.
        as_adapter: write a LoRA adapter; all members must be such, of one base.
        same_companions: score every member with the reference's companion files (template,
            processor, tokenizer and generation settings, code), rather than with its own.
    """

    benchmarks: Sequence[str] = ()
    holdouts: Sequence[str] = ()
    out: str | os.PathLike[str] | None = None
    work: str | os.PathLike[str] = ".soup"
    dtype: str | None = None
    method: str = "linear"
    parameters: Mapping[str, float] = field(default_factory=dict)
    weights: Sequence[float] | None = None
    min_gain: float = 0.0
    confident: float | None = None
    accept: str = "gain"
    alpha: float = 0.05
    overwrite: bool = False
    as_adapter: bool = False
    bench_weights: Mapping[str, float] = field(default_factory=dict)
    mean: str = "macro"
    same_companions: bool = False

    def __post_init__(self) -> None:
        for name in ("benchmarks", "holdouts"):
            given: Any = getattr(self, name)
            several = [given] if isinstance(given, (str, os.PathLike)) else given
            object.__setattr__(self, name, tuple(map(os.fspath, several)))
        if self.confident is not None and not 0.5 < self.confident < 1:  # NaN, too, fails this
            raise UsageError(
                f"confident {self.confident:g}: expected more than 0.5 and less than 1, e.g. 0.95"
            )
        if self.mean not in MEANS:
            raise UsageError(f"mean {self.mean}: expected one of {', '.join(MEANS)}")
        for name, weight in self.bench_weights.items():
            require_weight(name, weight)
        if self.accept not in ACCEPT:
            raise UsageError(f"accept {self.accept}: expected one of {', '.join(ACCEPT)}")
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha {self.alpha:g}: expected more than 0 and less than 1")


def whole(kind: str, pool: Pool, settings: Settings) -> Blend:
    """The blend of all members: what ``soup blend`` makes, and the most that the others could.

    Raises:
        UsageError: members, base, weights or parameters are not what the method takes, or a
            setting is not for this kind; nothing has been read for it but headers.
    """
    if settings.confident is not None and kind != "greedy":
        raise UsageError(f"confident is for a greedy soup; {kind} has no trials to stop")
    if settings.weights is not None and kind != "blend":
        raise UsageError(f"weights are for a blend; {kind} gives all kept members the same")
    if kind == "max":
        return Blend(pool.members, pool.reference, dtype=settings.dtype)
    find(settings.method, settings.parameters)
    if settings.weights is not None:
        require_weights(settings.method, settings.weights, len(pool.members))
    return _merged(pool.members, pool, settings)


def _merged(members: Sequence[Checkpoint], pool: Pool, settings: Settings) -> Blend:
    method = find(settings.method, settings.parameters)
    return Blend(
        tuple(members),
        pool.reference,
        None if settings.weights is None else tuple(settings.weights),
        settings.dtype,
        settings.method,
        pool.base,
        # With defaults, so that naming one does not make another blend of it.
        tuple({**method.parameters, **settings.parameters}.items()),
    )


def mix_of(pool: Pool, settings: Settings) -> Mix:
    """How a run blends some of its members; a single one is itself."""

    def mix(members: Sequence[Checkpoint]) -> Blend:
        if len(members) == 1:
            files_of = pool.reference if settings.same_companions else members[0]
            return Blend(tuple(members), pool.reference, dtype=settings.dtype, files_of=files_of)
        return _merged(members, pool, settings)

    return mix


def of_all(kind: str, pool: Pool, settings: Settings) -> Blend:
    """What ``soup average`` and ``soup blend`` make, summed in the order of ``recipes.settled``.

    Each weight stays with its member. Where a method gives places a meaning (slerp's two ends),
    the order is part of what was asked for, and stays.
    """
    if kind == "average":
        return mix_of(pool, settings)(ordered(pool.members, settings))
    blend = whole(kind, pool, settings)
    if METHODS[blend.method].members is not None:
        return blend
    weights = blend.coefficients or (0.0,) * len(blend.members)
    pairs = sorted(
        zip(blend.members, weights, strict=True),
        key=lambda pair: (pair[0].digest, pair[1], pair[0].name),
    )
    return replace(
        blend,
        members=tuple(member for member, _ in pairs),
        coefficients=blend.coefficients and tuple(weight for _, weight in pairs),
    )


def ordered(members: Sequence[Checkpoint], settings: Settings) -> list[Checkpoint]:
    """In the order of ``recipes.settled``, but for methods that give places a meaning."""
    fixed = METHODS[settings.method].members is not None
    return list(members) if fixed else settled(members)
