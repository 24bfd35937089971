"""Members times coefficients.

A single model, a candidate and a finished soup are all blends: one stream (``blending.streaming``)
scores and writes them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any

from soup.blending.methods import METHODS, find
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.companions import Companions
from soup.checkpoints.tensors import ITEMSIZES, is_bound
from soup.checkpoints.ties import is_tied, pairs
from soup.errors import BlendError, UsageError


@dataclass(frozen=True, eq=False)
class Blend:
    """A weighted sum of checkpoints.

    Attributes:
        members: what is summed, in this order.
        coefficients: one float64 per member; None for the equal average, whose sum is divided by
            the number of members (that is exact where multiplying by 1/n is not).
        reference: the member of the pool whose tensor order, shards and files the result has.
        dtype: safetensors name of the output's floating-point dtype; None keeps the reference's.
        method: how members are merged, a key of ``soup.blending.methods.METHODS``.
        base: what the members were fine-tuned from; only for methods that work on differences.
        parameters: the method's own, as (name, value); those not named have their defaults.
        files_of: the checkpoint whose companion files it is asked and written with; None is the
            reference.
        values: by name what somebody else knows of tensors that are equal in all members: names of
            their values, see ``soup.blending.common.values``. For members that were opened anew.
    """

    members: tuple[Checkpoint, ...]
    reference: Checkpoint
    coefficients: tuple[float, ...] | None = None
    dtype: str | None = None
    method: str = "linear"
    base: Checkpoint | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    files_of: Checkpoint | None = None
    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.members:
            raise BlendError("a blend needs at least one member")
        if self.coefficients is not None:
            if len(self.coefficients) != len(self.members):
                raise BlendError(
                    f"{len(self.coefficients)} coefficients for {len(self.members)} members"
                )
            if not all(map(isfinite, self.coefficients)):
                raise BlendError(f"coefficients must be finite, found {self.coefficients}")
        method = find(self.method, dict(self.parameters))
        if method.needs_base and self.base is None:
            raise UsageError(f"{self.method} works on differences to a base: name it with --base")
        if method.members is not None and len(self.members) != method.members:
            raise UsageError(
                f"{self.method} takes exactly {method.members} members, found {len(self.members)}; "
                "name as many checkpoints, or use another method, e.g. linear"
            )

    @property
    def weights(self) -> tuple[float, ...]:
        """The coefficient of each member; without any, 1/n for linear and 1 for other methods."""
        equal = 1.0 / len(self.members) if self.method == "linear" else 1.0
        return self.coefficients or (equal,) * len(self.members)

    @property
    def sources(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint whose values are read: the members, and the base where one is needed."""
        if self.base is not None and METHODS[self.method].needs_base:
            return (*self.members, self.base)
        return self.members

    @property
    def companions(self) -> Companions:
        """The files beside the weights that it is asked and written with."""
        return (self.files_of or self.reference).companions

    def require_unchanged(self) -> None:
        """See ``checkpoints.checkpoint.Checkpoint``: said of everything that was read for it."""
        for source in (self.reference, *self.sources):
            source.require_unchanged()
        self.companions.require_unchanged()

    @cached_property
    def shared_names(self) -> dict[str, str]:
        """Of each stored copy of a tied embedding, the name that stands for both.

        What depends on a name (a random mask) must be the same for both. It is told from the
        reference alone, as a worker knows no other member of the pool; where its config says
        nothing, the two share the name, too, which does no harm to tensors that are not tied.
        """
        if is_tied(self.reference.config) is False:
            return {}
        return dict(pairs(self.reference.tensors))

    @property
    def merging(self) -> dict[str, Any]:
        """How members are merged, as JSON: method, all of its parameters, base (or None)."""
        method, base = METHODS[self.method], None
        if self.base is not None and method.needs_base:
            base = {"name": self.base.name, "digest": self.base.digest}
        parameters = {**method.parameters, **dict(self.parameters)}
        return {"method": self.method, "parameters": parameters, "base": base}

    @property
    def digest(self) -> str:
        """SHA-256 of what determines its bytes: digests, order, coefficients, dtype, method."""
        recipe: dict[str, Any] = {
            "members": [member.digest for member in self.members],
            "coefficients": self.coefficients and [c.hex() for c in self.coefficients],
            "dtype": self.dtype,
            "arithmetic": "float64-sum-1",
        }
        if self.method != "linear":
            recipe["method"] = self.method
            recipe["parameters"] = sorted((name, value.hex()) for name, value in self.parameters)
            recipe["base"] = [source.digest for source in self.sources[len(self.members) :]]
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    @property
    def key(self) -> str:
        """SHA-256 of what is scored: of its bytes and of the files that it is asked with."""
        return hashlib.sha256(f"{self.digest} {self.companions.digest}".encode()).hexdigest()

    def dtype_of(self, info: TensorInfo) -> str:
        """The output dtype of a tensor: only those that are averaged are ever cast."""
        if self.dtype is None or role(info) != "blend":
            return info.dtype
        return self.dtype

    @property
    def nbytes(self) -> int:
        """The output's bytes of all tensors."""
        return sum(map(self.nbytes_of, self.reference.tensors.values()))

    def nbytes_of(self, info: TensorInfo) -> int:
        """The output's bytes of a tensor."""
        return info.numel * ITEMSIZES[self.dtype_of(info)]


def role(info: TensorInfo) -> str:
    """What happens to a tensor: ``"blend"``, ``"copy"`` (must be equal in all members) or
    ``"take"`` (the first member's; BatchNorm's step counter, which nothing averages).
    """
    if info.name.endswith(".num_batches_tracked"):
        return "take"
    if not info.is_float or info.name.endswith(("inv_freq", "position_ids")):
        return "copy"
    if is_bound(info):
        return "copy"
    return "blend"
