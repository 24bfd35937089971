"""Traps 8 and 9 of ``tests.kit.traps``: the process, and its environment."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kit.test_vlmevalkit import YES_NO, tsv

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")

ROOT = Path(__file__).resolve().parents[2]


def test_trap_8_importing_vlmeval_changes_nothing_in_the_users_process(
    demo: Path, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Trap 8: gradients, random state, TLS, logging and environment are as they were.

    All that was asked for is there: outcomes, kept predictions, what it was measured with.
    """
    code = f"""
import logging, os, random, ssl, sys
import numpy, torch
def state():
    root = logging.getLogger()
    return (
        torch.is_grad_enabled(), torch.initial_seed(), torch.get_rng_state().tolist(),
        torch.get_num_threads(), random.getstate(), numpy.random.get_state()[1].tolist(),
        ssl._create_default_https_context, root.level, list(root.handlers), dict(os.environ),
    )
torch.manual_seed(5)
before = state()
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.workers.protocol import PROTOCOL, encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
pool = Pool.open({str(demo / "ckpts" / "digit")!r})
with VLMEvalKitScorer(work={str(tmp_path)!r}, device="cpu", max_new_tokens=4) as scorer:
    (benchmark,) = scorer.benchmarks(pool.reference, [{str(small_benchmarks / "digit.tsv")!r}])
    result = scorer.measure(Blend(pool.members, pool.reference), benchmark, "task")
assert state() == before
assert benchmark.samples == result.samples == len(result.outcomes) == 40
assert abs(sum(result.outcomes.values()) / 40 * 100 - result.value) < 1e-9
assert benchmark.settings["vlmeval"].startswith("ms-vlmeval ")
assert benchmark.settings["compute_dtype"] == "float32"
assert not {{"vlmeval", "transformers", "pandas", "PIL"}} & sys.modules.keys()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert len(list((tmp_path / "predictions").glob("*.tsv.gz"))) == 1


def prompts_and_scores(directory: Path, answers: dict[str, list[str]]) -> dict[str, Any]:
    """What the sets of a directory ask, and what answers to them are worth."""
    found = {}
    for name, said in answers.items():
        one = vlmevalkit.Dataset(str(directory / f"{name}.tsv"), directory / "cache")
        outcome = one.evaluate(said, directory / "kept.tsv")
        prompts = [[item["value"] for item in message[1:]] for message in one.messages()]
        found[name] = [outcome.value, outcome.unparsed, outcome.outcomes, prompts]
    return found


def test_trap_9_the_environment_changes_no_score(tmp_path: Path) -> None:
    """Trap 9: nor does the .env file that VLMEvalKit reads beside its package; none is left."""
    rows = [{"question": "q?", "A": "x", "B": "y", "C": "w", "answer": "A"} for _ in range(4)]
    tsv(tmp_path / "choice.tsv", rows)
    tsv(tmp_path / "yes_no.tsv", YES_NO)
    tsv(tmp_path / "circular.tsv", rows)
    answers = {
        # with VERBOSE, "A" in a sentence may be a quantifier; long text is cut by xlsx
        "choice": ["A is the one", "=A", "A" * 40000, "<think>B</think> A"],
        "yes_no": ["Yes", "=No", "no " * 20000, "<think>Yes</think> No"],
        "circular": ["A is the one", "A", "B", "A"],
    }
    hostile = {
        "VERBOSE": "1",
        "USE_COT": "1",
        "SPLIT_THINK": "True",
        "SKIP_ERR": "1",
        "PRED_FORMAT": "xlsx",
        "EVAL_FORMAT": "json",
        "LOCAL_LLM": "a-model",
        "FORCE_LOCAL": "1",
        "PRINT_VANILLA": "1",
    }
    import vlmeval

    beside = tmp_path / "site"
    beside.mkdir()
    (beside / "vlmeval").symlink_to(Path(vlmeval.__file__).parent)
    (beside / ".env").write_text("".join(f"{k}={v}\n" for k, v in hostile.items()))
    code = (
        "import json, sys; from pathlib import Path; from tests.kit import test_traps_process as t;"
        "print(json.dumps(t.prompts_and_scores(Path(sys.argv[1]), json.loads(sys.argv[2]))));"
        "print(json.dumps(dict(t.os.environ)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), json.dumps(answers)],
        env=os.environ | hostile | {"PYTHONPATH": f"{beside}:{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, environment = map(json.loads, done.stdout.splitlines()[-2:])
    assert {name: environment[name] for name in hostile if name in environment} == {
        "PRED_FORMAT": "tsv"
    }
    assert found == prompts_and_scores(tmp_path, answers)
    assert [found[name][0] for name in answers] == [50.0, 75.0, 75.0]
