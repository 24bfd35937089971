"""soup/blending/writer.py: a model directory, complete or not at all."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from soup.blending import room, writer
from soup.blending.arithmetic import MERGE, Slice
from soup.blending.blend import Blend
from soup.blending.methods import METHODS
from soup.blending.rounding import round_once
from soup.blending.writer import check_target, write
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import BlendError, CheckpointError, OutputError
from soup.events import Event, Note
from tests.conftest import make_adapter, make_checkpoint, random_tensors


def blend_of(paths: list[Path], dtype: str | None = None) -> Blend:
    """The average of checkpoints."""
    pool = Pool.open(*paths, dtype=dtype)
    return Blend(pool.members, pool.reference, dtype=dtype)


def contents(path: Path) -> dict[str, str]:
    """Every file's digest."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def loaded(path: Path) -> dict[str, torch.Tensor]:
    """All tensors, read by the safetensors library."""
    tensors: dict[str, torch.Tensor] = {}
    for file in path.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_average_of_a_pool_as_the_library_reads_it(
    pool_paths: list[Path], tmp_path: Path, reference: int
) -> None:
    """Single file or shards, after the reference; every element is the float64 mean, rounded."""
    ordered = pool_paths[reference:] + pool_paths[:reference]
    written = write(blend_of(ordered), tmp_path / "out")
    tensors = loaded(written.path)
    members = [loaded(path) for path in ordered]
    assert tensors.keys() == members[0].keys()
    for name, tensor in tensors.items():
        total = sum(member[name].double() for member in members)
        assert isinstance(total, torch.Tensor)
        assert torch.equal(tensor, (total / 4).to(torch.bfloat16)), name
    index = ordered[0] / "model.safetensors.index.json"
    if index.exists():
        ours = json.loads((written.path / index.name).read_text())
        assert ours["weight_map"] == json.loads(index.read_text())["weight_map"]
        assert ours["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert open_checkpoint(written.path).digest == written.digest


def test_companion_files_are_copied_byte_for_byte(tmp_path: Path) -> None:
    """Config, code, templates and folders of them come along; trainer state and weights do not."""
    path = make_checkpoint(
        tmp_path / "a",
        random_tensors(0),
        files={
            "tokenizer.json": "{}\n",
            "chat_template.jinja": "{{ x }}",
            "modeling_x.py": "x = 1\r\n",
            "additional_chat_templates/tool.jinja": "t",
            "LICENSE": "free",
            "trainer_state.json": "{}",
            "optimizer.pt": "o",
            "training_args.bin": "t",
            "rng_state_0.pth": "r",
            "pytorch_model.bin": "w",
            "global_step9/x": "z",
            "checkpoint-5/model.safetensors": "w",
            ".git/config": "g",
            "README.md": "theirs",
        },
    )
    written = write(blend_of([path]), tmp_path / "out")
    copied = set(contents(written.path)) - {"README.md", "soup.json", "model.safetensors"}
    assert copied == {
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "modeling_x.py",
        "additional_chat_templates/tool.jinja",
        "LICENSE",
    }
    for name in copied:
        assert (written.path / name).read_bytes() == (path / name).read_bytes()


def test_manifest_and_model_card_say_what_it_is(pool_paths: list[Path], tmp_path: Path) -> None:
    """Members with digests and coefficients, the recipe, and front matter for a hub."""
    blend = blend_of(pool_paths)
    written = write(blend, tmp_path / "out", kind="average", facts={"scores": {"x": 50.0}})
    manifest = json.loads((written.path / "soup.json").read_text())
    assert manifest["kind"] == "average"
    assert manifest["digest"] == written.digest
    assert [m["digest"] for m in manifest["members"]] == [m.digest for m in blend.members]
    assert [m["coefficient"] for m in manifest["members"]] == [0.25] * 4
    card = (written.path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| x | 50.00 |" in card


def test_the_same_soup_has_the_same_bytes(pool_paths: list[Path], tmp_path: Path) -> None:
    """Written twice, elsewhere: equal; written twice, there: left alone."""
    first = write(blend_of(pool_paths), tmp_path / "one" / "out")
    second = write(blend_of(pool_paths), tmp_path / "two" / "out")
    assert contents(first.path) == contents(second.path)
    again = write(blend_of(pool_paths), tmp_path / "one" / "out")
    assert again.reused


def test_a_manifest_without_an_end_is_not_read(
    pool_paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is longer than any of ours is none, and the soup is written anew."""
    write(blend_of(pool_paths), tmp_path / "out")
    monkeypatch.setattr(writer, "LONGEST", 100)
    assert not write(blend_of(pool_paths), tmp_path / "out").reused


def test_a_damaged_soup_is_written_anew(pool_paths: list[Path], tmp_path: Path) -> None:
    """A manifest alone does not make it the same: the weights are read."""
    out = tmp_path / "out"
    write(blend_of(pool_paths), out)
    before = contents(out)
    weights = out / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    again = write(blend_of(pool_paths), out)
    assert not again.reused
    assert contents(out) == before


def test_an_earlier_soup_is_kept_unless_told_otherwise(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """A different soup at the same place moves aside; --overwrite deletes it."""
    out, events = tmp_path / "soups" / "out", list[Event]()
    first = write(blend_of(pool_paths[:2]), out)
    write(blend_of(pool_paths[:3]), out, observe=events.append)
    kept = [path for path in out.parent.iterdir() if path != out]
    assert len(kept) == 1
    assert open_checkpoint(kept[0]).digest == first.digest
    assert any(isinstance(e, Note) and kept[0].name in e.text for e in events)
    write(blend_of(pool_paths), out, overwrite=True)
    assert len(list(out.parent.iterdir())) == 2


def test_what_is_not_a_soup_is_never_touched(pool_paths: list[Path], tmp_path: Path) -> None:
    """A directory with other content, a file, a member of the pool."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="exists and is not a soup"):
        write(blend_of(pool_paths), other)
    with pytest.raises(OutputError, match="found a file"):
        write(blend_of(pool_paths), other / "thesis.tex")
    with pytest.raises(OutputError, match="is a member of the pool"):
        write(blend_of(pool_paths), pool_paths[1])
    assert (other / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_read_is_never_written_into_or_over(
    pool_paths: list[Path], tmp_path: Path, overwrite: bool
) -> None:
    """Inside a member, around one (an earlier soup in which members lie), at the base."""
    around = write(blend_of(pool_paths[:1]), tmp_path / "around").path
    inner = make_checkpoint(around / "inner", random_tensors(5))
    base = write(blend_of(pool_paths[:2]), tmp_path / "base").path
    linked = make_checkpoint(tmp_path / "linked", random_tensors(6))
    blob = around / "models--org--name" / "blobs" / "0"  # a hub's cache, to which links may lead
    blob.parent.mkdir(parents=True)
    (linked / "model.safetensors").rename(blob)
    (linked / "model.safetensors").symlink_to(blob)
    before = contents(tmp_path)
    pool = Pool.open(*pool_paths[:2], inner, linked, base=base)
    blend = Blend(pool.members, pool.reference, method="ties", base=pool.base)
    for out, message in (
        (pool_paths[1] / "deep" / "out", "lies inside .*/b, a member of the pool or its base"),
        (around, "holds .*/inner, which is read for it"),
        (base, "is the base; choose another place"),
    ):
        with pytest.raises(OutputError, match=message):
            write(blend, out, overwrite=overwrite)
    blobs = Blend((pool.members[3],), pool.reference)
    with pytest.raises(OutputError, match=r"holds .*/around/models--org--name/blobs/0, which"):
        write(blobs, around, overwrite=overwrite)
    assert contents(tmp_path) == before


def test_a_link_to_an_earlier_soup_is_replaced_and_the_soup_stays(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """With --overwrite, too: the link alone stood where the new soup was asked for."""
    first = write(blend_of(pool_paths[:2]), tmp_path / "first")
    (tmp_path / "best").symlink_to(first.path)
    second = write(blend_of(pool_paths), tmp_path / "best", overwrite=True)
    assert open_checkpoint(first.path).digest == first.digest
    assert open_checkpoint(tmp_path / "best").digest == second.digest
    assert not (tmp_path / "best").is_symlink()


def test_a_name_that_no_disk_takes_is_an_error(pool_paths: list[Path], tmp_path: Path) -> None:
    """Too long for a directory, or for the temporary one beside it."""
    for length in (300, 250):
        with pytest.raises(OutputError, match="cannot be written: File name too long"):
            write(blend_of(pool_paths), tmp_path / "out" / ("x" * length))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("kind", ["overwritten", "replaced", "removed", "settings"])
def test_a_member_that_changes_while_it_is_read_is_named(
    pool_paths: list[Path], tmp_path: Path, kind: str
) -> None:
    """By its trainer, which may still write: its digest would not be that of what was read."""
    factors = {
        "layers.0.lora_A.weight": torch.ones(1, 4),
        "layers.0.lora_B.weight": torch.ones(4, 1),
    }
    adapter = make_adapter(tmp_path / "adapter", factors, pool_paths[0])
    blend = blend_of([*pool_paths[:2], adapter])
    for member in blend.members:
        assert member.digest
    file = pool_paths[0] / "model.safetensors"
    if kind == "settings":
        file = adapter / "adapter_config.json"
    raw = file.read_bytes()

    def change(event: Event) -> None:
        if kind == "removed":
            file.unlink(missing_ok=True)
            return
        if kind == "replaced":
            file.rename(file.with_suffix(".old"))
        file.write_bytes(raw)
        os.utime(file, ns=(0, 1))

    out = tmp_path / "results" / "out"
    with pytest.raises(CheckpointError, match=f"{file}: (was changed while|cannot be read)"):
        write(blend, out, observe=change)
    assert list(out.parent.iterdir()) == []


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    """NaN found in the last tensor: no directory, no temporary sibling."""
    tensors = random_tensors(0)
    bad = {**random_tensors(1), "scale": torch.tensor(float("nan"), dtype=torch.bfloat16)}
    paths = [make_checkpoint(tmp_path / "a", tensors), make_checkpoint(tmp_path / "b", bad)]
    out = tmp_path / "results" / "out"
    with pytest.raises(BlendError, match="b: tensor scale holds NaN"):
        write(blend_of(paths), out)
    assert list(out.parent.iterdir()) == []


def test_no_room_is_known_before_writing(
    pool_paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free space is looked at first (a fake figure: a full disk cannot be had here)."""
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="needs 0.00 GB, but only 0.00 GB are free"):
        write(blend_of(pool_paths), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_permissions_are_those_of_any_new_directory(pool_paths: list[Path], tmp_path: Path) -> None:
    """A colleague can read what was written, as the umask allows."""
    written = write(blend_of(pool_paths), tmp_path / "out")
    plain = tmp_path / "plain"
    plain.mkdir()
    assert written.path.stat().st_mode == plain.stat().st_mode
    file = tmp_path / "file"
    file.touch()
    assert (written.path / "model.safetensors").stat().st_mode == file.stat().st_mode
    assert os.access(written.path, os.W_OK)


def test_the_card_says_how_members_were_merged(
    pool_paths: list[Path], base_path: Path, tmp_path: Path
) -> None:
    """Method, parameters, paper and base; the linear sum's manifest has none of these keys."""
    pool = Pool.open(*pool_paths, base=base_path)
    chosen = (("density", 0.5), ("seed", 123456789.0))
    blend = Blend(pool.members, pool.reference, None, None, "dare", pool.base, chosen)
    card = (write(blend, tmp_path / "out").path / "README.md").read_text()
    assert "dare (density 0.5, lambda 1, seed 123456789), arXiv:2311.03099, on the base" in card
    assert f"base (`{open_checkpoint(base_path).digest[:12]}`), rounded once" in card
    arc = Blend(pool.members[:2], pool.reference, method="slerp")
    card = (write(arc, tmp_path / "arc").path / "README.md").read_text()
    assert "| a | – |" in card
    plain = write(Blend(pool.members, pool.reference), tmp_path / "plain").path
    keys = json.loads((plain / "soup.json").read_text()).keys()
    assert not {"method", "paper", "parameters", "base"} & keys


@pytest.mark.parametrize("method", METHODS)
def test_every_method_streams_into_a_file(
    pool_paths: list[Path], base_path: Path, tmp_path: Path, method: str
) -> None:
    """What the file holds is the method's value of the whole tensor, rounded once."""
    count = METHODS[method].members or 4
    pool = Pool.open(*pool_paths[:count], base=base_path)
    blend = Blend(pool.members, pool.reference, method=method, base=pool.base)
    found = loaded(write(blend, tmp_path / "out").path)
    members = [loaded(path) for path in pool_paths[:count]]
    base = loaded(base_path)
    for name, tensor in found.items():
        rows = [member[name].double().flatten() for member in members]
        values = METHODS[method].parameters
        whole = MERGE[method](Slice(name, 0, rows, base[name].double().flatten(), None, values))
        assert torch.equal(tensor.flatten(), round_once(whole, torch.bfloat16)), name


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is Linux's")
def test_a_place_that_takes_nothing_from_anybody_is_said_at_once(pool_paths: list[Path]) -> None:
    """Whoever asks, and before anything is scored; /proc has modes that would let root."""
    pool = Pool.open(*pool_paths)
    with pytest.raises(OutputError, match="^/proc/soup: /proc is not a directory that can be"):
        check_target(Path("/proc/soup"), Blend(pool.members, pool.reference))
