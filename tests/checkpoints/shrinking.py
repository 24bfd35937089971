"""Any kind of VLM that transformers ships, so small that a CPU makes and saves it in a second.

A default config says how a kind's parts hang together: widths that are equal there stay equal when
all are divided by the same number. What that does not make whole stands in ``SETTINGS``, by kind.
"""

from collections.abc import Mapping
from typing import Any

LESS = 32
"""What widths are divided by."""

VOCABULARY = 128

WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "_dim",
    "_rank",
    "_channels",
    "d_model",
    "d_ff",
    "d_kv",
    "d_rel",
    "embed_dim",
    "ffn_dim",
    "intermediate_size_mlp",
    "projection_dim",
    "hidden_size_per_layer_input",
    "_lowrank",
)
"""How the names of widths end."""

SAME = ("in_channels", "num_channels", "out_channels", "rotary_dim", "kernel_dim")
HEADS = ("num_heads", "attention_heads", "num_attention_heads", "_n_heads", "resampler_heads")
LAYERS = (
    "num_hidden_layers",
    "depth",
    "num_layers",
    "n_layers",
    "layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
    "resampler_depth",
)
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def shrunk(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A config's settings, and those of its parts, for a small model of the kind."""
    made = {key: _one(key, value) for key, value in settings.items()}
    kinds = [
        key
        for key in ("layer_types", "mlp_layer_types")
        if isinstance(made.get(key), list) and made[key]
    ]
    several = [list(dict.fromkeys(made[key])) for key in kinds]
    count = max([2, *map(len, several)])
    for key in LAYERS:
        if isinstance(made.get(key), int) and made[key] > 1:
            made[key] = count
    for key, names in zip(kinds, several, strict=True):
        made[key] = names + [names[-1]] * (count - len(names))
    return made


def _one(key: Any, value: Any) -> Any:
    if not isinstance(key, str):
        return value
    if isinstance(value, dict):
        return shrunk(value)
    if isinstance(value, list | tuple) and value and all(type(part) is int for part in value):
        return [_one(key, part) for part in value]
    if type(value) is not int or value < 2:
        return value
    if key.endswith("vocab_size") or key.startswith("vocab_size") or key == "vocab_offset":
        return min(value, VOCABULARY)
    if key.endswith(("_token_id", "_token_index", "_token_ids")):
        return value % (VOCABULARY // 2)
    if "key_value_heads" in key or key.endswith(("key_heads",)):
        return 1
    if key.endswith(HEADS) or key.endswith("_heads"):
        return 2
    if key in ("num_experts_per_tok", "moe_k", "moe_topk"):
        return min(value, 2)
    if key in EXPERTS:
        return 4
    if key.endswith(WIDTHS) and not key.endswith(SAME):
        return max(value // LESS, 2)
    return value


VQ = {"base_channels": 32, "channel_multiplier": [1, 1], "latent_channels": 32, "embed_dim": 32}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
GEMMA4 = {"per_layer_config": None, "global_head_dim": 16}
MOE = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}
INDEXER = {"n_heads": 2, "kv_heads": 1, "head_dim": 8, "budget": 4, "compress_ratio": 2}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "aria": {"projector_patch_to_query_dict": {"16": 4}},
    "chameleon": {
        "vocabulary_map": {"<image>": 5},
        "vq_config": VQ,
    },
    "cohere_compass": {
        "text_config": {
            "head_dim": 8,
            "rope_parameters": {"full_attention": ROPE},
        }
    },
    "cosmos3_edge": {"text_config": {"rope_parameters": {"mrope_section": [1, 1, 0]}}},
    "deepseek_ocr2": {
        "text_config": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2}
    },
    "diffusion_gemma": {"vision_config": "gemma4_vision", "text_config": GEMMA4 | MOE},
    "emu3": {"vocabulary_map": {"<image>": 5}, "vq_config": VQ | {"attn_resolutions": [1]}},
    "ernie4_5_vl_moe": {"text_config": {"head_dim": 8, "rope_parameters": ROPE}},
    "fast_vlm": {
        "vision_config": {
            "hidden_size": 64,
            "model_args": {
                "inference_mode": True,
                "layers": [1, 1, 1, 1, 1],
                "embed_dims": [8, 16, 16, 32, 32],
            },
        }
    },
    "gemma3n": {
        "text_config": {
            "intermediate_size": 64,
            "activation_sparsity_pattern": None,
            "num_kv_shared_layers": 0,
        }
    },
    "gemma4": {
        "vision_config": "gemma4_vision",
        "audio_config": "gemma4_audio",
        "text_config": GEMMA4 | MOE | {"enable_moe_block": True},
    },
    "gemma4_unified": {
        "vision_config": "gemma4_unified_vision",
        "audio_config": "gemma4_unified_audio",
        "text_config": GEMMA4,
    },
    "glm5_next": {"text_config": {"num_key_value_heads": 2}},
    "granite4_vision": {
        "text_config": "granite4_vision_text",
        "downsample_rate": "1/2",
        "deepstack_layer_map": [[0, 0], [1, 1]],
        "spatial_target_layers": [0, 1],
    },
    "hunyuan_vl": {"text_config": {"head_dim": 16, "num_key_value_heads": 1}},
    "janus": {"vq_config": VQ},
    "perception_lm": {
        "vision_config": {
            "architecture": "vit_pe_core_tiny_patch16_384",
            "model_args": {"embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": ""},
        }
    },
    "qwen4_exp": {
        "text_config": {f"indexer_{key}": value for key, value in INDEXER.items()}
        | {
            "eos_token_id": 1,
            "ple_layer_ids": [1],
            "ngram_vocab_size_base": 100,
            "split_ngram_parts": 2,
        }
    },
    "vision-encoder-decoder": {"encoder": "vit", "decoder": "trocr"},
}
"""By kind, what a small model needs besides, or other than, its default config made small.

A string stands for the default config of that kind, None for nothing.
"""


def _merged(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(settings)
    for key, value in more.items():
        if value is None:
            made.pop(key, None)
        elif isinstance(value, str) and (small := _default(value)):
            made[key] = small
        elif isinstance(value, Mapping) and isinstance(made.get(key), dict):
            made[key] = _merged(made[key], value)
        else:
            made[key] = value
    return made


def _default(model_type: str) -> dict[str, Any]:
    """The default config of a kind, made small; nothing where a word is no kind."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return {}
    config_class = CONFIG_MAPPING[model_type]
    if getattr(config_class, "has_no_defaults_at_init", False):
        return {"model_type": model_type}
    return shrunk(config_class().to_dict())


def model(model_type: str, kind: str) -> Any:
    """A model with random float32 weights."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    settings = _merged(_default(model_type), SETTINGS.get(model_type, {}))
    return getattr(transformers, kind)(CONFIG_MAPPING[model_type].from_dict(settings))
