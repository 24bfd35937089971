"""NaN, Inf, zeros and files without an end: found while bytes are digested anyway."""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.checkpoints.problems import summary
from soup.checkpoints.soundness import Scan, Soundness, problems, remarks
from soup.choosing.journal import Journal, _files_hash
from soup.errors import PoolError
from soup.evaluators.fake import FakeScorer
from soup.identifying import identify
from soup.run import Settings, make
from tests.conftest import make_adapter, make_checkpoint, random_tensors

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@given(st.sampled_from(sorted(DTYPES)), st.binary(min_size=8, max_size=96), st.data())
@settings(max_examples=60, deadline=None)
def test_a_scan_sees_what_torch_sees(dtype: str, raw: bytes, data: st.DataObject) -> None:
    """Any bits of any floating-point dtype, cut into any blocks."""
    content = data.draw(st.sampled_from([raw, bytes(len(raw)), raw + bytes(64)]))
    content = content[: len(content) // 8 * 8]
    values = torch.frombuffer(bytearray(content), dtype=DTYPES[dtype])
    scan, at = Scan(dtype), 0
    while at < len(content):
        size = data.draw(st.integers(1, len(content) - at))
        scan.update(memoryview(content)[at : at + size])
        at += size
    expected = "zero" if not values.any() else None
    expected = "inf" if values.isinf().any() else expected
    expected = "nan" if values.isnan().any() else expected
    if expected == "nan":  # in another block than Inf: both are seen, NaN counts
        assert scan.kind == "nan"
    else:
        assert scan.kind == expected
    assert scan.zeros == len(content) - len(content.rstrip(b"\0"))


def digested(*paths: Path) -> list[str]:
    """The lines that are told of members, problems first."""
    members = Pool.open(*paths).members
    for member in members:
        member.compute_digest()
    return [*summary(problems(members), others=len(members) - 1), *remarks(members)]


def test_many_tensors_with_nan_are_one_line(tmp_path: Path) -> None:
    """With a count, a pattern of names, and what to do; the other members are not named."""
    good = {f"layers.{k}.weight": torch.ones(2, 3) for k in range(40)}
    bad = {name: tensor * float("nan") for name, tensor in good.items()}
    lines = digested(make_checkpoint(tmp_path / "a", good), make_checkpoint(tmp_path / "b", bad))
    assert lines == [
        "b: 40 tensors (layers.*.weight): expected finite values, found NaN; the training run "
        "diverged, or the file is damaged: leave the member out"
    ]


@pytest.mark.parametrize("kind", ["max", "greedy", "average"])
def test_nothing_is_scored_beside_nan(tmp_path: Path, kind: str) -> None:
    """The member is named before the first question is asked, and again from the journal."""
    good, bad = random_tensors(0), random_tensors(1)
    bad["layers.0.weight"][1, 1] = float("-inf")
    paths = [make_checkpoint(tmp_path / "good", good), make_checkpoint(tmp_path / "bad", bad)]
    work = Settings(benchmarks=["fake"], out=tmp_path / "soup", work=tmp_path / "work")
    for _ in range(2):
        with pytest.raises(PoolError, match=r"^bad: tensor layers\.0\.weight: .* found Inf"):
            make(kind, Pool.open(*paths), FakeScorer(), work)
    assert Journal.open(tmp_path / "work").results == {}
    assert not (tmp_path / "soup").exists()


def cut_short(file: Path, at: int) -> None:
    """The end of a file zeroed, as a copy leaves it that set the size first."""
    content = file.read_bytes()
    file.write_bytes(content[:at] + bytes(len(content) - at))


def test_a_file_whose_end_was_never_written(tmp_path: Path) -> None:
    """Zeros that begin amid a row are no tensor's: told with the byte, and refused."""
    tensors = {f"layers.{k}.weight": torch.randn(64, 48) for k in range(6)}
    path = make_checkpoint(tmp_path / "a", tensors)
    file = path / "model.safetensors"
    size = file.stat().st_size
    cut_short(file, at := size - 30_001)
    (line, zeros) = digested(path)
    assert line.startswith("a: model.safetensors: expected values up to its end, found nothing but")
    assert f"of {size:,} on, amid a tensor's row; a copy that stopped halfway" in line
    first = int(line.split("from byte ")[1].split(" of")[0].replace(",", ""))
    assert at - 4 < first <= at  # an element may have ended in zeros
    assert zeros.startswith("a: 2 tensors are all zero (layers.4.weight and layers.5.weight)")


def test_rows_of_zeros_at_a_files_end_are_an_embedding(tmp_path: Path) -> None:
    """Tokens that nobody uses have rows of zeros; that is no damage."""
    table = torch.randn(200, 64)
    table[100:] = 0
    assert digested(make_checkpoint(tmp_path / "a", {"embed_tokens.weight": table})) == []


def test_zeros_where_models_begin_with_them(tmp_path: Path) -> None:
    """Biases at zero are normal, in one member or in all; a matrix of zeros is told."""
    tensors = {f"layers.{k}.weight": torch.randn(4, 4) for k in range(5)}
    biases = {f"layers.{k}.bias": torch.zeros(4) for k in range(5)}
    trained = {f"layers.{k}.bias": torch.ones(4) for k in range(5)}
    a = make_checkpoint(tmp_path / "a", tensors | biases)
    assert digested(a) == []
    few = trained | {"layers.0.bias": torch.zeros(4)}
    assert digested(a, make_checkpoint(tmp_path / "few", tensors | few)) == [
        "a: 4 tensors are all zero (layers.*.bias); if they should not be, copy or download it "
        "again, or save the member again"
    ]
    empty = {"layers.3.weight": torch.zeros(4, 4)}
    both = [make_checkpoint(tmp_path / n, tensors | biases | empty) for n in ("x", "y")]
    assert digested(*both) == [f"{n}: 1 tensor is all zero (layers.3.weight)" for n in ("x", "y")]


def test_an_adapter_that_was_never_trained(tmp_path: Path) -> None:
    """B is zero before the first step: some are where a module is not reached, not most."""
    names = ("a", "b", "c", "d")
    base = make_checkpoint(tmp_path / "base", {f"{n}.weight": torch.randn(3, 3) for n in names})

    def adapter(name: str, zero: int) -> Path:
        factors = {f"{n}.lora_A.weight": torch.ones(1, 3) for n in names}
        for k, n in enumerate(names):
            factors[f"{n}.lora_B.weight"] = torch.full((3, 1), float(k >= zero))
        return make_adapter(tmp_path / name, factors, base)

    assert digested(adapter("one", 1)) == []
    assert digested(adapter("three", 3)) == [
        "three: 3 of 4 factors B of LoRA are zero, which changes nothing there; was the adapter "
        "trained, and saved after it?"
    ]


def test_what_was_found_is_kept_with_the_digest(tmp_path: Path) -> None:
    """Unchanged files are not read again, and what is wrong with them is still known."""
    tensors = random_tensors(0) | {"bad": torch.tensor([float("nan"), 0.0])}
    path = make_checkpoint(tmp_path / "a", tensors)
    journal = Journal.open(tmp_path / "work")
    first = open_checkpoint(path)
    assert first.soundness is None
    identify([first], journal, lambda event: None)
    again = open_checkpoint(path)
    assert Journal.open(tmp_path / "work").recall(again)
    assert again.soundness == first.soundness
    assert again.soundness is not None
    assert again.soundness.nan == ("bad",)


def test_a_digest_of_an_older_version_is_found_again(tmp_path: Path) -> None:
    """A record that says nothing of values does not count as sound values."""
    path = make_checkpoint(tmp_path / "a", random_tensors(0))
    checkpoint = open_checkpoint(path)
    journal = Journal.open(tmp_path / "work")
    files = checkpoint.files_key
    journal.append("digest", of=_files_hash(files), files=files, digest="0" * 64)
    assert not journal.recall(checkpoint)


def test_findings_outlive_json() -> None:
    """What is written reads back the same."""
    found = Soundness(("a",), ("b",), (("c", 2),), 3, 4, (("model.safetensors", 5, 6),))
    assert Soundness.of_json(json.loads(json.dumps(found.to_json()))) == found
    assert Soundness.of_json({}) == Soundness()


def test_bits_of_infinity_are_those_of_the_formats() -> None:
    """One NaN and one Inf of float16, by hand."""
    for bits, kind in ((0x7C00, "inf"), (0xFC00, "inf"), (0x7C01, "nan"), (0x7BFF, None)):
        scan = Scan("F16")
        scan.update(struct.pack("<H", bits))
        assert scan.kind == kind
