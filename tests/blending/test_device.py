"""soup/blending/device.py: summed on a device, the bits are the processor's.

Where there is no GPU the same code runs on torch's CPU device, without streams and pinned memory.
"""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soup.blending import device
from soup.blending.blend import Blend, role
from soup.blending.rounding import round_once
from soup.blending.stages import Stages
from soup.blending.streaming import stream
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
from soup.checkpoints.opening import open_checkpoint
from soup.errors import BlendError, ScoringError
from soup.evaluators.engines import places
from tests.conftest import make_adapter, make_checkpoint, random_tensors

CPU = torch.device("cpu")
TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def streamed(
    blend: Blend, there: torch.device | None, chunk: int = 5, threads: int = 2
) -> dict[str, torch.Tensor]:
    """A blend's tensors, summed there; None is the ordinary way."""
    found = {
        info.name: torch.zeros(info.numel, dtype=TORCH[blend.dtype_of(info)], device=there)
        for info in blend.reference.tensors.values()
        if info.dtype in TORCH
    }

    class Fill:
        def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
            """See ``soup.blending.streaming.Sink``."""
            if info.name in found:
                found[info.name][start : start + len(values)] = values

    stream(blend, Fill(), device=there, chunk=chunk, threads=threads)
    return {name: tensor.cpu() for name, tensor in found.items()}


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Equal down to the sign of zero."""
    return one.keys() == other.keys() and all(
        torch.equal(a.view(BITS[a.itemsize]), other[name].view(BITS[a.itemsize]))
        for name, a in one.items()
    )


def wide(seed: int, dtype: str, count: int) -> torch.Tensor:
    """Any bit patterns but those too large to be summed: subnormals, both zeros, huge and tiny."""
    generator = torch.Generator().manual_seed(seed)
    kind = TORCH[dtype]
    size = 8 * kind.itemsize
    if dtype == "F64":
        return torch.randn(count, generator=generator, dtype=kind).mul_(1e-39)
    bits = torch.randint(-(1 << size - 1), 1 << size - 1, (count,), generator=generator)
    values = bits.to(BITS[kind.itemsize]).view(kind)
    fits = values.float().abs() < (1e3 if dtype == "F16" else 1e36)  # NaN does not
    return torch.where(fits, values, torch.zeros_like(values))


def pool_of(
    root: Path, seed: int, dtypes: list[str], plain: bool = False
) -> tuple[Checkpoint, ...]:
    """Members with tensors of odd lengths, a scalar and integers among them."""
    members = []
    for k, dtype in enumerate(dtypes):
        values = wide(seed + k, dtype, 5_003)
        if plain:
            values = torch.randn(5_003, generator=torch.Generator().manual_seed(seed + k))
        values = values.to(TORCH[dtype])
        tensors = {"x": values, "y": values[7:20].clone(), "z": values[3].clone()}
        tensors |= {"empty": values[:0].clone(), "n": torch.arange(9)}
        members.append(open_checkpoint(make_checkpoint(root / str(k), tensors)))
    return tuple(members)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    dtypes=st.lists(st.sampled_from(["BF16", "F16", "F32", "F64"]), min_size=1, max_size=4),
    mixed=st.booleans(),
    out=st.sampled_from(["BF16", "F32", "F64"]),
    weighted=st.booleans(),
    chunk=st.sampled_from([1000, 5_003, 1 << 20]),
)
def test_the_bits_are_those_of_the_ordinary_way(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    dtypes: list[str],
    mixed: bool,
    out: str,
    weighted: bool,
    chunk: int,
) -> None:
    """Any dtypes of members and output, any coefficients, chunks and number of threads."""
    members = pool_of(
        tmp_path_factory.mktemp("pool"), seed, dtypes if mixed else dtypes[:1] * len(dtypes)
    )
    generator = torch.Generator().manual_seed(seed)
    factors = tuple(torch.randn(len(members), generator=generator).tolist()) if weighted else None
    blend = Blend(members, members[0], factors, out)
    expected = streamed(blend, None, chunk)
    assert same_bits(streamed(blend, CPU, chunk), expected)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**31), dtype=st.sampled_from(["BF16", "F16"]))
def test_rounding_everywhere_is_rounding_where_it_matters(seed: int, dtype: str) -> None:
    """Values of the dtype, their middles, and what lies a hair beside."""
    values = wide(seed, dtype, 500).double()
    middles = (values + wide(seed, dtype, 500).view(torch.int16).add(1).view(TORCH[dtype])) / 2
    near = torch.cat([values, middles, middles * (1 + 2.0**-45), middles * (1 - 2.0**-45)])
    found = round_once(near, TORCH[dtype], everywhere=True)
    expected = round_once(near, TORCH[dtype])
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (float("nan"), None, "1: tensor x holds NaN"),
        (float("-inf"), None, "1: tensor x holds Inf"),
        (1e30, "F16", r"tensor x: 5e\+29 overflows F16"),
    ],
)
def test_what_is_not_finite_is_named(
    tmp_path: Path, value: float, dtype: str | None, message: str
) -> None:
    """Known at the end only, and then by the ordinary way's words."""
    rows = [torch.zeros(40), torch.zeros(40)]
    rows[1][33] = value
    members = [
        open_checkpoint(make_checkpoint(tmp_path / str(k), {"x": row}))
        for k, row in enumerate(rows)
    ]
    blend = Blend(tuple(members), members[0], dtype=dtype)
    for there in (None, CPU):
        with pytest.raises(BlendError, match=message):
            streamed(blend, there)


