"""soup/checkpoints/torch_format.py: what torch.save wrote, as byte ranges, its pickle not run."""

import contextlib
import os
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.dtypes import DTYPES
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.checkpoints.torch_format import read_torch
from soup.errors import CheckpointError
from tests.blending.test_writer import loaded
from tests.conftest import make_checkpoint, make_torch_checkpoint, random_tensors


def assert_ranges_hold(file: Path) -> None:
    """The bytes at every range are those of the tensor that torch.load gives."""
    expected = torch.load(file, weights_only=True)
    found = {info.name: info for info in read_torch(file)}
    assert list(found) == list(expected)
    content = file.read_bytes()
    for name, tensor in expected.items():
        info = found[name]
        assert info.shape == tuple(tensor.shape)
        raw = content[info.offset : info.offset + info.nbytes]
        assert raw == bytes(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()), name


def test_ranges_hold_what_torch_loads(tmp_path: Path) -> None:
    """A module's state dict: parameters, buffers, scalars, tied weights, slices of one storage."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5))
    state = model.state_dict()
    assert isinstance(state, OrderedDict)  # with an attribute (_metadata), as models are saved
    state["tied.weight"] = state["0.weight"]
    state["tail"] = torch.arange(10.0)[4:7]
    state["scalar"] = torch.tensor(3, dtype=torch.int64)
    state["parameter"] = torch.nn.Parameter(torch.ones(2, 2).bfloat16())
    noted = torch.nn.Parameter(torch.ones(3))
    noted.note = "kept by some trainers"  # type: ignore[attr-defined]
    state["noted"] = noted
    state["empty"] = torch.ones(0, 4)
    torch.save(state, tmp_path / "x.bin")
    assert_ranges_hold(tmp_path / "x.bin")
    by_name = {info.name: info for info in read_torch(tmp_path / "x.bin")}
    assert by_name["tied.weight"].offset == by_name["0.weight"].offset


@settings(max_examples=30)
@given(
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), min_size=1, max_size=6),
    dtypes=st.lists(
        st.sampled_from(list(DTYPES.values())),
        min_size=6,
        max_size=6,
    ),
    protocol=st.integers(2, 5),
)
def test_any_state_dict_reads_as_torch_reads_it(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[list[int]],
    dtypes: list[torch.dtype],
    protocol: int,
) -> None:
    """Every dtype that can be copied, every pickle protocol, empty tensors and scalars."""
    file = tmp_path_factory.mktemp("file") / "x.bin"
    tensors = {
        f"t{k}": (torch.rand(shape) * 100).to(dtype)
        for k, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False))
    }
    torch.save(tensors, file, pickle_protocol=protocol)
    if protocol == 2:  # the only one that weights_only loading understands
        assert_ranges_hold(file)
    content = file.read_bytes()
    for info in read_torch(file):
        raw = content[info.offset : info.offset + info.nbytes]
        assert raw == bytes(tensors[info.name].view(-1).view(torch.uint8).numpy())


@settings(max_examples=100)
@given(data=st.data())
def test_damaged_files_end_in_a_checkpoint_error_or_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """No cut and no flipped byte makes anything but a CheckpointError."""
    file = tmp_path_factory.mktemp("file") / "x.bin"
    torch.save({"w": torch.ones(3), "v": torch.ones(2, 2)}, file)
    raw = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        assert all(info.offset + info.nbytes <= len(raw) for info in read_torch(file))


class Malicious:
    """Runs a command when it is unpickled by anything that trusts it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def test_no_code_of_the_file_runs(tmp_path: Path) -> None:
    """A pickle that would run a command is refused, and the command has not run."""
    mark = tmp_path / "ran"
    torch.save({"w": torch.ones(2), "x": Malicious(mark)}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"holds a posix.system; .* could run code"):
        read_torch(tmp_path / "x.bin")
    assert not mark.exists()


def archive(file: Path, pickled: bytes, **records: bytes) -> Path:
    """A file as torch writes it, with a pickle by hand."""
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("x/data.pkl", pickled)
        for name, content in records.items():
            made.writestr(f"x/{name}", content)
    return file


