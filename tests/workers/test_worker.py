"""evaluators/workers/scorer.py and worker.py: its own process; failures are one line."""

import ast
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.errors import BenchmarkError, CheckpointError, JournalError, ScoringError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.workers import process as process_module
from soup.evaluators.workers import scorer as scorer_module
from soup.evaluators.workers.process import Died, Process
from soup.evaluators.workers.protocol import PROTOCOL, encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from soup.events import Event, Note, Progress
from tests.conftest import make_checkpoint, random_tensors

pytest.importorskip("transformers")


@pytest.fixture
def pool(demo: Path) -> Pool:
    """The demo's members."""
    return Pool.open(str(demo / "ckpts" / "*"))


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLMEvalKitScorer]:
    """A scorer whose worker lives through all tests that do it no harm."""
    work = tmp_path_factory.mktemp("living")
    with VLMEvalKitScorer(work=work, device="cpu", max_new_tokens=4) as scorer:
        yield scorer


def test_a_place_of_its_own_wins_over_the_settings(tmp_path: Path) -> None:
    """Without one a scorer keeps its files where the run has its journal."""
    own = VLMEvalKitScorer(work=tmp_path / "own")
    own.work_in(tmp_path / "run")
    assert own.log == tmp_path / "own" / "worker.log"
    none = VLMEvalKitScorer()
    assert none.log == Path(".soup").absolute() / "worker.log"
    none.work_in(tmp_path / "run")
    assert none.log == tmp_path / "run" / "worker.log"


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


def test_companion_files_survive_the_way_to_the_worker(tmp_path: Path) -> None:
    """A member's own, those that others supply, and buffers that are left out; changed ones not."""
    buffer = {"rotary_emb.inv_freq": torch.ones(2)}
    template = {"chat_template.jinja": "own"}
    paths = [
        make_checkpoint(
            tmp_path / "a", random_tensors(0), files={"preprocessor_config.json": "{}"}
        ),
        make_checkpoint(tmp_path / "b", random_tensors(1) | buffer, files=template),
    ]
    pool = Pool.open(*paths)
    worker = Worker(lambda message: None)
    worker._refer_to(*encode_checkpoint(pool.reference))
    for files_of in (None, pool.members[1]):
        blend = Blend(pool.members[1:], pool.reference, files_of=files_of)
        message = json.loads(json.dumps(encode_blend(blend)))
        found = worker._blend(message)
        assert (found.digest, found.key) == (blend.digest, blend.key)
        assert found.members[0].tensors.keys() == random_tensors(0).keys()
        assert found.companions.files_digest == blend.companions.files_digest
    (paths[1] / "chat_template.jinja").write_text("another")
    with pytest.raises(CheckpointError, match="files beside the weights were changed"):
        worker._blend(message)


def test_what_was_answered_in_part_is_not_answered_again(
    pool: Pool, small_benchmarks: Path, living: VLMEvalKitScorer
) -> None:
    """Parts, then the rest: the outcomes of the whole, each question generated once."""
    first, second = (Blend((member,), pool.reference) for member in pool.members[:2])
    (benchmark,) = living.benchmarks(pool.reference, [str(small_benchmarks / "digit.tsv")])
    whole = living.measure(first, benchmark, "task")
    other = living.measure(second, benchmark, "task")
    assert whole.outcomes != other.outcomes
    found: dict[str, float] = {}
    for samples in (["7", "3", "39"], ["0", "3", "21"]):
        part = living.outcomes(first, benchmark, samples, "task")
        assert part.samples == 3
        found |= part.outcomes
    assert found == {key: whole.outcomes[key] for key in found}
    events: list[Event] = []
    assert living.measure(first, benchmark, "task", events.append) == whole
    shown = [e.done for e in events if isinstance(e, Progress) and e.unit == "samples"]
    assert (shown[0], shown[-1]) == (5, 40)
    living.outcomes(first, benchmark, ["0"], "task")
    assert living.measure(second, benchmark, "task") == other
    with pytest.raises(ScoringError, match="digit: no question has the index 40"):
        living.outcomes(first, benchmark, ["40"], "task")


def test_settings_are_part_of_a_benchmarks_identity(
    pool: Pool, small_benchmarks: Path, tmp_path: Path, living: VLMEvalKitScorer
) -> None:
    """Longer answers, other data: another digest, so another result."""
    names = [str(small_benchmarks / f"{name}.tsv") for name in ("digit", "parity")]
    digests = {found.digest for found in living.benchmarks(pool.reference, names)}
    with VLMEvalKitScorer(work=tmp_path, device="cpu", max_new_tokens=5) as scorer:
        digests |= {found.digest for found in scorer.benchmarks(pool.reference, names)}
    assert len(digests) == 4


