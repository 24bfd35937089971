"""LoRA on parameters that hold all experts of a layer (PEFT's ``target_parameters``).

In memory a layer's experts are one parameter; in files they may be one tensor, in either order of
its last dimensions, or a matrix for each expert. The shapes tell.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from soup.checkpoints.checkpoint import TensorInfo
from soup.checkpoints.factors import MERGE, Finder, Parts
from soup.checkpoints.lora import ExpertsUpdate, Recent
from soup.checkpoints.ranks import Ranks
from soup.checkpoints.together import Together
from soup.checkpoints.weights import ADAPTER
from soup.errors import CheckpointError

SPLIT: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
"""A parameter of all experts, and the matrices of each, one above the other, in files."""

Find = Callable[[str], TensorInfo | None]


def take_experts(
    directory: Path,
    finder: Finder,
    settings: Mapping[str, Any],
    modules: dict[str, Parts],
    together: Together,
) -> list[ExpertsUpdate]:
    """Updates for factors of parameters, which are taken out of ``modules``.

    What the names of files do not tell goes to ``together``.

    Raises:
        CheckpointError: names a factor that fits no parameter, or more than one.
    """
    named = settings.get("target_parameters")
    if not isinstance(named, list) or not named:
        return []
    recent, ranks = Recent(), Ranks(directory / ADAPTER, settings)
    # Those whose shapes tell how weights are stored come first; the others are stored alike.
    found: list[tuple[Parts, str, list[str], list[_Fit]]] = []
    for module in list(modules):
        weight = finder.find(f"{module}.weight")
        if weight is not None and len(weight.shape) != 3:
            continue  # a module's, or as if it were
        path = module
        while path.endswith(".base_layer"):
            path = path.removesuffix(".base_layer")
        parameters = [
            str(name).rpartition(".")[2]
            for name in named
            if f".{path}".endswith(f".{str(name).rpartition('.')[0]}".rstrip("."))
        ]
        if not parameters:
            continue  # a module, which is called otherwise in files
        parts = modules.pop(module)
        fits = list(_fits(finder.find, ranks, path, parameters, parts))
        fits = fits or list(_fits(finder.asked, ranks, path, parameters, parts))
        found.append((parts, path, parameters, fits))
    proven = {fits[0].transposed for *_, fits in found if len(fits) == 1}
    for parts, path, parameters, fits in sorted(found, key=lambda one: _is_square(one[0])):
        if fits or (_is_square(parts) and proven != {False}):
            continue  # of a square one, nothing else tells [out, in] from [in, out]
        if _elsewhere(together, ranks, path, parameters, parts):
            proven.add(False)
            found.remove((parts, path, parameters, fits))
    updates: list[ExpertsUpdate] = []
    for parts, path, _, fits in found:
        likely = [fit for fit in fits if len(fits) == 1 or fit.transposed in proven]
        some = next(iter(parts.tensors.values()))
        if len(likely) != 1:
            why = "fits more than one way" if fits else "fits no parameter of the base"
            raise CheckpointError(
                f"{some.file}: tensor {some.name}: LoRA on parameters of {path} "
                f"({', '.join(map(str, named[:3]))}) {why}; {MERGE}"
            )
        updates += likely[0].updates(path, parts, recent)
    return updates


class _Fit:
    """One way in which factors fit a parameter: where it is stored, and in which order."""

    def __init__(
        self,
        targets: list[tuple[TensorInfo, int | None, int]],
        scale: float,
        experts: int,
        transposed: bool,
    ) -> None:
        self.targets, self.scale, self.experts = targets, scale, experts
        self.transposed = transposed

    def updates(self, path: str, parts: Parts, recent: Recent) -> Iterator[ExpertsUpdate]:
        down, up = parts.tensors["A"], parts.tensors["B"]
        for target, expert, first in self.targets:
            yield ExpertsUpdate(
                target,
                target,
                down,
                up,
                self.scale,
                self.experts,
                self.transposed,
                path,
                expert,
                first,
                recent,
            )


def _is_square(parts: Parts) -> bool:
    down, up = parts.tensors.get("A"), parts.tensors.get("B")
    return down is not None and up is not None and down.shape[-1:] == up.shape[:1]


def _fits(
    find: Find, ranks: Ranks, path: str, parameters: list[str], parts: Parts
) -> Iterator[_Fit]:
    down, up = parts.tensors.get("A"), parts.tensors.get("B")
    if down is None or up is None or len(down.shape) != 2 or len(up.shape) != 2:
        return
    for parameter in dict.fromkeys(parameters):
        rank, scale = ranks.of(f"{path}.{parameter}")
        experts, rest = divmod(down.shape[0], rank) if rank > 0 else (0, 1)
        if rest or experts < 1 or up.shape[1] != down.shape[0]:
            continue
        into, out = down.shape[1], up.shape[0]
        whole = find(f"{path}.{parameter}")
        if whole is not None:
            for transposed, shape in ((False, (out, into)), (True, (into, out))):
                if whole.shape == (experts, *shape) and whole.is_float:
                    yield _Fit([(whole, None, 0)], scale, experts, transposed)
            continue
        for names in SPLIT.get(parameter, ()):
            targets = _split(find, path, names, experts, (out, into))
            if targets:
                yield _Fit(targets, scale, experts, transposed=False)


def _elsewhere(
    together: Together, ranks: Ranks, path: str, parameters: list[str], parts: Parts
) -> bool:
    """Whether factors fit a parameter that only transformers can find in files."""
    down, up = parts.tensors.get("A"), parts.tensors.get("B")
    if down is None or up is None or len(down.shape) != 2:
        return False
    for parameter in dict.fromkeys(parameters):
        rank, scale = ranks.of(f"{path}.{parameter}")
        experts = down.shape[0] // rank if rank > 0 else 0
        if together.add(f"{path}.{parameter}", path, parts, rank, scale, experts):
            return True
    return False


def _split(
    find: Find, path: str, names: tuple[str, ...], experts: int, shape: tuple[int, int]
) -> list[tuple[TensorInfo, int | None, int]]:
    """A matrix for each expert and name, with the row of B·A at which it begins."""
    found: list[tuple[TensorInfo, int | None, int]] = []
    for expert in range(experts):
        first = 0
        for name in names:
            info = find(f"{path}.{expert}.{name}.weight")
            if info is None or len(info.shape) != 2 or info.shape[1] != shape[1]:
                return []
            found.append((info, expert, first))
            first += info.shape[0]
        if first != shape[0]:
            return []
    return found
