"""soup/checkpoints/differing.py: companion files that decide answers, compared by key and value."""

import json
from pathlib import Path

import pytest

from soup.checkpoints.pool import inspect
from tests.conftest import make_adapter, make_checkpoint, random_tensors

FILES = {
    "processor_config.json": json.dumps(
        {"image_processor": {"image_mean": [0.5], "size": {"height": 8}}, "processor_class": "P"}
    ),
    "generation_config.json": json.dumps({"max_length": 20, "transformers_version": "5.17.0"}),
    "tokenizer_config.json": json.dumps({"padding_side": "left", "name_or_path": "here"}),
    "chat_template.jinja": "{{ messages }}",
    "modeling_tiny.py": "# code\n",
}


def warned(tmp_path: Path, changed: dict[str, str]) -> tuple[str, ...]:
    """What is said of a second member with other files."""
    files = FILES | changed
    paths = [
        make_checkpoint(tmp_path / "a", random_tensors(0), files=FILES),
        make_checkpoint(tmp_path / "b", random_tensors(1), files=files),
    ]
    report = inspect(paths)
    assert not report.problems
    return report.warnings


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "processor_config.json",
            json.dumps({"image_processor": {"image_mean": [0.0], "size": {"height": 8}}}),
            "processor_config.json: image_processor.image_mean [0.0] (a: [0.5]);",
        ),
        (
            "generation_config.json",
            json.dumps({"repetition_penalty": 1.2}),
            "generation_config.json: max_length nothing (a: 20), "
            "repetition_penalty 1.2 (a: nothing);",
        ),
        (
            "tokenizer_config.json",
            json.dumps({"padding_side": "right"}),
            "tokenizer_config.json: padding_side right (a: left);",
        ),
        (
            "preprocessor_config.json",
            json.dumps({f"k{k}": k for k in range(6)}),
            "preprocessor_config.json: k0 0 (a: nothing), k1 1 (a: nothing), k2 2 (a: nothing), "
            "k3 3 (a: nothing) and 2 more settings;",
        ),
        ("chat_template.jinja", "{{ other }}", "chat template;"),
        ("modeling_tiny.py", "# other\n", "code: modeling_tiny.py;"),
    ],
)
def test_what_decides_answers_and_differs_is_named(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    """File, key and both values; and with whose files what is scored."""
    (warning,) = warned(tmp_path, {name: text})
    assert warning.startswith(f"b: differs from a in {said}")
    assert warning.endswith("each member is scored with its own, a soup of several with a's")


def test_what_changes_no_answer_is_not_told(tmp_path: Path) -> None:
    """Versions and paths; the order of keys."""
    changed = {
        "generation_config.json": json.dumps({"transformers_version": "4.57", "max_length": 20}),
        "tokenizer_config.json": json.dumps({"name_or_path": "there", "padding_side": "left"}),
    }
    assert warned(tmp_path, changed) == ()


def test_adapters_of_one_base_have_its_files(tmp_path: Path) -> None:
    """Nothing differs between them."""
    base = make_checkpoint(tmp_path / "base", random_tensors(0), files=FILES)
    name = next(name for name, tensor in random_tensors(0).items() if tensor.dim() == 2)
    module = name.removesuffix(".weight")
    rows, columns = random_tensors(0)[name].shape
    import torch

    paths = [
        make_adapter(
            tmp_path / f"adapter-{k}",
            {
                f"{module}.lora_A.weight": torch.ones(2, columns) * k,
                f"{module}.lora_B.weight": torch.ones(rows, 2),
            },
            base,
            r=2,
        )
        for k in (1, 2)
    ]
    assert not [line for line in inspect(paths).warnings if "differs from" in line]
