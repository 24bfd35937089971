"""What runs inside vLLM's own workers, one for each device: it swaps a blend in and proves it.

vLLM makes ``Swap`` a part of its worker class. Nothing is sent there but which files to read: every
worker opens the members itself, and vLLM's loading takes each whole tensor, fuses it with others
where it does, and keeps the slice that is its own.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from soup.blending.blend import Blend
from soup.blending.common import held
from soup.blending.running import RunningSum, memory_budget
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.ties import EMBEDDINGS, HEADS, partner
from soup.errors import SoupError
from soup.evaluators.engines.ledger import Ledger
from soup.evaluators.engines.pulling import tensors_of
from soup.evaluators.engines.vllm_gaps import fill, known_as
from soup.evaluators.engines.vllm_held import (
    Held,
    Seen,
    after,
    fingerprint,
    left,
    met_again,
    quiet,
)
from soup.events import Observer, ignore

WATCHING: dict[str, Observer] = {}
"""Who is told of progress, by a word that the caller gives: where the worker is in its process."""

IGNORED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids|num_batches_tracked)$")
"""File tensors that transformers makes no use of, either: constants, or counters of training."""

UNREAD = {
    "LlavaOnevisionForConditionalGeneration": re.compile(
        r"(^|\.)vision_tower\.(vision_model\.)?post_layernorm\.(weight|bias)$"
    ),
}
"""File tensors, by architecture, that transformers loads, and that change no answer: LLaVA takes
what a layer of the tower says, and the tower normalises that for others alone."""

CLOSE = 2e-2
"""How far a product by weights that an engine keeps in a form of its own may be from ours."""

fill()  # this is imported by every process of vLLM's before it makes a model


class Swap:
    """Becomes part of vLLM's worker; ``collective_rpc`` calls it by name."""

    model_runner: Any
    _soup_running: RunningSum | None = None
    _soup_held: Held | None = None
    _soup_met: dict[Any, Checkpoint] | None = None

    def soup_swap(
        self, blend: bytes, task: str, watching: str, cache: str, anew: bool
    ) -> dict[str, Any]:
        """Make the weights those of a pickled Blend; what is there already is not sent again.

        Args:
            blend: what to stream; its members' files are opened here.
            task: the name of the work, for progress.
            watching: see ``WATCHING``.
            cache: where sums go that do not fit memory; empty for none, where several workers
                would each make their own.
            anew: whether all is to be sent.

        Returns:
            ``error``: a SoupError's name and text, where that is how it ended; else ``used``,
            ``sizes`` and ``sums`` by file tensor, see ``Ledger``, ``missing``: what the engine
            holds that was not filled, ``unequal``: what it holds that is not what was sent, or
            was there; ``written``: bytes of the tensors that were sent.
        """
        if cache and self._soup_running is None:
            self._soup_running = RunningSum(memory_budget(), Path(cache))
        observe = WATCHING.get(watching, ignore)
        before, self._soup_held = None if anew else self._soup_held, None
        try:
            if self._soup_met is None:
                self._soup_met = {}
            made = met_again(pickle.loads(blend), self._soup_met)
            kinds = made.reference.config.get("architectures") or ()
            now, written = held(made), 0
            while True:
                same = left(before, now, made.reference.tensors)
                pairs = tensors_of(made, task, observe, self._soup_running, same)
                seen = None if before is None else before.seen
                report, found = load(
                    self.model_runner, pairs, lambda name: known_as(kinds, name), seen
                )
                written += report["written"]
                bad = report["missing"] or report["unequal"]
                if not (bad and same):
                    break
                before = None  # it is not what it was thought to be: then all is sent
            holds, whole = after(before, same, now, report, found)
            self._soup_held = None if bad else holds
            return whole | {"written": written}
        except SoupError as error:
            return {"error": [type(error).__name__, str(error)]}

    def soup_caches(self) -> dict[str, int]:
        """How much is in the caches on this side, by name."""
        return {"image embeddings (worker)": len(getattr(self.model_runner, "encoder_cache", ()))}


