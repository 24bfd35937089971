"""soup/blending/changes.py and what kernel.c makes of LoRA: the bits of the plain way."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from soup import compiled
from soup.blending import changes, onepass, runs, shards, streaming
from soup.blending.blend import Blend
from soup.blending.common import equal
from soup.blending.layout import laid_out
from soup.blending.rounding import round_once
from soup.checkpoints import computing
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import BlendError, RewrittenError
from tests.conftest import make_adapter, make_checkpoint

kernel = pytest.importorskip("soup.blending.kernel", reason="no compiler when soup was installed")
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
RAW = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def changed(
    row: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float
) -> torch.Tensor:
    """Row + scale·(left · right) in float64, each product and each sum rounded, in order."""
    found = torch.zeros(row.shape, dtype=torch.float64)
    for k in range(right.shape[0]):
        found = found + left[:, k : k + 1].double() * right[k].double()
    return row.double() + found * scale


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 4),
    shape=st.sampled_from([(1, 1), (3, 5), (20, 63), (9, 64), (17, 65), (40, 200), (2, 1000)]),
    rank=st.sampled_from([1, 3, 8, 9, 16, 33]),
    dtype=st.sampled_from(["BF16", "F16", "F32"]),
    out=st.sampled_from(["BF16", "F16", "F32"]),
    factor=st.sampled_from(["BF16", "F16", "F32", "F64"]),
    weighted=st.booleans(),
    cut=st.floats(0, 1),
)
def test_the_kernel_gives_the_bits_of_the_definition(
    seed: int, count: int, shape: tuple[int, int], rank: int, dtype: str, out: str, factor: str,
    weighted: bool, cut: float,
) -> None:  # fmt: skip
    """Any part of a matrix, some members changed and others not, factors as they are and turned."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    rows = [normal(*shape).to(TORCH[dtype]) for _ in range(count)]
    lefts = [normal(shape[0], rank).to(TORCH[factor]) for _ in range(count)]
    rights = [normal(rank, shape[1]).to(TORCH[factor]) for _ in range(count)]
    scales = [0.5, 1.7, 0.1, 3.0][:count]
    is_changed = [True, *(bool(torch.rand((), generator=generator) < 0.6) for _ in rows[1:])]
    weights = normal(count).double().tolist() if weighted else None
    values = [
        changed(row, left, right, scale) if yes else row.double()
        for row, left, right, scale, yes in zip(
            rows, lefts, rights, scales, is_changed, strict=True
        )
    ]
    first = int(cut * (shape[0] * shape[1] - 1))
    size = max(1, int((1 - cut) * (shape[0] * shape[1] - first)))
    total = values[0] * weights[0] if weights else values[0]
    for k in range(1, count):
        total = total + (values[k] * weights[k] if weights else values[k])
    expected_sums = total.flatten()[first : first + size]
    expected = round_once(expected_sums / (1 if weights else count), TORCH[out])

    kind = compiled.FACTORS[factor]
    by: list[compiled.Change | None] = []
    for k in range(count):
        turned = k % 2 == 1
        if turned:
            lefts[k], rights[k] = (one.t().contiguous().t() for one in (lefts[k], rights[k]))
        places = lefts[k].data_ptr(), rights[k].data_ptr()
        strides = *lefts[k].stride(), *rights[k].stride()
        one = compiled.Change(*places, *strides, rank, kind, kind, scales[k])
        by.append(one if is_changed[k] else None)
    with tempfile.TemporaryFile(buffering=0) as file:
        offsets = []
        for row in rows:
            offsets.append(file.tell() + first * row.itemsize)
            file.write(row.view(RAW[row.itemsize]).numpy().tobytes())
        mapped = kernel.Mapped(file.fileno())
        loop = kernel.Loop(dtype, out, size)
        sums = np.empty(size)
        found = loop.merge(
            [(mapped, offset) for offset in offsets], size, weights, 1 if weights else count,
            None, sums, compiled.Changes(by, shape[1], []), first,
        )  # fmt: skip
        assert found is not None
        width = RAW[found.itemsize]
        assert torch.equal(found.view(width), expected.view(width))
        assert torch.equal(torch.from_numpy(sums), expected_sums)
        again = loop.merge(
            [(mapped, offsets[0])], size, None, 1, np.zeros(size), sums,
            compiled.Changes(by[:1], shape[1], []), first,
        )  # fmt: skip
        assert again is not None
        assert np.array_equal(sums, values[0].flatten()[first : first + size].numpy())


def test_the_definition_is_the_same_without_a_compiled_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch's multiplication and addition, one after the other, give the bits of the C file."""
    generator = torch.Generator().manual_seed(1)
    row, left, right = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((37, 130), (37, 20), (20, 130))
    )
    fast, plain = row.clone(), row.clone()
    computing._add(fast, left, right, 0.3)
    monkeypatch.setattr(compiled, "LIBRARY", None)
    computing._add(plain, left, right, 0.3)
    assert torch.equal(fast, plain)
    assert torch.equal(fast, changed(row, left, right, 0.3))


