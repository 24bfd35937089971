"""What score.py measures: each job runs in a process of its own, where imports and state are fresh.

python jobs.py JOB ARGUMENTS    JSON in, a line of JSON out
"""

import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_qwen(given: dict[str, Any]) -> dict[str, Any]:
    """Random checkpoints and a benchmark; not measured."""
    import random_qwen

    random_qwen.make(Path(given["place"]), given["scale"], 2, given["rows"], given["device"])
    return {}


def our_scorer(given: dict[str, Any]) -> dict[str, Any]:
    """Seconds to start, then per pass: to load, to answer, to evaluate; see ``timed``.

    And the answers of the first member, by benchmark and index.
    """
    from soup.blending.blend import Blend
    from soup.checkpoints.pool import Pool
    from soup.choosing.scoring import result_key
    from soup.evaluators import VLMEvalKitScorer

    pool = Pool.open(*given["members"])
    for member in pool.members:
        member.compute_digest()  # a run knows it before it scores
    average = Blend(pool.members, pool.reference)
    first = Blend((pool.members[0],), pool.reference)
    started = time.perf_counter()
    with VLMEvalKitScorer(
        work=given["work"],
        device=given["device"],
        compute_dtype=given["dtype"],
        max_new_tokens=given["tokens"],
        batch_size=given["batch"],
        families=given["families"],
        engine="transformers",
    ) as scorer:
        scorer.benchmarks(pool.reference, [])
        found: dict[str, Any] = {"start": time.perf_counter() - started, "passes": []}
        started = time.perf_counter()
        benchmarks = scorer.benchmarks(pool.reference, given["files"])  # unpacks the images
        looked_up = time.perf_counter() - started
        for k in range(given["passes"]):
            blend = average if k % 2 else first
            parts = [timed(scorer, blend, benchmark) for benchmark in benchmarks]
            found["passes"].append({name: sum(p[name] for p in parts) for name in parts[0]})
        found["passes"][0]["load"] += looked_up
    keys = {one.name: result_key(first.key, one.digest) for one in benchmarks}
    work = Path(given["work"])
    found["answers"] = {name: predictions(work, key) for name, key in keys.items()}
    return found


def predictions(work: Path, key: str) -> dict[str, str]:
    """By index, from the table that a scorer keeps."""
    from soup.evaluators.kit.finished import rows_of, table_of

    return {row["index"]: row["prediction"] for row in rows_of(table_of(work, key))}


def timed(scorer: Any, blend: Any, benchmark: Any) -> dict[str, float]:
    """One measurement, taken apart by the progress that the worker reports."""
    from soup.events import Event, Progress

    marks: list[float] = []

    def observe(event: Event) -> None:
        if isinstance(event, Progress) and event.unit == "samples":
            marks.append(time.perf_counter())

    begun = time.perf_counter()
    result = scorer.measure(blend, benchmark, "benchmark", observe)
    ended = time.perf_counter()
    return {
        "load": marks[0] - begun,
        "answer": marks[-1] - marks[0],
        "evaluate": ended - marks[-1],
        "samples": result.samples,
    }


