"""Random-weight checkpoints of Qwen2.5-VL's shape, and questions about pictures, without a network.

Weights are noise, so answers are, too: never one that ends early, hence always as long as allowed.
What it costs to ask such a model does not depend on what it says.
"""

import base64
import csv
import io
import random
from pathlib import Path
from typing import Any

SCALES: dict[str, dict[str, Any]] = {
    "3b": {
        "text": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "sections": [16, 24, 24],
        },
        "vision": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16},
        "vocabulary": 151936,
        "picture": (448, 336),
    },
    "small": {  # heads of a size that vLLM has loops for on a CPU
        "text": {
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sections": [8, 12, 12],
        },
        "vision": {"depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2},
        "vocabulary": 4096,
        "picture": (112, 84),
    },
    "tiny": {
        "text": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "sections": [2, 3, 3],
        },
        "vision": {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2},
        "vocabulary": 4096,
        "picture": (112, 84),
    },
}

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make(directory: Path, scale: str, count: int, rows: int, device: str) -> None:
    """Write ``count`` checkpoints into ``ckpts`` and one benchmark into ``data``."""
    processor = make_processor(SCALES[scale]["vocabulary"])
    for seed in range(count):
        make_checkpoint(directory / "ckpts" / f"m{seed}", scale, seed, processor, device)
    (directory / "data").mkdir()
    make_benchmark(directory / "data" / "GQA_scenes.tsv", rows, SCALES[scale]["picture"])


def make_processor(vocabulary: int) -> Any:
    """A byte-level tokenizer filled up to the vocabulary, and Qwen's image processor."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = alphabet + [f"w{k}" for k in range(vocabulary - len(alphabet) - len(SPECIAL))]
    tokenizer = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )
    # Qwen's own limit is 12.8 million pixels; these pictures are far below it.
    return transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        tokenizer=fast,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )


def make_checkpoint(path: Path, scale: str, seed: int, processor: Any, device: str) -> None:
    """One model directory in bfloat16, in shards of 2 GB."""
    import torch
    import transformers

    shape = SCALES[scale]
    text = dict(shape["text"])
    sections = text.pop("sections")
    ids = {name: processor.tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    ends = {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            **text,
            **ends,
            "bos_token_id": None,
            "vocab_size": shape["vocabulary"],
            "max_position_embeddings": 32768,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "default", "mrope_section": sections},
            "tie_word_embeddings": True,
        },
        vision_config={**shape["vision"], "out_hidden_size": text["hidden_size"]},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        **ends,
    )
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config = transformers.GenerationConfig(do_sample=False, **ends)
    model.save_pretrained(path, max_shard_size="2GB")
    processor.save_pretrained(path)


def make_benchmark(path: Path, rows: int, size: tuple[int, int]) -> None:
    """Short-answer questions of different lengths about pictures of coloured noise."""
    from PIL import Image

    chance = random.Random(0)
    words = ["what", "which", "colour", "number", "of", "the", "left", "right", "bright", "thing"]
    with path.open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t", lineterminator="\n")
        out.writerow(["index", "image", "question", "answer"])
        for index in range(rows):
            coarse = Image.frombytes("RGB", (14, 12), chance.randbytes(14 * 12 * 3))
            buffer = io.BytesIO()
            coarse.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG")
            question = " ".join(chance.choices(words, k=chance.randint(6, 40))) + "?"
            image = base64.b64encode(buffer.getvalue()).decode()
            out.writerow([index, image, question, "['noise']"])
