"""evaluators/engines/dressing.py: one resident model, asked with the files of each blend."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from soup.blending.blend import Blend
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.evaluators.models.wrapper import Options
from tests.engines import qwen_pool
from tests.engines.test_resident import questions

pytest.importorskip("transformers")
resident = pytest.importorskip("soup.evaluators.engines.resident")
dressing = pytest.importorskip("soup.evaluators.engines.dressing")


def edited(source: Path, target: Path, name: str, **changes: Any) -> Path:
    """A copy of a checkpoint with another value in one of its JSON files, at any depth."""
    shutil.copytree(source, target)
    content = json.loads((target / name).read_text())
    for key, value in changes.items():
        inner = content
        *parts, last = key.split("__")
        for part in parts:
            inner = inner[part]
        inner[last] = value
    (target / name).write_text(json.dumps(content))
    return target


@pytest.fixture
def paths(demo: Path, tmp_path: Path) -> list[Path]:
    """Three members: as they are, with another mean and deviation, with another rotary base."""
    ckpts = demo / "ckpts"
    mean = {"image_processor__image_mean": [0.0] * 3, "image_processor__image_std": [1.0] * 3}
    rope = json.loads((ckpts / "digit" / "config.json").read_text())["text_config"]
    theta = {**rope["rope_parameters"], "rope_theta": 20.0}
    return [
        ckpts / "digit",
        edited(ckpts / "parity", tmp_path / "parity", "processor_config.json", **mean),
        edited(
            ckpts / "compare",
            tmp_path / "compare",
            "config.json",
            text_config__rope_parameters=theta,
        ),
    ]


def test_a_member_in_a_pool_answers_as_it_does_alone(
    paths: list[Path], demo: Path, tmp_path: Path
) -> None:
    """Whatever was asked before it: other files, another config, the same weights otherwise."""
    options = Options(device="cpu", max_new_tokens=4)
    messages = questions(demo, tmp_path, 8)
    same_alone_and_in_turn(paths, options, messages, tmp_path)


def test_so_it_does_through_vlmevalkits_wrapper(demo: Path, tmp_path: Path) -> None:
    """Qwen2-VL's is constructed anew around the model that is there."""
    paths = []
    for seed in range(3):
        model, processor = qwen_pool.model_of(seed)
        name = "abc"[seed]
        paths.append(qwen_pool.save(model, processor, tmp_path / name, torch.float32))
    (path,) = [file for file in paths[1].glob("*processor_config.json")]
    text = path.read_text().replace("0.48145466", "0.0")
    path.write_text(text)
    config = json.loads((paths[2] / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 0.5
    (paths[2] / "config.json").write_text(json.dumps(config))
    pixels = {"min_pixels": qwen_pool.PIXELS, "max_pixels": qwen_pool.PIXELS}
    options = Options(device="cpu", max_new_tokens=4, families={"qwen2-vl": pixels})
    messages = questions(demo, tmp_path, 4)
    same_alone_and_in_turn(paths, options, messages, tmp_path)


def same_alone_and_in_turn(
    paths: list[Path], options: Options, messages: list[Any], tmp_path: Path
) -> None:
    """One after the other: with their own files, the second has another processor than the first,
    the third another config; and the second with the first one's.
    """
    alone = {}
    for path in paths:
        only = open_checkpoint(path)
        model = resident.Resident(only, options, tmp_path / "alone")
        model.load(Blend((only,), only), "alone", "load")
        alone[only.name] = model.answer("q", "q", messages)
    pool = Pool.open(*paths)
    engine = resident.Resident(pool.reference, options, tmp_path / "cache")
    models = []
    for index in (0, 1, 0, 2, 1):
        member = pool.members[index]
        blend = Blend((member,), pool.reference, files_of=member)
        engine.load(blend, blend.digest, "load")
        models.append(engine._model)
        assert engine.answer("q", "q", messages) == alone[member.name], member.name
    assert models[0] is models[1] is models[2], "one model for all files that leave it as it is"
    assert models[3] is not models[2], "another one for another config"
    first = Blend((pool.members[1],), pool.reference)
    engine.load(first, first.digest, "load")
    assert engine.answer("q", "q", messages) != alone[pool.members[1].name], (
        "with the reference's files"
    )


def test_a_dressed_directory_is_made_once_and_mended(paths: list[Path], tmp_path: Path) -> None:
    """Weights are links, files are copies; where somebody changed them it is made anew."""
    one, other = open_checkpoint(paths[0]), open_checkpoint(paths[1])
    assert dressing.dressed(one, one.companions, tmp_path) is one
    made = dressing.dressed(one, other.companions, tmp_path).path
    assert (made / "model.safetensors").resolve() == (paths[0] / "model.safetensors").resolve()
    right = (paths[1] / "processor_config.json").read_text()
    assert (made / "processor_config.json").read_text() == right
    inode = made.stat().st_ino
    assert dressing.dressed(one, other.companions, tmp_path).path.stat().st_ino == inode
    (made / "processor_config.json").write_text("{}")
    assert dressing.dressed(one, other.companions, tmp_path).path == made
    assert (made / "processor_config.json").read_text() == right
    assert [path.name for path in (tmp_path / "dressed").iterdir()] == [made.name]
