"""Adapters of every kind of VLM, merged by PEFT and by us: ``python -m tests.checkpoints.merging``.

Tiny random models with LoRA on all linear layers of text, towers and projectors, and on fused
experts, as transformers and PEFT save them; every tensor of the merged model is compared with what
a blend of the adapter writes. A few of them are tests of the suite; all take some minutes. Prints
a line for each kind, and ends in 1 where one differs.
"""

import logging
import re
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.checkpoints import shrinking
from tests.checkpoints.architectures import UNADAPTED, architectures

CLOSE = 1e-5
"""How far apart values near one may be: both compute in float32, PEFT in other orders."""


@dataclass(frozen=True)
class Compared:
    """What came of one kind.

    Attributes:
        factors: how many modules and parameters have factors.
        largest: the largest difference of a value, in units of the largest value of its tensor.
        wrong: names of tensors that only one side has, or that differ.
    """

    factors: int
    largest: float
    wrong: tuple[str, ...]


def modules(model: Any) -> list[str]:
    """Linear layers whose weights are nobody else's, which merging would change, too."""
    import torch

    tied = getattr(model, "all_tied_weights_keys", None) or {}
    shared = {*tied, *tied.values()}
    return [
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) and f"{name}.weight" not in shared
    ]


def target(model: Any, layers: list[str]) -> list[str] | str:
    """What PEFT calls them: a list, which matches ends of names, or else a pattern."""
    rest = {name for name, _ in model.named_modules()} - set(layers)
    if any(name.endswith(f".{layer}") for name in rest for layer in layers):
        return "|".join(map(re.escape, layers))
    return layers


def experts(model: Any) -> list[str]:
    """Parameters that hold all experts of a layer and are nobody else's."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    shared = {*tied, *tied.values()}
    return [
        name
        for name, value in model.named_parameters()
        if value.dim() == 3 and ".experts." in name and name not in shared
    ]


def compare(model: Any, here: Path) -> Compared:
    """Save a model and an adapter of it, merge it both ways, and compare.

    Args:
        model: of float32 weights.
        here: an empty directory.
    """
    from peft import LoraConfig, get_peft_model

    from soup.blending.blend import Blend
    from soup.blending.writer import write
    from soup.checkpoints.opening import open_checkpoint
    from tests.blending.test_writer import loaded

    layers, parameters = modules(model), experts(model)
    model.save_pretrained(here / "base")
    settings = LoraConfig(
        r=4,
        lora_alpha=6,
        init_lora_weights=False,
        target_modules=target(model, layers),
        target_parameters=parameters or None,
    )
    wrapped = get_peft_model(model, settings)
    factors = sum(".lora_A." in name for name, _ in wrapped.named_parameters())
    wrapped.save_pretrained(str(here / "lora"))
    wrapped.merge_and_unload().save_pretrained(here / "merged")
    member = open_checkpoint(here / "lora", base=here / "base")
    found = loaded(write(Blend((member,), member), here / "soup").path)
    expected, base = loaded(here / "merged"), loaded(here / "base")
    wrong, largest = sorted(expected.keys() ^ found.keys()), 0.0
    for name in expected.keys() & found.keys():
        one, other = expected[name].double(), found[name].double()
        if one.equal(other):
            continue  # infinite bounds, too
        apart = float((one - other).abs().max() / one.abs().max().clamp(min=1e-6))
        largest = max(largest, apart)
        if not apart <= CLOSE:
            wrong.append(name)
    wrong += [name for name in member.updates if found[name].equal(base[name])]  # PEFT's, too
    return Compared(factors, largest, tuple(wrong))


def main() -> int:
    """Examine all, or those that are named."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    faults, kinds = 0, architectures()
    for name in sys.argv[1:] or kinds:
        if name in UNADAPTED:
            print(f"{name}: no adapters: {UNADAPTED[name]}", flush=True)
            continue
        torch.manual_seed(0)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = shrinking.model(name, kinds[name])
            except Exception as error:
                print(f"{name}: cannot be built: {type(error).__name__}: {error}", flush=True)
                faults += 1
                continue
            try:
                said = compare(model, Path(folder))
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}"[:600], flush=True)
                faults += 1
                continue
        text = f"{said.factors} adapted, largest difference {said.largest:.1e}"
        if said.wrong:
            text += f", {len(said.wrong)} wrong: {', '.join(said.wrong[:3])}"
        faults += bool(said.wrong)
        print(f"{name}: {text} ({time.monotonic() - started:.1f} s)", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
