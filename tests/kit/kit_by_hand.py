"""Score a model directory with VLMEvalKit alone: its loop, a plain wrapper or its, its evaluate.

What a user would write today, and what our numbers and times are compared with. Nothing of ours
is imported. It is a script, so that what importing vlmeval does to a process stays there:

    python kit_by_hand.py MODEL DATA_DIR WORK CLASS:NAME...

One line of JSON on stdout: seconds to import and to load the model, and for each NAME its report,
prompts (images by the SHA-256 of their file), predictions, and seconds to infer and to evaluate.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("data")
parser.add_argument("work")
parser.add_argument("sets", nargs="+", help="CLASS:NAME, a class of vlmeval.dataset")
parser.add_argument("--tokens", type=int, default=4, help="longest answer")
parser.add_argument("--device", default="cpu")
parser.add_argument("--dtype", default="float32")
parser.add_argument("--wrapper", help="of VLMEvalKit [a plain one]")
parser.add_argument("--options", type=json.loads, default={}, help="of that wrapper, JSON")
given = parser.parse_args()
os.environ["LMUData"] = given.data
os.environ["PRED_FORMAT"] = "tsv"
printed = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # evaluate prints, too

import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from vlmeval import dataset as datasets  # noqa: E402
from vlmeval.inference import infer_data_job  # noqa: E402
from vlmeval.vlm.base import BaseModel  # noqa: E402


class Plain(BaseModel):
    """A plain wrapper: one question at a time, greedy."""

    INTERLEAVE = True

    def __init__(self) -> None:
        """Load the directory as any transformers user does."""
        super().__init__()
        self.processor = transformers.AutoProcessor.from_pretrained(given.model)
        model = transformers.AutoModelForImageTextToText.from_pretrained(
            given.model, dtype=getattr(torch, given.dtype)
        )
        self.model = model.to(given.device).eval()
        self.prompts: list[list[dict[str, str]]] = []

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """Answer one question."""
        self.prompts.append(message)
        images = [Image.open(m["value"]).convert("RGB") for m in message if m["type"] == "image"]
        content = [
            {"type": "image"} if m["type"] == "image" else {"type": "text", "text": m["value"]}
            for m in message
        ]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(
            text=[text], images=images or None, return_tensors="pt", add_special_tokens=False
        ).to(given.device, self.model.dtype)
        tokens = self.model.generate(**inputs, max_new_tokens=given.tokens, do_sample=False)
        tokens = tokens[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.decode(tokens, skip_special_tokens=True)).strip()


class NoCuda(TorchFunctionMode):
    """VLMEvalKit's wrappers say "cuda", whatever there is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The same on the CPU."""
        given = {k: "cpu" if v == "cuda" else v for k, v in (kwargs or {}).items()}
        return func(*("cpu" if isinstance(a, str) and a == "cuda" else a for a in args), **given)


def kits_own() -> Any:
    """One of VLMEvalKit's wrappers, as it is but for the device, dtype and flash attention."""
    from vlmeval import vlm
    from vlmeval.vlm.qwen2_vl import model as qwen

    qwen.get_gpu_memory = lambda: [80]
    load = transformers.PreTrainedModel.from_pretrained.__func__

    def on_device(cls: Any, path: str, **_: Any) -> Any:
        return load(cls, path, dtype=getattr(torch, given.dtype)).to(given.device)

    transformers.PreTrainedModel.from_pretrained = classmethod(on_device)
    kind = getattr(vlm, given.wrapper)

    class Noted(kind):  # type: ignore[misc, valid-type]
        def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> Any:
            self.prompts.append([dict(item) for item in message])
            with NoCuda() if given.device == "cpu" else contextlib.nullcontext():
                return super().generate_inner(message, dataset)

    return Noted(model_path=given.model, max_new_tokens=given.tokens, **given.options)


def plainly(message: list[dict[str, str]]) -> list[list[str]]:
    """A prompt without paths."""
    return [
        [item["type"], hashlib.sha256(Path(item["value"]).read_bytes()).hexdigest()]
        if item["type"] == "image"
        else [item["type"], item["value"]]
        for item in message
    ]


def score(model: Any, kind: str, name: str) -> dict[str, Any]:
    """Infer and evaluate one data set."""
    cls = getattr(datasets, kind)
    if kind != "CustomMCQDataset":  # as if it were one of its own: its wrappers ask by name
        cls.DATASET_URL.setdefault(name, "")
    dataset = cls(dataset=name)
    model.prompts = []
    begun = time.perf_counter()
    infer_data_job(model, given.work, "plain", dataset)
    if given.device != "cpu":
        torch.cuda.synchronize()
    inferred = time.perf_counter()
    file = f"{given.work}/plain_{name}.tsv"
    with open(file, newline="") as written:  # not by pandas: "None" is an answer, too
        predictions = {
            row["index"]: row["prediction"] for row in csv.DictReader(written, delimiter="\t")
        }
    again = time.perf_counter()
    report = dataset.evaluate(file, model="exact_matching", nproc=1)
    evaluated = time.perf_counter()
    return {
        "report": report if isinstance(report, dict) else report.to_dict("records"),
        "prompts": [plainly(prompt) for prompt in model.prompts],
        "predictions": predictions,
        "infer": inferred - begun,
        "evaluate": evaluated - again,
    }


def main() -> None:
    """Load the model once and score all sets."""
    imported = time.perf_counter()
    model = kits_own() if given.wrapper else Plain()
    loaded = time.perf_counter()
    found = {name: score(model, kind, name) for kind, name in (s.split(":") for s in given.sets)}
    seconds = {"import": imported - STARTED, "load": loaded - imported}
    print(json.dumps({"seconds": seconds, "sets": found}), file=printed)


if __name__ == "__main__":
    main()
    sys.exit()