def pool_of(tmp_path: Path, dtype: torch.dtype = torch.bfloat16) -> Pool:
    """Two adapters of one base and a whole member; some tensors are changed by one alone, one is
    replaced, one stored as [in, out], and some are nobody's.
    """
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    shapes = {"a": (700, 411), "b": (64, 4096), "e": (90, 200), "frozen": (300, 1000), "h": (5, 9)}
    tensors = {f"{name}.weight": normal(*shape).to(dtype) for name, shape in shapes.items()}
    base = make_checkpoint(tmp_path / "base", tensors, shards=2)
    own = {n: normal(*t.shape).to(dtype) if "frozen" not in n else t for n, t in tensors.items()}
    paths = [make_checkpoint(tmp_path / "whole", own)]
    for name, changed in (("one", "ab"), ("two", "a")):
        factors = {}
        for module in changed:
            height, width = shapes[module]
            factors[f"{module}.lora_A.weight"] = normal(8, width)
            factors[f"{module}.lora_B.weight"] = normal(height, 8).to(dtype)
        factors["e.lora_embedding_A"] = normal(8, 90)
        factors["e.lora_embedding_B"] = normal(200, 8)
        if name == "two":
            factors["h.weight"] = normal(5, 9).to(dtype)
        paths.append(make_adapter(tmp_path / name, factors, base))
    return Pool.open(*paths)


def written(blend: Blend, directory: Path) -> dict[str, bytes]:
    """The weight files that the library makes of a blend."""
    directory.mkdir()
    shards.write_weights(blend, directory, "write", lambda event: None)
    return {file.name: file.read_bytes() for file in sorted(directory.glob("*.safetensors"))}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_adapters_go_through_the_compiled_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """In one pass with members that are whole, to the bits that torch makes of them."""
    pool = pool_of(tmp_path, dtype)
    adapters = pool.members[1:]
    blends = [Blend((one,), pool.reference) for one in adapters]
    blends += [Blend(tuple(adapters), pool.reference), Blend(pool.members, pool.reference)]
    blends.append(Blend(pool.members, pool.reference, (0.2, 0.5, -0.3)))
    otherwise = shards.plainly
    for k, blend in enumerate(blends):
        assert runs.serves(blend)
        with monkeypatch.context() as patch:
            patch.setattr(shards, "plainly", lambda *_: pytest.fail("not needed"))
            fast = written(blend, tmp_path / f"fast{k}")
        with monkeypatch.context() as patch:
            patch.setattr(shards, "serves", lambda blend: False)
            streamed = written(blend, tmp_path / f"streamed{k}")
            patch.setattr(streaming, "_kernel", lambda blend: None)
            patch.setattr(compiled, "LIBRARY", None)
            plain = written(blend, tmp_path / f"plain{k}")
        assert fast == streamed == plain
    assert shards.plainly is otherwise


def test_what_the_loop_has_no_words_for_is_computed_otherwise(tmp_path: Path) -> None:
    """DoRA's tensors go by torch, all others of the blend as ever."""
    base = make_checkpoint(
        tmp_path / "base", {"a.weight": torch.randn(6, 4), "b.weight": torch.randn(6, 4)}
    )
    factors = {
        f"{name}.lora_{part}.weight": torch.randn(shape)
        for name in "ab"
        for part, shape in (("A", (2, 4)), ("B", (6, 2)))
    }
    plain = open_checkpoint(make_adapter(tmp_path / "plain", factors, base))
    factors["b.lora_magnitude_vector"] = torch.rand(6) + 0.5
    dora = open_checkpoint(make_adapter(tmp_path / "dora", factors, base))
    assert changes.read_of(plain, "b.weight") is not None
    assert changes.read_of(dora, "b.weight") is None
    assert changes.read_of(dora, "a.weight") is not None
    assert not runs.serves(Blend((plain, dora), plain))
    found = load_file(tmp_path / "out" / next(iter(written(Blend((plain, dora), plain),
                                                          tmp_path / "out"))))  # fmt: skip
    for name in "ab":
        update = dora.updates[f"{name}.weight"]
        with streaming.open_files(Blend((dora,), dora)) as read:
            merged = computing.computed(update, read, 0, 24).view(6, 4)
            other = computing.computed(plain.updates[f"{name}.weight"], read_all(plain), 0, 24)
        mean = (other.view(6, 4) + merged) / 2
        assert torch.equal(found[f"{name}.weight"], mean.float())


def read_all(member: Checkpoint) -> computing.Read:
    """Read from a member's files."""

    def read(info: computing.TensorInfo, start: int, count: int) -> torch.Tensor:
        with streaming.open_files(Blend((member,), member)) as one:
            return one(info, start, count).clone()

    return read


