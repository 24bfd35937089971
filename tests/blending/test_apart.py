"""soup/blending/apart.py: squared distances of members, summed as they are read."""

from pathlib import Path

import pytest
import torch

from soup.blending.apart import squared_distances
from soup.checkpoints.opening import open_checkpoint
from soup.events import Event, Progress
from tests.conftest import collect, make_adapter, make_checkpoint


def by_hand(paths: list[Path]) -> torch.Tensor:
    """The same in one go."""
    whole = [collect(open_checkpoint(path)) for path in paths]
    flat = torch.stack([torch.cat([one[name].flatten() for name in sorted(one)]) for one in whole])
    return (flat[:, None] - flat[None]).square().sum(-1)


@pytest.mark.parametrize("threads", [1, 3])
def test_distances_are_those_of_all_weights(pool_paths: list[Path], threads: int) -> None:
    """To the last digits that float64 has, whatever the chunks and the threads."""
    members = [open_checkpoint(path) for path in pool_paths]
    found = torch.tensor(squared_distances(members, threads=threads, chunk=7), dtype=torch.float64)
    assert torch.allclose(found, by_hand(pool_paths), rtol=1e-13, atol=0)
    assert found.tolist() == squared_distances(members, threads=2, chunk=7)


def test_of_large_members_a_sample_tells_the_angles(tmp_path: Path) -> None:
    """A thirtieth of the weights, though some rows and tensors change far more than others."""
    torch.manual_seed(0)
    shapes = {"embed": (4000, 64), "up": (512, 256), "down": (256, 512), "norm": (64,)}
    scale = {k: torch.rand(shape[0], *[1] * (len(shape) - 1)) ** 3 for k, shape in shapes.items()}
    base = {name: torch.randn(shape) for name, shape in shapes.items()}
    shared = {name: torch.randn(shape) * scale[name] for name, shape in shapes.items()}
    paths = [make_checkpoint(tmp_path / "base", base)]
    for k in range(2):
        own = {name: base[name] + shared[name] + torch.randn(shapes[name]) for name in shapes}
        paths.append(make_checkpoint(tmp_path / f"run-{k}", own))
    members = [open_checkpoint(path) for path in paths]
    read: list[Event] = []
    rows = squared_distances(members, read.append, most=17_000, piece=64)
    found = torch.tensor(rows, dtype=torch.float64)
    whole = by_hand(paths)

    def cosine(d: torch.Tensor) -> float:
        return float((d[0, 1] + d[0, 2] - d[1, 2]) / 2 / (d[0, 1] * d[0, 2]).sqrt())

    assert cosine(found) == pytest.approx(cosine(whole), abs=0.03)
    assert torch.allclose(found, whole.double(), rtol=0.1)
    total = max(event.total for event in read if isinstance(event, Progress))
    assert sum(member.nbytes for member in members) > 25 * total


def test_progress_counts_every_byte_once(pool_paths: list[Path]) -> None:
    """In steps that rise, to all that is read."""
    events: list[Event] = []
    members = [open_checkpoint(path) for path in pool_paths]
    squared_distances(members, events.append, chunk=5)
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == sorted(done)
    assert done[-1] == sum(member.nbytes for member in members)


def test_what_no_blend_averages_does_not_count(tmp_path: Path) -> None:
    """Counters and buffers are no learning."""
    for name, steps in (("a", 1), ("b", 9)):
        tensors = {"w": torch.ones(3), "bn.num_batches_tracked": torch.tensor(steps)}
        make_checkpoint(tmp_path / name, tensors)
    members = [open_checkpoint(tmp_path / name) for name in "ab"]
    assert squared_distances(members) == [[0, 0], [0, 0]]


def test_an_adapter_is_as_far_from_its_base_as_its_change_is_long(tmp_path: Path) -> None:
    """Its weights are computed as they are read."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(2, 3)})
    factors = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(2, 1)}
    make_adapter(tmp_path / "adapter", factors, base, lora_alpha=2)
    found = squared_distances([open_checkpoint(tmp_path / "adapter"), open_checkpoint(base)])
    assert found[0][1] == pytest.approx(6 * 2**2)
