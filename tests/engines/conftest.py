"""What tests of engines share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock


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
    kept = request.config.cache.mkdir(f"qwen2-vl-{torch.__version__}")
    place = kept / "pool-1"
    with FileLock(kept / "lock"):  # two processes of tests may want it
        if not (place / "done").exists():
            from tests.engines import qwen_pool

            subprocess.run(["rm", "-rf", str(place)], check=True)
            qwen_pool.build(place)
            (place / "done").touch()
    return place
