"""soup/blending/onepass.py, draft.py, common.py: one pass, and the bits of two."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import soup
from soup import compiled
from soup.blending import common, onepass, runs, shards
from soup.blending.arithmetic import Slice, linear
from soup.blending.blend import Blend
from soup.blending.layout import laid_out
from soup.blending.rounding import round_once
from soup.checkpoints import digests
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import BlendError, PoolError, SoupError
from soup.events import Event, Progress
from tests.blending.test_streaming import collect
from tests.conftest import make_checkpoint, random_tensors

pytestmark = pytest.mark.skipif(compiled.LIBRARY is None, reason="no compiler at installation")
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def tensors(seed: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Large and small, of integers, equal in all, unequal counters, empty, tiny beside huge."""
    generator = torch.Generator().manual_seed(seed)
    same = torch.Generator().manual_seed(99)
    found = random_tensors(seed, dtype)
    found["large"] = torch.randn(600_001, generator=generator).to(dtype)
    found["frozen.large"] = torch.randn(300_000, generator=same).to(dtype)
    found["frozen.small"] = torch.randn(7, generator=same).to(dtype)
    found["position_ids"] = torch.arange(5)
    found["bn.num_batches_tracked"] = torch.tensor(seed)
    found["none"] = torch.empty(0, dtype=dtype)
    wide = torch.randn(4000, generator=generator).double()
    exponents = torch.randint(-40, 14, (4000,), generator=generator)
    found["wide"] = (wide * 2.0**exponents).to(dtype)
    return found


def members(tmp_path: Path, dtype: torch.dtype, count: int = 5) -> list[Path]:
    """A pool whose members lay their tensors out in different ways."""
    paths = []
    for k in range(count):
        content = tensors(k, dtype)
        if k % 2:
            content = dict(reversed(content.items()))
        path = make_checkpoint(tmp_path / f"m{k}", content, shards=1 + k % 3)
        paths.append(path)
    return paths