def written_and_loaded(given: dict[str, Any]) -> dict[str, Any]:
    """The average on disk and back, in a process where transformers is warm."""
    import torch
    import transformers

    from soup.blending.blend import Blend
    from soup.blending.writer import write
    from soup.checkpoints.pool import Pool

    kind = transformers.AutoModelForImageTextToText
    dtype = getattr(torch, given["dtype"])
    pool = Pool.open(*given["members"])
    blend = Blend(pool.members, pool.reference)
    out = Path(given["work"])

    def load(path: Path) -> Any:
        model = kind.from_pretrained(path, dtype=dtype).to(given["device"]).eval()
        if given["device"] != "cpu":
            torch.cuda.synchronize()
        return model

    def by_hand() -> None:
        """What one writes in a notebook: average state dicts in memory, save_pretrained."""
        model = kind.from_pretrained(given["members"][0], dtype=torch.bfloat16)
        total = {name: tensor.float() for name, tensor in model.state_dict().items()}
        for path in given["members"][1:]:
            other = kind.from_pretrained(path, dtype=torch.bfloat16).state_dict()
            for name, tensor in other.items():
                total[name] += tensor.float()
        count = len(given["members"])
        model.load_state_dict({n: (t / count).to(torch.bfloat16) for n, t in total.items()})
        model.save_pretrained(out / "hand")

    load(Path(given["members"][0]))  # so that importing is not counted
    found: dict[str, list[float]] = {"write": [], "reload": [], "hand": [], "hand reload": []}
    for _ in range(given["repeats"]):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for name, work in (
            ("write", lambda: write(blend, out / "soup")),
            ("reload", lambda: load(out / "soup")),
            ("hand", by_hand),
            ("hand reload", lambda: load(out / "hand")),
        ):
            begun = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def profile(given: dict[str, Any]) -> dict[str, Any]:
    """Our worker in this process, its parts timed; then the model alone, at several batch sizes."""
    import soup.evaluators.kit.importing  # noqa: F401  # first of all
    from soup.evaluators.engines import resident
    from soup.evaluators.kit import vlmevalkit

    parts = Parts()
    parts.watch(vlmevalkit, "unpack", "unpack")
    worker, blends = our_worker(given, given["batch"])
    unpack = parts.seconds["unpack"]
    import torch
    import transformers

    wrapper = type(worker._engine.wrapper)
    calls: list[dict[str, Any]] = []
    parts.watch(transformers.GenerationMixin, "generate", "generate", given["device"], calls)
    parts.watch(wrapper, "prepare", "prepare")
    parts.watch(wrapper, "decode", "decode")
    parts.watch(resident, "collate", "collate")
    parts.watch(type(worker._engine), "load", "load")
    parts.watch(vlmevalkit.Dataset, "messages", "prompts")
    parts.watch(vlmevalkit.Dataset, "evaluate", "evaluate")
    passes = []
    for k in range(given["passes"]):
        parts.seconds.clear()
        calls.clear()
        samples, begun = 0, time.perf_counter()
        for file in given["files"]:
            samples += measure(worker, blends[k % 2], file, given)["samples"]
        passes.append({"whole": time.perf_counter() - begun, **parts.seconds})
    passes[0] |= {"unpack": unpack, "whole": passes[0]["whole"] + unpack}
    alone = {}
    for size in given["sizes"]:
        other, blends = our_worker(given, size)
        calls.clear()
        for file in given["files"]:
            measure(other, blends[0], file, given)
        kept, model = list(calls), other._engine._model
        alone[size] = model_alone(model, kept, given["device"])
        del other, kept, model
        if given["device"] != "cpu":
            torch.cuda.empty_cache()
    return {"passes": passes, "alone": alone, "samples": samples}


class Parts:
    """Seconds by part of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(
        self, owner: Any, name: str, part: str, device: str = "cpu", calls: Any = None
    ) -> None:
        """Time a function from now on; keep the arguments of its calls where asked."""
        import torch

        function = getattr(owner, name)

        def watched(*args: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            found = function(*args, **named)
            if device != "cpu":
                torch.cuda.synchronize()
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begun
            if calls is not None:
                calls.append(named)
            return found

        setattr(owner, name, watched)


def our_worker(given: dict[str, Any], batch: int | None) -> Any:
    """A worker in this process, and two blends for it to alternate between."""
    from soup.blending.blend import Blend
    from soup.checkpoints.pool import Pool
    from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
    from soup.evaluators.workers.worker import Worker

    pool = Pool.open(*given["members"])
    first = Blend((pool.members[0],), pool.reference)
    blends = [encode_blend(b) for b in (first, Blend(pool.members, pool.reference))]
    worker = Worker(lambda message: None)
    options = {
        "device": given["device"],
        "compute_dtype": given["dtype"],
        "batch_size": batch,
        "max_new_tokens": given["tokens"],
        "families": given["families"],
    }
    worker.handle(
        {
            "do": "open",
            "reference": encode_checkpoint(pool.reference),
            "options": options,
            "cache": str(Path(given["work"]) / "cache"),
        }
    )
    for file in given["files"]:
        worker.handle({"do": "benchmark", "source": file})
    return worker, blends


def measure(worker: Any, blend: Any, file: str, given: dict[str, Any]) -> Any:
    """One blend on one benchmark."""
    from soup.evaluators.engines.kept import ANSWERS

    keep = Path(given["work"]) / "kept.tsv"
    keep.with_suffix(ANSWERS).unlink(missing_ok=True)  # as one who has recorded the result does
    work = {"blend": blend, "benchmark": file, "key": "a key", "keep": str(keep)}
    return worker.handle({"do": "measure", "task": "benchmark", **work})


def model_alone(model: Any, calls: list[dict[str, Any]], device: str) -> dict[str, float]:
    """Seconds of `generate` on inputs as they were, and of one forward pass over the questions."""
    import torch

    def seconds(work: Callable[[dict[str, Any]], Any]) -> float:
        found = []
        for _ in range(2):
            begun = time.perf_counter()
            for call in calls:
                work(call)
            if device != "cpu":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - begun)
        return min(found)

    def forward(call: dict[str, Any]) -> Any:
        tensors = {name: v for name, v in call.items() if isinstance(v, torch.Tensor)}
        return model(**tensors, logits_to_keep=1, use_cache=True)

    with torch.inference_mode():
        return {
            "generate": seconds(lambda call: model.generate(**call)),
            "forward": seconds(forward),
            "rows": max(len(call["input_ids"]) for call in calls),
        }


JOBS = {
    "make_qwen": make_qwen,
    "our_scorer": our_scorer,
    "written_and_loaded": written_and_loaded,
    "profile": profile,
}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](json.loads(sys.argv[2]))))
