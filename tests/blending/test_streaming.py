"""soup/blending/streaming.py, rounding.py: the float64 sum rounded once, in every element."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soup.blending.arithmetic import Slice, linear
from soup.blending.blend import Blend
from soup.blending.rounding import round_once
from soup.blending.streaming import stream
from soup.checkpoints.checkpoint import TensorInfo
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import BlendError
from tests.conftest import make_checkpoint

BITS = {torch.bfloat16: 16, torch.float16: 16, torch.float32: 32}
INT = {16: torch.int16, 32: torch.int32}


def collect(blend: Blend, **kwargs: int) -> dict[str, torch.Tensor]:
    """Stream a blend into memory."""
    found: dict[str, torch.Tensor] = {}

    class Fill:
        def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
            flat = found.setdefault(info.name, torch.empty(info.numel, dtype=values.dtype))
            flat[start : start + len(values)] = values

    stream(blend, Fill(), threads=kwargs.get("threads"), chunk=kwargs.get("chunk"))
    return found


def finite(dtype: torch.dtype, limit: float = 1e30) -> st.SearchStrategy[float]:
    """Any finite value of a dtype by its bits: subnormals, huge, tiny, both zeros."""
    width = BITS[dtype]

    def value(bits: int) -> float:
        signed = bits - (1 << width) if bits >= 1 << (width - 1) else bits
        return float(torch.tensor([signed], dtype=INT[width]).view(dtype).item())

    return (
        st.integers(0, (1 << width) - 1)
        .map(value)
        .filter(lambda v: v == v and abs(v) < min(limit, torch.finfo(dtype).max / 16))
    )


def nearest(value: Fraction, dtype: torch.dtype) -> Fraction:
    """The value of ``dtype`` nearest to an exact fraction, ties to even, from first principles."""
    if value == 0:
        return value
    info = torch.finfo(dtype)
    precision = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}[dtype]
    smallest = Fraction(info.smallest_normal)
    magnitude, exponent = abs(value), 0
    while Fraction(2) ** exponent > magnitude:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= magnitude:
        exponent += 1
    step = max(Fraction(2) ** (exponent - precision + 1), smallest / 2 ** (precision - 1))
    return round(value / step) * step  # Python rounds halves to even


@settings(max_examples=300)
@given(data=st.data(), dtype=st.sampled_from([torch.bfloat16, torch.float16]))
def test_round_once_is_the_nearest_value_ties_to_even(
    data: st.DataObject, dtype: torch.dtype
) -> None:
    """From float64 straight to the dtype, next to ties above all, where torch rounds twice."""
    low = data.draw(finite(dtype))
    bits = torch.tensor([low], dtype=dtype).view(torch.int16)
    high = (bits + 1).view(dtype).double().item()
    middle = (low + high) / 2 if abs(high) < 1e30 else low
    tiny = data.draw(st.sampled_from([0.0, 2.0**-52, -(2.0**-52), 2.0**-30, -(2.0**-30), 0.1]))
    value = middle * (1 + tiny)
    found = round_once(torch.tensor([value], dtype=torch.float64), dtype).double().item()
    assert Fraction(found) == nearest(Fraction(value), dtype)


def test_torch_alone_would_round_twice() -> None:
    """The case that round_once exists for is real: just above a tie, torch goes to even."""
    value = torch.tensor([1 + 2.0**-8 + 2.0**-40], dtype=torch.float64)
    assert value.to(torch.bfloat16).item() == 1.0
    assert round_once(value, torch.bfloat16).item() == 1 + 2.0**-7


@settings(max_examples=60)
@given(data=st.data(), dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_average_is_the_float64_average_rounded_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, dtype: torch.dtype
) -> None:
    """In every element, for any values, members, shards, chunk size and number of threads."""
    count = data.draw(st.integers(1, 5), label="members")
    length = data.draw(st.integers(1, 9), label="elements")
    root = tmp_path_factory.mktemp("pool")
    values = st.lists(finite(dtype), min_size=length, max_size=length)
    members, rows = [], []
    for k in range(count):
        row = torch.tensor(data.draw(values), dtype=dtype)
        rows.append(row)
        tensors = {"x": row, "y": row.flip(0).clone(), "z": row[:1].clone()}
        shards = data.draw(st.integers(1, 3), label="shards")
        members.append(open_checkpoint(make_checkpoint(root / str(k), tensors, shards)))
    chunk = data.draw(st.integers(1, 10), label="chunk")
    blend = Blend(tuple(members), members[0])
    found = collect(blend, threads=data.draw(st.integers(1, 4)), chunk=chunk)

    for element in range(length):
        total = 0.0
        for row in rows:  # Python floats are IEEE doubles
            total += float(row[element].item())
        expected = nearest(Fraction(total / count), dtype)
        assert Fraction(found["x"][element].double().item()) == expected


@settings(max_examples=200)
@given(rows=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=7))
def test_the_average_is_the_sum_divided(rows: list[float]) -> None:
    """To the last bit of float64: times 1/n would be another number."""
    total = rows[0]
    for row in rows[1:]:
        total += row
    members = [torch.tensor([row], dtype=torch.float64) for row in rows]
    found = linear(Slice("x", 0, members, None, None, {})).item()
    assert found.hex() == (total / len(rows)).hex()


@settings(max_examples=100)
@given(
    rows=st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=5
    ),
    data=st.data(),
)
def test_weighted_sum_is_that_of_ieee_doubles(rows: list[list[float]], data: st.DataObject) -> None:
    """Products are rounded, then added, in member order: no fused multiply-add."""
    factors = data.draw(
        st.lists(st.floats(-2, 2), min_size=len(rows), max_size=len(rows)), label="coefficients"
    )
    found = linear(Slice("x", 0, [torch.tensor(row) for row in rows], None, factors, {}))
    for k in range(3):
        total = rows[0][k] * factors[0]
        for row, factor in zip(rows[1:], factors[1:], strict=True):
            total += row[k] * factor
        assert found[k].item() == total


def test_a_single_member_is_itself_to_the_bit(tmp_path: Path) -> None:
    """Negative zero and subnormals included."""
    odd = torch.tensor([-0.0, 0.0, 1e-40, -1e-40, 3.0])
    member = open_checkpoint(make_checkpoint(tmp_path / "m", {"x": odd}))
    found = collect(Blend((member,), member))["x"]
    assert torch.equal(found.view(torch.int32), odd.view(torch.int32))


def test_output_dtype_casts_once_after_the_sum(tmp_path: Path) -> None:
    """Float32 members into bfloat16: the mean is rounded, not the members."""
    rows = [torch.tensor([1 + 2.0**-9]), torch.tensor([1 + 3 * 2.0**-9])]
    members = [
        open_checkpoint(make_checkpoint(tmp_path / str(k), {"x": row}))
        for k, row in enumerate(rows)
    ]
    found = collect(Blend(tuple(members), members[0], dtype="BF16"))["x"]
    assert found.dtype is torch.bfloat16
    assert found.item() == round_once(torch.tensor([1 + 2.0**-8]).double(), torch.bfloat16).item()


def test_tensors_larger_than_a_chunk_come_whole(tmp_path: Path) -> None:
    """Chunk borders leave no gap: compared with torch's own float64 mean."""
    rows = [torch.randn(1000, 7, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    members = [
        open_checkpoint(make_checkpoint(tmp_path / str(k), {"x": row}))
        for k, row in enumerate(rows)
    ]
    found = collect(Blend(tuple(members), members[0]), chunk=333)["x"]
    expected = (rows[0].double() + rows[1].double() + rows[2].double()) / 3
    assert torch.equal(found, expected.float().flatten())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (float("nan"), "m1: tensor x holds NaN"),
        (float("inf"), "m1: tensor x holds Inf"),
    ],
)
def test_nan_and_inf_name_member_and_tensor(tmp_path: Path, bad: float, message: str) -> None:
    """They never reach the result."""
    members = []
    for k in range(3):
        tensor = torch.ones(10)
        if k == 1:
            tensor[7] = bad
        members.append(open_checkpoint(make_checkpoint(tmp_path / f"m{k}", {"x": tensor})))
    with pytest.raises(BlendError, match=message):
        collect(Blend(tuple(members), members[0]))