def test_what_is_copied_must_be_equal_there_too(tmp_path: Path) -> None:
    """Integers and buffers go the ordinary way."""
    paths = [
        make_checkpoint(tmp_path / str(k), {"x": torch.ones(3), "n": torch.tensor([k])})
        for k in range(2)
    ]
    members = tuple(map(open_checkpoint, paths))
    with pytest.raises(BlendError, match="tensor n: 1 differs from 0"):
        streamed(Blend(members, members[0]), CPU)


def test_only_linear_blends_of_stored_tensors_are_served(tmp_path: Path) -> None:
    """Other methods and adapters take the ordinary way."""
    members = pool_of(tmp_path, 0, ["F32", "F32"])
    assert device.serves(Blend(members, members[0], (0.3, 0.7)))
    assert not device.serves(Blend(members, members[0], method="slerp"))
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(4, 3)})
    factors = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(4, 1)}
    adapter = open_checkpoint(make_adapter(tmp_path / "adapter", factors, base))
    assert not device.serves(Blend((adapter,), adapter))


@pytest.mark.parametrize("memory", ["enough", "full"])
def test_a_model_gets_what_was_summed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    """Checked on arrival; by the processor where the device's memory is full (faked here)."""
    monkeypatch.setattr(places, "_gpu_of", lambda found: CPU)
    merged = 0
    merge = device.Lane.merge

    def counted(*arguments: Any) -> Any:
        nonlocal merged
        merged += 1
        if memory == "full" and merged == 2:
            raise torch.OutOfMemoryError
        return merge(*arguments)

    monkeypatch.setattr(device.Lane, "merge", counted)
    first, second = pool_of(tmp_path, 3, ["BF16", "BF16"], plain=True)
    blend = Blend((first, second), first)
    expected = streamed(blend, None)
    found = {name: torch.zeros(first.tensors[name].shape) for name in expected}
    places.swap_in(blend, found, "load")
    assert merged >= 2
    assert all(torch.equal(found[name].view(-1), expected[name].float()) for name in expected)

    merged = 10
    shared = torch.zeros(5_003)  # two tensors that are not the same in one place
    with pytest.raises(ScoringError, match="tensor . did not arrive"):
        places.swap_in(blend, {"x": shared, "y": shared[:13]}, "load")


def test_every_stage_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all lanes together: the bytes of what is summed, and the seconds that each stage takes."""
    members = pool_of(tmp_path, 0, ["BF16", "BF16"], plain=True)
    blend = Blend(members, members[0])
    read_into = device.read_into

    def slowly(*given: Any) -> None:
        time.sleep(0.002)
        read_into(*given)

    monkeypatch.setattr(device, "read_into", slowly)
    stages = Stages()

    class Nowhere:
        def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
            """See ``soup.blending.streaming.Sink``."""

    stream(blend, Nowhere(), device=CPU, chunk=1000, threads=2, stages=stages)
    summed = [info for info in members[0].tensors.values() if role(info) == "blend"]
    reads = sum(2 * len(range(0, info.numel, 1000)) for info in summed)
    assert stages.nbytes == 2 * sum(info.nbytes for info in summed)
    assert stages.lanes == 2 and stages.wait == 0  # without a stream nothing is waited for
    assert stages.read >= 0.002 * reads
    assert stages.copy > 0 and stages.sum > 0
    assert str(stages).startswith("read ") and str(stages).endswith(" s a lane")


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtypes", [["BF16"] * 3, ["F16"] * 3, ["F32"] * 3, ["BF16", "F32", "F64"]])
@pytest.mark.parametrize("out", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("plain", [True, False])
def test_on_a_gpu_the_bits_are_the_processors(
    tmp_path: Path, dtypes: list[str], out: str, plain: bool
) -> None:
    """Streams, pinned memory and the GPU's own arithmetic."""
    members = pool_of(tmp_path, 11, dtypes, plain)
    if out == "F16" and not plain and dtypes != ["F16"] * 3:
        pytest.skip("values that float16 cannot hold")
    gpu = torch.device("cuda", 0)
    for factors in (None, (0.1, 0.7, -1.3)):
        blend = Blend(members, members[0], factors, out)
        expected = streamed(blend, None)
        for chunk in (100, 5_003):
            assert same_bits(streamed(blend, gpu, chunk), expected)


@pytest.mark.gpu
@GPU
def test_a_model_on_a_gpu_gets_what_the_processor_sums(tmp_path: Path) -> None:
    """In the model's own dtype, and checked on arrival."""
    paths = [make_checkpoint(tmp_path / str(k), random_tensors(k)) for k in range(3)]
    members = tuple(map(open_checkpoint, paths))
    blend = Blend(members, members[0])
    for dtype in (torch.bfloat16, torch.float32):
        found, expected = (
            {i.name: torch.zeros(i.shape, dtype=dtype, device=there)
             for i in members[0].tensors.values()}
            for there in ("cuda", "cpu")
        )  # fmt: skip
        places.swap_in(blend, found, "load")
        places.swap_in(blend, expected, "load")
        assert same_bits({name: place.cpu() for name, place in found.items()}, expected)
