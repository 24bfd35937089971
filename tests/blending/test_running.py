"""soup/blending/running.py: trials from a running sum, with the bits of summing anew."""

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soup.blending import streaming
from soup.blending.blend import Blend, role
from soup.blending.running import RunningSum
from soup.blending.streaming import stream
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.opening import open_checkpoint
from soup.errors import BlendError
from soup.events import Event, Progress
from tests.conftest import make_checkpoint, random_tensors

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


class Fill:
    """A sink into memory."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        """Keep a copy."""
        flat = self.found.setdefault(info.name, torch.empty(info.numel, dtype=values.dtype))
        flat[start : start + len(values)] = values


def streamed(blend: Blend, running: RunningSum | None) -> tuple[dict[str, torch.Tensor], int]:
    """A blend in memory, and the bytes read for it."""
    sink, totals = Fill(), list[int]()

    def observe(event: Event) -> None:
        assert isinstance(event, Progress)
        totals.append(event.total)
        assert event.done <= event.total

    stream(blend, sink, running=running, observe=observe, chunk=7, threads=2)
    return sink.found, totals[-1]


def members_of(root: Path, count: int, dtype: torch.dtype) -> list[Checkpoint]:
    """Members with an integer tensor beside the floating ones."""
    made = []
    for k in range(count):
        tensors = {**random_tensors(k, dtype), "steps": torch.tensor([3, 4])}
        made.append(open_checkpoint(make_checkpoint(root / str(k), tensors)))
    return made


@settings(max_examples=25)
@given(
    kept=st.lists(st.booleans(), min_size=5, max_size=5),
    dtype=st.sampled_from(DTYPES),
    in_memory=st.booleans(),
)
def test_a_greedy_walk_has_the_bits_of_summing_anew(
    tmp_path_factory: pytest.TempPathFactory,
    kept: list[bool],
    dtype: torch.dtype,
    in_memory: bool,
) -> None:
    """Whatever is kept and rejected, in memory or in a file; each trial reads one member."""
    root = tmp_path_factory.mktemp("pool")
    members = members_of(root, 6, dtype)
    running = RunningSum(1 << 20 if in_memory else 0, root)
    soup = members[:1]
    for k, (member, keep) in enumerate(zip(members[1:], kept, strict=True)):
        trial = Blend((*soup, member), members[0])
        expected, _ = streamed(trial, None)
        found, read = streamed(trial, running)
        for name, tensor in found.items():
            assert torch.equal(tensor, expected[name]), name
        if k > 0:
            copied = 16 * (len(soup) + 1)  # integers are compared in all members
            assert read == members[0].nbytes - 16 + copied
        if keep:
            soup.append(member)
    assert running.note.startswith(
        "running sum in memory" if in_memory else "running sum in a file"
    )
    assert not list(root.glob("running-sum-*"))


def test_other_blends_in_between_do_no_harm(tmp_path: Path) -> None:
    """Single members and weighted sums pass by; the sums are still right afterwards."""
    a, b, c, d = members_of(tmp_path, 4, torch.bfloat16)
    running = RunningSum(1 << 20, tmp_path)
    for blend in (
        Blend((a, b), a),
        Blend((c,), a),
        Blend((a, b, c), a, coefficients=(0.1, 0.2, 0.7)),
        Blend((a, b, c), a),
        Blend((b, a), a),
        Blend((a, b, d), a),
        Blend((a, b, c, d), a),
    ):
        expected, _ = streamed(blend, None)
        found, _ = streamed(blend, running)
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_failed_trial_leaves_no_sums_to_start_from(tmp_path: Path) -> None:
    """NaN in the middle of a trial: named, and the next trial is right."""
    a, b, c = members_of(tmp_path / "good", 3, torch.bfloat16)
    bad_tensors = random_tensors(9)
    bad_tensors["norm.weight"][2] = float("nan")
    path = make_checkpoint(tmp_path / "bad", {**bad_tensors, "steps": torch.tensor([3, 4])})
    bad = open_checkpoint(path)
    running = RunningSum(1 << 20, tmp_path)
    streamed(Blend((a, b), a), running)
    with pytest.raises(BlendError, match="bad: tensor norm.weight holds NaN"):
        streamed(Blend((a, b, bad), a), running)
    for trial in (Blend((a, c), a), Blend((a, b, c), a)):  # the first would start where it failed
        expected, _ = streamed(trial, None)
        found, _ = streamed(trial, running)
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_without_room_all_members_are_read_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither memory nor disk (a fake figure): the result is the same."""
    usage = type("Usage", (), {"free": 0})
    monkeypatch.setattr("soup.blending.running.shutil.disk_usage", lambda path: usage)
    a, b, c = members_of(tmp_path, 3, torch.bfloat16)
    running = RunningSum(0, tmp_path)
    for blend in (Blend((a, b), a), Blend((a, b, c), a)):
        expected, read = streamed(blend, None)
        found, read_with = streamed(blend, running)
        assert read == read_with
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert running.note.startswith("no room for a running sum")


def test_room_on_the_disk_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, not holes; and where a quota leaves less room than the disk shows, no sum."""
    a, b, c = members_of(tmp_path, 3, torch.bfloat16)
    running = RunningSum(0, tmp_path)
    opened: list[int] = []
    reserve = os.posix_fallocate

    def reserved(handle: int, start: int, size: int) -> None:
        reserve(handle, start, size)
        stat = os.fstat(handle)
        opened.append(512 * stat.st_blocks >= stat.st_size == size)

    monkeypatch.setattr("soup.blending.running.os.posix_fallocate", reserved)
    streamed(Blend((a, b), a), running)
    assert opened == [True, True]

    def refused(handle: int, start: int, size: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("soup.blending.running.os.posix_fallocate", refused)
    running = RunningSum(0, tmp_path)
    blend = Blend((a, b, c), a)
    found, expected = streamed(blend, running)[0], streamed(blend, None)[0]
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert running.note.startswith("no room for a running sum")
    assert not list(tmp_path.glob("running-sum-*"))


def test_a_blend_with_methods_of_its_own_is_left_alone(tmp_path: Path) -> None:
    """Only equal averages are sums of one more member."""
    a, b = members_of(tmp_path, 2, torch.bfloat16)
    running = RunningSum(1 << 20, tmp_path)
    blend = Blend((a, b), a, method="task-arithmetic", base=a)
    assert streaming._passes(blend, running) == [None]


def test_what_an_earlier_trial_skipped_is_summed_anew(tmp_path: Path) -> None:
    """Sums that lack a tensor, as nobody wanted it then, are not started from for that tensor."""
    members = members_of(tmp_path, 4, torch.bfloat16)
    running = RunningSum(1 << 20, tmp_path)
    names = [name for name, info in members[0].tensors.items() if role(info) == "blend"]
    skipped: list[set[str]] = [set(names[:2]), set(names[1:2]), set()]
    for k, skip in enumerate(skipped, 2):
        blend = Blend(members[:k], members[0])
        sink = Fill()
        stream(blend, sink, running=running, chunk=7, skip=skip)
        expected, _ = streamed(blend, None)
        assert set(sink.found) == set(expected) - skip
        assert all(torch.equal(found, expected[name]) for name, found in sink.found.items())