def test_overflow_of_the_output_dtype_is_an_error(tmp_path: Path) -> None:
    """Never a silent Inf; what merely rounds to the largest value is fine."""
    fits = make_checkpoint(tmp_path / "fits", {"x": torch.tensor([65519.0])})
    too_large = make_checkpoint(tmp_path / "large", {"x": torch.tensor([65520.0])})
    member = open_checkpoint(fits)
    assert collect(Blend((member,), member, dtype="F16"))["x"].item() == 65504.0
    member = open_checkpoint(too_large)
    with pytest.raises(BlendError, match=r"tensor x: 6.552e\+04 overflows F16"):
        collect(Blend((member,), member, dtype="F16"))


@pytest.mark.parametrize(
    "tensor", [torch.tensor([1, 2]), torch.tensor([True, False]), torch.tensor([1.5, 2.5])]
)
def test_integers_and_buffers_are_copied_when_equal(tmp_path: Path, tensor: torch.Tensor) -> None:
    """Integers, bools and inv_freq: copied after an equality check, never averaged or cast."""
    name = "rotary.inv_freq" if tensor.is_floating_point() else "steps"
    paths = [
        make_checkpoint(tmp_path / "a", {name: tensor}),
        make_checkpoint(tmp_path / "b", {name: tensor}),
        make_checkpoint(tmp_path / "c", {name: tensor.flip(0).clone()}),
    ]
    a, b, c = map(open_checkpoint, paths)
    assert torch.equal(collect(Blend((a, b), a, dtype="BF16"))[name], tensor)
    with pytest.raises(BlendError, match=f"tensor {name}: c differs from a"):
        collect(Blend((a, c), a))