def nested(levels: int) -> bytes:
    """A tuple of twice itself, so many times: its hash takes 2 to that many steps."""
    return b")" + b"".join(b"q\x00h\x00\x86" for _ in range(levels))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", None),  # C's unpickler makes room for 2**31 things
        (b"\x80\x02}" + nested(60) + b"K\x01s.", "a key that is a tuple"),
        (b"\x80\x02}(" + nested(60) + b"K\x01u.", "a key that is a tuple"),
        (b"\x80\x02ccollections\nOrderedDict\n]" + nested(60) + b"K\x01\x86a\x85R.", "a tuple"),
        (b"\x80\x02(X\x07\x00\x00\x00storage" + nested(60) + b"X\x01\x00\x00\x000tQ.", "unknown"),
        (b"\x80\x04\x8f(" + nested(60) + b"\x90.", "damaged"),
        (b"\x80\x02" + b"}\x94" * 1_001 + b".", "remembers more than 1,000 things"),
    ],
    ids=["memo", "key", "keys", "ordered", "id", "set", "memory"],
)
def test_pickles_that_would_take_for_ever(
    tmp_path: Path, pickled: bytes, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither time nor memory is the file's to choose."""
    monkeypatch.setattr("soup.checkpoints.pickles.MEMO", 1000)
    file = archive(tmp_path / "x.bin", pickled)
    started = time.process_time()
    with (
        contextlib.nullcontext()
        if message is None
        else pytest.raises(CheckpointError, match=message)
    ):
        assert read_torch(file) == []
    assert time.process_time() - started < 5


DICT = b"ccollections\nOrderedDict\nq\x01"
STORAGE = b"X\x07\x00\x00\x00storageX\x01\x00\x00\x00dX\x01\x00\x00\x000"
LONG = b"X" + (100_000).to_bytes(4, "little") + b"A" * 100_000


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (DICT + b"](" + b"X\x02\x00\x00\x00ab" * 50_000 + b"e\x85q\x02"
         + b"h\x01h\x02R0" * 50_000 + b"}.", "makes dicts of more than"),
        (b"(" + STORAGE + b"K\x01" * 100_000 + b"tq\x01Q" + b"h\x01Q0" * 50_000 + b"}.",
         "unknown persistent id"),
        (b"X\x05\x00\x00\x00torchq\x01" + LONG + b"q\x02" + b"h\x01h\x02\x930" * 100_000 + b"}.",
         "a global's name of"),
        (b"}\x8b\xc0\xc6\x2d\x00" + b"\x7f" * 3_000_000 + b"q\x01K\x00s"
         + b"h\x01K\x00s" * 10_000 + b".", "a number of more than 63 bits"),
        (b"}(" + b"".join(
            b"\x8a\x0b" + (k << 8 | k).__mul__(2**61 - 1).to_bytes(11, "little") + b"N"
            for k in range(1, 20_000)) + b"u.", "a number of more than 63 bits"),
        (b"(" * 60_000 + b".", "makes more than 50,000"),
        (b"(" + b"]" * 60_000 + b"t.", "makes more than 50,000"),
    ],
    ids=["dicts", "ids", "names", "key", "keys", "marks", "lists"],
)  # fmt: skip
def test_what_a_pickle_remembers_costs_no_more_each_time_it_is_used(
    tmp_path: Path, pickled: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large thing that is named again and again, numbers of one hash, and things without end."""
    monkeypatch.setattr("soup.checkpoints.pickles.MADE", 50_000, raising=False)
    file = archive(tmp_path / "x.bin", b"\x80\x04" + pickled)
    started = time.process_time()
    with pytest.raises(CheckpointError, match=message):
        read_torch(file)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("how", ["wide", "comment"])
def test_a_list_of_records_that_an_archive_does_not_own_up_to_is_not_read(
    tmp_path: Path, how: str
) -> None:
    """Its size stands in up to three places; no more is ever read than a model's has."""
    file, size = tmp_path / "x.bin", 1 << 30
    with file.open("wb") as made:
        made.truncate(2 * size)
        made.seek(2 * size)
        if how == "wide":  # the plain record, which says 50, is of no account beside this one
            made.write(
                b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, size, size)
            )
            made.write(b"PK\x06\x07" + struct.pack("<IQI", 0, 2 * size, 1))
            made.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 50, 0, 0))
        else:  # what looks like another end stands in the comment of the end
            comment = b"PK\x05\x06" + bytes(20)
            made.write(
                b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, size, size, 24) + comment
            )
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        read_torch(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_records_that_are_too_large_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the byte order a word, of the pickle and the list of records what a model may have."""
    file = archive(tmp_path / "x.bin", b"\x80\x02}.", byteorder=b"x" * 10_000)
    with pytest.raises(CheckpointError, match=r"byte order x{20}, expected little"):
        read_torch(file)
    file = archive(tmp_path / "y.bin", b"\x80\x02}.", **{f"r{k}": b"" for k in range(100)})
    assert read_torch(file) == []
    monkeypatch.setattr("soup.checkpoints.torch_format.LARGEST", 2000)
    with pytest.raises(CheckpointError, match=r"lists .* bytes of records; not a state dict"):
        read_torch(file)


def test_opening_reads_no_tensor(tmp_path: Path) -> None:
    """Four gigabytes of (sparse) weights open at once: only the directory and pickle are read."""
    file = tmp_path / "x.bin"
    with torch.serialization.skip_data():
        torch.save({"w": torch.empty(2**31, dtype=torch.bfloat16)}, file)
    (info,) = read_torch(file)
    assert info.nbytes == 2**32


def compress(file: Path) -> None:
    """Write a zip archive again, its records compressed."""
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


REFUSED: dict[str, tuple[Any, str]] = {
    "a view": ({"w": torch.ones(3, 4).T}, r"tensor w is a view \(shape \[4, 3\], strides"),
    "a conjugate view": ({"w": torch.ones(3, dtype=torch.complex64).conj()}, "w is Complex"),
    "a number": ({"w": torch.ones(3), "epoch": 3}, "a tensor under 'epoch', found a int"),
    "a number as a name": ({3: torch.ones(3)}, "a tensor under 3"),
    "nested": ({"a": {"w": torch.ones(3)}}, "a tensor under 'a', found a dict"),
    "two models": (
        {"model": {"w": torch.ones(3)}, "module": {"w": torch.ones(3)}},
        "a tensor under 'model', found a dict",
    ),
    "a tensor": (torch.ones(3), "a dict of tensors by name, found a tensor"),
    "a list": ([torch.ones(3)], "a dict of tensors by name, found a list"),
    "a module": (torch.nn.Linear(2, 2), "holds a torch.nn.modules.linear.Linear; only plain"),
    "fp8": ({"w": torch.ones(4).to(torch.float8_e4m3fn)}, "tensor w is float8_e4m3fn, which"),
    "quantised": (
        {"w": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)},
        "holds quantised tensors",
    ),
    "sparse": ({"w": torch.eye(3).to_sparse()}, "holds a torch._utils._rebuild_sparse_tensor"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_state_dict_is_named(tmp_path: Path, kind: str) -> None:
    """Each has its own line, with the tensor's name where there is one."""
    content, message = REFUSED[kind]
    torch.save(content, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=message):
        read_torch(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("legacy", "before torch 1.6"),
        ("compressed", "is compressed or encrypted"),
        ("truncated", "not a complete torch file .*; it is truncated"),
        ("lfs pointer", "git lfs pull"),
        ("another zip", "not one that torch.save wrote"),
        ("absent", "cannot be read: No such file"),
    ],
)
def test_files_that_are_not_readable_in_place_are_named(
    tmp_path: Path, kind: str, message: str
) -> None:
    """Old, compressed, cut, fetched without git-lfs, or something else."""
    file = tmp_path / "x.bin"
    torch.save({"w": torch.ones(9)}, file, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "compressed":
        compress(file)
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-10])
    elif kind == "lfs pointer":
        file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "another zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("readme.txt", "hello")
    elif kind == "absent":
        file.unlink()
    with pytest.raises(CheckpointError, match=message):
        read_torch(file)


