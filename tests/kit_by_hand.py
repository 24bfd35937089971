"""Score a model directory with VLMEvalKit alone: its loop, a plain wrapper, its evaluate.

Run as a script, so that what importing vlmeval does to a process stays there:
    python kit_by_hand.py MODEL DATA_DIR WORK CLASS NAME...  → one line of JSON, name to report
"""

import json
import os
import sys

MODEL, DATA, WORK, *SETS = sys.argv[1:]
os.environ["LMUData"] = DATA
os.environ["PRED_FORMAT"] = "tsv"

import torch  # noqa: E402
import transformers  # noqa: E402
from PIL import Image  # noqa: E402
from vlmeval import dataset as datasets  # noqa: E402
from vlmeval.inference import infer_data_job  # noqa: E402
from vlmeval.vlm.base import BaseModel  # noqa: E402


class Plain(BaseModel):
    """What a user would write today: one question at a time, greedy."""

    INTERLEAVE = True

    def __init__(self) -> None:
        """Load the directory as any transformers user does."""
        super().__init__()
        self.processor = transformers.AutoProcessor.from_pretrained(MODEL)
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(
            MODEL, dtype=torch.float32
        ).eval()

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """Answer one question."""
        images = [Image.open(m["value"]).convert("RGB") for m in message if m["type"] == "image"]
        content = [
            {"type": "image"} if m["type"] == "image" else {"type": "text", "text": m["value"]}
            for m in message
        ]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(
            text=text, images=images, return_tensors="pt", add_special_tokens=False
        )
        tokens = self.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        tokens = tokens[0, inputs["input_ids"].shape[1] :]
        return str(self.processor.decode(tokens, skip_special_tokens=True)).strip()


def main() -> None:
    """Infer and evaluate each data set."""
    model, reports = Plain(), {}
    for kind, name in zip(SETS[::2], SETS[1::2], strict=True):
        dataset = getattr(datasets, kind)(dataset=name)
        infer_data_job(model, WORK, "plain", dataset)
        report = dataset.evaluate(f"{WORK}/plain_{name}.tsv", model="exact_matching", nproc=1)
        reports[name] = report.to_dict("records")
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
