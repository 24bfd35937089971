"""soup/blending/kernel.py and kernel.c: one pass, and the bits of the plain way."""

import signal
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

from soup.blending import streaming
from soup.blending.arithmetic import Slice, linear
from soup.blending.blend import Blend
from soup.blending.rounding import round_once
from soup.checkpoints.opening import open_checkpoint
from tests.blending.test_streaming import collect
from tests.conftest import make_checkpoint, random_tensors

kernel = pytest.importorskip("soup.blending.kernel", reason="no compiler when soup was installed")
TILE = 128  # of kernel.c
PAGE = 4096 // 2  # elements
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
RAW = {"BF16": torch.int16, "F16": torch.int16, "F32": torch.int32}


def merged(
    rows: list[torch.Tensor], out: str, factors: list[float] | None, sums: Any = None
) -> torch.Tensor | None:
    """What the kernel makes of some rows; their float64 sums, too, where there is room given."""
    dtype = next(name for name, found in TORCH.items() if found is rows[0].dtype)
    loop = kernel.Loop(dtype, out, len(rows[0]))
    with tempfile.TemporaryFile(buffering=0) as file:
        offsets = []
        for row in rows:
            offsets.append(file.tell())
            file.write(row.view(RAW[dtype]).numpy().data)
        mapped = kernel.Mapped(file.fileno())
        places = [(mapped, offset) for offset in offsets]
        return loop.merge(places, len(rows[0]), factors, 1 if factors else len(rows), None, sums)


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 6),
    length=st.sampled_from([1, 7, TILE - 1, TILE, 3 * TILE + 5, 17 * TILE + 7]),
    dtype=st.sampled_from(["BF16", "F16", "F32"]),
    out=st.sampled_from(["BF16", "F16", "F32"]),
    weighted=st.booleans(),
    wide=st.booleans(),
)
def test_the_kernel_gives_the_bits_of_sum_and_round(
    seed: int, count: int, length: int, dtype: str, out: str, weighted: bool, wide: bool
) -> None:
    """Any bit patterns (subnormals, both zeros, huge next to tiny) or plain weights, any number."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        if wide:  # every bit pattern is as likely, down to subnormals
            size = 32 if dtype == "F32" else 16
            high = 1 << (size - 1)
            bits = torch.randint(-high, high, (length,), generator=generator)
            row = bits.to(RAW[dtype]).view(TORCH[dtype])
            row = torch.where(
                row.float().abs() < (1e3 if out == "F16" else 1e36), row, torch.zeros_like(row)
            )
        else:
            row = torch.randn(length, generator=generator).to(TORCH[dtype])
        rows.append(row)
    factors = (
        torch.randn(count, dtype=torch.float64, generator=generator).tolist() if weighted else None
    )
    plain = linear(Slice("x", 0, rows, None, factors, {}))
    sums = np.empty(length)
    found = merged(rows, out, factors, sums)
    assert found is not None
    assert torch.equal(found.view(RAW[out]), round_once(plain, TORCH[out]).view(RAW[out]))
    divided = torch.from_numpy(sums / (1 if factors else count))
    assert torch.equal(divided.view(torch.int64), plain.view(torch.int64))


@given(st.integers(0, 2**16 - 1), st.sampled_from([-1.0, 1.0]))
def test_ties_that_float32_makes_are_not_taken_for_ties(upper: int, sign: float) -> None:
    """Two members whose float64 mean lies a hair beside a tie of bfloat16."""
    tie = np.array([(upper << 16) | 0x8000], np.uint32).view(np.float32)[0]
    if not np.isfinite(tie) or abs(tie) > 1e38 or abs(tie) < 1e-30:
        return
    rows = [torch.tensor([tie]), torch.tensor([tie * np.float32(2.0**-40) * sign])]
    expected = round_once(linear(Slice("x", 0, rows, None, [1.0, 1.0], {})), torch.bfloat16)
    found = merged(rows, "BF16", [1.0, 1.0])
    assert found is not None
    assert torch.equal(found, expected)


@given(
    divisor=st.integers(1, 1 << 20),
    upper=st.integers(0, 0x7F00),
    lower=st.sampled_from([0x0000, 0x7FFF, 0x8000, 0x8001]),
    negative=st.booleans(),
    out=st.sampled_from(["BF16", "F32"]),
)
def test_sums_are_divided_as_if_by_a_division(
    divisor: int, upper: int, lower: int, negative: bool, out: str
) -> None:
    """Quotients that differ in the last bits from where rounding to either dtype turns."""
    low = (upper << 16) | lower
    single = torch.tensor([low, low + 1], dtype=torch.int32).view(torch.float32).double()
    turns = torch.stack([single[0], single.mean()]) * (-1 if negative else 1)
    sums = (turns[:, None] * divisor * (1 + torch.arange(-9, 10) * 2.0**-52)).flatten()
    loop = kernel.Loop("F32", out, len(sums))
    found = loop.merge([], len(sums), None, divisor, before=sums.numpy())
    expected = round_once(sums / divisor, TORCH[out])
    assert found is not None
    assert torch.equal(found.view(RAW[out]), expected.view(RAW[out]))


@given(
    divisor=st.integers(1, 1 << 20),
    bits=st.integers(0, 0x7BFE),
    negative=st.booleans(),
)
def test_float16_is_rounded_as_if_by_a_division(divisor: int, bits: int, negative: bool) -> None:
    """Quotients about a float16, and about what is half way to the next; subnormal ones, too."""
    pair = torch.tensor([bits, bits + 1], dtype=torch.int16).view(torch.float16).double()
    turns = torch.stack([pair[0], pair.mean()]) * (-1 if negative else 1)
    sums = (turns[:, None] * divisor * (1 + torch.arange(-9, 10) * 2.0**-52)).flatten()
    loop = kernel.Loop("F32", "F16", len(sums))
    found = loop.merge([], len(sums), None, divisor, before=sums.numpy())
    expected = round_once(sums / divisor, torch.float16)
    assert found is not None
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**31), out=st.sampled_from(["BF16", "F16", "F32"]))
def test_the_kernel_rounds_sums_made_elsewhere(seed: int, out: str) -> None:
    """Those of LoRA members: the bits of the plain way, or None where one is not finite."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(3 * TILE + 5, generator=generator).to(torch.bfloat16).double()
    values = low * (1 + 2.0**-8) * (1 + 2.0**-45 * torch.randint(-1, 2, low.shape))
    values[:2] = torch.tensor([-0.0, 1e-44])
    found = kernel.round_once(values, out)
    assert found is not None
    assert torch.equal(found.view(RAW[out]), round_once(values, TORCH[out]).view(RAW[out]))
    values[-1] = 3.4028236e38
    assert kernel.round_once(values, out) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_left_to_who_can_name_it(bad: float) -> None:
    """NaN with any payload, Inf, and overflow of the output give no result."""
    for dtype in ("BF16", "F16", "F32"):
        row = torch.ones(TILE + 3, dtype=TORCH[dtype])
        row[-1] = bad
        assert merged([row, row], dtype, None) is None
    most = torch.full((TILE,), 65504.0, dtype=torch.float16)
    assert merged([most, most], "F16", None) is not None
    assert merged([most, most], "F16", [1.0, 1.0]) is None
    assert merged([torch.tensor([65520.0])], "F16", None) is None  # a tie that goes to Inf
    assert merged([torch.tensor([65519.0])], "F16", None) is not None
    payload = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    assert merged([payload], "BF16", None) is None
    assert merged([torch.tensor([3.4e38])], "BF16", None) is None  # rounds up to Inf
    assert merged([torch.tensor([3.38e38])], "BF16", None) is not None
    assert set(TORCH) == kernel.SUPPORTED