def test_a_trainers_checkpoint_is_read_by_its_state_dict(tmp_path: Path) -> None:
    """A state dict under state_dict or model, beside an optimizer's, is found."""
    tensors = random_tensors(0)
    torch.save({"epoch": 3, "state_dict": tensors, "optimizer": {"lr": 1.0}}, tmp_path / "x.bin")
    assert [info.name for info in read_torch(tmp_path / "x.bin")] == list(tensors)


@pytest.mark.parametrize("make", [make_checkpoint, make_torch_checkpoint])
@pytest.mark.parametrize("shards", [1, 2])
def test_what_torch_puts_before_all_names_is_taken_off(
    tmp_path: Path, make: Any, shards: int
) -> None:
    """Saved out of DataParallel or torch.compile: the same checkpoint, and a soup that loads."""
    tensors = random_tensors(0)
    plain = make_checkpoint(tmp_path / "plain", tensors)
    for k, prefix in enumerate(("module.", "_orig_mod.", "module._orig_mod.")):
        wrapped = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
        path = make(tmp_path / str(k), wrapped, shards)
        pool = Pool.open(path, plain)
        assert pool.reference.digest == pool.members[1].digest
        out = write(Blend(pool.members, pool.reference), tmp_path / "out" / str(k)).path
        assert loaded(out).keys() == tensors.keys()
    some = {f"module.{name}" if k else name: t for k, (name, t) in enumerate(tensors.items())}
    assert open_checkpoint(make(tmp_path / "some", some)).tensors.keys() == tensors.keys()


