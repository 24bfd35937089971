"""Runs under the Python that has vLLM: families by both engines, on tiny random checkpoints.

    python vllm_families.py DIR OUT.json [FAMILY...]

Of each family two members are asked, their average, and the first again, in float32, with one and
with two pictures, by transformers and by vLLM; then one that differs from the first in two tensors,
and their average. OUT.json has by family the answers, or why not, and the bytes that each of vLLM's
swaps sent.
"""

import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import soup.evaluators.kit.importing  # noqa: F401
from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.errors import SoupError
from soup.evaluators.engines.choice import open_engine
from soup.evaluators.models.wrapper import Message, Options
from tests.models import tiny_families

DATASET = "MMStar"
HEAD = 32  # a width that vLLM has loops for on a processor
TOKENS = 8
SMALL = {
    "qwen2-vl": {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
    "qwen2.5-vl": {"min_pixels": 56 * 56, "max_pixels": 112 * 112},
    "qwen3-vl": {"min_pixels": 64 * 64, "max_pixels": 128 * 128},
}
"""Options that keep pictures as small as these models."""
TEXTS = (
    "What is in the image?",
    "Question: Is the lazy dog even or odd?\nOptions:\nA. yes\nB. no\n",
    "Answer with a single word",
)


def questions(directory: Path) -> list[Message]:
    """Of unequal length, with pictures of unequal shape; the last one with two."""
    noise = np.random.default_rng(0)
    paths = []
    for k, (width, height) in enumerate([(48, 48), (90, 40), (40, 80)]):
        pixels = noise.integers(0, 255, (height, width, 3), dtype=np.uint8)
        paths.append(str(directory / f"{k}.png"))
        Image.fromarray(pixels).save(paths[-1])
    asked: list[list[dict[str, str]]] = [
        [{"type": "image", "value": path}, {"type": "text", "value": question}]
        for path, question in zip(paths, TEXTS, strict=True)
    ]
    two = {"type": "image", "value": paths[0]}
    return [*asked, [*asked[1], two, *asked[0]]]


def asked(engine: Any, pool: Pool, members: list[int], messages: list[Message]) -> list[str]:
    """Answers of a member, or of an average."""
    blend = Blend(tuple(pool.members[k] for k in members), pool.reference, dtype="F32")
    engine.load(blend, str(members), "load", lambda event: None)
    return list(engine.answer("questions", DATASET, messages))


def told(file: Path) -> None:
    """Make what normalises the end of a tower matter to whoever reads it: nobody should."""
    named = load_file(file)
    for name in named:
        if "post_layernorm" in name:
            named[name] = 3 * named[name] + 1
    save_file(named, file, metadata={"format": "pt"})


def near(member: Path, place: Path) -> Path:
    """A member that differs in two tensors of the language model: one is fused with others."""
    shutil.copytree(member, place)
    (file,) = place.glob("*.safetensors")
    named = load_file(file)
    chance = torch.Generator().manual_seed(9)
    layers = [n for n in named if "layers.1." in n and "vision" not in n and "visual" not in n]
    for name in [n for n in layers if "q_proj.weight" in n or "down_proj.weight" in n]:
        named[name] += 0.3 * torch.randn(named[name].shape, generator=chance)
    save_file(named, file, metadata={"format": "pt"})
    return place


def unsaid(file: Path) -> None:
    """A config without what vLLM asks it for, and transformers does not."""
    config = json.loads(file.read_text())
    text = config["text_config"]
    text.get("rope_parameters", text.get("rope_scaling", {})).pop("mrope_interleaved")
    file.write_text(json.dumps(config))


def tried(family: str, place: Path, messages: list[Message]) -> dict[str, Any]:
    """Both engines' answers; in place of vLLM's the reason where there are none."""
    members = [tiny_families.write(family, place / f"m{s}", s, HEAD) for s in (1, 2)]
    if family == "llava-onevision":
        for member in members:
            told(member / "model.safetensors")
    if family == "qwen3-vl":
        for member in members:
            unsaid(member / "config.json")
    members.append(near(members[0], place / "near"))
    pool = Pool.open(*map(str, members), dtype="F32")
    for member in pool.members:
        member.compute_digest()
    options = Options(device="cpu", max_new_tokens=TOKENS, families=SMALL)
    found: dict[str, Any] = {}
    for name in ("transformers", "vllm"):
        engine = None
        try:
            engine = open_engine(name, pool.reference, options, place)
            found[name] = []
            for chosen in ([0], [1], [0, 1], [0], [2], [0, 2]):
                found[name].append(asked(engine, pool, chosen, messages))
                if name == "vllm":
                    found.setdefault("bytes", []).append(engine.serving.written)
        except SoupError as error:
            traceback.print_exc()
            found["why"] = str(error)
        finally:
            if engine is not None:
                engine.close()
    return found


def main(directory: str, out: str, *families: str) -> None:
    """All families that the tests can make, or those named."""
    place = Path(directory)
    messages = questions(place)
    found = {}
    for family in families or tiny_families.MAKERS:
        (place / family).mkdir()
        found[family] = tried(family, place / family, messages)
        Path(out).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
