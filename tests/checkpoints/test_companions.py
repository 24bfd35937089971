"""soup/checkpoints/companions.py: what decides a model's answers besides its weights."""

import json
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.companions import gather
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, inspect
from soup.errors import CheckpointError, UsageError
from tests.conftest import make_checkpoint, random_tensors

FILES = {
    "config.json": json.dumps({"model_type": "tiny", "text_config": {"rope_theta": 10000.0}}),
    "generation_config.json": json.dumps({"temperature": 0.1, "eos_token_id": None}),
    "processor_config.json": json.dumps({"image_processor": {"size": 8}}),
    "tokenizer_config.json": json.dumps({"chat_template": "hi", "tokenizer_class": "TFast"}),
    "tokenizer.json": json.dumps({"model": {"vocab": {"a": 0}, "merges": ["a b"]}}),
}


def digest(path: Path, changed: dict[str, str], gone: tuple[str, ...] = ()) -> str:
    """Of these files in a new directory."""
    path.mkdir(parents=True)
    for name, text in {**FILES, **changed}.items():
        if name not in gone:
            (path / name).write_text(text)
    return gather(path).digest


@pytest.mark.parametrize(
    ("changed", "gone"),
    [
        (
            {"config.json": json.dumps({"model_type": "tiny", "rope_theta": 10000, "dtype": "x"})},
            (),
        ),
        ({"generation_config.json": '{"transformers_version": "9", "temperature": 0.1}'}, ()),
        ({"preprocessor_config.json": '{"size": 8}'}, ("processor_config.json",)),
        (
            {"tokenizer_config.json": '{"tokenizer_class": "T"}', "chat_template.jinja": "hi\n"},
            (),
        ),
        ({"tokenizer.json": '{"model": {"merges": [["a", "b"]], "vocab": {"a": 0}}}'}, ()),
        ({"README.md": "other", "trainer_state.json": "{}"}, ()),
    ],
)
def test_versions_that_write_otherwise_ask_alike(
    tmp_path: Path, changed: dict[str, str], gone: tuple[str, ...]
) -> None:
    """Names, places and forms of settings are not settings."""
    assert digest(tmp_path / "b", changed, gone) == digest(tmp_path / "a", {})


@pytest.mark.parametrize(
    "changed",
    [
        {"config.json": json.dumps({"model_type": "tiny", "rope_theta": 20000})},
        {"generation_config.json": '{"temperature": 0.2}'},
        {"processor_config.json": '{"image_processor": {"size": 9}}'},
        {"tokenizer_config.json": '{"tokenizer_class": "T"}'},  # no template
        {"tokenizer_config.json": '{"tokenizer_class": "U", "chat_template": "hi"}'},
        {"tokenizer.json": '{"model": {"vocab": {"a": 0}, "merges": []}}'},
        {"modeling_own.py": ""},
    ],
)
def test_whatever_decides_answers_counts(tmp_path: Path, changed: dict[str, str]) -> None:
    """A template, a setting, a merge, code."""
    assert digest(tmp_path / "b", changed) != digest(tmp_path / "a", {})


def test_a_blend_has_the_files_that_it_is_scored_with(tmp_path: Path) -> None:
    """Written with its own they are its own; its key tells them apart where weights are equal."""
    paths = [
        make_checkpoint(tmp_path / name, random_tensors(k), files={"chat_template.jinja": name})
        for k, name in enumerate("ab")
    ]
    pool = Pool.open(*paths)
    own = Blend(pool.members[1:], pool.reference, files_of=pool.members[1])
    dressed = Blend(pool.members[1:], pool.reference)
    assert own.digest == dressed.digest
    assert own.key != dressed.key
    for blend, template in ((own, "b"), (dressed, "a")):
        out = write(blend, tmp_path / "out", kind="max", overwrite=True).path
        assert (out / "chat_template.jinja").read_text() == template
        manifest = json.loads((out / "soup.json").read_text())
        assert manifest["companions_of"] == template
        assert open_checkpoint(out).companions.digest == blend.companions.digest


def test_files_that_change_in_mid_run_are_told(tmp_path: Path) -> None:
    """Scores so far are of what they were; the file is named."""
    path = make_checkpoint(tmp_path / "a", random_tensors(0), files={"chat_template.jinja": "one"})
    blend = Blend((open_checkpoint(path),), open_checkpoint(path))
    assert blend.key
    blend.require_unchanged()
    (path / "chat_template.jinja").write_text("two")
    with pytest.raises(CheckpointError, match=r"chat_template.jinja: was changed while it was"):
        blend.require_unchanged()


def test_the_reference_is_chosen_by_name_or_path(pool_paths: list[Path]) -> None:
    """Default the first; one that is no member is an error that lists them."""
    assert Pool.open(*pool_paths).reference.name == "a"
    for said in ("c", str(pool_paths[2])):
        pool = Pool.open(*pool_paths, reference=said)
        assert pool.reference.name == "c"
        assert [member.name for member in pool.members] == ["a", "b", "c", "d"]
    with pytest.raises(UsageError, match="--reference x: names no member; expected one of a, b"):
        inspect(pool_paths, reference="x")


def test_a_pointer_in_any_members_files_is_named_at_once(tmp_path: Path) -> None:
    """Not only in the reference's: all are asked with their own."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    paths = [
        make_checkpoint(tmp_path / name, random_tensors(k), files={"tokenizer.model": text})
        for k, (name, text) in enumerate((("a", "x"), ("b", pointer)))
    ]
    with pytest.raises(CheckpointError, match="b/tokenizer.model: .*git-lfs"):
        Pool.open(*paths)
