"""Put benchmarks to a model directory by its own chat(), without anything of ours.

python ask.py DIR TSV...    → per file, the share of right letters, 0–100
"""

import base64
import csv
import io
import json
import sys

import torch
from PIL import Image
from torchvision.transforms import functional as images
from transformers import AutoModel, AutoTokenizer

csv.field_size_limit(sys.maxsize)
TAIL = "\nAnswer with the option's letter from the given choices directly."


def main(directory, *files):
    """One question at a time."""
    model = AutoModel.from_pretrained(
        directory, trust_remote_code=True, torch_dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True, use_fast=False)
    print(json.dumps([share(model, tokenizer, file) for file in files]))


def share(model, tokenizer, tsv):
    """Right letters, 0–100."""
    with open(tsv, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    right = 0
    for row in rows:
        options = "".join(f"\n{letter}. {row[letter]}" for letter in "ABC" if row.get(letter))
        image = Image.open(io.BytesIO(base64.b64decode(row["image"]))).convert("RGB")
        image = image.resize((448, 448))  # the one tile of a small square picture
        pixels = images.normalize(
            images.to_tensor(image), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        )
        answer = model.chat(
            tokenizer, pixels[None], row["question"] + options + TAIL,
            {"max_new_tokens": 4, "do_sample": False},
        )  # fmt: skip
        right += answer == row["answer"]
    return 100 * right / len(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