@pytest.mark.parametrize("missing", [1, PAGE, 100 * PAGE])
def test_a_file_that_shrinks_is_left_to_who_can_name_it(tmp_path: Path, missing: int) -> None:
    """One element, a page or half of it: no result, and no SIGBUS; the plain
    way then reads again, and says which file it is.
    """
    size = 200 * PAGE + 3
    (tmp_path / "row").write_bytes(bytes(2 * size + 1))
    kernel.guard()
    loop = kernel.Loop("BF16", "BF16", size)
    with (tmp_path / "row").open("r+b") as file:
        mapped = kernel.Mapped(file.fileno())
        places = [(mapped, 1), (mapped, 0)]  # at an odd address, too
        assert loop.merge(places, size, None) is not None
        file.truncate(2 * (size - missing))
        assert loop.merge(places, size, None) is None
        assert loop.merge(places, size - missing - 1, None) is not None


@pytest.mark.parametrize("missing", [1, 100 * PAGE])
def test_a_file_that_shrank_before_it_is_mapped_is_left_to_who_can_name_it(
    tmp_path: Path, missing: int
) -> None:
    """What its header promised lies beyond the mapping: reading there would end the process."""
    size = 200 * PAGE
    (tmp_path / "row").write_bytes(bytes(2 * (size - missing)))
    kernel.guard()
    loop = kernel.Loop("BF16", "BF16", size)
    with (tmp_path / "row").open("rb") as file:
        mapped = kernel.Mapped(file.fileno())
        assert loop.merge([(mapped, 0)], size, None) is None
        assert loop.merge([(mapped, 0)], size - missing, None) is not None


