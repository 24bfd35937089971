"""evaluators/engines/vllm_import.py: vLLM in several processes, and in the doctor's.

Needs the environment that `make test-engines` makes.
"""

import os
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.evaluators import VLMEvalKitScorer
from tests.engines.test_vllm import FAMILY, soup

pytestmark = pytest.mark.engines


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each of two wants a core")
def test_two_processes_share_one_model(trained: Path, tmp_path: Path, vllm_python: str) -> None:
    """Each holds its part of the blend, proven, and together they answer as transformers does."""
    pool = Pool.open(*(str(trained / "ckpts" / name) for name in ("all", "parity")), dtype="F32")
    blend = Blend(pool.members, pool.reference, dtype="F32")
    found = []
    for engine in ("vllm", "transformers"):
        with VLMEvalKitScorer(
            work=tmp_path / engine, device="cpu", max_new_tokens=4, families=FAMILY, engine=engine,
            vllm={"tensor_parallel": 2}, worker_python=vllm_python,
        ) as scorer:  # fmt: skip
            file = str(trained / "benchmarks/digit.tsv")
            (benchmark,) = scorer.benchmarks(pool.reference, [file])
            found.append(scorer.measure(blend, benchmark, "task").outcomes)
            if engine == "vllm":  # what two answer is not taken for what one answers
                assert benchmark.settings["tensor_parallel"] == 2
    assert found[0] == found[1]


def test_doctor_asks_a_question_through_it(trained: Path, tmp_path: Path, vllm_python: str) -> None:
    """It says that vLLM knows the model, and shows an answer of it."""
    (tmp_path / "soup.toml").write_text((trained / "soup.toml").read_text())
    done = soup(
        tmp_path, "doctor", str(trained / "ckpts/all"), "--try", "--engine", "vllm",
        "--worker-python", vllm_python, "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "knows Qwen2VLForConditionalGeneration; --engine vllm" in done.stdout
    assert "answered: " in done.stdout
    assert "swapped weights out and in, and the answers followed" in done.stderr
