"""Options, each defined once, in the groups that commands share; a new option is a field.

``soup.cli.grouping`` makes a command's options of the groups that it takes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from soup.blending.methods import METHODS
from soup.cli import completing
from soup.cli.values import COUNT
from soup.evaluators.kit.suites import SUITES

WORK = Path(".soup")

Base = Annotated[
    Path | None,
    typer.Option(
        "--base",
        metavar="DIR",
        help="What the members were fine-tuned from; LoRA adapters change it.",
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Where models from elsewhere are kept (default: $SOUP_CACHE, ~/.cache/soup).",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        autocompletion=completing.among(("float32", "float16", "bfloat16")),
        help="Of the output: float32, float16, bfloat16 (default: no cast).",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        autocompletion=completing.among(completing.devices),
        help="For scoring: auto, cpu, cuda, cuda:1.",
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no table: just the written path.")
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Leaderboard as JSON, also of a run that fails; replaces FILE; - is stdout.",
    ),
]
Markdown = Annotated[
    Path | None,
    typer.Option(
        "--markdown",
        metavar="FILE",
        help="The same as Markdown; replaces FILE, but adds to it where it is the step summary of "
        "GitHub's CI ($GITHUB_STEP_SUMMARY); - is stdout.",
    ),
]
Work = Annotated[
    Path, typer.Option("--work", metavar="DIR", help="Journal, cache and predictions.")
]

CHOOSING = "Choosing"
Accept = Annotated[
    str,
    typer.Option(
        "--accept",
        metavar="RULE",
        help="What keeps a member: gain, significant (any gain is POINTS' definition).",
        rich_help_panel=CHOOSING,
    ),
]
Confident = Annotated[
    float | None,
    typer.Option(
        "--confident",
        metavar="P",
        help="Stop losing trials early; with a chance of P, e.g. 0.95, none of the run's would "
        "have won (default: never).",
        rich_help_panel=CHOOSING,
    ),
]


@dataclass(frozen=True)
class PoolOptions:
    """What is blended."""

    PANEL: ClassVar = "Pool"

    ckpts: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT...",
            help="Model directories; quoted globs work too. Or addresses: hf://org/name@revision, "
            "s3://bucket/path, gs://bucket/path, https://host/path.",
        ),
    ]
    base: Base = None
    processor: Annotated[
        Path | None,
        typer.Option(
            "--processor",
            metavar="DIR",
            help="Supplies tokenizer, processor, template and code to members that lack them; "
            "--base does, too.",
        ),
    ] = None
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="NAME",
            help="Member whose config, tokenizer, processor and layout a soup gets "
            "(default: the first).",
        ),
    ] = None
    dtype: Dtype = None
    cache: Cache = None


@dataclass(frozen=True)
class MergeOptions:
    """How it is merged."""

    PANEL: ClassVar = "Pool"

    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="NAME",
            autocompletion=completing.among(METHODS),
            help=f"How to merge: {', '.join(METHODS)}.",
        ),
    ] = "linear"
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            autocompletion=completing.among(completing.parameters),
            help="A parameter of the method. Repeatable.",
        ),
    ] = None


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is asked, and who judges the answers."""

    PANEL: ClassVar = "Benchmarks"

    bench: Annotated[
        list[str] | None,
        typer.Option(
            "--bench",
            metavar="NAME",
            autocompletion=completing.among(completing.benchmarks),
            help="VLMEvalKit benchmark, or a TSV's path; NAME=0.5 counts half. Repeatable.",
        ),
    ] = None
    mean: Annotated[
        str,
        typer.Option(
            "--mean",
            metavar="HOW",
            help="How benchmarks count: macro (alike), samples (by questions), z (by spread).",
        ),
    ] = "macro"
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME",
            autocompletion=completing.among(SUITES),
            help=f"Several benchmarks at once, before those of --bench: {', '.join(SUITES)}.",
        ),
    ] = None
    holdout: Annotated[
        list[str] | None,
        typer.Option(
            "--holdout",
            metavar="NAME",
            autocompletion=completing.among(completing.benchmarks),
            help="Scored and shown, never used to decide. Repeatable.",
        ),
    ] = None
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", metavar="MODEL", help="Reads answers that no rule can, as VLMEvalKit's does."
        ),
    ] = None
    judge_url: Annotated[
        str | None,
        typer.Option(
            "--judge-url",
            metavar="URL",
            help="OpenAI-compatible endpoint, …/v1; its key is in the environment: OPENAI_API_KEY.",
        ),
    ] = None


