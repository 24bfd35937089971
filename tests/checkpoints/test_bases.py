"""soup/checkpoints/bases.py: adapters that name another base than the one that is used."""

from pathlib import Path

import pytest
import torch

from soup.checkpoints.pool import inspect
from tests.conftest import make_adapter, make_checkpoint

FACTORS = {"lin.lora_A.weight": torch.ones(2, 3), "lin.lora_B.weight": torch.ones(5, 2)}


@pytest.mark.parametrize(
    ("named", "other"),
    [
        ("org/Model-7B", False),
        ("/elsewhere/model-7b", False),
        ("unsloth/Model-7B-bnb-4bit", False),
        ("unsloth/Model-7B-unsloth-bnb-4bit", False),
        ("org/Model-7B-GPTQ-Int4", False),
        ("org/Model-2B", True),
        ("org/Model-2B-AWQ", True),
        ("org/Model-7B-base", True),
        ("a\0b", True),
        ("\ud800", True),
    ],
)
def test_a_base_by_another_name_is_told(tmp_path: Path, named: str, other: bool) -> None:
    """A quantised copy, which QLoRA's adapters name, is no other base: they are told to name the
    one that it was made of.
    """
    base = make_checkpoint(tmp_path / "Model-7B", {"lin.weight": torch.ones(5, 3)})
    adapter = make_adapter(tmp_path / "a", FACTORS, base_model_name_or_path=named, r=2)
    lines = [line for line in inspect([adapter], base=base).warnings if "another base" in line]
    assert bool(lines) is other
    assert all(repr(named) in line and str(base) in line for line in lines)
