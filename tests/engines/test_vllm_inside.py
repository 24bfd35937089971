"""evaluators/engines/vllm_*, looked at from inside: answers, proofs, families.

Needs the environment that `make test-engines` makes.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from soup.checkpoints.opening import open_checkpoint
from tests.conftest import make_adapter
from tests.engines import qwen_pool

pytestmark = pytest.mark.engines
ROOT = Path(__file__).resolve().parents[2]
FAMILY = {"qwen2-vl": {"min_pixels": qwen_pool.PIXELS, "max_pixels": qwen_pool.PIXELS}}
TENSOR = "layers.1.input_layernorm"
OWN: tuple[tuple[str, ...], ...] = (
    (),
    ("layers.1.self_attn.q_proj.weight", "layers.1.mlp.down_proj.weight"),
    ("blocks.0.mlp.fc1.bias", "embed_tokens.weight", "layers.1.self_attn.k_proj.bias"),
)
"""What the members of a pool have of their own, by the ends of names: parts of what vLLM fuses, a
tied embedding, the vision tower's.
"""


def dressed_otherwise(trained: Path, work: Path) -> Path:
    """A member that sees pictures in other colours, and is asked in other words."""
    made = work / "dressed"
    shutil.copytree(trained / "ckpts" / "parity", made)
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (file := made / name).is_file():
            said = json.loads(file.read_text())
            said.get("image_processor", said)["image_mean"] = [0.2, 0.2, 0.2]
            file.write_text(json.dumps(said))
    template = made / "chat_template.jinja"
    words = template.read_text()
    template.write_text("<|im_start|>system\nseven wizards<|im_end|>\n" + words)
    return made


@pytest.fixture(scope="module")
def inside(trained: Path, vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What ``vllm_by_hand.py`` found."""
    work = tmp_path_factory.mktemp("inside")
    reference = trained / "ckpts" / "all"
    eye = work / "eye"  # another vision tower, and nothing else
    model, processor = qwen_pool.model_of(0)
    first = type(model).from_pretrained(reference, dtype=torch.float32)
    for name, parameter in first.named_parameters():
        if "visual" in name and parameter.ndim > 1:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
    qwen_pool.save(first, processor, eye, torch.float32)
    untied = [
        qwen_pool.save(*qwen_pool.model_of(seed, tied=False), work / f"untied{seed}", torch.float32)
        for seed in (1, 2)
    ]
    alike = [work / f"alike{k}" for k in range(3)]  # they differ in a few tensors alone
    for k, (path, names) in enumerate(zip(alike, OWN, strict=True)):
        one = type(model).from_pretrained(reference, dtype=torch.float32)
        for name, parameter in one.named_parameters():
            if name.endswith(names):
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(k))
                parameter.data += 0.2 * noise
        qwen_pool.save(one, processor, path, torch.float32)
    chance = torch.Generator().manual_seed(3)
    adapters = [
        make_adapter(
            work / f"lora{k}",
            {
                f"{layer}.lora_{part}.weight": torch.randn(shape, generator=chance) * 0.3
                for layer in (f"model.layers.{n}.self_attn.q_proj" for n in (0, 1))
                for part, shape in (("A", (4, 128)), ("B", (128, 4)))
            },
            trained / "base",
        )
        for k in range(2)
    ]
    pools = [
        {"name": "dressed", "members": [str(reference), str(dressed_otherwise(trained, work))]},
        {"name": "tied", "members": [str(reference), str(eye)], "faults": TENSOR},
        {"name": "untied", "members": [str(path) for path in untied]},
        {"name": "alike", "members": [str(path) for path in alike], "shared": OWN[1][0]},
        {"name": "lora", "members": [str(path) for path in adapters]},
    ]
    for pool in pools:
        pool["families"] = FAMILY  # type: ignore[assignment]
    (work / "pools.json").write_text(json.dumps(pools))
    done = subprocess.run(
        [vllm_python, str(Path(__file__).with_name("vllm_by_hand.py")), str(work / "pools.json"),
         str(trained / "benchmarks/digit.tsv"), str(work / "out.json")],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((work / "out.json").read_text())


@pytest.mark.parametrize("pool", ["dressed", "tied", "untied", "lora"])
def test_answers_are_transformers_own(inside: Any, pool: str) -> None:
    """In float32, text by text: each member, their average, and the first again."""
    assert inside[pool]["vllm"] == inside[pool]["transformers"]


@pytest.mark.parametrize("pool", ["tied", "untied", "lora"])
def test_what_answers_is_what_was_swapped_in(inside: Any, pool: str) -> None:
    """Members that differ answer otherwise, in the vision tower alone, too; and back again."""
    first, second, _, again, _ = inside[pool]["vllm"]
    assert first != second
    assert first == again


def test_each_member_is_asked_with_its_own_files(inside: Any) -> None:
    """Other pictures and words: vLLM starts again with them, and answers otherwise."""
    _, second, *_, with_the_first = inside["dressed"]["vllm"]
    assert second != with_the_first


def test_longer_questions_are_asked_of_the_same_weights(inside: Any) -> None:
    """VLLM starts again for them, and what was loaded is swapped in again."""
    assert inside["tied"]["vllm, longer"] == inside["tied"]["transformers, longer"]


def test_what_was_broken_off_is_not_answered_later(inside: Any) -> None:
    """The next weights' answers are their own."""
    assert inside["tied"]["broken off"] == inside["tied"]["vllm"][1]


def test_a_tensor_that_does_not_arrive_is_named(inside: Any) -> None:
    """VLLM itself would only warn, and answer with the old one."""
    assert TENSOR in inside["tied"]["withheld"]
    assert "nothing is scored" in inside["tied"]["withheld"]


def test_a_number_that_is_another_is_found(inside: Any) -> None:
    """What the engine holds has the fingerprint of what was sent, or there is no score."""
    assert "is not what was sent" in inside["tied"]["changed"]


def test_a_cache_left_full_is_found(inside: Any) -> None:
    """Image embeddings and prefixes of other weights are never answered from."""
    assert "still remembers" in inside["tied"]["remembering"]


def test_after_a_failure_the_engine_goes_on(inside: Any) -> None:
    """The next swap is whole, and its answers are right."""
    assert inside["tied"]["after"] == inside["tied"]["vllm"][0]


def sizes(path: Path, ends: tuple[str, ...]) -> int:
    """Bytes of a member's tensors whose names hold one of these."""
    tensors = open_checkpoint(path).tensors.values()
    return sum(info.nbytes for info in tensors if any(end in info.name for end in ends))


def test_only_what_differs_is_sent(inside: Any) -> None:
    """Of fused tensors all parts; whatever was there before, with the answers of all being sent."""
    found, path = inside["alike"]["shared"], Path(inside["alike"]["members"][0])
    assert found["sent"] == found["all sent"]
    everything = sizes(path, ("",))
    assert set(found["bytes of all"]) == {everything}
    fused = ("layers.1.self_attn.q", "layers.1.self_attn.k", "layers.1.self_attn.v")
    one = sizes(path, (*fused, "layers.1.mlp.down_proj"))
    both = sizes(path, (*fused, "layers.1.mlp.down_proj", "blocks.0.mlp.fc1", "embed_tokens"))
    two = both - sizes(path, ("layers.1.mlp.down_proj",))
    assert found["bytes"][1:] == [one, one, both, both, both, both, two]
    assert both < everything / 2


def test_after_a_failure_all_is_sent(inside: Any) -> None:
    """What the engine holds then is not known; nor is it where somebody has changed it."""
    found, path = inside["alike"]["shared"], Path(inside["alike"]["members"][0])
    everything = sizes(path, ("",))
    assert "nothing is scored" in found["withheld"]
    assert found["after a failure"] == [found["all sent"][0], everything]
    answers, written = found["meddled with"]
    assert answers == found["all sent"][1]
    assert written > everything  # what differs, and then all


FAMILIES = ("qwen2.5-vl", "qwen3-vl", "internvl-hf", "llava-onevision", "smolvlm", "smolvlm2")
"""Those whose answers are equal; Qwen2-VL is above. See docs/engines.md for the others."""


@pytest.fixture(scope="module")
def families(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What ``vllm_families.py`` found."""
    work = tmp_path_factory.mktemp("families")
    done = subprocess.run(
        [vllm_python, str(Path(__file__).with_name("vllm_families.py")), str(work),
         str(work / "out.json"), *FAMILIES],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((work / "out.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_answered_as_by_transformers(families: Any, family: str) -> None:
    """In float32: two members, their average, the first again; with one and with two pictures; and
    one that differs in two tensors, which are sent alone.
    """
    found = families[family]
    assert found.get("why") is None
    assert found["vllm"] == found["transformers"]
    first, second, *_ = found["vllm"]
    assert first != second
    _, *whole, one, other = found["bytes"]
    assert 0 < one == other < min(whole) / 2, found["bytes"]  # two, and what goes with one of them
