"""evaluators/scorer.py and worker.py: a process of its own, whose failures become one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators import VLMEvalKitScorer
from evaluators import scorer as scorer_module
from evaluators.worker import Worker, encode_blend
from soup.blend import Blend
from soup.checkpoint import Checkpoint
from soup.errors import BenchmarkError, ScoringError, SoupError, UsageError
from soup.events import Event, Progress
from soup.pool import Pool
from soup.writer import write
from tests.conftest import make_adapter

pytest.importorskip("transformers")


@pytest.fixture
def pool(demo: Path) -> Pool:
    """The demo's members."""
    return Pool.open(str(demo / "ckpts" / "*"))


@pytest.mark.parametrize("method", ["linear", "ties", "dare"])
def test_a_blend_survives_the_way_to_the_worker(
    pool_paths: list[Path], base_path: Path, method: str
) -> None:
    """As JSON and back: same digest, to the last bit of weights and parameters; same names."""
    pool = Pool.open(*pool_paths, base=base_path)
    parameters = (("density", 0.1 + 0.2), ("lambda", 1 / 3)) if method != "linear" else ()
    weights = (0.1, 1 / 3, -2.0, 5e-324)
    blend = Blend(pool.members, pool.reference, weights, "F32", method, pool.base, parameters)
    worker = Worker(lambda message: None)
    worker._reference = pool.reference
    found = worker._blend(json.loads(json.dumps(encode_blend(blend))))
    assert found.digest == blend.digest
    assert [m.name for m in found.sources] == [m.name for m in blend.sources]


