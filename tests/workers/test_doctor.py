"""evaluators/workers/doctor.py and `soup doctor`: what is missing, and how to come by it."""

import base64
import functools
import io
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from soup.evaluators.models.families import named
from soup.evaluators.workers import doctor
from soup.evaluators.workers.doctor import custom_code, red_square
from soup.evaluators.workers.environment import look_at_torch, requirement
from tests.cli.test_cli import fails, run
from tests.conftest import make_adapter, make_checkpoint

INTERNVL = {
    "model_type": "internvl_chat",
    "architectures": ["InternVLChatModel"],
    "auto_map": {"AutoModel": "modeling_own.Model", "AutoConfig": "org/repo--configuration_own.C"},
    "llm_config": {"architectures": ["Phi3ForCausalLM"]},
}


@functools.cache
def torch_of(python: str, path: str | None) -> tuple[str | None, list[str]]:
    """What torch says under an interpreter and a PYTHONPATH."""
    return look_at_torch(python)


@pytest.fixture(autouse=True)
def asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each interpreter is asked about its torch once for all tests: seconds, and the same words."""
    monkeypatch.setattr(
        doctor, "look_at_torch", lambda python: torch_of(python, os.environ.get("PYTHONPATH"))
    )


def checkpoint(path: Path, **files: str) -> Path:
    """A model with code of its own."""
    named = {f"{name}.py": text for name, text in files.items()}
    return make_checkpoint(path, {"w": torch.ones(2)}, config=INTERNVL, files=named)


def test_our_own_environment_is_described(tmp_path: Path) -> None:
    """Without a checkpoint: exit code 0, versions, GPUs or none; nothing is left behind."""
    done = run(tmp_path, "doctor")
    assert done.returncode == 0, done.stdout
    for name in ("python", "torch", "torchvision", "transformers", "pillow", "ms-vlmeval", "GPU"):
        assert f"✓ {name} " in done.stdout
    served = next(line for line in done.stdout.splitlines() if " vLLM " in line)
    assert served.startswith("– vLLM") if "not there" in served else served.startswith("✓ vLLM")
    assert "To set it up" not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_installed_by_one_command(tmp_path: Path, bare: Path) -> None:
    """In the interpreter that was named; a checkpoint of no family needs the common packages."""
    make_checkpoint(tmp_path / "plain", {"w": torch.ones(2)})
    python = bare / "bin" / "python"
    done = run(tmp_path, "doctor", "plain", "--worker-python", python)
    fails(done, 1)
    assert "✓ asked as     by its chat template" in done.stdout
    assert "✗ transformers missing" in done.stdout
    command = "-m pip install torch torchvision 'transformers>=4.46' pillow ms-vlmeval"
    assert f"    {python} {command}\n" in done.stdout


def test_an_older_transformers_gets_an_environment_of_its_own(tmp_path: Path) -> None:
    """For a family out of range here: three commands, the last of which tries it."""
    path = checkpoint(
        tmp_path / "own", modeling_own="from .layers import X\n", layers="import os\n"
    )
    done = run(tmp_path, "doctor", "own")
    fails(done, 1)
    assert "asked as      internvl-1.5, by InternVLChat, one by one" in done.stdout
    assert "✗ transformers  out of range: 5." in done.stdout or "out of range: 4." in done.stdout
    assert "modeling_own.py, layers.py, org/repo/configuration_own.py (hub)" in done.stdout
    assert "! may it run    only with --trust-remote-code" in done.stdout
    commands = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    python = "envs/internvl-1.5/bin/python"
    family = named("internvl-1.5")
    assert family is not None
    assert commands[-3:] == [
        "python3 -m venv envs/internvl-1.5",
        f"{python} -m pip install torch torchvision '{requirement(family)}' pillow ms-vlmeval "
        + " ".join(family.packages.values()),
        f"soup doctor {path} --trust-remote-code --worker-python {python} --try",
    ]


def test_custom_code_that_was_left_behind_is_named(tmp_path: Path) -> None:
    """The files that config.json names, and those that they import, must be beside the weights."""
    checkpoint(tmp_path / "own", modeling_own="from .layers import X\nfrom .gone import Y\n")
    files, remote = custom_code(tmp_path / "own")
    assert files == ["modeling_own.py", "layers.py", "gone.py"]
    assert remote == ["org/repo/configuration_own.py"]
    done = run(tmp_path, "doctor", "own", "--trust-remote-code")
    line = " ".join(done.stdout.split())
    assert "✗ custom code not beside the weights: layers.py, gone.py; copy from the base" in line
    assert "✓ may it run yes" in line


def test_a_tokenizer_that_was_left_behind_is_missed(demo: Path, tmp_path: Path) -> None:
    """Before anything is loaded: by doctor, and by the worker where no one asked doctor."""
    shutil.copytree(demo / "ckpts" / "digit", tmp_path / "m")
    done = run(tmp_path, "doctor", "m")
    assert done.returncode == 0
    assert "✓ tokenizer    beside the weights" in done.stdout
    for file in (tmp_path / "m").glob("tokenizer*"):
        file.unlink()
    done = run(tmp_path, "doctor", "m")
    fails(done, 1)
    assert "✗ tokenizer    not beside the weights: copy from the base model" in done.stdout
    asked = ["score", "m", "--bench", demo / "benchmarks" / "digit.tsv", "--device", "cpu"]
    line = fails(run(tmp_path, *asked), 1)
    assert f"{tmp_path / 'm'}: no tokenizer beside the weights (expected tokenizer.json" in line
    assert line.endswith("name the base model's directory with --processor DIR")


def test_an_auto_map_that_names_no_class_names_no_code(tmp_path: Path) -> None:
    """Whatever stands in it: what is no name is passed over, what is one is still looked for."""
    odd = {"AutoModel": 3, "AutoConfig": ["x.Y", None, {}], "AutoProcessor": None}
    make_checkpoint(tmp_path / "odd", {"w": torch.ones(2)}, config=INTERNVL | {"auto_map": odd})
    assert custom_code(tmp_path / "odd") == (["x.py"], [])


def test_an_adapter_is_what_its_base_is(tmp_path: Path) -> None:
    """Family and code are those of --base, which the command to type names, too."""
    tensors = {"w.weight": torch.ones(2, 2)}
    base = make_checkpoint(tmp_path / "model", tensors, config=INTERNVL)
    factors = {"w.lora_A.weight": torch.ones(1, 2), "w.lora_B.weight": torch.ones(2, 1)}
    make_adapter(tmp_path / "adapter", factors)
    done = run(tmp_path, "doctor", "adapter", "--base", base)
    assert "asked as      internvl-1.5" in done.stdout
    assert "modeling_own.py" in done.stdout
    assert f"soup doctor {tmp_path / 'adapter'} --base {base} --trust-remote-code" in done.stdout
    done = run(tmp_path, "doctor", "adapter", "--base", base, "--family", "internvl-2")
    assert f"--base {base} --family internvl-2 --trust-remote-code" in done.stdout


def test_a_torch_that_does_not_import_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds that do not fit each other: its last words, and what to reinstall."""
    text = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "torchvision.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run(tmp_path, "doctor")
    fails(done, 1)
    assert "RuntimeError: operator torchvision::nms does not exist" in " ".join(done.stdout.split())
    command = f"{sys.executable} -m pip install --force-reinstall torch torchvision"
    assert f"    {command}\n" in done.stdout


def test_a_model_is_tried_when_asked(demo: Path, tmp_path: Path) -> None:
    """Loaded by the real worker; question and answer are shown."""
    done = run(tmp_path, "doctor", demo / "ckpts" / "digit", "--try", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "asked about a red square: What colour is the square? (A red, B green" in done.stdout
    assert "\nanswered: '" in done.stdout
    assert "--try: name the checkpoint" in fails(run(tmp_path, "doctor", "--try"), 2)


def test_the_picture_is_what_the_question_says() -> None:
    """Any reader of PNG sees red in the middle of white."""
    image = Image.open(io.BytesIO(base64.b64decode(red_square()))).convert("RGB")
    assert image.size == (224, 224)
    assert image.getpixel((112, 112)) == (255, 0, 0)
    assert image.getpixel((10, 112)) == image.getpixel((112, 213)) == (255, 255, 255)
    assert dict(image.getcolors() or []).keys() == {112 * 112, 224 * 224 - 112 * 112}
