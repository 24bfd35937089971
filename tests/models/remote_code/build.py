"""Train a pool of this model and write its benchmarks; run by an old transformers.

    python build.py DIR    → DIR/base, DIR/ckpts/*, DIR/benchmarks/*.tsv

The questions and images are the demo's; the prompts those of VLMEvalKit's InternVLChat.
"""

import json
import random
import re
import shutil
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torchvision.transforms import v2 as transforms
from transformers import AutoConfig, AutoModel, AutoTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))
from soup.evaluators.demo import LETTERS, TASKS, picture, write_benchmark  # noqa: E402

SPECIAL = (
    "<unk>", "<pad>", "<|end|>", "<|user|>", "<|assistant|>", "<img>", "<IMG_CONTEXT>", "</img>",
)  # fmt: skip
TAIL = "Answer with the option's letter from the given choices directly."
ASKED = [task for task in TASKS if task.options]
MIXES = {"parity": (5, 1), "range": (1, 5), "both": (1, 1)}
"""Per member, how often each of the tasks is drawn."""

ROWS = 40  # of a benchmark
IMAGES = 300  # to learn from
SIDE = 448  # pixels along an edge of a tile, fixed in VLMEvalKit
PATCH = 56  # a pixel of a scan
BATCH = 16
WIDTH = 64


def prompt(task):
    """What VLMEvalKit's wrapper of the family asks, between its marks."""
    options = "\n".join(f"{LETTERS[k]}. {text}" for k, text in enumerate(task.options))
    places = "<IMG_CONTEXT>" * 16
    text = f"{task.question}\n{options}\n{TAIL}"
    return f"<|user|><img>{places}</img>\n{text}<|end|><|assistant|>"


def write_files(directory):
    """Everything but the weights."""
    directory.mkdir(parents=True)
    for file in HERE.glob("*_internvl_chat.py"):
        shutil.copy(file, directory)
    words = sorted({word for task in ASKED for word in re.findall(r"\w+|[^\w\s]", prompt(task))})
    vocabulary = [*SPECIAL, *LETTERS, *(w for w in words if w not in LETTERS)]
    vocabulary = list(dict.fromkeys(vocabulary))
    (directory / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    language = {
        "model_type": "phi3", "architectures": ["Phi3ForCausalLM"],
        "vocab_size": len(vocabulary), "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "pad_token_id": 1, "eos_token_id": 2, "bos_token_id": 2, "tie_word_embeddings": False,
        "initializer_range": 0.1,
    }  # fmt: skip
    vision = {
        "image_size": SIDE, "patch_size": PATCH, "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 4,
    }  # fmt: skip
    module = "internvl_chat.InternVLChat"
    config = {
        "model_type": "internvl_chat", "architectures": ["InternVLChatModel"],
        "auto_map": {
            "AutoConfig": f"configuration_{module}Config", "AutoModel": f"modeling_{module}Model",
        },
        "vision_config": vision, "llm_config": language, "template": "plain",
        "select_layer": -1, "downsample_ratio": 0.5, "force_image_size": SIDE,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer = {
        "tokenizer_class": "WordTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internvl_chat.WordTokenizer", None]},
        "unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "<|end|>",
        "additional_special_tokens": list(SPECIAL[3:]), "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2))


def train(model, tokenizer, mix, steps, rate, pixels, labels):
    """A few steps of AdamW on questions drawn by ``mix``."""
    place = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    end = tokenizer.eos_token_id
    asked = [tokenizer(prompt(task))["input_ids"] for task in ASKED]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.2)
    model.train()
    for _ in range(steps):
        (k,) = random.choices(range(len(ASKED)), mix)  # one task a step: no padding
        rows = [random.randrange(len(labels)) for _ in range(BATCH)]
        answers = [ASKED[k].answer(labels[row], 0) for row in rows]
        letters = tokenizer.convert_tokens_to_ids(answers)
        ids = torch.tensor([[*asked[k], letter, end] for letter in letters])
        hidden = model.embed(ids[:, :-1], pixels[rows], place)
        logits = model.language_model(inputs_embeds=hidden).logits[:, -2:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return loss.item()


def main(directory):
    """Base, members, benchmarks."""
    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    digits = load_digits()
    order = torch.randperm(len(digits.images)).tolist()
    pictures = [picture(digits.images[k]) for k in order[: ROWS + IMAGES]]
    labels = [int(digits.target[k]) for k in order[: ROWS + IMAGES]]
    (directory / "benchmarks").mkdir(parents=True)
    rows = list(zip(pictures, labels, strict=True))[:ROWS]
    for task in ASKED:
        write_benchmark(directory / "benchmarks" / f"{task.name}.tsv", task, rows)
    # As VLMEvalKit's load_image prepares one tile.
    tile = transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE), transforms.InterpolationMode.BICUBIC),
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    pixels = torch.stack([tile(image) for image in pictures[ROWS:]])
    base = directory / "base"
    write_files(base)
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=True, use_fast=False)
    config = AutoConfig.from_pretrained(base, trust_remote_code=True)
    model = AutoModel.from_config(config, trust_remote_code=True, torch_dtype=torch.float32)
    members = [(name, mix, 40, 1e-3) for name, mix in MIXES.items()]
    for name, mix, steps, rate in [("base", (1, 1), 80, 3e-3), *members]:
        if name != "base":
            model = AutoModel.from_pretrained(
                base, trust_remote_code=True, torch_dtype=torch.float32
            )
        loss = train(model, tokenizer, mix, steps, rate, pixels, labels[ROWS:])
        print(f"{name}: loss {loss:.3f}")
        place = base if name == "base" else directory / "ckpts" / name
        model.to(torch.bfloat16).save_pretrained(place)
        tokenizer.save_pretrained(place)
        for file in HERE.glob("*_internvl_chat.py"):
            shutil.copy(file, place)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
