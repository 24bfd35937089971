"""The other side of ``soup.publishing.tracking``: one process, one tracker's library, one night.

It gets what is to be told on standard input, as JSON, and ends with exit code 0 where it was told.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def to_mlflow(told: Mapping[str, Any]) -> None:
    """A run with parameters, metrics and tags; the documents are its artifacts."""
    import mlflow

    if not {"MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"} & os.environ.keys():
        mlflow.set_experiment(told["project"])
    with mlflow.start_run(run_name=told["name"]):
        mlflow.log_params(told["params"])
        mlflow.log_metrics(told["metrics"])
        mlflow.set_tags(told["tags"])
        mlflow.log_dict(told["document"], "night.json")
        mlflow.log_text(told["markdown"], "night.md")


def to_wandb(told: Mapping[str, Any]) -> None:
    """A run with its config, metrics and summary; the documents are an artifact of it."""
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or told["project"],
        name=told["name"],
        config=told["params"],
        job_type="nightly",
        settings=wandb.Settings(console="off", silent=True),
    )
    run.log(told["metrics"])
    run.summary.update(told["tags"])
    with tempfile.TemporaryDirectory(prefix="soup-night-") as name:
        artifact = wandb.Artifact("night", type="night")
        for file, text in (
            ("night.json", json.dumps(told["document"])),
            ("night.md", told["markdown"]),
        ):
            (Path(name) / file).write_text(text, encoding="utf-8", errors="backslashreplace")
            artifact.add_file(str(Path(name) / file))
        run.log_artifact(artifact)
        run.finish()


def to_trackio(told: Mapping[str, Any]) -> None:
    """A run with its config and metrics; tags stand in the config."""
    import trackio

    trackio.init(
        project=told["project"],
        name=told["name"],
        config={**told["params"], **told["tags"]},
        embed=False,
    )
    trackio.log(told["metrics"] or {"failed": 1.0})  # a run without a metric is not kept
    trackio.finish()


TRACKERS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "mlflow": to_mlflow,
    "wandb": to_wandb,
    "trackio": to_trackio,
}
"""By the name of the library, of the option's value and of the extra."""


def main(name: str) -> None:
    """Tell one of them what stands on standard input; exit code 1, and why, where that fails."""
    told = json.load(sys.stdin)
    try:
        TRACKERS[name](told)
    except Exception as error:
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())[:500]}\n")
        sys.stderr.flush()
        raise SystemExit(1) from None