def test_bounds_of_activations_may_be_infinite_where_all_members_have_them(tmp_path: Path) -> None:
    """Gemma 4's ``input_max``, of layers that clip nothing: nothing diverged; with NaN it has."""
    a, b, other, nan = (
        make_checkpoint(tmp_path / str(k), {"x.input_max": torch.tensor(value), "w": torch.ones(2)})
        for k, value in enumerate((torch.inf, torch.inf, 3.0, torch.nan))
    )
    one, *others = map(open_checkpoint, (a, b, other, nan))
    assert one.digest
    assert one.soundness is not None
    assert not one.soundness.inf
    assert collect(Blend((one, others[0]), one))["x.input_max"].item() == torch.inf
    for odd, message in ((others[1], "1 differs|differs from"), (others[2], "holds NaN")):
        with pytest.raises(BlendError, match=message):
            collect(Blend((one, odd), one))


def test_dare_streams_in_chunks_of_any_size(tmp_path: Path) -> None:
    """Its random mask belongs to elements, not to chunks or threads."""
    rows = [torch.randn(1000, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    *members, base = [
        open_checkpoint(make_checkpoint(tmp_path / str(k), {"x": row}))
        for k, row in enumerate(rows)
    ]
    blend = Blend(tuple(members), members[0], method="dare", base=base)
    expected = collect(blend)["x"]
    assert not torch.equal(expected, rows[2])
    for chunk, threads in ((1, 4), (7, 2), (333, 3), (999, 1)):
        assert torch.equal(collect(blend, chunk=chunk, threads=threads)["x"], expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_buffers_in_several_dtypes_are_written_in_the_references(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    """Members of two dtypes mix with --dtype; a buffer equal in both stays what it was."""
    exact = 1 / torch.arange(1.0, 9.0)
    paths = [
        make_checkpoint(tmp_path / name, {"w": torch.ones(4, dtype=dtype), "inv_freq": buffer})
        for name, dtype, buffer in (
            ("wide", torch.float32, exact),
            ("narrow", torch.bfloat16, exact.to(torch.bfloat16)),
        )
    ]
    pool = Pool.open(*(paths[k] for k in order), dtype="BF16")
    stored = pool.reference.tensors["inv_freq"].dtype
    best = exact if stored == "F32" else exact.to(torch.bfloat16)
    for members in (pool.members, pool.members[::-1]):
        found = collect(Blend(members, pool.reference, dtype="BF16"))["inv_freq"]
        assert found.dtype is best.dtype and torch.equal(found, best)
    (narrow,) = (member for member in pool.members if member.name == "narrow")
    alone = collect(Blend((narrow,), pool.reference, dtype="BF16"))["inv_freq"]
    assert torch.equal(alone, exact.to(torch.bfloat16).to(best.dtype))


def test_a_buffer_that_is_not_finite_is_an_error_that_names_it(tmp_path: Path) -> None:
    """NaN is not taken for a difference between members, and not copied from a single one."""
    tensors = {"w": torch.ones(4), "inv_freq": torch.tensor([1.0, float("nan")])}
    members = [open_checkpoint(make_checkpoint(tmp_path / name, tensors)) for name in "ab"]
    for count in (1, 2):
        with pytest.raises(BlendError, match="a: tensor inv_freq holds NaN"):
            collect(Blend(tuple(members[:count]), members[0]))
