"""Every kind of VLM that transformers ships: is each adapter's name found among its files' names?

``python -m tests.checkpoints.architectures`` makes each small (see ``shrinking``), and compares
what ``factors.Finder`` finds with what transformers itself calls the tensor when it saves it. Takes
a minute or two; prints a line for each kind. Values are compared by ``merging``.
"""

import sys
import time
from typing import Any

from tests.checkpoints import shrinking

TRANSFORMERS = "5.17.0"
"""The version that the lists are of."""

BY_CORES = [
    "aria",
    "aya_vision",
    "blip",
    "blip-2",
    "chameleon",
    "cohere2_vision",
    "cohere_compass",
    "deepseek_vl",
    "deepseek_vl_hybrid",
    "diffusion_gemma",
    "evolla",
    "exaone4_5",
    "fast_vlm",
    "florence2",
    "fuyu",
    "gemma3",
    "gemma3n",
    "gemma4",
    "git",
    "glm46v",
    "glm4v",
    "glm4v_moe",
    "glm_ocr",
    "glmga",
    "got_ocr2",
    "granite4_vision",
    "idefics",
    "idefics2",
    "idefics3",
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
    "perception_lm",
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
    "shieldgemma2",
    "smolvlm",
    "udop",
    "video_llama_3",
    "video_llava",
    "vipllava",
]
"""Found by what stands before the names alone, see ``soup.checkpoints.names``."""

BY_TRANSFORMERS = [
    "cosmos3_edge",
    "cosmos3_omni",
    "deepseek_ocr2",
    "emu3",
    "ernie4_5_vl_moe",
    "gemma4_unified",
    "glm5_next",
    "hunyuan_vl",
    "inkling_mm_model",
    "kimi_k25",
    "minimax_m3_vl",
    "paddleocr_vl",
    "pi0",
    "qianfan_ocr",
    "qwen4_exp",
    "step3p7",
    "t5gemma2",
    "vision-encoder-decoder",
]
"""Renamed further inside, fused or split in files: found where transformers is installed to be
asked."""

UNADAPTED = {"pp_formulanet": "PEFT asks for its input embeddings, which its class does not give"}
"""Kinds of which there are no adapters, and why; ``merging`` cannot compare them."""


def architectures() -> dict[str, str]:
    """Model types and classes of transformers' image-text-to-text models."""
    from transformers.models.auto import modeling_auto

    return dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def examine(model_type: str, kind: str) -> tuple[int, list[str], int, list[str]]:
    """How many modules it has, which are not found by cores, how many of these not by
    transformers (their weights are stored nowhere, or in an order that is not followed: refused by
    name), and which are found wrongly.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    from soup.checkpoints.describe import stored
    from soup.checkpoints.names import Cores

    model = shrinking.model(model_type, kind)
    state = model.state_dict()
    files = set(revert_weight_conversion(model, dict(state)))
    cores = Cores(files)
    wrapped = (torch.nn.Linear, torch.nn.Embedding, torch.nn.modules.conv._ConvNd)
    names = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, wrapped)}
    unfound, wrong, lost = [], [], 0
    said: dict[str, Any] = {}
    for name in sorted(names & state.keys() - files):
        found = cores.find(name)
        if found is None:
            unfound.append(name)
            said = said or stored(type(model), model.config)
            lost += not any(name in said[how] for how in ("names", "rows", "tied"))
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
        count, unfound, lost, wrong = examine(model_type, kind)
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
