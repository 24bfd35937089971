"""LoRA on modules that files do not hold as they are in memory: q, k and v in one tensor, the two
halves of one projection in two, a layer's experts in whatever way.

Which rows are stored where is known from transformers alone, see ``soup.checkpoints.asking``.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soup.checkpoints.asking import Piece, stored_as
from soup.checkpoints.factors import MERGE, Finder, Parts
from soup.checkpoints.lora import Patch, Recent, RowsUpdate
from soup.checkpoints.ranks import Ranks
from soup.checkpoints.tensors import TensorInfo
from soup.checkpoints.weights import ADAPTER
from soup.errors import CheckpointError


class Together:
    """Factors of such modules, gathered by the stored tensors that they change."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._patches: dict[str, list[Patch]] = {}

    def take(
        self,
        directory: Path,
        settings: Mapping[str, Any],
        modules: dict[str, Parts],
        finder: Finder,
    ) -> None:
        """Take modules out of ``modules`` whose weights files hold with others, or in parts.

        Args:
            directory: of the adapter.
            settings: its ``adapter_config.json``.
            modules: factors by the path of their module.
            finder: of what is found without asking.

        Raises:
            CheckpointError: factors do not fit, or are of a kind that is not computed; named.
        """
        unfound = [name for name in modules if finder.find(f"{name}.weight") is None]
        ranks = Ranks(directory / ADAPTER, settings)
        for module in unfound:
            if f"{module}.weight" not in stored_as(self._finder.parent).rows:
                continue  # named as not found, later
            parts = modules.pop(module)
            some = next(iter(parts.tensors.values()))
            rank, scale = ranks.of(module)
            plain = set(parts.tensors) == set("AB") and not parts.embedding
            if settings.get("fan_in_fan_out") or not plain:
                raise CheckpointError(
                    f"{some.file}: tensor {some.name}: files hold the weights of {module} with "
                    f"others, or in parts; only plain LoRA on a linear layer is computed there; "
                    f"{MERGE}"
                )
            if not self.add(f"{module}.weight", module, parts, rank, scale, 1):
                raise CheckpointError(
                    f"{some.file}: tensor {some.name}: A is {list(parts.tensors['A'].shape)}, B is "
                    f"{list(parts.tensors['B'].shape)} of rank {rank}: they do not fit {module} of "
                    f"the base {self._finder.parent.name}; was it trained on another base?"
                )

    def add(
        self, name: str, module: str, parts: Parts, rank: int, scale: float, experts: int
    ) -> bool:
        """Whether factors fit the rows of the tensor called ``name`` in memory; they are kept.

        Args:
            name: the tensor.
            module: its module's path, for errors.
            parts: A ``[E·r, in]`` and B ``[out, r·E]``.
            rank: r.
            scale: of B·A.
            experts: E.
        """
        pieces = stored_as(self._finder.parent).rows.get(name)
        down, up = parts.tensors["A"], parts.tensors["B"]
        if pieces is None or len(down.shape) != 2 or len(up.shape) != 2:
            return False
        out, into = up.shape[0], down.shape[1]
        found = [(self._finder.find(piece.name), piece) for piece in pieces]
        if (
            down.shape[0] != rank * experts
            or up.shape[1] != rank * experts
            or sum(piece.many for piece in pieces) != experts * out
            or not all(info and info.is_float and info.shape[-1] == into for info, _ in found)
            or not all(info and _has(info, piece) for info, piece in found)
        ):
            return False
        for info, piece in found:
            assert info is not None
            for at, expert, first, count in _by_experts(piece, out):
                step = piece.step
                patch = Patch(at, count, step, expert, first, down, up, scale, experts, module)
                self._patches.setdefault(info.name, []).append(patch)
        return True

    def updates(self) -> list[RowsUpdate]:
        """One for each stored tensor that is changed."""
        recent = Recent(8)
        tensors = self._finder.parent.tensors
        return [
            RowsUpdate(
                tensors[name], tensors[name], tuple(sorted(patches, key=lambda p: p.at)), recent
            )
            for name, patches in self._patches.items()
        ]


def _has(info: TensorInfo, piece: Piece) -> bool:
    rows = info.numel // max(info.shape[-1], 1)
    return piece.at >= 0 and piece.at + (piece.many - 1) * piece.step < rows


def _by_experts(piece: Piece, out: int) -> Iterator[tuple[int, int, int, int]]:
    """A piece cut where another expert's rows begin: row there, expert, row of its own, count."""
    done = 0
    while done < piece.many:
        expert, first = divmod(piece.first + done, out)
        count = min(piece.many - done, out - first)
        yield piece.at + done * piece.step, expert, first, count
        done += count
