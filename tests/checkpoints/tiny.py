"""Tiny random models of real architectures, and adapters that PEFT makes of them."""

from pathlib import Path
from typing import Any

ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
SIGLIP = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
KINDS = ("qwen2_5", "gemma3", "llavaov", "mllama", "internvl", "qwen3moe")


def text(**more: Any) -> dict[str, Any]:
    """Settings of a language model."""
    return {
        "vocab_size": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    } | more


def model(kind: str, seed: int = 0, tie: bool = False) -> Any:
    """A model with random float32 weights."""
    import torch
    import transformers as t

    torch.manual_seed(seed)
    if kind == "qwen2_5":
        vision = {"depth": 2, "hidden_size": 24, "intermediate_size": 40, "num_heads": 4}
        vision |= {"out_hidden_size": 32, "fullatt_block_indexes": [1], "patch_size": 4}
        settings = text(rope_parameters=ROPE, tie_word_embeddings=tie)
        config: Any = t.Qwen2_5_VLConfig(
            text_config=settings,
            vision_config=vision | {"window_size": 16},
            tie_word_embeddings=tie,
        )
        return t.Qwen2_5_VLForConditionalGeneration(config)
    if kind == "gemma3":
        settings = text(head_dim=8, query_pre_attn_scalar=8)
        config = t.Gemma3Config(text_config=settings, vision_config=SIGLIP, mm_tokens_per_image=4)
        return t.Gemma3ForConditionalGeneration(config)
    if kind == "llavaov":
        config = t.LlavaOnevisionConfig(
            text_config=text(model_type="qwen2"),
            vision_config=SIGLIP | {"model_type": "siglip_vision_model"},
            image_token_index=5,
            video_token_index=6,
        )
        return t.LlavaOnevisionForConditionalGeneration(config)
    if kind == "mllama":
        vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        vision |= {"num_global_layers": 1, "attention_heads": 4, "image_size": 32, "patch_size": 8}
        vision |= {"vision_output_dim": 64, "intermediate_layers_indices": [0]}
        vision |= {"supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1}
        settings = text(num_hidden_layers=4, cross_attention_layers=[1])
        config = t.MllamaConfig(text_config=settings, vision_config=vision)
        return t.MllamaForConditionalGeneration(config)
    if kind == "qwen3moe":
        moe = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2}
        moe |= {"moe_intermediate_size": 24, "decoder_sparse_step": 1}
        vision = {"depth": 2, "hidden_size": 24, "intermediate_size": 40, "num_heads": 4}
        vision |= {"out_hidden_size": 32, "patch_size": 4, "deepstack_visual_indexes": [0]}
        config = t.Qwen3VLMoeConfig(
            text_config=text(rope_parameters=ROPE, **moe),
            vision_config=vision | {"num_position_embeddings": 16},
        )
        return t.Qwen3VLMoeForConditionalGeneration(config)
    assert kind == "internvl", kind
    config = t.InternVLConfig(
        text_config=text(model_type="qwen2"),
        vision_config=SIGLIP,
        image_token_id=5,
        downsample_ratio=0.5,
    )
    return t.InternVLForConditionalGeneration(config)


def saved(path: Path, kind: str, seed: int = 0, tie: bool = False) -> Path:
    """Such a model's directory, as transformers writes it."""
    model(kind, seed, tie).save_pretrained(path)
    return path


def adapter(path: Path, kind: str, tie: bool = False, **lora: Any) -> tuple[Path, Any]:
    """An adapter's directory, and the state dict of the model that PEFT merges it into."""
    import torch
    from peft import LoraConfig, get_peft_model

    plain = model(kind, 0, tie)
    torch.manual_seed(100)
    wrapped = get_peft_model(plain, LoraConfig(r=4, init_lora_weights=False, **lora))
    wrapped.save_pretrained(path, save_embedding_layers=False)
    return path, wrapped.merge_and_unload()