def test_equal_tensors_have_one_digest_in_every_format(tmp_path: Path) -> None:
    """Safetensors, .bin, sharded .bin and model.pt are the same checkpoint."""
    tensors = random_tensors(1)
    pt = make_torch_checkpoint(tmp_path / "pt", tensors)
    (pt / "pytorch_model.bin").rename(pt / "model.pt")
    paths = [
        make_checkpoint(tmp_path / "safe", tensors),
        make_torch_checkpoint(tmp_path / "bin", tensors),
        make_torch_checkpoint(tmp_path / "shards", tensors, shards=3),
        pt,
    ]
    assert len({open_checkpoint(path).digest for path in paths}) == 1


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_formats_mix_and_the_output_is_safetensors(tmp_path: Path, reference: int) -> None:
    """Sharded like the reference, whatever its format, and equal to the float64 mean."""
    members = [random_tensors(seed) for seed in range(3)]
    paths = [
        make_torch_checkpoint(tmp_path / "bin", members[0]),
        make_torch_checkpoint(tmp_path / "shards", members[1], shards=2),
        make_checkpoint(tmp_path / "safe", members[2], shards=3),
    ]
    ordered = paths[reference:] + paths[:reference]
    pool = Pool.open(*ordered)
    written = write(Blend(pool.members, pool.reference), tmp_path / "out")
    found = loaded(written.path)
    assert found.keys() == members[0].keys()
    for name, tensor in found.items():
        total = torch.stack([member[name].double() for member in members]).sum(0)
        assert torch.equal(tensor, (total / 3).to(torch.bfloat16)), name
    weights = {file.name for file in written.path.iterdir() if file.suffix in (".safetensors",)}
    count = reference + 1
    assert weights == (
        {"model.safetensors"}
        if count == 1
        else {f"model-{k:05d}-of-{count:05d}.safetensors" for k in range(1, count + 1)}
    )
    assert not list(written.path.glob("*.bin*"))
    assert (written.path / "model.safetensors.index.json").exists() == (count > 1)


def test_safetensors_are_read_where_both_are_there(tmp_path: Path) -> None:
    """The pool's warnings name the member; the torch file is not looked at."""
    path = make_checkpoint(tmp_path / "both", random_tensors(0))
    (path / "pytorch_model.bin").write_bytes(b"not looked at")
    pool = Pool.open(path)
    assert pool.warnings == (
        "both: holds pytorch_model.bin beside safetensors weights; safetensors are read",
    )


def test_a_missing_torch_shard_is_named(tmp_path: Path) -> None:
    """As for safetensors."""
    path = make_torch_checkpoint(tmp_path / "m", random_tensors(0), shards=2)
    (path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"00002.bin: missing, but the index lists it"):
        open_checkpoint(path)
    other = make_torch_checkpoint(tmp_path / "n", random_tensors(0))
    (other / "pytorch_model.bin").rename(other / "weights.bin")
    with pytest.raises(CheckpointError, match=r"torch files \(weights.bin\), but no model"):
        open_checkpoint(other)
