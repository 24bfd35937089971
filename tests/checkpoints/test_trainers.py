"""soup/checkpoints/trainers.py: what trainers leave is known, and the command is shown."""

import json
import shlex
from pathlib import Path

import pytest
import torch

from soup.checkpoints import trainers
from soup.checkpoints.opening import open_checkpoint
from soup.errors import CheckpointError
from tests.conftest import CONFIG, make_adapter, make_checkpoint, random_tensors

KINDS = {
    "deepspeed": (
        "config.json latest zero_to_fp32.py rng_state_0.pth training_args.bin "
        "global_step500/zero_pp_rank_0_mp_rank_00_model_states.pt",
        "a DeepSpeed checkpoint (global_step500), {}; run there: cd {here} && "
        "python zero_to_fp32.py . . --safe_serialization",
    ),
    "deepspeed without its script, and two steps": (
        "config.json latest global_step5/mp_rank_00_model_states.pt "
        "global_step7/mp_rank_00_model_states.pt",
        "python -m deepspeed.utils.zero_to_fp32 . . --safe_serialization --tag global_step7",
    ),
    "accelerate with deepspeed": (
        "zero_to_fp32.py latest pytorch_model/zero_pp_rank_0_mp_rank_00_optim_states.pt",
        "a DeepSpeed checkpoint (pytorch_model)",
    ),
    "fsdp": (
        "config.json scheduler.pt pytorch_model_fsdp_0/__0_0.distcp optimizer_0/x.distcp",
        "an FSDP checkpoint, {}; run: accelerate merge-weights {here}/pytorch_model_fsdp_0 {here}",
    ),
    "fsdp, the folder itself": (
        ".metadata __0_0.distcp __1_0.distcp",
        "run: accelerate merge-weights {here} {above}",
    ),
    "fsdp, beside the settings": (
        "config.json .metadata __0_0.distcp",
        "run: accelerate merge-weights {here} {here}",
    ),
    "fsdp's model and optimizer": (
        "config.json optim/x.distcp weights/x.distcp",
        "run: accelerate merge-weights {here}/weights {here}",
    ),
    "a run of fsdp": (
        "checkpoint-9/pytorch_model_fsdp_0/x.distcp logs/x "
        "checkpoint-10/pytorch_model_fsdp_0/x.distcp",
        "no weights here; in checkpoint-10: an FSDP checkpoint, {}; run: accelerate merge-weights "
        "{here}/checkpoint-10/pytorch_model_fsdp_0 {here}/checkpoint-10",
    ),
    "lightning with deepspeed": (
        "latest checkpoint/mp_rank_00_model_states.pt",
        "a DeepSpeed checkpoint (checkpoint)",
    ),
    "a run of adapters, one below": (
        "v0-2024/checkpoint-1/adapter_config.json v0-2024/logging.jsonl",
        "no weights here; in v0-2024: did you mean {here}/v0-2024/checkpoint-1?",
    ),
    "fsdp in one file": (
        "config.json pytorch_model_fsdp.bin",
        "run: mv {here}/pytorch_model_fsdp.bin {here}/pytorch_model.bin",
    ),
    "verl": (
        "data.pt actor/model_world_size_2_rank_0.pt actor/huggingface/config.json",
        "a verl checkpoint, {}; run its model merger: python -m verl.model_merger merge --backend "
        "fsdp --local_dir {here}/actor --target_dir {here}/actor-merged",
    ),
    "verl, above its steps": (
        "global_step_9/actor/model_world_size_1_rank_0.pt latest_checkpointed_iteration.txt "
        "global_step_10/actor/model_world_size_1_rank_0.pt",
        "--local_dir {here}/global_step_10/actor ",
    ),
    "verl with megatron": (
        "actor/dist_ckpt/x actor/huggingface/config.json",
        "--backend megatron --local_dir {here}/actor",
    ),
    "verl, merged": (
        "actor/model_world_size_1_rank_0.pt actor/huggingface/model.safetensors",
        "did you mean the model in it, {here}/actor/huggingface?",
    ),
    "megatron": (
        "latest_checkpointed_iteration.txt iter_0000500/mp_rank_00/model_optim_rng.pt",
        "a Megatron checkpoint, {}; convert it",
    ),
    "folder for a file": (
        "config.json pytorch_model.bin/pytorch_model.bin",
        "pytorch_model.bin is a folder; did you mean {here}/pytorch_model.bin?",
    ),
    "folder for safetensors, whole": (
        "config.json model.safetensors/config.json model.safetensors/model.safetensors",
        "model.safetensors is a folder; did you mean {here}/model.safetensors?",
    ),
    "hub cache": (
        "refs/main snapshots/1f1f/config.json snapshots/1f1f/model.safetensors",
        "a model's place in the hub's cache; did you mean {here}/snapshots/1f1f?",
    ),
    "adapters": (
        "default/adapter_config.json second/adapter_config.json",
        "a folder of 2 adapters, none itself; did you mean {here}/*?",
    ),
    "checkpoints": (
        "a/model.safetensors b/pytorch_model.bin c/adapter_config.json",
        "a folder of 3 checkpoints, none itself; did you mean {here}/*?",
    ),
    "a trainer's output": (
        "checkpoint-500/model.safetensors checkpoint-1000/model.safetensors runs/events",
        "a folder of 2 checkpoints, none itself; did you mean {here}/checkpoint-*?",
    ),
    "checkpoints among others": (
        "one/model.safetensors two/model.safetensors only-logs/x",
        "did you mean {here}/one and {here}/two?",
    ),
    "one below": ("inner/model.safetensors", "no weights here; did you mean {here}/inner?"),
    "original weights": ("params.json consolidated.00.pth", "(consolidated.00.pth)"),
    "gguf": ("model-q4.gguf", "model-q4.gguf is a GGUF file"),
    "lightning": ("last.ckpt", "last.ckpt is a Lightning checkpoint"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_trainers_directory_is_known(tmp_path: Path, name: str) -> None:
    """What it is, and the command to type or the directory that was meant, in one line."""
    files, expected = KINDS[name]
    here = tmp_path / "out put"  # a space: commands must survive it
    for file in files.split():
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(CONFIG) if file.endswith("config.json") else "1f1f"
        (here / file).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(here)
    message = str(caught.value)
    assert message.startswith(f"{here}: ")
    assert "\n" not in message
    expected = expected.replace("{}", "whose weights lie in pieces")
    # Directories that were meant stand as they are; those of commands, quoted for the shell.
    found = message.replace("'", "")
    assert expected.format(here=here, above=here.parent).replace("'", "") in found


def test_a_command_can_be_copied_into_a_shell(tmp_path: Path) -> None:
    """Spaces in a path stand in quotes."""
    here = tmp_path / "my run"
    (here / "pytorch_model_fsdp_0").mkdir(parents=True)
    (here / "pytorch_model_fsdp_0" / "__0_0.distcp").touch()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(here)
    words = shlex.split(str(caught.value).partition("; run: ")[2])
    assert words == [
        "accelerate",
        "merge-weights",
        str(here / "pytorch_model_fsdp_0"),
        str(here),
    ]


def test_a_trainers_state_beside_a_model_is_no_matter(tmp_path: Path) -> None:
    """Where the weights are there, it opens."""
    path = make_checkpoint(tmp_path / "a", random_tensors(0))
    (path / "global_step5").mkdir()
    (path / "global_step5" / "mp_rank_00_model_states.pt").touch()
    assert open_checkpoint(path).tensors


def test_a_trainers_state_is_not_taken_for_weights(tmp_path: Path) -> None:
    """Where nothing else is there, it is not listed as torch files."""
    path = make_checkpoint(tmp_path / "a", random_tensors(0))
    (path / "model.safetensors").rename(path / "training_args.bin")
    with pytest.raises(CheckpointError, match="expected a model directory"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        ("run1", "it does not exist; did you mean {}/run-1?"),
        ("run-1/config.json", "it is a file; did you mean its directory, {}/run-1?"),
        ("nothing-like-it", "it does not exist"),
    ],
)
def test_a_path_that_is_none_may_have_been_meant(tmp_path: Path, asked: str, hint: str) -> None:
    """A name nearby, or the directory of a file."""
    make_checkpoint(tmp_path / "run-1", random_tensors(0))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / asked)
    assert str(caught.value).endswith(hint.format(tmp_path))


