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
from tests.conftest import make_adapter
from tests.engines import qwen_pool
from tests.kit.judge_server import MODEL, JudgeServer, serve
from tests.kit.small_sets import SETS
from tests.workers.test_worker import Killer

pytestmark = pytest.mark.engines
ROOT = Path(__file__).resolve().parents[2]
FAMILY = {"qwen2-vl": {"min_pixels": qwen_pool.PIXELS, "max_pixels": qwen_pool.PIXELS}}
TENSOR = "layers.1.input_layernorm"


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """An interpreter with vLLM."""
    default = f"{sys.prefix}/vllm/bin/python"
    python = os.environ.get("SOUP_VLLM_PYTHON", default)
    if not Path(python).is_file():
        pytest.skip(f"{python}: not there; make test-engines makes it")
    return python


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest) -> Path:
    """The pool, trained once for all runs of these tests."""
    assert request.config.cache is not None
    place = request.config.cache.mkdir(f"qwen2-vl-{torch.__version__}") / "pool-1"
    if not (place / "done").exists():
        subprocess.run(["rm", "-rf", str(place)], check=True)
        qwen_pool.build(place)
        (place / "done").touch()
    return place


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
def inside(trained: Path, vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What ``vllm_by_hand.py`` found."""
    work = tmp_path_factory.mktemp("inside")
    reference = trained / "ckpts" / "all"
    eye = work / "eye"  # another vision tower, and nothing else
    model, processor = qwen_pool.model_of(0)
    first = type(model).from_pretrained(reference, dtype=torch.float32)
    for name, parameter in first.named_parameters():
        if "visual" in name and parameter.ndim > 1:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
    qwen_pool.save(first, processor, eye, torch.float32)
    untied = [
        qwen_pool.save(*qwen_pool.model_of(seed, tied=False), work / f"untied{seed}", torch.float32)
        for seed in (1, 2)
    ]
    chance = torch.Generator().manual_seed(3)
    adapters = [
        make_adapter(
            work / f"lora{k}",
            {
                f"{layer}.lora_{part}.weight": torch.randn(shape, generator=chance) * 0.3
                for layer in (f"model.layers.{n}.self_attn.q_proj" for n in (0, 1))
                for part, shape in (("A", (4, 128)), ("B", (128, 4)))
            },
            trained / "base",
        )
        for k in range(2)
    ]
    pools = [
        {"name": "tied", "members": [str(reference), str(eye)], "faults": TENSOR},
        {"name": "untied", "members": [str(path) for path in untied]},
        {"name": "lora", "members": [str(path) for path in adapters]},
    ]
    for pool in pools:
        pool["families"] = FAMILY  # type: ignore[assignment]
    (work / "pools.json").write_text(json.dumps(pools))
    done = subprocess.run(
        [vllm_python, str(Path(__file__).with_name("vllm_by_hand.py")), str(work / "pools.json"),
         str(trained / "benchmarks/digit.tsv"), str(work / "out.json")],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((work / "out.json").read_text())


@pytest.mark.parametrize("pool", ["tied", "untied", "lora"])
def test_answers_are_transformers_own(inside: Any, pool: str) -> None:
    """In float32, text by text: each member, their average, and the first again."""
    assert inside[pool]["vllm"] == inside[pool]["transformers"]


@pytest.mark.parametrize("pool", ["tied", "untied", "lora"])
def test_what_answers_is_what_was_swapped_in(inside: Any, pool: str) -> None:
    """Members that differ answer otherwise, in the vision tower alone, too; and back again."""
    first, second, *_, again = inside[pool]["vllm"]
    assert first != second
    assert first == again


def test_a_tensor_that_does_not_arrive_is_named(inside: Any) -> None:
    """VLLM itself would only warn, and answer with the old one."""
    assert TENSOR in inside["tied"]["withheld"]
    assert "nothing is scored" in inside["tied"]["withheld"]


def test_a_number_that_is_another_is_found(inside: Any) -> None:
    """What the engine holds has the fingerprint of what was sent, or there is no score."""
    assert "is not what was sent" in inside["tied"]["changed"]


def test_a_cache_left_full_is_found(inside: Any) -> None:
    """Image embeddings and prefixes of other weights are never answered from."""
    assert "still remembers" in inside["tied"]["remembering"]


def test_after_a_failure_the_engine_goes_on(inside: Any) -> None:
    """The next swap is whole, and its answers are right."""
    assert inside["tied"]["after"] == inside["tied"]["vllm"][0]


FAMILIES = ("qwen2.5-vl", "qwen3-vl", "internvl-hf", "smolvlm", "smolvlm2")
"""Those whose answers are equal; Qwen2-VL is above. See docs/engines.md for the others."""


@pytest.fixture(scope="module")
def families(vllm_python: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What ``vllm_families.py`` found."""
    work = tmp_path_factory.mktemp("families")
    done = subprocess.run(
        [vllm_python, str(Path(__file__).with_name("vllm_families.py")), str(work),
         str(work / "out.json"), *FAMILIES],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((work / "out.json").read_text())


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_answered_as_by_transformers(families: Any, family: str) -> None:
    """In float32: two members, their average, the first again; with one and with two pictures."""
    found = families[family]
    assert found.get("why") is None
    assert found["vllm"] == found["transformers"]
    first, second, *_ = found["vllm"]
    assert first != second


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
        assert f"check the words of {benchmark.name}" in " ".join(told)
        assert f"measure the questions of {benchmark.name}" in " ".join(told)
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
        with pytest.raises(ScoringError, match="max-length is 8; raise it"):
            scorer.measure(Blend(pool.members, pool.reference), benchmark, "task")
    assert ledger.bits(torch.zeros(3)).item() == 0