def test_blends_are_scored_in_another_process(
    pool: Pool, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Outcomes, kept predictions, what it was measured with; nothing is imported here."""
    code = f"""
import sys
from evaluators import VLMEvalKitScorer
from soup.events import Event, Progress
from soup.pool import Pool
from soup.blend import Blend
pool = Pool.open({str(pool.reference.path)!r})
with VLMEvalKitScorer(work={str(tmp_path)!r}, device="cpu", max_new_tokens=4) as scorer:
    names = [{str(small_benchmarks / "digit.tsv")!r}]
    (benchmark,) = scorer.benchmarks(pool.reference, names)
    result = scorer.measure(Blend(pool.members, pool.reference), benchmark, "task")
assert benchmark.samples == result.samples == len(result.outcomes) == 40
assert abs(sum(result.outcomes.values()) / 40 * 100 - result.value) < 1e-9
assert benchmark.settings["vlmeval"].startswith("ms-vlmeval ")
assert benchmark.settings["compute_dtype"] == "float32"
assert not {{"vlmeval", "transformers"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert len(list((tmp_path / "predictions").glob("*.tsv"))) == 1


def test_what_was_answered_in_part_is_not_answered_again(
    pool: Pool, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Parts, then the rest: the outcomes of the whole, each question generated once."""
    first, second = (Blend((member,), pool.reference) for member in pool.members[:2])
    with VLMEvalKitScorer(work=tmp_path, device="cpu", max_new_tokens=4) as scorer:
        (benchmark,) = scorer.benchmarks(pool.reference, [str(small_benchmarks / "digit.tsv")])
        whole = scorer.measure(first, benchmark, "task")
        other = scorer.measure(second, benchmark, "task")
        assert whole.outcomes != other.outcomes
        found: dict[str, float] = {}
        for samples in (["7", "3", "39"], ["0", "3", "21"]):
            part = scorer.outcomes(first, benchmark, samples, "task")
            assert part.samples == 3
            found |= part.outcomes
        assert found == {key: whole.outcomes[key] for key in found}
        events: list[Event] = []
        assert scorer.measure(first, benchmark, "task", events.append) == whole
        shown = [e.done for e in events if isinstance(e, Progress) and e.unit == "samples"]
        assert (shown[0], shown[-1]) == (5, 40)
        scorer.outcomes(first, benchmark, ["0"], "task")
        assert scorer.measure(second, benchmark, "task") == other
        with pytest.raises(ScoringError, match="digit: no question has the index 40"):
            scorer.outcomes(first, benchmark, ["40"], "task")


def test_settings_are_part_of_a_benchmarks_identity(
    pool: Pool, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Longer answers, other data: another digest, so another result."""
    digests = set()
    for tokens in (4, 5):
        with VLMEvalKitScorer(work=tmp_path, device="cpu", max_new_tokens=tokens) as scorer:
            names = [str(small_benchmarks / f"{name}.tsv") for name in ("digit", "parity")]
            found = scorer.benchmarks(pool.reference, names)
            digests |= {benchmark.digest for benchmark in found}
    assert len(digests) == 4


@pytest.mark.parametrize("gone", [True, False])
def test_a_worker_that_dies_is_one_line_with_its_last_words(
    pool: Pool, small_benchmarks: Path, tmp_path: Path, gone: bool
) -> None:
    """Killed from outside: an error that says so, and no process left."""
    with VLMEvalKitScorer(work=tmp_path, device="cpu") as scorer:
        (benchmark,) = scorer.benchmarks(pool.reference, [str(small_benchmarks / "digit.tsv")])
        assert scorer._process is not None
        process = scorer._process
        process.kill()
        if gone:  # its end of the pipe is closed before we write, or perhaps after
            process.wait()
        with pytest.raises(ScoringError, match="was killed .signal 9.*worker.log"):
            scorer.measure(Blend(pool.members, pool.reference), benchmark, "task")
        assert process.poll() is not None


def test_errors_inside_the_worker_keep_their_kind(pool: Pool, tmp_path: Path) -> None:
    """A benchmark error there is a benchmark error here; the worker lives on."""
    with VLMEvalKitScorer(work=tmp_path, device="cpu") as scorer:
        for _ in range(2):
            with pytest.raises(BenchmarkError, match="no such file"):
                scorer.benchmarks(pool.reference, ["no/such.tsv"])
        assert scorer._process is not None
        assert scorer._process.poll() is None


def test_the_worker_ends_with_its_parent(pool: Pool, tmp_path: Path) -> None:
    """Even a parent that is killed leaves no process that holds a GPU."""
    code = f"""
import os, signal
from evaluators import VLMEvalKitScorer
from soup.events import Event, Progress
from soup.pool import Pool
scorer = VLMEvalKitScorer(work={str(tmp_path)!r}, device="cpu")
scorer.benchmarks(Pool.open({str(pool.reference.path)!r}).reference, [])
print(scorer._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    worker = Path("/proc") / done.stdout.strip()
    for _ in range(100):
        if not worker.exists() or "Z" in (worker / "stat").read_text().split(")")[-1].split()[0]:
            break
        subprocess.run(["sleep", "0.1"], check=True)
    else:
        pytest.fail(f"worker {worker.name} is still running")


def test_protocols_must_match(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of ourselves on the other side is one clear line."""
    monkeypatch.setattr(scorer_module, "PROTOCOL", 99)
    with (
        VLMEvalKitScorer(work=tmp_path, device="cpu") as scorer,
        pytest.raises(SoupError, match="worker protocol 1, the command speaks 99"),
    ):
        scorer.benchmarks(pool.reference, [])


def test_what_is_not_installed_is_named(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without VLMEvalKit: the command that installs it (the import system is faked here)."""
    find = scorer_module.importlib.util.find_spec

    def absent(name: str, *rest: Any) -> Any:
        return None if name == "vlmeval" else find(name, *rest)

    monkeypatch.setattr(scorer_module.importlib.util, "find_spec", absent)
    with (
        VLMEvalKitScorer(work=tmp_path) as scorer,
        pytest.raises(BenchmarkError, match=r"pip install 'vlm-soup\[vlmeval\]'"),
    ):
        scorer.benchmarks(pool.reference, [])


def test_options_are_checked_at_once() -> None:
    """Before a process is started."""
    with pytest.raises(UsageError):
        VLMEvalKitScorer(batch_size=0)


def test_a_directory_named_like_our_package_does_not_shadow_it(pool: Pool, tmp_path: Path) -> None:
    """The worker finds our code by path, whatever lies in the working directory."""
    (tmp_path / "evaluators").mkdir()
    (tmp_path / "evaluators" / "__init__.py").write_text("raise SystemExit('shadowed')\n")
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with VLMEvalKitScorer(work=tmp_path / "work", device="cpu") as scorer:
            assert scorer.benchmarks(pool.reference, []) == []
    finally:
        os.chdir(before)


def test_an_adapter_is_scored_as_its_merged_model_is(
    pool: Pool, small_benchmarks: Path, tmp_path: Path
) -> None:
    """The worker builds the base, swaps the merged weights in, and answers alike."""
    base = pool.reference
    name, info = next((n, i) for n, i in base.tensors.items() if n.endswith("q_proj.weight"))
    generator = torch.Generator().manual_seed(0)
    module = name.removesuffix(".weight")
    factors = {
        f"{module}.lora_A.weight": torch.randn(4, info.shape[1], generator=generator),
        f"{module}.lora_B.weight": torch.randn(info.shape[0], 4, generator=generator),
    }
    path = make_adapter(tmp_path / "adapter", factors, base_model_name_or_path="org/model")
    adapter = Pool.open(path, base=base.path).reference
    merged = Checkpoint.open(write(Blend((adapter,), adapter), tmp_path / "merged").path)
    found = []
    for member in (adapter, merged, base):  # the last, to see a difference
        with VLMEvalKitScorer(work=tmp_path / "work", device="cpu", max_new_tokens=4) as scorer:
            (benchmark,) = scorer.benchmarks(member, [str(small_benchmarks / "digit.tsv")])
            result = scorer.measure(Blend((member,), member), benchmark, "task")
            found.append((benchmark.digest, dict(result.outcomes)))
    assert found[0] == found[1]
    assert found[0] != found[2]