class Killer:
    """An observer that kills the worker when it begins to answer, and keeps what it is told."""

    def __init__(self, scorer: VLMEvalKitScorer, times: int, after: int = 0) -> None:
        self.scorer, self.times, self.after = scorer, times, after
        self.notes: list[str] = []

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Note):
            self.notes += [] if event.text.startswith("running sum") else [event.text]
        elif event.unit == "samples" and event.done >= self.after and self.times:
            self.times -= 1
            assert self.scorer._process is not None
            os.kill(self.scorer._process.pid, signal.SIGKILL)


def test_a_worker_that_dies_is_followed_by_one_that_does_only_what_is_left(
    pool: Pool, demo: Path, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Killed within a benchmark: a warning, the answers so far are kept, the results are equal."""
    names = [str(small_benchmarks / "parity.tsv"), str(demo / "benchmarks" / "digit.tsv")]
    blend = Blend(pool.members[:2], pool.reference)
    with VLMEvalKitScorer(work=tmp_path, device="cpu", max_new_tokens=4, batch_size=1) as scorer:
        benchmarks = scorer.benchmarks(pool.reference, names)
        expected = [scorer.measure(blend, benchmark, "task") for benchmark in benchmarks]
        killer = Killer(scorer, 1, after=1)
        assert scorer.measure(blend, benchmarks[1], "task", killer) == expected[1]
        assert scorer.measure(blend, benchmarks[0], "task") == expected[0]
    died, kept = killer.notes
    assert died.startswith("the worker was killed (signal 9), perhaps for using too much memory (")
    assert died.endswith("(at: task); another one goes on from there (restart 1 of 2)")
    words = kept.split()
    assert words[:1] + words[2:] == ["task:", "of", "300", "answers", "are", "kept"]
    assert 1 <= int(words[1]) < 300
    assert {file.suffix for file in (tmp_path / "predictions").iterdir()} == {".gz"}


def test_answers_stay_until_their_result_is_recorded(
    pool: Pool, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Where the journal's disk is full, the same command scores them without asking again."""
    blend = Blend(pool.members[:2], pool.reference)
    digit = str(small_benchmarks / "digit.tsv")
    with (
        suppress(JournalError),
        VLMEvalKitScorer(work=tmp_path, device="cpu", max_new_tokens=4) as scorer,
    ):
        (benchmark,) = scorer.benchmarks(pool.reference, [digit])
        expected = scorer.measure(blend, benchmark, "task")
        raise JournalError("the disk is full")
    events: list[Event] = []
    with VLMEvalKitScorer(work=tmp_path, device="cpu", max_new_tokens=4) as scorer:
        (benchmark,) = scorer.benchmarks(pool.reference, [digit])
        assert scorer.measure(blend, benchmark, "task", events.append) == expected
    shown = [e.done for e in events if isinstance(e, Progress) and e.unit == "samples"]
    assert shown == [40], "all of them were known"
    assert [file.suffix for file in (tmp_path / "predictions").iterdir()] == [".gz"]


def test_a_worker_that_dies_each_time_ends_in_an_error_with_its_last_words(
    pool: Pool, small_benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After all restarts: how it ended, how often, at what, where the log is; no process left."""
    monkeypatch.setattr(scorer_module, "RESTARTS", 1)
    with VLMEvalKitScorer(work=tmp_path, device="cpu", max_new_tokens=4) as scorer:
        (benchmark,) = scorer.benchmarks(pool.reference, [str(small_benchmarks / "digit.tsv")])
        killer = Killer(scorer, 9)
        with pytest.raises(ScoringError) as error:
            scorer.measure(Blend(pool.members, pool.reference), benchmark, "the task", killer)
        assert scorer._process is None
    assert killer.times == 7
    assert len(killer.notes) == 1
    line, *words = str(error.value).splitlines()
    assert "the worker died 2 times at: the task; at last it was killed (signal 9), " in line
    assert str(tmp_path / "worker.log") in line
    assert words
    assert all(word.startswith("    ") for word in words)


def test_a_crash_in_native_code_says_where(tmp_path: Path) -> None:
    """The end of the log is the interpreter's own report, from its first line on."""
    process = Process(sys.executable, tmp_path / "log")
    with pytest.raises(ScoringError, match="KeyError"):
        process.ask({"do": "nothing"})
    os.kill(process.pid, signal.SIGSEGV)
    with pytest.raises(Died) as died:
        process.ask({"do": "nothing"})
    process.close()
    assert died.value.how == "was ended by signal 11 (Segmentation fault)"
    assert died.value.words.startswith("    Fatal Python error: Segmentation fault")
    assert "evaluators/workers/worker.py" in died.value.words


def test_errors_inside_the_worker_keep_their_kind(
    pool: Pool, tmp_path: Path, living: VLMEvalKitScorer
) -> None:
    """A benchmark error there is a benchmark error here; the worker lives on."""
    table = tmp_path / "mine.tsv"  # what only a worker finds out
    table.write_text("index\timage\tquestion\tA\tB\tanswer\n0\tnone\tq?\tx\ty\tA\n")
    assert living.benchmarks(pool.reference, []) == []
    before = living._process
    for _ in range(2):
        with pytest.raises(BenchmarkError, match="index 0: its image, 'none'"):
            living.benchmarks(pool.reference, [str(table)])
    assert living._process is before is not None
    os.kill(before.pid, 0)


def test_the_worker_ends_with_its_parent(tmp_path: Path) -> None:
    """Even a parent that is killed leaves no process that holds a GPU."""
    code = f"""
import os, pathlib, signal, sys
from soup.errors import ScoringError
from soup.evaluators.workers.process import Process
process = Process(sys.executable, pathlib.Path({str(tmp_path)!r}, "worker.log"))
try:
    process.ask({{"do": "nothing"}})
except ScoringError as error:  # it is up
    assert "KeyError" in str(error)
    print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout, done.stderr
    worker = Path("/proc") / done.stdout.strip()
    for _ in range(100):
        if not worker.exists() or "Z" in (worker / "stat").read_text().split(")")[-1].split()[0]:
            break
        subprocess.run(["sleep", "0.1"], check=True)
    else:
        pytest.fail(f"worker {worker.name} is still running")


def test_protocols_must_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of ourselves on the other side is one clear line."""
    monkeypatch.setattr(process_module, "PROTOCOL", 99)
    process = Process(sys.executable, tmp_path / "log")
    with pytest.raises(ScoringError, match=f"speaks protocol {PROTOCOL}, this command 99; .*updat"):
        process.ask({"do": "open"})
    process.close()


def test_a_worker_that_cannot_start_is_not_started_again(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment is at fault: one error, with the last lines of its traceback."""
    (tmp_path / "soup").mkdir()
    (tmp_path / "soup" / "__init__.py").write_text("import no_such_module")
    monkeypatch.setattr(process_module, "ROOT", tmp_path)
    with (
        VLMEvalKitScorer(work=tmp_path / "work") as scorer,
        pytest.raises(ScoringError, match=r"exit code 1 \(at: open\); (?s:.*)ModuleNotFoundError"),
    ):
        scorer.benchmarks(pool.reference, [])


def test_nothing_but_our_packages_is_taken_from_where_we_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is installed beside us, nor what lies in the working directory."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "soup").symlink_to(process_module.ROOT / "soup")
    (tmp_path / "soup").mkdir()
    poisoned = ["site/torch.py", "torch.py", "soup/__init__.py"]
    for file in poisoned:
        (tmp_path / file).write_text("raise SystemExit('the wrong one')\n")
    monkeypatch.setattr(process_module, "ROOT", tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    process = Process(sys.executable, tmp_path / "log")
    with pytest.raises(ScoringError, match="the worker failed: KeyError"):
        process.ask({"do": "nothing"})
    process.close()


COMMAND_LINE = {"typer", "click", "rich", "tomli", "soup.cli"}


def test_what_runs_in_the_worker_needs_nothing_of_the_command_line() -> None:
    """It starts without typer, rich and tomli."""
    code = f"""
import sys
absent = {COMMAND_LINE!r}
class Absent:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in absent:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
import soup.evaluators.workers.worker, soup.evaluators.engines.resident
print(sorted(absent & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_no_module_that_may_run_there_asks_for_the_command_line() -> None:
    """Whatever is imported later."""
    root = process_module.ROOT / "soup"
    files = [*root.rglob("*.py"), *(root / "evaluators").rglob("*.py")]  # a link, in a checkout
    for file in files:
        if {root / "cli", root / "watching"} & {*file.parents}:  # what people watch with
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            heads = {".".join(name.split(".")[:k]) for name in names for k in (1, 2)}
            assert not heads & COMMAND_LINE, file
