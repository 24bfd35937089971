"""How many workers there are, and which devices and threads each of them has."""

import os
from collections.abc import Mapping

from soup.errors import UsageError
from soup.evaluators.workers.early import gpus
from soup.words import counted

AUTO = "auto"

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Also AMD's runtime goes by it."""


def require_workers(workers: int | str) -> int | str:
    """A number of workers, or ``auto``.

    Raises:
        UsageError: it is neither.
    """
    if workers == AUTO:
        return AUTO
    try:
        count = int(workers)
    except ValueError:
        count = 0
    if count < 1 or isinstance(workers, (bool, float)):
        raise UsageError(f"--workers {workers}: expected a number of workers, or auto")
    return count


def places(workers: int | str, each: int, device: str, engine: str) -> list[Mapping[str, str]]:
    """The environment variables of each worker, which say what it runs on.

    Args:
        workers: how many, or ``auto``: as many as there are GPUs for, and one where there is none.
        each: GPUs of each.
        device: as ``--device`` has it.
        engine: as ``--engine`` has it.

    Raises:
        UsageError: there are not as many GPUs, or the options do not go together.
    """
    workers = require_workers(workers)
    if each < 1:
        raise UsageError(f"--gpus-per-worker {each}: expected 1 or more")
    if workers == 1 and each == 1:
        return [{}]
    if device.startswith("cuda:"):
        raise UsageError(
            f"--device {device} is one device; for several workers leave it out, and name GPUs in "
            f"{VISIBLE} where not all are to be used"
        )
    here = gpus()
    if device == "cpu" or here == 0:
        return _without(workers, each)
    if each > 1 and engine != "vllm":
        raise UsageError(
            f"--gpus-per-worker {each}: only vLLM puts a model on several GPUs; add --engine vllm"
        )
    listed = [part.strip() for part in os.environ.get(VISIBLE, "").split(",") if part.strip()]
    if not listed and here is None:  # the driver does not tell: as many as were asked for
        listed = [str(k) for k in range(each if workers == AUTO else int(workers) * each)]
    names = listed or [str(k) for k in range(here or 0)]
    count = len(names) // each if workers == AUTO else int(workers)
    if count < 1 or count * each > len(names):
        asked = f"--workers {workers}" + (f" --gpus-per-worker {each}" if each > 1 else "")
        wanted = max(count, 1) * each
        raise UsageError(
            f"{asked}: {counted(wanted, 'GPU')} needed, {len(names)} seen here; ask for fewer, or "
            "for --device cpu"
        )
    return [{VISIBLE: ",".join(names[k * each : (k + 1) * each])} for k in range(count)]


def _without(workers: int | str, each: int) -> list[Mapping[str, str]]:
    """Workers without a GPU share the processor's cores."""
    if each > 1:
        raise UsageError(f"--gpus-per-worker {each}: no GPU is seen here, or --device cpu is given")
    count = 1 if workers == AUTO else int(workers)
    if count == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{}] * count
    threads = str(max(1, cores() // count))
    return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}] * count


def spare(evaluators: int | str, workers: int, device: str) -> int:
    """How many processes without a model may evaluate, beside so many workers.

    Args:
        evaluators: how many, or ``auto``: one for each of several workers that have GPUs, as far as
            there are two cores for each worker and one for it; none where workers compute on the
            cores themselves, or one worker does everything in turn.
        workers: how many.
        device: as ``--device`` has it.

    Raises:
        UsageError: it is neither.
    """
    if evaluators == AUTO:
        alone = workers == 1 or device == "cpu" or gpus() == 0
        return 0 if alone else max(0, min(workers, cores() - 2 * workers))
    try:
        count = int(evaluators)
    except ValueError:
        count = -1
    if count < 0 or isinstance(evaluators, (bool, float)):
        raise UsageError(f"--evaluators {evaluators}: expected 0 or a number, or auto")
    return count


def cores() -> int:
    """Of the processor, for this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
