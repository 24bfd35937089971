"""What was given on the command line and in soup.toml, as the library wants it."""

from typing import Any

from soup.cli import config
from soup.cli.options import parameters
from soup.errors import UsageError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.kit.suites import with_suite
from soup.run import Settings

DTYPES = {
    "float32": "F32",
    "fp32": "F32",
    "float16": "F16",
    "fp16": "F16",
    "bfloat16": "BF16",
    "bf16": "BF16",
}


def settings_of(given: dict[str, Any]) -> Settings:
    """The settings of a run.

    Raises:
        UsageError: an option's value is none of those that it can have.
    """
    return Settings(
        benchmarks=with_suite(given["suite"], given["bench"] or ()),
        holdouts=tuple(given["holdout"] or ()),
        out=given.get("out"),
        work=given["work"],
        dtype=dtype_of(given["dtype"]),
        method=given.get("method", "linear"),
        parameters=parameters(given.get("set")),
        weights=given.get("weight") or None,
        min_gain=given.get("min_gain", 0.0),
        confident=given.get("confident"),
        overwrite=given.get("overwrite", False),
        as_adapter=given.get("as_adapter", False),
    )


def scorer_of(given: dict[str, Any]) -> VLMEvalKitScorer:
    """The scorer, not started.

    Raises:
        UsageError: options that do not go together.
    """
    families = config.families()
    if given["context"].get_parameter_source("worker_python").name == "COMMANDLINE":
        for options in families.values():
            options.pop("worker_python", None)  # the command line wins
    return VLMEvalKitScorer(
        work=given["work"],
        device=given["device"],
        compute_dtype=given["compute_dtype"],
        batch_size=given["batch_size"],
        max_new_tokens=given["max_new_tokens"],
        trust_remote_code=given["trust_remote_code"],
        judge=given.get("judge"),
        judge_url=given.get("judge_url"),
        worker_python=given["worker_python"],
        family=given["family"],
        families=families,
    )


def dtype_of(name: str | None) -> str | None:
    """An output dtype as checkpoints spell it.

    Raises:
        UsageError: not one that can be written.
    """
    if name is None:
        return None
    if name not in DTYPES:
        raise UsageError(f"--dtype {name}: expected float32, float16 or bfloat16")
    return DTYPES[name]
