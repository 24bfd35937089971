"""Adapters of more kinds of VLM, merged by PEFT and by us: ``python -m tests.checkpoints.merging``.

Tiny random models with LoRA on all linear layers of text, towers and projectors; every tensor of
the merged model is compared. Those of ``tiny`` are tests of the suite; these take a minute or two.
Prints a line for each kind, and ends in 1 where one differs.
"""

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints.tiny import ROPE, SIGLIP, text

CLIP = SIGLIP | {"model_type": "clip_vision_model"}
SIGLIP_TOWER = SIGLIP | {"model_type": "siglip_vision_model"}
QWEN = {"depth": 2, "num_heads": 4, "patch_size": 4}


def builders() -> dict[str, Callable[[], Any]]:
    """By model type, what makes a model of it."""
    import transformers as t

    def made(name: str, **settings: Any) -> Callable[[], Any]:
        config = getattr(t, f"{name}Config")
        return lambda: getattr(t, f"{name}ForConditionalGeneration")(config(**settings))

    llama, mistral = text(model_type="llama"), text(model_type="mistral")
    gemma = text(model_type="gemma2", head_dim=8, query_pre_attn_scalar=8)
    narrow = {"hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32}
    deep = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4}
    query = {"hidden_size": 32, "intermediate_size": 40, "encoder_hidden_size": 24} | heads
    opt = {"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32} | heads
    pixtral = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "head_dim": 8}
    pixtral |= {"image_size": 32, "patch_size": 8} | heads
    perceiver = {"hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1}
    perceiver |= {"resampler_n_heads": 4, "num_key_value_heads": 2, "resampler_head_dim": 8}
    rows = {"vocab_size": 64, "max_position_embeddings": 64}
    return {
        "paligemma": made(
            "PaliGemma",
            text_config=gemma,
            vision_config=SIGLIP_TOWER | {"projection_dim": 32},
            projection_dim=32,
        ),
        "llava": made("Llava", text_config=llama, vision_config=CLIP),
        "llava_next": made("LlavaNext", text_config=mistral, vision_config=CLIP),
        "idefics2": made(
            "Idefics2", text_config=mistral, vision_config=SIGLIP, perceiver_config=perceiver
        ),
        "idefics3": made("Idefics3", text_config=llama, vision_config=SIGLIP, pad_token_id=0),
        "smolvlm": made("SmolVLM", text_config=llama, vision_config=SIGLIP, pad_token_id=0),
        "mistral3": made("Mistral3", text_config=mistral | {"head_dim": 8}, vision_config=pixtral),
        "aya_vision": made(
            "AyaVision",
            text_config=text(model_type="cohere2", head_dim=8),
            vision_config=SIGLIP_TOWER,
        ),
        "qwen2_vl": made(
            "Qwen2VL",
            text_config=text(rope_parameters=ROPE),
            vision_config=QWEN | {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2},
        ),
        "qwen3_vl": made(
            "Qwen3VL",
            text_config=text(rope_parameters=ROPE, head_dim=8),
            vision_config=QWEN | narrow | deep,
        ),
        "glm4v": made(
            "Glm4v",
            text_config=text(rope_parameters=ROPE | {"partial_rotary_factor": 1.0}, head_dim=8),
            vision_config=QWEN | narrow | {"image_size": 32},
        ),
        "lfm2_vl": made(
            "Lfm2Vl",
            text_config=text(model_type="lfm2"),
            vision_config=SIGLIP | {"model_type": "siglip2_vision_model", "num_patches": 16},
        ),
        "blip-2": made(
            "Blip2",
            vision_config=SIGLIP,
            qformer_config=query | rows,
            text_config=opt | rows,
        ),
    }


def differing(model: Any, here: Path) -> list[str]:
    """Tensors that are not PEFT's; their names."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    from soup.checkpoints.opening import open_checkpoint
    from tests.conftest import collect

    model.save_pretrained(here / "base")
    settings = LoraConfig(r=4, init_lora_weights=False, target_modules="all-linear")
    wrapped = get_peft_model(model, settings)
    wrapped.save_pretrained(str(here / "lora"))
    wrapped.merge_and_unload().save_pretrained(here / "merged")
    expected = load_file(here / "merged" / "model.safetensors")
    found = collect(open_checkpoint(here / "lora", base=here / "base"))
    return sorted(expected.keys() ^ found.keys()) + [
        name
        for name, values in expected.items()
        if name in found and not torch.allclose(found[name].float(), values, rtol=1e-4, atol=1e-5)
    ]


def main() -> int:
    """Examine all, or those that are named."""
    import torch

    logging.disable(logging.WARNING)
    every, wrong = builders(), 0
    for name in sys.argv[1:] or every:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            found = differing(every[name](), Path(folder))
        print(name, f"{len(found)} tensors differ: {found[:3]}" if found else "as PEFT", flush=True)
        wrong += bool(found)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
