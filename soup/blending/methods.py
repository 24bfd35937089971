"""Ways to merge: their names, and what is known of each without computing anything.

To add one, write its row here and its function in ``soup.blending.arithmetic``, under the same
name. The table is apart from the arithmetic so that help, plans and mistakes need no torch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from soup.errors import UsageError
from soup.words import did_you_mean


@dataclass(frozen=True)
class Method:
    """A way to merge.

    Attributes:
        summary: what it does, in one line of help.
        paper: where it comes from.
        needs_base: whether it works on differences to a base.
        whole_tensor: whether it must see a tensor whole, rather than in chunks.
        weighted: whether it takes one weight per member.
        members: how many it takes exactly; None for any number.
        parameters: its own parameters with their defaults.
    """

    summary: str
    paper: str
    needs_base: bool = False
    whole_tensor: bool = False
    weighted: bool = True
    members: int | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "linear": Method("weighted sum; without weights the average", "arXiv:2203.05482"),
    "task-arithmetic": Method(
        "base + lambda times the sum of the members' differences to it",
        "arXiv:2212.04089",
        needs_base=True,
        parameters={"lambda": 1.0},
    ),
    "ties": Method(
        "keep each difference's largest entries, elect a sign, average those that agree",
        "arXiv:2306.01708",
        needs_base=True,
        whole_tensor=True,
        parameters={"density": 0.2, "lambda": 1.0},
    ),
    "dare": Method(
        "drop entries of the differences at random, scale up the rest, add",
        "arXiv:2311.03099",
        needs_base=True,
        parameters={"density": 0.5, "lambda": 1.0, "seed": 0.0},
    ),
    "slerp": Method(
        "along the arc between two members; t = 0 is the first, 1 the second",
        "doi:10.1145/325334.325242",
        whole_tensor=True,
        weighted=False,
        members=2,
        parameters={"t": 0.5},
    ),
    "model-stock": Method(
        "between base and average, the nearer to it the more the differences agree",
        "arXiv:2403.19522",
        needs_base=True,
        whole_tensor=True,
        weighted=False,
    ),
}
"""Every method by the name that ``--method`` takes."""

RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lambda": ("a finite number", math.isfinite),
    "density": ("a number in (0, 1]", lambda value: 0 < value <= 1),
    "t": ("a number in [0, 1]", lambda value: 0 <= value <= 1),
    "seed": ("a whole number from 0 to 2^53", lambda v: 0 <= v <= 2**53 and v == int(v)),
}
"""What each parameter may be: a name means the same in every method."""


def find(name: str, parameters: Mapping[str, float]) -> Method:
    """A method by its name, with parameters that it takes.

    Raises:
        UsageError: no such method or parameter, or a value outside the parameter's range.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; {did_you_mean(name, METHODS)}")
    method = METHODS[name]
    for key, value in parameters.items():
        if key not in method.parameters:
            known = did_you_mean(key, method.parameters) or "it has none"
            raise UsageError(f"{name} has no parameter {key!r}; {known}")
        expected, fits = RANGES[key]
        if not fits(value):
            raise UsageError(f"{name}: {key}: expected {expected}, found {value:g}")
    return method


def describe(name: str, parameters: Mapping[str, float]) -> str:
    """A method with all its parameters, e.g. ``ties (density 0.2, lambda 1)``."""
    values = {**METHODS[name].parameters, **parameters}
    shown = [f"{key} {int(v) if v == int(v) else v}" for key, v in values.items()]
    return f"{name} ({', '.join(shown)})" if shown else name


def require_weights(name: str, weights: Sequence[float], members: int) -> None:
    """One finite weight per member, for a method that takes them.

    Raises:
        UsageError: otherwise.
    """
    if not METHODS[name].weighted:
        known = ", ".join(key for key, method in METHODS.items() if method.weighted)
        raise UsageError(f"{name} takes no weights; leave them out, or use one of {known}")
    if len(weights) != members:
        raise UsageError(
            f"expected {members} weights, one per member in their order, found {len(weights)}"
        )
    for number, weight in enumerate(weights, 1):
        if not math.isfinite(weight):
            raise UsageError(f"weight {number}: expected a finite number, found {weight}")