def files(directory: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("out", [None, "BF16", "F32"])
def test_one_pass_has_the_bytes_and_digests_of_two(
    tmp_path: Path, dtype: str, out: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is digested apart; weights, digests and manifest are those of the plain way."""
    paths = members(tmp_path, DTYPES[dtype])
    given = {"dtype": out, "work": tmp_path / "work"}
    with monkeypatch.context() as patch:
        patch.setattr(digests, "read_roots", lambda *_: pytest.fail("read apart"))
        pool = Pool.open(*paths, dtype=out)
        soup.make("average", pool, settings=soup.Settings(out=tmp_path / "one" / "x", **given))
    found = [member.digest for member in pool.members]
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "LIBRARY", None)  # then nothing is served
        patch.setattr("soup.blending.streaming._kernel", lambda blend: None)
        given["work"] = tmp_path / "work2"
        other = Pool.open(*reversed(paths), dtype=out, reference="m0")
        soup.make("average", other, settings=soup.Settings(out=tmp_path / "two" / "x", **given))
    assert sorted(found) == sorted(member.digest for member in other.members)
    assert files(tmp_path / "one" / "x") == files(tmp_path / "two" / "x")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["x"]
    third = soup.Settings(out=tmp_path / "three" / "x", **{**given, "work": tmp_path / "work"})
    with monkeypatch.context() as patch:  # digests known: they are proven in the one pass, too
        patch.setattr(digests, "read_roots", lambda *_: pytest.fail("read apart"))
        again = Pool.open(*paths, dtype=out)
        soup.make("average", again, settings=third)
    assert not any(member.unproven for member in again.members)
    assert files(tmp_path / "three" / "x") == files(tmp_path / "one" / "x")


def test_only_what_the_order_decides_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiny beside huge values, whose sums round, and a counter; all others are settled at once."""
    paths = members(tmp_path, torch.float32)
    pool = Pool.open(*paths)
    seen: list[list[str]] = []
    settle = onepass.settle

    def watched(blend: Blend, *rest: Any) -> bool:
        seen.append([run.pieces[0].info.name for run in rest[-1].unsettled])
        return settle(blend, *rest)

    monkeypatch.setattr(onepass, "settle", watched)
    settings = soup.Settings(out=tmp_path / "out", work=tmp_path / "work")
    soup.make("average", pool, settings=settings)
    (names,) = seen
    assert "bn.num_batches_tracked" in names
    assert "large" not in names
    ordered = sorted(pool.members, key=lambda member: member.digest)
    expected = collect(Blend(tuple(ordered), pool.reference))
    backwards = collect(Blend(tuple(ordered[::-1]), pool.reference))
    assert not torch.equal(expected["bn.num_batches_tracked"], backwards["bn.num_batches_tracked"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_member_is_the_one_line_that_it_is_elsewhere(tmp_path: Path, bad: float) -> None:
    """In the midst of the pass: the same words as before scoring, and nothing half-written."""
    paths = members(tmp_path, torch.bfloat16, 3)
    content = tensors(9, torch.bfloat16)
    content["large"][500_000] = bad
    paths.append(make_checkpoint(tmp_path / "bad", content))
    settings = soup.Settings(out=tmp_path / "made" / "out", work=tmp_path / "work")
    with pytest.raises(PoolError, match="bad: tensor large: expected finite values, found"):
        soup.make("average", Pool.open(*paths), settings=settings)
    assert list((tmp_path / "made").iterdir()) == []


def test_members_that_cannot_be_averaged_say_so(tmp_path: Path) -> None:
    """Unequal integers, and values that overflow the output: the plain way's words."""
    one, other = tensors(0, torch.float32), tensors(1, torch.float32)
    other["position_ids"] = torch.arange(5) + 1
    paths = [make_checkpoint(tmp_path / n, t) for n, t in (("a", one), ("b", other))]
    settings = soup.Settings(out=tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(BlendError, match="position_ids: . differs from .; I64 values"):
        soup.make("average", Pool.open(*paths), settings=settings)
    for content in (one, other):
        content["position_ids"] = torch.arange(5)
        content["large"][3] = 1e30
    paths = [make_checkpoint(tmp_path / n, t) for n, t in (("c", one), ("d", other))]
    pool = Pool.open(*paths, dtype="F16")
    with pytest.raises(BlendError, match="tensor large: 1e.30 overflows F16"):
        soup.make("average", pool, settings=replace(settings, dtype="F16"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut", [10, 900_000])
def test_a_member_that_shrinks_meanwhile_is_named(tmp_path: Path, cut: int) -> None:
    """Whoever hashes the mapped file is not killed by it; nothing is left behind."""
    paths = members(tmp_path, torch.bfloat16, 2)
    pool = Pool.open(*paths)
    file = pool.members[1].shards[0]
    os.truncate(file, file.stat().st_size - cut)
    settings = soup.Settings(out=tmp_path / "made" / "out", work=tmp_path / "work")
    with pytest.raises(SoupError, match=r"m1/model-0000.-of-00002.safetensors"):
        soup.make("average", pool, settings=settings)
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("broken", [False, True])
def test_of_several_members_the_one_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Where another thread met the end of a file, or a bad disk, while this one read others."""
    paths = [
        make_checkpoint(tmp_path / f"m{k}", tensors(k, torch.bfloat16), shards=1) for k in range(3)
    ]
    pool = Pool.open(*paths)
    file = pool.members[1].shards[0]
    met: list[bool] = []
    begun = threading.Lock()

    def observe(event: Event) -> None:
        if isinstance(event, Progress) and begun.acquire(blocking=False):
            if not broken:
                os.truncate(file, file.stat().st_size - 8192)
            met.append(True)  # other threads look from here on

    def failing(handle: int, size: int, at: int) -> bytes:
        if os.fstat(handle).st_ino == file.stat().st_ino:
            raise OSError(5, "Input/output error")
        return pread(handle, size, at)

    pread = os.pread
    if broken:
        monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr(compiled, "faults", lambda: len(met))
    given = soup.Settings(out=tmp_path / "out", work=tmp_path / "work")
    with pytest.raises(SoupError, match=r"^[^ ]*/m1/model.safetensors: could not be read to its"):
        soup.make("average", pool, settings=given, observe=observe)


def test_a_mapped_file_that_shrinks_reads_as_zeros_and_is_counted(tmp_path: Path) -> None:
    """Where the process would end, a page of zeros is put in place, for any reader."""
    compiled.guard()
    size = 1 << 16
    (tmp_path / "x").write_bytes(b"x" * size)
    with (tmp_path / "x").open("r+b") as file:
        mapped = compiled.Mapped(file.fileno())
        before = compiled.faults()
        file.truncate(size // 2)
        assert bytes(mapped.bytes[: size // 2]) == b"x" * (size // 2)
        assert compiled.faults() == before
        assert bytes(mapped.bytes[size // 2 :]) == bytes(size // 2)
        assert compiled.faults() > before


@settings(max_examples=80, deadline=None)
@given(
    bits=st.integers(0, (1 << 32) - 1),
    count=st.sampled_from([1, 2, 3, 5, 7, 10, 49, 1000]),
    dtype=st.sampled_from(["BF16", "F16", "F32"]),
)
def test_the_average_of_equal_values_is_that_value(bits: int, count: int, dtype: str) -> None:
    """Any bits: the sum is exact, so its quotient is the value; what ``common`` rests on."""
    raw = torch.tensor([bits - (1 << 31)]).to(torch.int32)
    value = (raw if dtype == "F32" else (raw >> 16).to(torch.int16)).view(DTYPES[dtype])
    if not torch.isfinite(value).all():
        return
    mean = round_once(linear(Slice("x", 0, [value] * count, None, None, {})), DTYPES[dtype])
    assert torch.equal(mean.view(torch.uint8), value.view(torch.uint8))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.integers(0, 60), dtype=st.sampled_from([*DTYPES]))
def test_sums_that_count_as_exact_are_the_same_in_every_order(
    seed: int, spread: int, dtype: str
) -> None:
    """Whatever the exponents; and those of one size always count as exact."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-spread, 1, (5, 300), generator=generator)
    rows = (torch.randn(5, 300, generator=generator) * 2.0**exponents).to(DTYPES[dtype])
    width = rows.element_size()
    places = compiled.addresses([rows.data_ptr() + k * 300 * width for k in range(5)])
    if compiled.exact(places, 300, dtype):
        parts = list(rows)
        one = linear(Slice("x", 0, parts, None, None, {}))
        other = linear(Slice("x", 0, parts[::-1], None, None, {}))
        assert torch.equal(one.view(torch.int64), other.view(torch.int64))
    elif dtype != "F32":
        assert spread > 15


def test_order_is_seen_to_matter_where_it_does(tmp_path: Path) -> None:
    """A float32 whose last bits a sum with 2^60 loses, in one order and not in another."""
    rows = torch.tensor([[2.0**60], [1.5], [-(2.0**60)]])
    places = compiled.addresses([rows.data_ptr() + 4 * k for k in range(3)])
    assert not compiled.exact(places, 1, "F32")


def written(blend: Blend, directory: Path) -> dict[str, bytes]:
    """The weight files that the library makes of a blend."""
    directory.mkdir()
    shards.write_weights(blend, directory, "write", lambda event: None)
    return files(directory)


def test_tensors_known_to_be_equal_are_copied_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of frozen tensors one member's are copied by the kernel of the system, neighbours at once."""
    paths = members(tmp_path, torch.bfloat16)
    pool = Pool.open(*paths)
    blend = Blend(pool.members, pool.reference)
    expected = written(blend, tmp_path / "read")
    assert common.equal(blend) == set()
    assert all(member.digest for member in pool.members)
    assert common.equal(blend) == {"frozen.large", "frozen.small", "none"}
    looked: list[str] = []
    merge = onepass._Pass._look

    def watched(self: Any, run: runs.Run, *rest: Any) -> Any:
        looked.extend(piece.info.name for piece in run.pieces)
        return merge(self, run, *rest)

    monkeypatch.setattr(onepass._Pass, "_look", watched)
    assert written(blend, tmp_path / "copied") == expected
    assert "large" in looked
    assert not {"frozen.large", "frozen.small"} & set(looked)
    monkeypatch.setattr(onepass, "copy", lambda *_: False)  # a system that cannot
    assert written(blend, tmp_path / "plain") == expected


def test_nothing_is_copied_that_may_not_be_its_average(tmp_path: Path) -> None:
    """Weights, another output dtype, and members that hold NaN: then values are looked at."""
    paths = members(tmp_path, torch.bfloat16, 2)
    pool = Pool.open(*paths)
    assert all(member.digest for member in pool.members)
    blend = Blend(pool.members, pool.reference)
    assert common.equal(blend)
    assert not common.equal(replace(blend, coefficients=(0.5, 0.5)))
    assert not common.equal(replace(blend, dtype="F32"))
    assert not common.equal(replace(blend, method="ties", base=pool.members[0]))
    content = tensors(0, torch.bfloat16)
    content["frozen.small"][0] = float("nan")
    path = make_checkpoint(tmp_path / "bad", content)
    bad = [open_checkpoint(path, name) for name in ("one", "two")]
    assert all(member.digest for member in bad)
    twice = Blend((bad[0], bad[1]), bad[0])
    with pytest.raises(BlendError, match="one: tensor frozen.small holds NaN"):
        written(twice, tmp_path / "out")


def test_small_neighbours_are_one_run(tmp_path: Path) -> None:
    """Thousands of tensors that lie alike in all members take a few calls; else one each."""
    many = {f"e.{k:04d}": torch.full((16,), float(k)).to(torch.bfloat16) for k in range(400)}
    paths = [make_checkpoint(tmp_path / name, many) for name in "ab"]
    other = make_checkpoint(tmp_path / "c", dict(reversed(many.items())), shards=2)

    def count(paths: Sequence[Path]) -> int:
        pool = Pool.open(*paths)
        blend = Blend(pool.members, pool.reference)
        (tmp_path / "out").mkdir(exist_ok=True)
        with laid_out(blend, tmp_path / "out") as layout:
            found = list(runs.of_blend(blend, layout))
        for file in (tmp_path / "out").iterdir():
            file.unlink()
        assert sum(run.count for run in found) == 400 * 16
        return len(found)

    assert count(paths) == 1
    assert count([*paths, other]) > 200
    pool = Pool.open(*paths, other)
    assert len({member.digest for member in pool.members}) == 1
    whole = Checkpoint.compute_digest(open_checkpoint(other))
    assert whole == pool.members[0].digest