def test_numbers_that_are_not_finite_are_named(tmp_path: Path) -> None:
    """A factor that holds NaN, and a sum that overflows: whose, and of which tensor."""
    tensors = {"a.weight": torch.ones(4, 3).half()}
    base = make_checkpoint(tmp_path / "base", tensors)
    bad = {"a.lora_A.weight": torch.full((1, 3), float("nan")), "a.lora_B.weight": torch.ones(4, 1)}
    large = {"a.lora_A.weight": torch.full((1, 3), 9e4), "a.lora_B.weight": torch.ones(4, 1)}
    for name, factors, text in (
        ("bad", bad, "bad: tensor a.weight holds NaN"),
        ("large", large, "tensor a.weight: 2.7e[+]05 overflows F16"),
    ):
        member = open_checkpoint(make_adapter(tmp_path / name, factors, base))
        blend = Blend((member,), member)
        assert runs.serves(blend)
        with pytest.raises(BlendError, match=text):
            written(blend, tmp_path / f"out-{name}")


def test_what_an_adapter_replaces_is_looked_at_where_it_is(tmp_path: Path) -> None:
    """NaN in a whole tensor of an adapter's, found while its remembered digest is proven."""
    base = make_checkpoint(tmp_path / "base", {"a.weight": torch.ones(4, 3), "b": torch.ones(2)})
    bad = {"a.weight": torch.full((4, 3), float("nan"))}
    path = make_adapter(tmp_path / "bad", bad, base)
    member = open_checkpoint(path)
    member.remember_digest(open_checkpoint(path).digest)
    assert member.unproven
    with pytest.raises(BlendError, match="bad: tensor a.weight holds NaN"):
        written(Blend((member,), member), tmp_path / "out")


def test_factors_and_base_are_proven_while_they_are_read(tmp_path: Path) -> None:
    """Either rewritten beside a remembered digest ends it; nothing is read twice for that."""
    pool = pool_of(tmp_path)
    blend = Blend(pool.members[1:], pool.reference)
    known = [member.digest for member in blend.members]
    fine = [open_checkpoint(member.path) for member in blend.members]
    for member, digest in zip(fine, known, strict=True):
        member.remember_digest(digest)
    written(Blend(tuple(fine), fine[0]), tmp_path / "fine")
    file = tmp_path / "one" / "adapter_model.safetensors"
    before, other = file.stat(), load_file(file)
    name = next(name for name in other if "lora_B" in name)
    other[name][0, 0] += 1
    save_file(other, tmp_path / "other", metadata={"format": "pt"})
    file.write_bytes((tmp_path / "other").read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    later = [open_checkpoint(member.path) for member in blend.members]
    for member, digest in zip(later, known, strict=True):
        member.remember_digest(digest)
    with pytest.raises(RewrittenError, match="^one: "):
        written(Blend(tuple(later), later[0]), tmp_path / "rewritten")


def test_the_base_is_read_once_for_all_adapters(tmp_path: Path) -> None:
    """What no adapter touches is read, or copied, of the first alone; what they change at once."""
    pool = pool_of(tmp_path)
    blend = Blend(pool.members[1:], pool.reference)
    (tmp_path / "out").mkdir()
    with laid_out(blend, tmp_path / "out") as layout:
        found = list(runs.of_blend(blend, layout, equal(blend)))
    kinds = {run.pieces[0].info.name: run.kind for run in found}
    assert kinds["frozen.weight"] == "same"
    assert kinds["a.weight"] == kinds["b.weight"] == kinds["e.weight"] == "changed"
    assert kinds["h.weight"] == "blend"  # one has its own, and the other the base's
    (one,) = [run for run in found if run.kind == "same"]
    assert len(one.rows) == 1
    assert all(len(set(run.rows)) == 1 for run in found if run.kind == "changed")


def test_what_no_adapter_touches_is_copied_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once digests are known, which are of the base, too: its values, not of what is computed."""
    pool = pool_of(tmp_path)
    blend = Blend(pool.members[1:], pool.reference)
    expected = written(blend, tmp_path / "read")
    assert all(member.digest for member in blend.members)
    one = blend.members[0]
    assert set(one.roots) == {"frozen.weight", "h.weight"}
    looked: list[str] = []
    look = onepass._Pass._look

    def watched(self: Any, run: runs.Run, *rest: Any) -> Any:
        looked.extend(piece.info.name for piece in run.pieces)
        return look(self, run, *rest)

    monkeypatch.setattr(onepass._Pass, "_look", watched)
    assert written(blend, tmp_path / "copied") == expected
    assert looked == ["h.weight"]


def test_an_average_of_adapters_needs_no_torch(tmp_path: Path) -> None:
    """As one of whole members does not: the compiled loop reads the factors as they lie."""
    pool = pool_of(tmp_path)
    paths = [str(member.path) for member in pool.members[1:]]
    code = (
        "import sys; from pathlib import Path; from soup.blending import shards; "
        "from soup.blending.blend import Blend; from soup.checkpoints.pool import Pool; "
        f"pool = Pool.open(*{paths!r}); out = Path({str(tmp_path / 'out')!r}); out.mkdir(); "
        "shards.write_weights(Blend(pool.members, pool.reference), out, 'x', lambda e: None); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
