"""Mistakes about how models are asked that can be told at once, without torch."""

import os
import re
import sys
from pathlib import Path

from soup.checkpoints.checkpoint import Checkpoint
from soup.errors import ScoringError, UsageError
from soup.evaluators.models.families import family_of, named
from soup.words import closest

COMPUTE_DTYPES = ("auto", "float32", "bfloat16", "float16")
"""What ``--compute-dtype`` can be."""

DEVICES = ("auto", "cpu", "cuda")
"""What ``--device`` can be, besides a numbered one."""

SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}
"""What people write for dtypes, and what they are called."""

SEES = ("vision_config", "image_token_id", "image_token_index", "mm_vision_tower")
"""Keys of the config.json of a model that sees."""


def require_compute_dtype(name: str) -> None:
    """Raises UsageError where models cannot be computed in a dtype."""
    if name in COMPUTE_DTYPES:
        return
    meant = SHORT.get(name.lower()) or next(iter(closest(name, COMPUTE_DTYPES)), "")
    hint = f"did you mean {meant}?" if meant else f"expected one of {', '.join(COMPUTE_DTYPES)}"
    raise UsageError(f"--compute-dtype {name}: {hint}")


def require_device(name: str) -> None:
    """A device that may be here. Torch, and the worker's environment, have the last word.

    Raises:
        UsageError: it is none, or one that this machine cannot have.
    """
    if name in ("auto", "cpu"):
        return
    number = re.fullmatch(r"cuda(?::(\d{1,4}))?", name)
    if number is None:
        if re.fullmatch(r"(cpu|mps|xpu|npu|hpu|mlu|meta)(:\d+)?", name):
            hint = "expected auto, cpu, cuda or cuda:N"
        else:
            close = ["cuda"] if name == "gpu" else closest(name.partition(":")[0], DEVICES)
            hint = f"did you mean {close[0]}?" if close else "expected auto, cpu, cuda or cuda:N"
        raise UsageError(f"--device {name}: {hint}")
    most = gpus()
    if most == 0:
        raise UsageError(f"--device {name}: no GPU is seen here; use --device cpu, or auto")
    if most is not None and int(number.group(1) or 0) >= most:
        last = f"cuda:0 to cuda:{most - 1}" if most > 1 else "cuda:0"
        raise UsageError(f"--device {name}: {most} seen here; expected {last}")


def gpus() -> int | None:
    """How many GPUs torch can see at most, from the driver's files; None where they do not tell.

    The variables that hide GPUs count. AMD's GPUs are cuda devices to torch, too.
    """
    if sys.platform != "linux":
        return None
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        listed = os.environ.get(variable)
        if listed is not None and listed.strip() in ("", "-1"):
            return 0
    if Path("/dev/dxg").exists() or Path("/dev/kfd").exists() or Path("/dev/nvmap").exists():
        return None  # Windows' subsystem, AMD, Jetson
    found = sum(1 for path in Path("/dev").glob("nvidia[0-9]*"))
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if found and listed is not None:
        return min(found, len([part for part in listed.split(",") if part.strip()]))
    return found if found or not Path("/dev/nvidiactl").exists() else None


def require_beside(reference: Checkpoint) -> None:
    """The files beside the weights without which a model cannot be asked.

    Raises:
        ScoringError: there is no tokenizer, or no processor of images for a model that sees.
    """
    home, files = reference.home, reference.companions
    if not files.any_of("tokenizer"):
        raise ScoringError(
            f"{home}: no tokenizer beside the weights (expected tokenizer.json, tokenizer.model, "
            "vocab.json or the like); name the base model's directory with --processor DIR"
        )
    family = named(family_of(reference.config) or "")
    if (family is not None and family.custom_code) or "auto_map" in reference.config:
        return  # such code may make its processor of the config
    sees = any(key in reference.config for key in SEES)
    if sees and not files.has("processor"):
        raise ScoringError(
            f"{home}: no image processor beside the weights (expected preprocessor_config.json or "
            "processor_config.json); name the base model's directory with --processor DIR"
        )
