"""Tiny checkpoints of real architectures: random weights, real config and processor classes.

Everything is made here: the tokenizer is trained on a few sentences, no hub is asked.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# Large enough for answers to depend on image and question, with weights that were never trained.
SPREAD = 0.25
HEAD = 8  # a serving engine has loops for 32 and 64, on a processor
WORDS = """Question Options Please select the correct answer from the options above yes or no
What is in the image Answer with a letter single word phrase short concise Hint Choices even odd
the quick brown fox jumps over a lazy dog while seven wizards mix exotic jade liquor"""


def write(family: str, directory: Path, seed: int = 0, head: int = HEAD) -> Path:
    """A complete model directory of one of the ``MAKERS``.

    Args:
        family: which.
        directory: where.
        seed: decides the weights.
        head: width of a head of the language model, a multiple of 8.
    """
    bars: Any = transformers.utils.logging
    bars.disable_progress_bar()
    model, processor = MAKERS[family](seed, head)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def tokenizer(specials: list[str], extra: dict[str, str] | None = None, **named: str) -> Any:
    """A byte-level tokenizer whose ordinary tokens are all ASCII, so that answers can be read.

    Args:
        specials: special tokens, besides those named.
        extra: special tokens under names of their own, such as ``video_token``.
        named: ``eos_token``, ``pad_token`` and so on.
    """
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    ascii_bytes = [c for c in pre_tokenizers.ByteLevel.alphabet() if ord(c) < 128]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[*dict.fromkeys([*named.values(), *specials, *(extra or {}).values()])],
        initial_alphabet=[*sorted(ascii_bytes), "Ġ", "Ċ"],
        show_progress=False,
    )
    made.train_from_iterator([WORDS] * 4, trainer)
    # before 5, processors insist on a class; since then classes differ in nothing that matters here
    old = transformers.__version__.startswith("4.")
    kind = transformers.Qwen2TokenizerFast if old else transformers.PreTrainedTokenizerFast
    return kind(
        tokenizer_object=made,
        additional_special_tokens=specials,
        extra_special_tokens=extra or {},
        model_input_names=["input_ids", "attention_mask"],
        **named,
    )


def seeded(kind: Any, config: Any, seed: int, made: Any) -> Any:
    """A model with random weights, large ones, that stops at nothing but its end token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=SPREAD)
    model.generation_config = transformers.GenerationConfig(
        do_sample=True, eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id
    )
    return model.eval()


def text(made: Any, head: int = HEAD, **more: Any) -> dict[str, Any]:
    """Sizes of a small language model for a tokenizer, with four heads."""
    ends = {"bos_token_id": None, "eos_token_id": made.eos_token_id}
    return {
        "vocab_size": len(made),
        "hidden_size": 4 * head,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": made.pad_token_id,
        **ends,
        **more,
    }


# --- Qwen ----------------------------------------------------------------------------------

QWEN_SPECIALS = [
    "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
]  # fmt: skip
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _qwen_tokens() -> tuple[Any, dict[str, int]]:
    made = tokenizer(QWEN_SPECIALS, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = {
        "image_token_id": made.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": made.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": made.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": made.convert_tokens_to_ids("<|vision_end|>"),
    }
    return made, ids


def _sections(head: int, *shares: int) -> list[int]:
    """How much of a head turns with time, height and width; the shares sum to 4."""
    return [share * head // 8 for share in shares]


def _qwen2_vl(seed: int, head: int) -> tuple[Any, Any]:
    made, ids = _qwen_tokens()
    config = transformers.Qwen2VLConfig(
        text_config=text(
            made,
            head,
            rope_scaling={"type": "mrope", "mrope_section": _sections(head, 1, 1, 2)},
            rope_theta=1e4,
        ),
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 4 * head, "num_heads": 2},
        **ids,
    )
    model = seeded(transformers.Qwen2VLForConditionalGeneration, config, seed, made)
    return model, _qwen_processor(transformers.Qwen2VLProcessor, made)


def _qwen2_5_vl(seed: int, head: int) -> tuple[Any, Any]:
    made, ids = _qwen_tokens()
    config = transformers.Qwen2_5_VLConfig(
        text_config=text(
            made,
            head,
            rope_scaling={"type": "mrope", "mrope_section": _sections(head, 1, 1, 2)},
            rope_theta=1e4,
        ),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": 4 * head, "fullatt_block_indexes": [1],
        },
        **ids,
    )  # fmt: skip
    model = seeded(transformers.Qwen2_5_VLForConditionalGeneration, config, seed, made)
    return model, _qwen_processor(transformers.Qwen2_5_VLProcessor, made)


