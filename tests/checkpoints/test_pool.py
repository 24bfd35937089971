"""soup/checkpoints/pool.py: what blends, and exactly why something does not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from soup.checkpoints.pool import Pool, inspect, same_files, unique_names
from soup.errors import CheckpointError, PoolError, UsageError
from tests.conftest import CONFIG, make_checkpoint, random_tensors


def pair(tmp_path: Path, second: dict[str, torch.Tensor], **kwargs: Any) -> list[Path]:
    """A reference and a second member that differs from it."""
    return [
        make_checkpoint(tmp_path / "first", random_tensors(0)),
        make_checkpoint(tmp_path / "second", second, **kwargs),
    ]


def test_other_shard_layouts_make_a_pool(pool_paths: list[Path]) -> None:
    """Members may be sharded differently; the first is the reference."""
    pool = Pool.open(*pool_paths)
    assert [member.name for member in pool.members] == ["a", "b", "c", "d"]
    assert pool.reference.name == "a"


def test_a_member_that_vanishes_meanwhile_is_named(pool_paths: list[Path]) -> None:
    """Between opening it and comparing it with the others."""
    members = Pool.open(*pool_paths).members
    (gone := members[1].shards[0]).unlink()
    with pytest.raises(CheckpointError, match=f"{gone}: cannot be read: No such file"):
        same_files(members)


def test_quoted_globs_are_expanded(pool_paths: list[Path]) -> None:
    """A glob is its directories, sorted; one that matches nothing is a usage error."""
    pool = Pool.open(str(pool_paths[0].parent / "*"))
    assert [member.name for member in pool.members] == ["a", "b", "c", "d"]
    with pytest.raises(UsageError, match="matches no directory"):
        Pool.open(str(pool_paths[0].parent / "x*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"second: tensor norm.weight: expected BF16 \[4\], found nothing"),
        ("extra", r"second: tensor new: expected nothing .* found BF16 \[2\]"),
        ("shape", r"second: tensor norm.weight: expected BF16 \[4\], found BF16 \[5\]"),
        ("vocabulary", r"the vocabularies have 13 and 14 rows"),
        ("dtype", r"expected BF16, found F32; give the output's dtype with --dtype"),
        ("tied", r"second: tensor embed_tokens.weight: .* tied to the embedding"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: str, message: str) -> None:
    """Tensor, member, expected and found stand in the error."""
    second = random_tensors(1)
    if change == "missing":
        del second["norm.weight"]
    elif change == "extra":
        second["new"] = torch.ones(2, dtype=torch.bfloat16)
    elif change == "shape":
        second["norm.weight"] = torch.ones(5, dtype=torch.bfloat16)
    elif change == "vocabulary":
        second["embed_tokens.weight"] = torch.ones(14, 4, dtype=torch.bfloat16)
    elif change == "tied":
        del second["embed_tokens.weight"]
    else:
        second = {name: tensor.float() for name, tensor in second.items()}
    with pytest.raises(PoolError, match=message):
        Pool.open(*pair(tmp_path, second))


def test_dtype_lets_members_differ_in_float_dtype(tmp_path: Path) -> None:
    """With an output dtype, float32 and bfloat16 blend."""
    second = {name: tensor.float() for name, tensor in random_tensors(1).items()}
    paths = pair(tmp_path, second)
    assert len(Pool.open(*paths, dtype="BF16").members) == 2


def test_other_architectures_do_not_blend(tmp_path: Path) -> None:
    """Equal shapes are not enough."""
    paths = pair(tmp_path, random_tensors(1), config={**CONFIG, "model_type": "other"})
    with pytest.raises(PoolError, match="config.json model_type: expected tiny, found other"):
        Pool.open(*paths)


def test_settings_that_shapes_do_not_show_are_a_warning(tmp_path: Path) -> None:
    """A differing rope_theta is told; where the checkpoint was saved is not."""
    config = {**CONFIG, "rope_theta": 10000, "_name_or_path": "elsewhere"}
    pool = Pool.open(*pair(tmp_path, random_tensors(1), config=config))
    assert len(pool.warnings) == 1
    assert "differs from first's: rope_theta 10000 (first: nothing);" in pool.warnings[0]


def test_tokenizers_that_differ_do_not_blend(tmp_path: Path) -> None:
    """The same row would mean different tokens; re-serialised JSON with the same ids is equal."""

    def tokenizer(vocab: dict[str, int], indent: int | None = None) -> dict[str, str]:
        return {"tokenizer.json": json.dumps({"model": {"vocab": vocab}}, indent=indent)}

    first = make_checkpoint(tmp_path / "a", random_tensors(0), files=tokenizer({"x": 0, "y": 1}))
    same = make_checkpoint(tmp_path / "b", random_tensors(1), files=tokenizer({"y": 1, "x": 0}, 2))
    other = make_checkpoint(tmp_path / "c", random_tensors(2), files=tokenizer({"x": 1, "y": 0}))
    assert len(Pool.open(first, same).members) == 2
    with pytest.raises(PoolError, match=r"expected 'x' in row 0, 'y' in row 1, found row 1, row 0"):
        Pool.open(first, other)


def test_batchnorm_statistics_are_a_warning(tmp_path: Path) -> None:
    """They are averaged, and the user is told what that means."""
    tensors = {"bn.running_mean": torch.zeros(2), "bn.running_var": torch.ones(2)}
    path = make_checkpoint(tmp_path / "a", tensors)
    assert "BatchNorm" in Pool.open(path).warnings[0]


def test_duplicates_by_file_are_found_without_reading(tmp_path: Path) -> None:
    """The same path twice, or a link, is known from the files."""
    path = make_checkpoint(tmp_path / "a", random_tensors(0))
    (tmp_path / "link").symlink_to(path)
    assert inspect([path, tmp_path / "link"]).duplicates == (("a", "link"),)
    assert inspect([path, path]).duplicates == (("a", "a#2"),)


def test_names_are_the_shortest_that_differ() -> None:
    """checkpoint-500 of two runs are told apart by their runs."""
    paths = [Path("/x/run-1/checkpoint-500"), Path("/x/run-2/checkpoint-500"), Path("/x/base")]
    assert unique_names(paths) == ["run-1/checkpoint-500", "run-2/checkpoint-500", "base"]