@dataclass(frozen=True)
class ScoringOptions:
    """How models are loaded and asked."""

    PANEL: ClassVar = "Scoring"

    device: Device = "auto"
    compute_dtype: Annotated[
        str,
        typer.Option(
            "--compute-dtype",
            metavar="DTYPE",
            autocompletion=completing.among(completing.compute_dtypes),
            help="For scoring; auto is the checkpoint's on a GPU, float32 on CPU.",
        ),
    ] = "auto"
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Most questions per batch (default: what fits).",
        ),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            metavar="N",
            min=1,
            help="Longest answer (default: VLMEvalKit's for the model).",
        ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Let Python code inside the checkpoints run."),
    ] = False
    worker_python: Annotated[
        Path | None,
        typer.Option(
            "--worker-python",
            metavar="PATH",
            help="Python that loads and asks the models, where another transformers is needed.",
        ),
    ] = None
    same_companions: Annotated[
        bool,
        typer.Option(
            "--same-companions",
            help="Score every member with the reference's template, processor, tokenizer and "
            "generation settings and code (default: with its own).",
        ),
    ] = False
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            metavar="NAME",
            autocompletion=completing.among(completing.families),
            help="How the models are asked (default: by their config); see [bold]soup families[/].",
        ),
    ] = None
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="NAME",
            autocompletion=completing.among(completing.engines),
            help="What answers: transformers or vllm; auto is vllm where it is installed beside a "
            "GPU and serves the model.",
        ),
    ] = "auto"
    workers: Annotated[
        str | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Processes that share the work, each with a model; auto is one for each GPU "
            "(default: 1; auto with [bold]--ray[/]).",
        ),
        COUNT,
    ] = None
    gpus_per_worker: Annotated[
        int,
        typer.Option(
            "--gpus-per-worker", metavar="K", min=1, help="GPUs that share one model, with vLLM."
        ),
    ] = 1
    evaluators: Annotated[
        str,
        typer.Option(
            "--evaluators",
            metavar="N",
            help="Processes without a model that evaluate what workers have answered, at most; "
            "auto is one for each of several workers that have GPUs, where cores are to spare.",
        ),
        COUNT,
    ] = "auto"
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Let the nodes of a Ray cluster do the work: auto, or HOST:PORT of its head.",
        ),
    ] = None
    ray_copy: Annotated[
        bool,
        typer.Option(
            "--ray-copy",
            help="Send members that a node lacks to its own disk, once; without it a node must see "
            "them under the same paths.",
        ),
    ] = False
    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            help="Answers that do not depend on what is asked beside them: vllm, on a GPU of "
            "compute capability 8.0 or more; slower.",
        ),
    ] = False


@dataclass(frozen=True)
class OutputOptions:
    """What is written."""

    PANEL: ClassVar = "Output"

    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Where to write (default: soup-<kind>); hf://, s3:// or gs:// is sent there.",
        ),
    ] = None
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Delete an earlier soup at --out instead of keeping it."),
    ] = False
    as_adapter: Annotated[
        bool,
        typer.Option(
            "--as-adapter", help="For LoRA adapters of one base: write one, no full model."
        ),
    ] = False
    charts: Annotated[
        bool, typer.Option("--charts", help="Draw path and gains into the model card.")
    ] = False


@dataclass(frozen=True)
class ShowOptions:
    """What is shown."""

    PANEL: ClassVar = "Output"

    quiet: Quiet = False
    json: Json = None
    markdown: Markdown = None


@dataclass(frozen=True)
class LookOptions:
    """What is shown of an earlier run."""

    PANEL: ClassVar = "Output"

    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="No table: just the path of the soup, where one was written."
        ),
    ] = False
    json: Json = None
    markdown: Markdown = None


@dataclass(frozen=True)
class RunOptions:
    """How the run goes."""

    PANEL: ClassVar = "Run"

    work: Work = WORK
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and its cost; score and write nothing.")
    ] = False