def _qwen_processor(kind: Any, made: Any) -> Any:
    return kind(
        image_processor=transformers.Qwen2VLImageProcessor(),
        tokenizer=made,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )


def _qwen3_vl(seed: int, head: int) -> tuple[Any, Any]:
    made, ids = _qwen_tokens()
    config = transformers.Qwen3VLConfig(
        text_config=text(
            made,
            head,
            head_dim=head,
            rope_scaling={
                "rope_type": "default",
                "mrope_interleaved": True,  # as the published ones say; transformers does not ask
                "mrope_section": _sections(head, 2, 1, 1),
            },
            rope_theta=1e4,
        ),
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": 4 * head, "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
        **ids,
    )  # fmt: skip
    model = seeded(transformers.Qwen3VLForConditionalGeneration, config, seed, made)
    processor = transformers.Qwen3VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(patch_size=16),
        tokenizer=made,
        video_processor=transformers.Qwen3VLVideoProcessor(),
        chat_template=QWEN_TEMPLATE,
    )
    return model, processor


# --- InternVL ------------------------------------------------------------------------------


def _internvl(seed: int, head: int, **language: Any) -> tuple[Any, Any]:
    named = {
        "start_image_token": "<img>", "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
    }  # fmt: skip
    made = tokenizer(
        ["<|im_start|>"], eos_token="<|im_end|>", pad_token="<|endoftext|>", extra=named
    )
    # The wrapper cuts images into tiles of 448 pixels; large patches keep them few.
    config = transformers.InternVLConfig(
        text_config={"model_type": "qwen2", **text(made, head), **language},
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 448, "patch_size": 112,
        },
        image_token_id=made.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = seeded(transformers.InternVLForConditionalGeneration, config, seed, made)
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448}),
        tokenizer=made,
        video_processor=transformers.InternVLVideoProcessor(),
        image_seq_length=4,
        chat_template=QWEN_TEMPLATE,
    )
    return model, processor


def _internvl_moe(seed: int, head: int) -> tuple[Any, Any]:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    return _internvl(seed, head, head_dim=head, model_type="qwen3_moe", **sizes)


# --- LLaVA-OneVision -----------------------------------------------------------------------


def _llava_onevision(seed: int, head: int) -> tuple[Any, Any]:
    made = tokenizer(
        ["<|im_start|>", "<image>", "<video>"], eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    pinpoints = [[28, 28], [28, 56], [56, 28]]
    config = transformers.LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **text(made, head)},
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
            "vision_use_head": False,
        },
        image_token_index=made.convert_tokens_to_ids("<image>"),
        video_token_index=made.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    model = seeded(transformers.LlavaOnevisionForConditionalGeneration, config, seed, made)
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(
            size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
        ),
        tokenizer=made,
        video_processor=transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=QWEN_TEMPLATE,
    )
    return model, processor


# --- SmolVLM -------------------------------------------------------------------------------

SMOL_SPECIALS = [
    "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)),
]  # fmt: skip


def _smolvlm(seed: int, head: int) -> tuple[Any, Any]:
    return _smol(seed, head, "Idefics3")


def _smolvlm2(seed: int, head: int) -> tuple[Any, Any]:
    return _smol(seed, head, "SmolVLM")


def _smol(seed: int, head: int, kind: str) -> tuple[Any, Any]:
    made = tokenizer(
        SMOL_SPECIALS, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<pad>"
    )
    config = getattr(transformers, f"{kind}Config")(
        text_config={"model_type": "llama", **text(made, head)},
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        },
        image_token_id=made.convert_tokens_to_ids("<image>"),
        pad_token_id=made.pad_token_id,
        scale_factor=2,
    )  # fmt: skip
    model = seeded(getattr(transformers, f"{kind}ForConditionalGeneration"), config, seed, made)
    images = getattr(transformers, f"{kind}ImageProcessor")(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
    )
    more = {}
    if kind == "SmolVLM":
        more["video_processor"] = transformers.SmolVLMVideoProcessor()
    processor = getattr(transformers, f"{kind}Processor")(
        image_processor=images, tokenizer=made, image_seq_len=1, chat_template=QWEN_TEMPLATE, **more
    )
    return model, processor


MAKERS: dict[str, Callable[[int, int], tuple[Any, Any]]] = {
    "qwen2-vl": _qwen2_vl,
    "qwen2.5-vl": _qwen2_5_vl,
    "qwen3-vl": _qwen3_vl,
    "internvl-hf": _internvl,
    "internvl-hf with experts": _internvl_moe,
    "llava-onevision": _llava_onevision,
    "smolvlm": _smolvlm,
    "smolvlm2": _smolvlm2,
}
"""Model and processor of a family, for a seed and the width of a head."""
