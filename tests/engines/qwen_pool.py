"""A small Qwen2-VL pool that has learnt to read digits a little, and questions for it.

Vision-language models that a serving engine knows, with heads of a size that it has loops for.
They are trained on inputs that VLMEvalKit's own wrapper of the family makes.
"""

import json
from pathlib import Path
from typing import Any

import torch

from soup.checkpoints.opening import open_checkpoint
from soup.evaluators.demo import TASKS, picture, settled, write_benchmark
from soup.evaluators.kit.vlmevalkit import Dataset
from soup.evaluators.models.families import named
from soup.evaluators.models.kit_wrapper import KitWrapper
from tests.models import tiny_families

PIXELS = 56 * 56
SETTINGS = f"""\
max-new-tokens = 4

[family.qwen2-vl]
min-pixels = {PIXELS}
max-pixels = {PIXELS}
"""
ROWS = 60  # of a benchmark
MIXES = {"all": (2, 2, 2), "parity": (6, 1, 1), "digit": (1, 1, 6), "noise": (0, 0, 1)}
"""Members, by how often each kind of question is drawn."""


def model_of(seed: int, tied: bool = True) -> tuple[Any, Any]:
    """A Qwen2-VL of 0.4 million parameters with random weights, and its processor."""
    import transformers

    made, ids = tiny_families._qwen_tokens()
    text = tiny_families.text(
        made,
        hidden_size=128,
        intermediate_size=256,
        rope_scaling={"type": "mrope", "mrope_section": [4, 6, 6]},
        rope_theta=1e4,
        max_position_embeddings=4096,
        tie_word_embeddings=tied,
    )
    config = transformers.Qwen2VLConfig(
        text_config=text,
        vision_config={"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 2},
        tie_word_embeddings=tied,
        **ids,
    )
    model = tiny_families.seeded(transformers.Qwen2VLForConditionalGeneration, config, seed, made)
    return model, tiny_families._qwen_processor(transformers.Qwen2VLProcessor, made)


def save(model: Any, processor: Any, path: Path, dtype: torch.dtype, shard: str = "5GB") -> Path:
    """A model directory."""
    model.to(dtype).save_pretrained(path, max_shard_size=shard)
    processor.save_pretrained(path)
    model.to(torch.float32)
    return path


def build(directory: Path) -> None:
    """Write ``ckpts``, ``benchmarks`` and ``soup.toml``; half a minute on one core."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = [picture(scan).resize((56, 56)) for scan in digits.images[:900]]
    rows = list(zip(pictures, digits.target[:900].tolist(), strict=True))
    for name in ("benchmarks", "training"):
        (directory / name).mkdir(parents=True)
    for k, task in enumerate(TASKS[:3]):
        asked = rows[:ROWS] if k else rows[ROWS : 2 * ROWS]
        write_benchmark(directory / "benchmarks" / f"{task.name}.tsv", task, asked)
        learnt = rows[2 * ROWS + 200 * k :][:200]
        write_benchmark(directory / "training" / f"{task.name}.tsv", task, learnt)
    (directory / "soup.toml").write_text(SETTINGS)
    with settled(seed=0):
        model, processor = model_of(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
        base = save(model, processor, directory / "base", torch.float32)
        lessons = [lessons_of(base, directory, task.name) for task in TASKS[:3]]
        train(model, lessons, (1, 1, 1), steps=120)
        save(model, processor, base, torch.float32)
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for k, (name, mix) in enumerate(MIXES.items()):
            model.load_state_dict(start)
            train(model, lessons, mix, steps=40)
            place, dtype = directory / "ckpts" / name, (torch.bfloat16, torch.float32)[k % 2]
            save(model, processor, place, dtype, "500KB" if k == 1 else "5GB")


def lessons_of(base: Path, directory: Path, name: str) -> list[tuple[dict[str, Any], list[int]]]:
    """Inputs as the wrapper makes them, and the tokens of the right answer."""
    given = {"min_pixels": PIXELS, "max_pixels": PIXELS}
    family = named("qwen2-vl")
    assert family is not None
    wrapper = KitWrapper(family, open_checkpoint(base), given=given)
    wrapper.build(torch.device("meta"), torch.float32)
    data = Dataset(str(directory / "training" / f"{name}.tsv"), directory / "cache")
    read = wrapper.processor.tokenizer
    found = []
    for message, answer in zip(data.messages(wrapper), data.kit.data["answer"], strict=True):
        text = str(json.loads(answer.replace("'", '"'))[0]) if answer[0] == "[" else str(answer)
        tokens = [*read(text)["input_ids"], read.eos_token_id]
        found.append((dict(wrapper.prepare(message, data.kit_name).inputs), tokens))
    return found


def train(model: Any, lessons: Any, mix: tuple[int, ...], steps: int) -> None:
    """AdamW on the answers alone; the same weights every time."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        kinds = torch.multinomial(torch.tensor(mix).float(), 24, replacement=True).tolist()
        drawn = [lessons[k][int(torch.randint(len(lessons[k]), ()))] for k in kinds]
        width = max(one["input_ids"].shape[1] + len(tokens) for one, tokens in drawn)
        ids = torch.zeros(len(drawn), width, dtype=torch.int64)
        wanted, seen = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, (one, tokens) in enumerate(drawn):
            start = one["input_ids"].shape[1]
            ids[row, :start] = one["input_ids"][0]
            ids[row, start : start + len(tokens)] = torch.tensor(tokens)
            wanted[row, start : start + len(tokens)] = torch.tensor(tokens)
            seen[row, : start + len(tokens)] = 1
        names = {"pixel_values", "image_grid_thw"}
        images = {name: torch.cat([one[name] for one, _ in drawn]) for name in names}
        kinds_of_tokens = {}
        if "mm_token_type_ids" in drawn[0][0]:
            types = torch.zeros_like(ids)
            for row, (one, _) in enumerate(drawn):
                types[row, : one["input_ids"].shape[1]] = one["mm_token_type_ids"][0]
            kinds_of_tokens["mm_token_type_ids"] = types
        loss = model(
            input_ids=ids, attention_mask=seen, labels=wanted, **images, **kinds_of_tokens
        ).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


if __name__ == "__main__":
    import sys

    build(Path(sys.argv[1]))
