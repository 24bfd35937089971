"""Option types that commands share, and the values that are more than a word."""

from pathlib import Path
from typing import Annotated

import typer

from soup.blending.methods import METHODS, Method
from soup.errors import UsageError
from soup.evaluators.kit.suites import SUITES

Ckpts = Annotated[
    list[str], typer.Argument(metavar="CKPT...", help="Model directories; quoted globs work too.")
]
Bench = Annotated[
    list[str] | None,
    typer.Option(
        "--bench", metavar="NAME", help="VLMEvalKit benchmark, or a TSV's path. Repeatable."
    ),
]
Holdout = Annotated[
    list[str] | None,
    typer.Option(
        "--holdout", metavar="NAME", help="Scored and shown, never used to decide. Repeatable."
    ),
]
Suite = Annotated[
    str | None,
    typer.Option(
        "--suite",
        metavar="NAME",
        help=f"Several benchmarks at once, before those of --bench: {', '.join(SUITES)}.",
    ),
]
Judge = Annotated[
    str | None,
    typer.Option(
        "--judge", metavar="MODEL", help="Reads answers that no rule can, as VLMEvalKit's does."
    ),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        "--judge-url",
        metavar="URL",
        help="OpenAI-compatible endpoint, …/v1; its key is in the environment: OPENAI_API_KEY.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Where to write (default: soup-<kind>)."),
]
Base = Annotated[
    Path | None,
    typer.Option(
        "--base",
        metavar="DIR",
        help="What the members were fine-tuned from; LoRA adapters change it.",
    ),
]
Work = Annotated[
    Path, typer.Option("--work", metavar="DIR", help="Journal, cache and predictions.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="Of the output: float32, float16, bfloat16 (default: no cast).",
    ),
]
Device = Annotated[str, typer.Option("--device", help="For scoring: auto, cpu, cuda, cuda:1.")]
ComputeDtype = Annotated[
    str,
    typer.Option(
        "--compute-dtype",
        help="For scoring; auto is the checkpoint's on a GPU, float32 on CPU.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Most questions per batch (default: what fits)."),
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens", min=1, help="Longest answer (default: VLMEvalKit's for the model)."
    ),
]
MinGain = Annotated[
    float,
    typer.Option("--min-gain", min=0, help="Points of mean that a member must add to be kept."),
]
Confident = Annotated[
    float | None,
    typer.Option(
        "--confident",
        metavar="P",
        help="Stop a trial early that cannot win with confidence P, e.g. 0.95 (default: never).",
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Let Python code inside the checkpoints run."),
]
WorkerPython = Annotated[
    Path | None,
    typer.Option(
        "--worker-python",
        metavar="PATH",
        help="Python that loads and asks the models, where another transformers is needed.",
    ),
]
FamilyName = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="NAME",
        help="How the models are asked (default: by their config); see [bold]soup families[/].",
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the plan and its cost; score and write nothing.")
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Delete an earlier soup at --out instead of keeping it."),
]
AsAdapter = Annotated[
    bool,
    typer.Option("--as-adapter", help="For LoRA adapters of one base: write one, no full model."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no table: just the written path.")
]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Leaderboard as JSON; - is stdout.")
]
Markdown = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="FILE", help="Leaderboard as Markdown; - is stdout."),
]
MethodName = Annotated[
    str, typer.Option("--method", metavar="NAME", help=f"How to merge: {', '.join(METHODS)}.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the method. Repeatable."),
]
Weight = Annotated[
    list[float] | None,
    typer.Option(
        "--weight", metavar="W", help="One per member, in their order; used as given. Repeatable."
    ),
]


def _line(name: str, method: Method) -> str:
    values = [f"{key}={value:g}" for key, value in method.parameters.items()]
    values += ["needs --base"] if method.needs_base else []
    about = f" ({', '.join(values)})" if values else ""
    return f"  [bold]{name}[/]: {method.summary}{about}\n"


BLEND_HELP = "\n".join(
    [
        "Blend all members by a method: none is left out, none is chosen.",
        "",
        "Methods, and the parameters that --set changes:",
        "",
        *(_line(name, method) for name, method in METHODS.items()),
        "Scored only when benchmarks are given, as an average is.",
        "",
        "Example: soup blend a b --weight 0.7 --weight 0.3",
        "",
        "Example: soup blend ckpts/* --method ties --base base --set density=0.3 -o merged",
    ]
)


def parameters(given: list[str] | None) -> dict[str, float]:
    """Parameters of a method from ``NAME=VALUE``.

    Raises:
        UsageError: not of that form, not a number, or a name given twice.
    """
    found: dict[str, float] = {}
    for text in given or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals:
            raise UsageError(f"--set {text}: expected NAME=VALUE, e.g. --set density=0.2")
        if name in found:
            raise UsageError(f"--set {text}: {name} is given twice; give it once")
        try:
            found[name] = float(value)
        except ValueError:
            raise UsageError(f"--set {text}: expected a number after =, found {value!r}") from None
    return found
