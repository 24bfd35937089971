"""soup/checkpoints/differing.py: companion files that decide answers, compared by key and value."""

import json
from pathlib import Path
from typing import Any

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


def tokenizer(merges: list[Any], **of_token: bool) -> str:
    """A tokenizer.json of five tokens."""
    token = {"id": 4, "content": "<image>", "lstrip": False, "special": True} | of_token
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "ba": 3}, "merges": merges}
    return json.dumps({"model": model, "added_tokens": [token]})


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (tokenizer(["b a", "a b"]), "how it merges pieces into tokens;"),
        (tokenizer([["a", "b"], ["b", "a"]]), ""),  # as newer versions write them
        (tokenizer(["a b", "b a"], lstrip=True), "token '<image>' lstrip true (a: false);"),
    ],
)
def test_tokenizers_of_equal_tokens_that_read_otherwise_are_told(
    tmp_path: Path, theirs: str, said: str
) -> None:
    """The rows agree, yet a text becomes other tokens: which part of the tokenizer it is."""
    paths = [
        make_checkpoint(tmp_path / name, random_tensors(k), files={"tokenizer.json": text})
        for k, (name, text) in enumerate([("a", tokenizer(["a b", "b a"])), ("b", theirs)])
    ]
    report = inspect(paths)
    assert not report.problems
    found = [line for line in report.warnings if "differs from" in line]
    assert len(found) == bool(said)
    assert all(line.startswith(f"b: differs from a in tokenizer.json: {said}") for line in found)


def test_an_id_alone_and_in_a_list_are_one(tmp_path: Path) -> None:
    """Which token ends an answer may be written in either way; several are another thing."""
    for value, expected in (([2], 0), ([2, 3], 1)):
        paths = [
            make_checkpoint(
                tmp_path / f"{name}{expected}",
                random_tensors(k),
                files={"generation_config.json": json.dumps({"eos_token_id": eos})},
            )
            for k, (name, eos) in enumerate([("a", 2), ("b", value)])
        ]
        assert len(inspect(paths).warnings) == expected


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
