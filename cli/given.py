"""What was given on the command line and in soup.toml, as the library wants it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from soup.cli import config
from soup.cli.merging import parameters
from soup.cli.options import (
    BenchmarkOptions,
    MergeOptions,
    OutputOptions,
    PoolOptions,
    RunOptions,
    ScoringOptions,
)
from soup.errors import UsageError
from soup.evaluators.kit.suites import with_suite
from soup.words import either

if TYPE_CHECKING:
    from soup.evaluators import VLMEvalKitScorer
    from soup.settings import Settings

DTYPES = {
    "float32": "F32",
    "fp32": "F32",
    "float16": "F16",
    "fp16": "F16",
    "bfloat16": "BF16",
    "bf16": "BF16",
}
WRITTEN = ("float32", "float16", "bfloat16")
"""Those that help and completion name."""


def settings_of(
    pool: PoolOptions,
    benchmarks: BenchmarkOptions,
    run: RunOptions,
    output: OutputOptions = OutputOptions(),
    merging: MergeOptions = MergeOptions(),
    scoring: ScoringOptions = ScoringOptions(),
    **own: Any,
) -> "Settings":
    """The settings of a run; ``own`` are those of one command alone.

    Raises:
        UsageError: an option's value is none of those that it can have.
    """
    from soup.settings import Settings

    names, weights = weighted(benchmarks.bench or ())
    return Settings(
        benchmarks=with_suite(benchmarks.suite, names),
        bench_weights=weights,
        mean=benchmarks.mean,
        holdouts=tuple(benchmarks.holdout or ()),
        out=output.out,
        work=run.work,
        dtype=dtype_of(pool.dtype),
        method=merging.method,
        parameters=parameters(merging.set),
        overwrite=output.overwrite,
        as_adapter=output.as_adapter,
        same_companions=scoring.same_companions,
        **own,
    )


def scorer_of(
    context: typer.Context,
    scoring: ScoringOptions,
    work: Path,
    benchmarks: BenchmarkOptions = BenchmarkOptions(),
) -> "VLMEvalKitScorer":
    """The scorer, not started.

    Raises:
        UsageError: options that do not go together.
    """
    from soup.evaluators import VLMEvalKitScorer

    families = config.families()
    for name in ("worker_python", "engine"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            for options in families.values():
                options.pop(name, None)  # the command line wins
    return VLMEvalKitScorer(
        work=work,
        device=scoring.device,
        compute_dtype=scoring.compute_dtype,
        batch_size=scoring.batch_size,
        max_new_tokens=scoring.max_new_tokens,
        trust_remote_code=scoring.trust_remote_code,
        judge=benchmarks.judge,
        judge_url=benchmarks.judge_url,
        worker_python=scoring.worker_python,
        family=scoring.family,
        families=families,
        engine=scoring.engine,
        workers=scoring.workers,
        gpus_per_worker=scoring.gpus_per_worker,
        evaluators=scoring.evaluators,
        ray=scoring.ray,
        ray_copy=scoring.ray_copy,
        vllm=config.vllm() | ({"batch_invariant": True} if scoring.batch_invariant else {}),
    )


def weighted(given: Sequence[str]) -> tuple[list[str], dict[str, float]]:
    """Benchmarks, and the weights of those that are given as ``NAME=WEIGHT``.

    Raises:
        UsageError: a name without a weight after its =, or given twice with two weights.
    """
    names, weights = [], {}
    for text in given:
        name, equals, weight = text.rpartition("=")
        if not equals or os.path.exists(text):
            names.append(text)
            continue
        try:
            weights[name] = float(weight)
        except ValueError:
            raise UsageError(
                f"--bench {text}: expected a number after =, found {weight!r}"
            ) from None
        names.append(name)
    return names, weights


def dtype_of(name: str | None) -> str | None:
    """An output dtype as checkpoints spell it.

    Raises:
        UsageError: not one that can be written.
    """
    if name is None:
        return None
    if name not in DTYPES:
        raise UsageError(f"--dtype {name}: expected {either(WRITTEN)}")
    return DTYPES[name]