@pytest.mark.parametrize("how", ["named", "given", "packed", "hub"])
def test_an_adapter_on_a_quantised_base_asks_for_the_other(tmp_path: Path, how: str) -> None:
    """QLoRA's base cannot be changed by adding; the model that it was made of can."""
    config = {**CONFIG, "quantization_config": {"quant_method": "bitsandbytes"}}
    tensors = random_tensors(0)
    if how != "hub":
        tensors = {f"{name}.SCB": tensor for name, tensor in tensors.items()}
    if how == "packed":
        config = CONFIG
    base = make_checkpoint(tmp_path / "base-4bit", tensors, config=config)
    named = "unsloth/some-vlm-7b-bnb-4bit" if how == "hub" else str(base)
    path = tmp_path / "adapter"
    factors = {"lora_A.weight": torch.ones(2, 4), "lora_B.weight": torch.ones(4, 2)}
    make_adapter(
        path,
        {f"base_model.model.layer.{name}": factor for name, factor in factors.items()},
        base_model_name_or_path=named,
    )
    with pytest.raises(CheckpointError, match="name the unquantised base, of the same model"):
        open_checkpoint(path, base=base if how == "given" else None)


def test_a_huge_directory_is_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at as far as ``LOOK_AT``."""
    monkeypatch.setattr(trainers, "LOOK_AT", 3)
    for k in range(9):
        (tmp_path / f"x{k}").touch()
    looked: list[list[str]] = []
    monkeypatch.setattr(trainers, "KINDS", (lambda directory, names: looked.append(names),))
    assert trainers.advice(tmp_path) is None
    assert len(looked[0]) == 3


@pytest.mark.parametrize("kind", ["model", "optim"])
def test_a_part_of_a_deepspeed_checkpoint_names_the_whole(tmp_path: Path, kind: str) -> None:
    """Its step's folder, whichever states lie in it, as ZeRO-1 and 2 leave them."""
    folder = tmp_path / "run" / "global_step_7"
    folder.mkdir(parents=True)
    (folder / f"bf16_zero_pp_rank_0_mp_rank_00_{kind}_states.pt").write_bytes(b"x")
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=rf"did you mean {tmp_path}/run, where zero_to_fp32"):
        open_checkpoint(folder)


def test_an_optimizers_state_is_no_model(tmp_path: Path) -> None:
    """No command makes weights of it, whether it is given itself or lies in what is given."""
    state = tmp_path / "run" / "optimizer_0"
    state.mkdir(parents=True)
    (state / "__0_0.distcp").touch()
    for given in (state, state.parent):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(given)
        assert "merge-weights" not in str(caught.value)
        assert "the state of an FSDP optimizer, which holds no weights" in str(caught.value)


def test_a_benchmark_among_the_models_is_told(tmp_path: Path) -> None:
    """``--bench one.tsv two.tsv`` makes a model of the second."""
    table = tmp_path / "two.tsv"
    table.write_text("index")
    with pytest.raises(CheckpointError, match="is it a benchmark\\? Give --bench before each"):
        open_checkpoint(table)
