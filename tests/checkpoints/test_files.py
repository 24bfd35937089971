"""soup/checkpoints/files.py: what lies beside the weights comes along whole, or is named."""

from pathlib import Path

import pytest
import torch

from soup.checkpoints.files import companions
from soup.checkpoints.pool import Pool
from soup.errors import CheckpointError
from tests.conftest import make_adapter, make_checkpoint, random_tensors


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    """Code that is linked in belongs to the model; a link to a folder around it ends there."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0), files={"code/a.py": ""})
    (path / "linked").symlink_to(path / "code")
    (path / "itself").symlink_to(path)
    (tmp_path / "best").symlink_to(path)
    for place in (path, tmp_path / "best"):
        found = [file.as_posix() for file in companions(place)]
        assert found == ["config.json", "code/a.py", "linked/a.py"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("dangling", "m/tokenizer.json: cannot be read: No such file"),
        ("lfs pointer", "m/tokenizer.json: a git-lfs pointer, .* `git lfs pull`"),
        ("dangling weights", "m/model.safetensors: a link to /nowhere/blob, which is not there"),
        ("long", "cannot be read: File name too long"),
    ],
)
def test_files_that_cannot_be_copied_are_named_before_anything_is_read(
    tmp_path: Path, kind: str, message: str
) -> None:
    """A download that was cut short leaves links to nothing, git without lfs leaves pointers."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    if kind == "dangling":
        (path / "tokenizer.json").symlink_to("/nowhere/blob")
    elif kind == "lfs pointer":
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        (path / "tokenizer.json").write_text(text)
    elif kind == "dangling weights":
        (path / "model.safetensors").unlink()
        (path / "model.safetensors").symlink_to("/nowhere/blob")
    else:
        path = tmp_path / ("x" * 300)
    with pytest.raises(CheckpointError, match=message):
        Pool.open(path)


def test_weights_that_are_not_read_are_told(tmp_path: Path) -> None:
    """Shards beside a single file, another model in a folder; trainer state is no weights."""
    path = make_checkpoint(tmp_path / "m", random_tensors(0))
    for name in ("model-00001-of-00002.safetensors", "vision/model.safetensors", "optimizer.pt"):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"not looked at")
    assert Pool.open(path).warnings == (
        "m: holds other weights, which are neither read nor copied: "
        "model-00001-of-00002.safetensors, vision/model.safetensors",
    )


def test_weights_beside_an_adapter_are_refused(tmp_path: Path) -> None:
    """LLaVA's trainers keep the trained projector there; the adapter in both formats is fine."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(4, 3)})
    factors = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(4, 1)}
    adapter = make_adapter(tmp_path / "adapter", factors, base)
    (adapter / "training_args.bin").touch()
    assert Pool.open(adapter).warnings == ()
    (adapter / "adapter_model.bin").touch()
    assert "adapter: holds other weights, which are neither" in Pool.open(adapter).warnings[0]
    (adapter / "non_lora_trainables.bin").touch()
    with pytest.raises(CheckpointError, match=r"non_lora_trainables.bin: weights beside a LoRA"):
        Pool.open(adapter)