def load(
    runner: Any,
    pairs: Iterator[tuple[str, torch.Tensor]],
    known: Callable[[str], str] = str,
    before: Seen | None = None,
) -> tuple[dict[str, Any], Seen]:
    """Have a model runner reload its weights from pairs, and compare what it holds then.

    Args:
        runner: vLLM's.
        pairs: a name in the files, and a whole tensor; all that fill one layer, or none of them.
        known: from such a name to that by which vLLM knows the tensor.
        before: what was seen in it when it was loaded last, if it is to keep what is not sent.

    Returns:
        The report that ``Swap.soup_swap`` makes, and what was seen in the layers that were loaded.
    """
    ledger = Ledger()
    model = runner.get_model()
    packed: dict[tuple[int, str], bool] = {}
    probes: dict[int, torch.Tensor] = {}
    filled: dict[int, set[str]] = {}
    with _processing(model, lambda layer: _look(layer, ledger, packed, probes, filled)), ledger:
        sent = ((known(name), tensor) for name, tensor in ledger.sent(pairs))
        with quiet():
            runner.reload_weights(weights_iterator=sent)
    missing, unequal, found = [], [], Seen()
    kept = before.prints if before is not None else {}
    # Buffers that no file tensor fills are the engine's own: tables of angles, scales of caches.
    buffers = {
        name: b
        for name, b in model.named_buffers()
        if b.numel() and (ledger.entry(b) or name in kept)
    }
    for name, there in {**dict(model.named_parameters()), **buffers}.items():
        module, _, last = name.rpartition(".")
        layer = model.get_submodule(module)
        seen = packed.get((id(layer), last))
        entry = ledger.entry(there) if there.numel() else None
        if before is not None and entry is None and seen is None and name in kept:
            if fingerprint(layer, there, before.probes.get(name)) != kept[name]:
                unequal.append(name)
            continue
        names = filled.setdefault(id(layer), set())
        if entry is not None:
            names |= entry.names
            found.prints[name] = fingerprint(layer, there, None)
            if entry.filled < there.numel():
                missing.append(name)
            elif found.prints[name] != entry.total:
                unequal.append(name)
        elif seen is None:
            missing.append(name)
        elif not seen:
            unequal.append(name)
        elif last == "weight" and id(layer) in probes:
            found.probes[name] = probes[id(layer)]
            found.prints[name] = fingerprint(layer, there, probes[id(layer)])
        else:
            found.unknown |= names
        found.groups[module] = frozenset(names)
    return {
        "used": ledger.used,
        "sizes": dict(ledger.sizes),
        "sums": ledger.sums,
        "missing": missing,
        "unequal": unequal,
        "written": ledger.nbytes,
    }, found


def _look(
    layer: Any,
    ledger: Ledger,
    packed: dict[tuple[int, str], bool],
    probes: dict[int, torch.Tensor],
    filled: dict[int, set[str]],
) -> Callable[[], None]:
    """Look at a layer's weights before the engine brings them into a form of its own.

    Args:
        layer: of the model.
        ledger: of the load.
        packed: gets, by layer and name, whether a weight was what was sent.
        probes: gets, by layer, what its weights were multiplied with, where they are gone.
        filled: gets, by layer, the file tensors that it was filled from.

    Returns:
        What looks at it after that: where the weights are gone, they must still give the products
        that they gave before.
    """
    before = dict(layer.named_parameters(recurse=False))
    for name, weight in before.items():
        entry = ledger.entry(weight)
        packed[id(layer), name] = entry is not None and entry.holds(weight)
        filled.setdefault(id(layer), set()).update(entry.names if entry is not None else ())
    matrix = before.get("weight")
    if matrix is None or matrix.ndim != 2:
        return lambda: None
    probe = _probe(matrix)
    expected = probe @ matrix.detach().t()

    def after() -> None:
        now = getattr(layer, "weight", None)
        if now is not None and now.numel():
            return  # still there to be compared
        method = layer.quant_method
        found = method.apply(layer, probe, None)
        scale = float(expected.abs().max()) or 1.0
        close = float((found - expected).abs().max()) <= CLOSE * scale
        packed[id(layer), "weight"] = packed[id(layer), "weight"] and close
        probes[id(layer)] = probe

    return after


def _probe(matrix: torch.Tensor) -> torch.Tensor:
    """One row to multiply with: different in every column, the same every time."""
    columns = torch.arange(matrix.shape[1], device=matrix.device, dtype=torch.float32)
    return torch.sin(columns * 0.7 + 0.3)[None].to(matrix.dtype)


@contextmanager
def _processing(model: Any, look: Callable[[Any], Callable[[], None]]) -> Iterator[None]:
    """While inside, ``look`` sees every layer before its weights are processed, and after."""
    methods: dict[int, Any] = {}
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        if hasattr(method, "process_weights_after_loading"):
            methods[id(method)] = method

    def watched(method: Any) -> Callable[[Any], None]:
        process = method.process_weights_after_loading

        def process_and_look(layer: Any) -> None:
            after = look(layer)
            process(layer)
            after()

        return process_and_look

    for method in methods.values():
        method.process_weights_after_loading = watched(method)
    try:
        yield
    finally:
        for method in methods.values():
            del method.process_weights_after_loading


def unused(report: Mapping[str, Any], blend: Blend) -> list[str]:
    """File tensors that an engine made no use of, or not wholly, though the model is theirs, too.

    A head that is tied to its embedding may be left out where both are equal: that is what tying
    is. What transformers makes no use of may be, too.

    Args:
        report: of one worker, or of several together: ``used`` summed over them.
        blend: what was sent.
    """
    found = []
    tensors, sums = blend.reference.tensors, report["sums"]
    kinds = blend.reference.config.get("architectures") or ()
    ignored = [IGNORED, *(UNREAD[kind] for kind in kinds if kind in UNREAD)]
    for name, size in report["sizes"].items():
        if report["used"][name] >= size or any(one.search(name) for one in ignored):
            continue
        if not report["used"][name] and name.endswith(HEADS + EMBEDDINGS):
            other = partner(name, tensors, tensors[name])
            if other and sums[other] == sums[name] and report["used"][other] >= size:
                continue
        found.append(name)
    return found + [name for name in tensors if name not in report["sizes"]]
