"""Every kind of VLM that transformers ships: is each adapter's name found among its files' names?

``python -m tests.checkpoints.architectures`` builds each on torch's meta device, in its default
size but for the number of layers, and compares what ``factors.Finder`` finds with what transformers
itself calls the tensor when it saves it. Takes a minute or two; prints a line for each kind.
"""

import sys
import time
from typing import Any

TRANSFORMERS = "5.17.0"
"""The version that the lists are of."""

BY_CORES = [
    "aria",
    "blip",
    "blip-2",
    "cohere2_vision",
    "deepseek_vl",
    "deepseek_vl_hybrid",
    "evolla",
    "exaone4_5",
    "fast_vlm",
    "florence2",
    "fuyu",
    "gemma3",
    "gemma3n",
    "gemma4",
    "gemma4_unified",
    "git",
    "glm46v",
    "glm4v",
    "glm4v_moe",
    "glm_ocr",
    "glmga",
    "got_ocr2",
    "idefics",
    "idefics2",
    "instructblip",
    "instructblipvideo",
    "internvl",
    "janus",
    "kosmos-2",
    "kosmos-2.5",
    "lfm2_vl",
    "lighton_ocr",
    "llama4",
    "llava",
    "llava_next",
    "llava_next_video",
    "llava_onevision",
    "minicpmv4_6",
    "mistral3",
    "mistral4",
    "mllama",
    "muse_glimmer",
    "ovis2",
    "paligemma",
    "pix2struct",
    "pp_chart2table",
    "pp_formulanet",
    "qwen2_5_omni_thinker",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_omni_moe_thinker",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen4_exp",
    "shieldgemma2",
    "udop",
    "video_llama_3",
    "video_llava",
    "vipllava",
]
"""Found by what stands before the names alone, see ``soup.checkpoints.names``."""

BY_TRANSFORMERS = [
    "cosmos3_edge",
    "cosmos3_omni",
    "glm5_next",
    "inkling_mm_model",
    "kimi_k25",
    "minimax_m3_vl",
    "paddleocr_vl",
    "pi0",
    "qianfan_ocr",
    "step3p7",
    "t5gemma2",
]
"""Renamed further inside: found where transformers is installed to be asked."""

UNBUILT = [
    "aya_vision",
    "chameleon",
    "cohere_compass",
    "deepseek_ocr2",
    "diffusion_gemma",
    "emu3",
    "granite4_vision",
    "hunyuan_vl",
    "idefics3",
    "perception_lm",
    "ernie4_5_vl_moe",
    "smolvlm",
    "vision-encoder-decoder",
]
"""Not built by their default config; a real config.json may well do."""


def architectures() -> dict[str, str]:
    """Model types and classes of transformers' image-text-to-text models."""
    from transformers.models.auto import modeling_auto

    return dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def shrunk(config: Any) -> Any:
    """A config with two layers in each of its parts."""
    import transformers

    for part in list(vars(config).values()):
        if isinstance(part, transformers.PretrainedConfig):
            shrunk(part)
    for key in ("num_hidden_layers", "depth", "num_layers", "encoder_layers", "decoder_layers"):
        if isinstance(count := getattr(config, key, None), int) and count > 2:
            setattr(config, key, 2)
    return config


def examine(model_type: str, kind: str) -> tuple[int, list[str], int, list[str]]:
    """How many modules it has, which are not found by cores, how many of these not by
    transformers (fused or split in files: refused by name), and which are found wrongly.

    Raises:
        Exception: whatever its default config makes of its construction.
    """
    import torch
    import transformers
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from soup.checkpoints.describe import file_names
    from soup.checkpoints.names import Cores

    config = shrunk(CONFIG_MAPPING[model_type]())
    with torch.device("meta"):
        model = getattr(transformers, kind)(config)
    state = model.state_dict()
    files = set(revert_weight_conversion(model, dict(state)))
    cores = Cores(files)
    wrapped = (torch.nn.Linear, torch.nn.Embedding, torch.nn.modules.conv._ConvNd)
    names = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, wrapped)}
    unfound, wrong, lost = [], [], 0
    said: dict[str, str] | None = None
    for name in sorted(names & state.keys() - files):
        found = cores.find(name)
        if found is None:
            unfound.append(name)
            said = said or file_names(getattr(transformers, kind), config)
            lost += said.get(name) not in files
            continue
        truth = list(revert_weight_conversion(model, {name: state[name]}))
        if len(truth) == 1 and truth != [found]:
            wrong.append(f"{name} is {truth[0]}, found {found}")
    return len(names), unfound, lost, wrong


def main() -> int:
    """Print a line for each kind; 1 where a list is not what is found, or a name is wrong."""
    faults = 0
    for model_type, kind in architectures().items():
        started = time.monotonic()
        try:
            count, unfound, lost, wrong = examine(model_type, kind)
        except Exception as error:  # its default config is no whole one
            expected, text = UNBUILT, f"not built: {type(error).__name__}"
        else:
            expected = BY_TRANSFORMERS if unfound else BY_CORES
            text = f"{count} modules, {len(unfound)} asked of transformers, {lost} refused, "
            text += f"{len(wrong)} wrong"
            faults += bool(wrong)
            for line in wrong[:3]:
                print("   ", line)
        odd = "" if model_type in expected else "  <- stands in another list"
        faults += bool(odd)
        print(f"{model_type}: {text} ({time.monotonic() - started:.1f} s){odd}", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
