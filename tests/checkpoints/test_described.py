"""soup/checkpoints/described.py: a checkpoint against the model that its config.json describes."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from soup.checkpoints import asking, describe, described
from soup.checkpoints.described import compare
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import CheckpointError, PoolError
from soup.events import Event, Progress
from soup.identifying import Loadable
from soup.run import Settings, make
from tests.checkpoints import tiny
from tests.conftest import CONFIG, make_checkpoint, random_tensors

pytest.importorskip("transformers")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask transformers in this process, which has imported it, rather than in one of its own."""
    monkeypatch.setattr(described, "ask", lambda asked, stop: describe.answer(asked))


def edited(path: Path, change: Any, kind: str = "internvl") -> Path:
    """A tiny model's directory, its tensors changed."""
    file = tiny.saved(path, kind) / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})
    return path


def lacking(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A layer's MLP was lost, a head was shortened, and something is there that nobody needs."""
    kept = {name: t for name, t in tensors.items() if "layers.1.mlp" not in name}
    kept["value_head.weight"] = torch.ones(3)
    return kept


def test_what_all_members_lack_is_found(tmp_path: Path) -> None:
    """In check, and before an average is written; what the model ignores is said."""
    paths = [edited(tmp_path / name, lacking) for name in "ab"]
    shown = [sys.executable, "-m", "soup", "check", *map(str, paths), "--work", "work"]
    done = subprocess.run(shown, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "layers.1.mlp.down_proj.weight and 2 more: expected in the weights" in done.stdout
    assert "makes no use of value_head.weight" in done.stdout
    assert "asking transformers" in done.stderr
    done = subprocess.run(shown, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "asking transformers" not in done.stderr  # the answer was kept
    assert "and 2 more: expected in the weights" in done.stdout
    settings = Settings(out=tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(PoolError, match="a: tensor .* and 2 more: expected in the weights"):
        make("average", Pool.open(*paths), settings=settings)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("here")
def test_a_damaged_answer_is_asked_for_again(tmp_path: Path) -> None:
    """What was kept carries a checksum."""
    opened = open_checkpoint(edited(tmp_path / "a", lacking))
    cache, asked = tmp_path / "cache", []
    first = compare(opened, cache, lambda: asked.append(1))
    (file,) = cache.iterdir()
    file.write_text(file.read_text().replace("mlp", "mlq"))
    assert compare(opened, cache, lambda: asked.append(1)) == first
    assert len(asked) == 2


@pytest.mark.usefixtures("here")
def test_shapes_that_config_json_does_not_mean_are_named(tmp_path: Path) -> None:
    """Found and expected."""

    def short(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {n: t[:5].clone() if n.endswith("norm.weight") else t for n, t in tensors.items()}

    found = compare(open_checkpoint(edited(tmp_path / "a", short)))
    (problem,) = found.problems("a")
    assert "expected [32] as in the InternVLForConditionalGeneration of config.json, found [5]" in (
        str(problem)
    )


def old(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names as of before, a tied head stored, a buffer that older versions saved."""
    name = "vision_tower.vision_model."
    found = {n.replace("vision_tower.", name): t for n, t in tensors.items()}
    embedding = next(t for n, t in found.items() if n.endswith("embed_tokens.weight"))
    found["language_model.lm_head.weight"] = embedding.clone()
    found["language_model.model.rotary_emb.inv_freq"] = torch.ones(4)
    return found


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("change", [lambda tensors: tensors, old])
def test_what_transformers_loads_is_no_false_alarm(tmp_path: Path, change: Any) -> None:
    """Its own renames, ties and buffers."""
    found = compare(open_checkpoint(edited(tmp_path / "a", change, "gemma3")))
    assert found.kind == "Gemma3ForConditionalGeneration"
    assert found.problems("a") == []
    assert found.notes == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("config", "why"),
    [
        (CONFIG, "has no model_type 'tiny'"),
        ({"model_type": "gemma3", "architectures": ["MyGemma3"]}, "has no MyGemma3"),
        ({"model_type": "gemma3", "text_config": 3}, "Error"),
    ],
)
def test_it_is_said_where_it_could_not_be_done(
    tmp_path: Path, config: dict[str, Any], why: str
) -> None:
    """A note, and the average is written."""
    path = make_checkpoint(tmp_path / "a", random_tensors(0), config=config)
    (note,) = compare(open_checkpoint(path)).notes
    assert note.startswith("not compared with the model that config.json describes: ")
    assert why in note
    settings = Settings(out=tmp_path / "out", work=tmp_path / "work")
    make("average", Pool.open(path), settings=settings)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config


LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
LACKS = {"kind": "LlamaForCausalLM", "missing": ["x"], "unexpected": [], "mismatched": []}
FITS = LACKS | {"missing": []}


def pair(tmp_path: Path) -> Pool:
    """Two members of a kind that transformers would be asked about."""
    return Pool.open(
        *(
            make_checkpoint(tmp_path / n, random_tensors(k), config=LLAMA)
            for k, n in enumerate("ab")
        )
    )


def test_the_pool_is_blended_while_transformers_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer comes after the last byte was read here, and only then the soup gets its name."""
    out, blended = tmp_path / "out", threading.Event()

    def ask(asked: Any, stop: Any) -> dict[str, Any]:
        there = blended.wait(20)
        return FITS | {"unexpected": ["late"]} if there and not out.exists() else LACKS

    def observe(event: Event) -> None:
        if isinstance(event, Progress) and event.done == event.total:
            blended.set()

    monkeypatch.setattr(described, "ask", ask)
    settings = Settings(out=out, work=tmp_path / "work")
    make("average", pair(tmp_path), settings=settings, observe=observe)
    assert (out / "soup.json").is_file()


def test_an_answer_that_comes_early_ends_the_blending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pool takes an hour nobody waits that long for one line; nothing is left of it."""
    monkeypatch.setattr(described, "ask", lambda asked, stop: LACKS)
    seen: list[Event] = []
    pool, out = pair(tmp_path), tmp_path / "out"
    with Loadable(pool.reference, tmp_path / "work", seen.append) as loadable:
        with pytest.raises(PoolError, match="a: tensor x: expected in the weights"):
            loadable.require()  # waits for it
        with pytest.raises(PoolError, match="a: tensor x: expected in the weights"):
            loadable.observe(Progress("read", 1, 9, "B"))
    assert not any(isinstance(event, Progress) for event in seen)
    with pytest.raises(PoolError, match="a: tensor x: expected in the weights"):
        make("average", pool, settings=Settings(out=out, work=tmp_path / "work"))
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_nobody_waits_for_transformers_where_the_blending_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process ends with the run, and so does the run at once."""
    script = tmp_path / "slow.py"
    script.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(asking, "SCRIPT", script)
    pool = pair(tmp_path)
    with (tmp_path / "b" / "model.safetensors").open("r+b") as file:
        file.truncate(200)
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="b"):
        make("average", pool, settings=Settings(out=tmp_path / "out", work=tmp_path / "work"))
    assert time.monotonic() - start < 20
    ours = psutil.Process().children(recursive=True)
    assert not [child for child in ours if str(script) in child.cmdline()]


def test_what_is_left_out_to_save_seconds_is_there_where_a_model_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that names such a package has the question asked again, with it."""
    script = tmp_path / "needs.py"
    needs = "import sys, json; whole = '--whole' in sys.argv\n"
    needs += "print(json.dumps({'kind': 'A'} if whole else {'unknown': 'No module torchvision'}))"
    script.write_text(needs)
    monkeypatch.setattr(asking, "SCRIPT", script)
    assert asking.ask({}) == {"kind": "A"}
    script.write_text(needs.replace("torchvision", "timm"))
    assert asking.ask({}) == {"unknown": "No module timm"}