def test_a_signal_that_is_not_the_loops_is_whose_it_was(tmp_path: Path) -> None:
    """A SIGBUS while nothing is merged ends the process, as it would without us."""
    code = "from soup.blending import kernel; import os, signal; kernel.guard(); kernel.guard()\n"
    code += "os.kill(os.getpid(), signal.SIGBUS); os.kill(os.getpid(), signal.SIGBUS)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGBUS


def test_a_stream_has_the_same_bits_with_and_without_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that the kernel took while it was there, and those of the plain way, agree."""
    size = 500_000
    rows = [torch.randn(size, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    members = [
        open_checkpoint(make_checkpoint(tmp_path / str(k), {"x": row.to(torch.bfloat16)}))
        for k, row in enumerate(rows)
    ]
    blend = Blend(tuple(members), members[0])
    with monkeypatch.context() as without:
        without.setattr(streaming, "_kernel", lambda blend: None)
        plain = collect(blend, chunk=1000)
    taken = 0
    merge = streaming._Fast.merge

    def counted(*arguments: Any) -> Any:
        nonlocal taken
        found = merge(*arguments)
        taken += found is not None
        return found

    monkeypatch.setattr(streaming._Fast, "merge", counted)
    for chunk in (1000, 123_457, size):
        taken = 0
        assert torch.equal(collect(blend, chunk=chunk, threads=1)["x"], plain["x"])
        assert taken == -(-size // chunk)


def test_what_was_read_is_let_go_of_while_others_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory does not grow with what is read: pages are given back, again and again."""
    row = torch.randn(50_000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    member = open_checkpoint(make_checkpoint(tmp_path / "m", {"x": row}))
    monkeypatch.setattr(kernel, "RELEASE", 10_000)  # bytes
    released = []
    release = kernel.Mapped.release
    monkeypatch.setattr(
        kernel.Mapped, "release", lambda file: (released.append(file), release(file))
    )
    found = collect(Blend((member,), member), chunk=1000, threads=2)
    assert torch.equal(found["x"], row)
    assert len(released) == 10


def test_a_file_that_cannot_be_mapped_is_read_the_plain_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems without it (which is made up here)."""
    member = open_checkpoint(make_checkpoint(tmp_path / "m", random_tensors(0)))
    expected = collect(Blend((member,), member))

    def refused(descriptor: int) -> None:
        raise OSError("no mapping here")

    monkeypatch.setattr(kernel, "Mapped", refused)
    found = collect(Blend((member,), member))
    assert all(torch.equal(found[name], values) for name, values in expected.items())


def test_without_a_compiled_loop_blending_takes_the_plain_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no compiler was at hand (the import is made to fail here)."""
    member = open_checkpoint(make_checkpoint(tmp_path / "m", random_tensors(0)))
    blend = Blend((member,), member)
    fast = collect(blend)
    monkeypatch.setitem(sys.modules, "soup.blending.kernel", None)
    monkeypatch.delattr("soup.blending.kernel")
    assert streaming._kernel(blend) is None
    assert all(torch.equal(fast[name], plain) for name, plain in collect(blend).items())
