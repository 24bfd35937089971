"""soup/checkpoints/problems.py: what many tensors or members share is one line with a count."""

from pathlib import Path

import pytest
import torch

from soup.checkpoints.pool import Pool, inspect
from soup.checkpoints.problems import LINES, Problem, patterns, summary, together
from soup.errors import PoolError
from tests.conftest import make_checkpoint

LAYERS = [
    f"model.layers.{k}.{part}.weight"
    for k in range(40)
    for part in ("self_attn.q_proj", "mlp.up_proj", "norm")
]


def layers(seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """A model of 120 small tensors and an embedding."""
    generator = torch.Generator().manual_seed(seed)
    names = [*LAYERS, "model.embed_tokens.weight"]
    return {name: torch.randn(3, generator=generator).to(dtype) for name in names}


def pool_of(tmp_path: Path, *others: dict[str, torch.Tensor]) -> list[Path]:
    """A reference, and the others behind it."""
    members = [layers(0), *others]
    return [make_checkpoint(tmp_path / f"m{k}", tensors) for k, tensors in enumerate(members)]


def test_another_dtype_is_one_line_for_all_tensors_and_members(tmp_path: Path) -> None:
    """121 tensors of 12 members, all counted, the members named or counted."""
    others = [layers(k, torch.float32) for k in range(1, 13)]
    report = inspect(pool_of(tmp_path, *others))
    assert len(report.problems) == 12 * 121
    assert report.lines == [
        "all 12 others: all 121 tensors: expected BF16, found F32; give the output's dtype with "
        "--dtype to blend them"
    ]
    with pytest.raises(PoolError) as caught:
        Pool.open(*(member.path for member in report.members))
    assert str(caught.value) == f"the pool cannot be blended: {report.lines[0]}"


def test_one_member_of_several_is_named(tmp_path: Path) -> None:
    """Which members, and how many tensors of them, by a pattern of their names."""
    some = layers(1)
    for name in LAYERS[::3]:
        del some[name]
    few = layers(2)
    few["model.layers.0.norm.weight"] = torch.ones(5, dtype=torch.bfloat16)
    lines = inspect(pool_of(tmp_path, some, dict(some), few)).lines
    assert lines == [
        "m1 and m2: 40 tensors (model.layers.*.self_attn.q_proj.weight): expected BF16 [3], found "
        "nothing",
        "m3: tensor model.layers.0.norm.weight: expected BF16 [3], found BF16 [5]; are they "
        "fine-tuned from the same base?",
    ]


def test_names_of_another_kind_are_two_lines(tmp_path: Path) -> None:
    """What is missing, and what stands in its place."""
    renamed = {f"{name}.other": tensor for name, tensor in layers(1).items()}
    lines = inspect(pool_of(tmp_path, renamed)).lines
    assert [line.partition(": expected")[0] for line in lines] == [
        "m1: all 121 tensors",
        "m1: all 121 tensors",
    ]
    assert "found nothing" in lines[0]
    assert "expected nothing (m0 has no such tensor)" in lines[1]


def test_equal_kinds_of_other_shapes_show_an_example() -> None:
    """Where expected and found differ from tensor to tensor, one is shown."""
    problems = [
        Problem("b", f"tensor {name}", f"F32 [{k}]", "nothing") for k, name in enumerate("xyzuv")
    ]
    line = "b: 5 tensors (x.* 1, y.* 1, z.* 1, u.* 1 and v.* 1): e.g. x: expected F32 [0], found "
    assert summary(problems) == [f"{line}nothing"]


@pytest.mark.parametrize("count", [1, LINES, LINES + 1, 500])
def test_a_summary_is_ten_lines_at_most(count: int) -> None:
    """And says how many problems it does not show, in how many members, and where they are."""
    problems = [Problem(f"m{k}", "config.json model_type", "a", f"b{k}") for k in range(count)]
    lines = summary(problems)
    assert len(lines) == min(count, LINES)
    if count > LINES:
        hidden = count - LINES + 1
        assert lines[-1].startswith(f"and {hidden} more problems, in {hidden} members: ")


def test_one_warning_of_many_members_is_one_line() -> None:
    """A line that names no member stays; a name that begins like another's is told apart."""
    lines = ["a: x", "a-2: x", "b: y", "norm and 3 more are statistics", "c: x"]
    assert together(lines, ["r", "a", "a-2", "b", "c"]) == [
        "a, a-2 and c: x",
        "b: y",
        "norm and 3 more are statistics",
    ]


def test_configs_that_differ_alike_are_one_warning(tmp_path: Path) -> None:
    """Eleven members with another rope_theta than the first."""
    config = {"model_type": "tiny", "rope_theta": 10000}
    paths = [make_checkpoint(tmp_path / "m0", layers(0), config=config)]
    for k in range(1, 12):
        changed = {**config, "rope_theta": 5}
        paths.append(make_checkpoint(tmp_path / f"m{k}", layers(k), config=changed))
    warnings = inspect(paths).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith("all 11 others: config.json differs from m0's: rope_theta 5 (m0")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a.0.b", "a.1.b", "a.22.b"], "a.*.b"),
        (["a.b", "c.d"], "a.b, c.d"),
        ([f"visual.x{letter}.w" for letter in "abcdef"], "visual.*"),
        ([f"{top}.{letter}" for top in "pq" for letter in "abc"], "p.* 3 and q.* 3"),
    ],
)
def test_many_names_are_a_pattern(names: list[str], text: str) -> None:
    """Numbers are stars; what is still too much ends where names part."""
    assert patterns(names) == text
