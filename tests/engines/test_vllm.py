"""evaluators/engines/vllm_*: the same answers as transformers', of the weights that were sent.

Needs the environment that `make test-engines` makes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.errors import ScoringError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.engines import ledger
from soup.events import Progress
from tests.engines import qwen_pool
from tests.kit.judge_server import MODEL, JudgeServer, serve
from tests.kit.small_sets import SETS
from tests.workers.test_worker import Killer

pytestmark = pytest.mark.engines
ROOT = Path(__file__).resolve().parents[2]
FAMILY = {"qwen2-vl": {"min_pixels": qwen_pool.PIXELS, "max_pixels": qwen_pool.PIXELS}}


def soup(work: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command line, in a directory."""
    return subprocess.run(
        [sys.executable, "-m", "soup", *arguments],
        cwd=work, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(
    trained: Path, vllm_python: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """One greedy run by each engine: where it was, and its leaderboard as JSON."""
    found = {}
    for engine in ("vllm", "transformers"):
        work = tmp_path_factory.mktemp(engine)
        (work / "soup.toml").write_text((trained / "soup.toml").read_text())
        members = sorted(str(path) for path in (trained / "ckpts").iterdir())
        benches = [str(trained / "benchmarks" / f"{name}.tsv") for name in ("parity", "digit")]
        done = soup(
            work, "greedy", *members, "--bench", benches[0], "--bench", benches[1],
            "--device", "cpu", "--dtype", "float32", "--engine", engine, "-o", "soup",
            "--worker-python", vllm_python, "--json", "board.json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[engine] = work, json.loads((work / "board.json").read_text()), done.stderr
    return found


def test_a_greedy_soup_is_the_same_by_either_engine(runs: dict[str, Any]) -> None:
    """The same members kept, the same scores, and the same bytes."""
    (one, ours, _), (other, theirs, _) = runs["vllm"], runs["transformers"]
    assert ours["path"] == theirs["path"]
    assert (one / "soup/model.safetensors").read_bytes() == (
        other / "soup/model.safetensors"
    ).read_bytes()
    assert len(ours["path"]) > 1


def test_trials_end_early_through_it(runs: dict[str, Any], trained: Path, vllm_python: str) -> None:
    """With --confident slices of a benchmark are asked; the same members are kept."""
    work, board, _ = runs["vllm"]
    done = soup(
        work, "greedy", *sorted(str(path) for path in (trained / "ckpts").iterdir()),
        "--bench", str(trained / "benchmarks/parity.tsv"),
        "--bench", str(trained / "benchmarks/digit.tsv"), "--device", "cpu", "--dtype", "float32",
        "--engine", "vllm", "--worker-python", vllm_python, "-o", "early", "--json", "early.json",
        "--confident", "0.8", "--work", "early-work",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    early = json.loads((work / "early.json").read_text())
    assert any("stopped" in step for step in early["path"])
    assert [(s["tried"], s["kept"]) for s in early["path"]] == [
        (s["tried"], s["kept"]) for s in board["path"]
    ]


def test_the_engine_is_part_of_a_results_key(
    runs: dict[str, Any], trained: Path, vllm_python: str
) -> None:
    """What one engine scored is not taken for the other's; its version is recorded."""
    texts = [(runs[name][0] / ".soup/journal.jsonl").read_text() for name in runs]
    assert '"engine": "vllm"' in texts[0] or '"engine":"vllm"' in texts[0]
    assert '"vllm"' not in texts[1]


@pytest.fixture(scope="module")
def judge() -> Iterator[JudgeServer]:
    """A judge on localhost."""
    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def scorer(
    judge: JudgeServer, vllm_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VLMEvalKitScorer]:
    """A scorer that asks vLLM, and has a judge."""
    with VLMEvalKitScorer(
        work=tmp_path_factory.mktemp("scorer"), device="cpu", max_new_tokens=4, engine="vllm",
        worker_python=vllm_python, families=FAMILY, judge=MODEL, judge_url=judge.url,
    ) as made:  # fmt: skip
        yield made


def test_a_judge_hears_what_it_answers(
    trained: Path, scorer: VLMEvalKitScorer, judge: JudgeServer, tmp_path: Path
) -> None:
    """MM-Vet's metric asks about every answer, and its verdicts are the score."""
    pool = Pool.open(str(trained / "ckpts" / "all"), dtype="F32")
    file = SETS["MMVet"].write(tmp_path / "MMVet.tsv")
    (benchmark,) = scorer.benchmarks(pool.reference, [str(file)])
    result = scorer.measure(Blend(pool.members, pool.reference, dtype="F32"), benchmark, "task")
    assert len(judge.asked) == result.samples == 3
    assert result.unjudged == 0
    assert 0 <= result.value <= 100


def test_words_that_were_proven_are_not_proven_again(
    trained: Path, scorer: VLMEvalKitScorer, tmp_path: Path
) -> None:
    """A later worker measures and checks nothing of them; another benchmark it does."""
    told: list[str] = []

    def observe(event: Any) -> None:
        if isinstance(event, Progress):
            told.append(event.task)

    pool = Pool.open(str(trained / "ckpts" / "all"), dtype="F32")
    blend = Blend(pool.members, pool.reference, dtype="F32")
    files = [str(trained / "benchmarks" / f"{name}.tsv") for name in ("parity", "digit")]
    first = []
    for file in files:
        (benchmark,) = scorer.benchmarks(pool.reference, [file])
        told.clear()
        first.append(scorer.measure(blend, benchmark, "task", observe).outcomes)
        assert any(task.startswith("check the words of") for task in told)
        assert any(task.startswith("measure the questions of") for task in told)
        scorer.close()  # the next worker knows nothing but what is on the disk
        told.clear()
        assert scorer.measure(blend, benchmark, "task", observe).outcomes == first[-1]
        assert not [task for task in told if "words" in task or "measure" in task]


def test_a_worker_killed_in_the_middle_is_followed_by_another(
    trained: Path, scorer: VLMEvalKitScorer
) -> None:
    """The result is that of a worker that lived, by the same engine."""
    members = [str(trained / "ckpts" / name) for name in ("all", "parity")]
    pool = Pool.open(*members, dtype="F32")
    (benchmark,) = scorer.benchmarks(pool.reference, [str(trained / "benchmarks/parity.tsv")])
    assert benchmark.settings["engine"] == "vllm"
    blend = Blend(pool.members, pool.reference, dtype="F32")
    killer = Killer(scorer, 1, after=0)
    killed = scorer.measure(blend, benchmark, "task", killer)
    assert [note for note in killer.notes if "another one goes on from there" in note]
    whole = scorer.measure(blend, benchmark, "task")
    assert whole.outcomes == killed.outcomes


def test_a_question_that_does_not_fit_is_named(
    trained: Path, tmp_path: Path, vllm_python: str
) -> None:
    """A limit in soup.toml that the longest question breaks is an error, not an empty answer."""
    with VLMEvalKitScorer(
        work=tmp_path, device="cpu", engine="vllm", vllm={"max_length": 8}, families=FAMILY,
        worker_python=vllm_python,
    ) as scorer:  # fmt: skip
        pool = Pool.open(str(trained / "ckpts" / "all"))
        (benchmark,) = scorer.benchmarks(pool.reference, [str(trained / "benchmarks/parity.tsv")])
        with pytest.raises(
            ScoringError, match=r"the question of index .* max-length is 8; raise it"
        ):
            scorer.measure(Blend(pool.members, pool.reference), benchmark, "task")
    assert ledger.bits(torch.zeros(3)).item() == 0
