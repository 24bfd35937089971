"""The families of models that VLMEvalKit has a wrapper for: one table, an entry each.

Nothing here imports transformers or VLMEvalKit, so that the command line may ask, too. To
add a family, add an entry to ``FAMILIES``; what is wrong with its wrapper goes to
``soup.evaluators.models.workarounds``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from soup.errors import UsageError
from soup.words import did_you_mean

GENERIC = "chat-template"
"""What a checkpoint of no family is asked through, and how ``--family`` calls that."""

TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "*.spm")
"""Files that tokenizers are read from."""


@dataclass(frozen=True)
class Family:
    """One kind of model, as VLMEvalKit asks it.

    Attributes:
        name: for ``--family`` and ``[family.NAME]``.
        title: how people call it.
        marks: values of ``model_type``, ``architectures`` or class names in ``auto_map`` of
            config.json, any one of which tells the family.
        wrapper: class in ``vlmeval.vlm``; ``module:class`` where it is one of ours.
        transformers: first and last version, by major and minor, under which it runs; no last one
            where none is known.
        when: what else must hold of config.json, where the marks are shared.
        options: how the wrapper is constructed; ``[family.NAME]`` in soup.toml goes before.
        accepts: options, all of them numbers, that the constructor hides in ``**kwargs``.
        decode: how its tokens become an answer, by name in ``models.kit_wrapper``; without one
            it cannot be taken apart, and is asked one question at a time.
        custom_code: whether the checkpoint brings Python code of its own.
        packages: what else must be installed, as import name and what to install.
        workarounds: defects of this wrapper that are mended, by name in
            ``soup.evaluators.models.workarounds``, besides those that all have.
        verified: the transformers it was last run under, and whether tests or a person ran it.
        vllm: whether vLLM asks it: ``equal`` where tests found all answers to be transformers' own,
            ``by hand`` where a person did, or ``no`` where it cannot.
        served: how vLLM asks it without that code, by name in ``soup.evaluators.models.served``.
    """

    name: str
    title: str
    marks: frozenset[str]
    wrapper: str
    transformers: tuple[str, str | None]
    when: Callable[[Mapping[str, Any]], bool] = lambda config: True
    options: Mapping[str, Any] = field(default_factory=dict)
    accepts: tuple[str, ...] = ()
    decode: str | None = None
    custom_code: bool = False
    packages: Mapping[str, str] = field(default_factory=dict)
    workarounds: tuple[str, ...] = ()
    verified: str = "never"
    vllm: str = "no"
    served: str = ""

    @property
    def batched(self) -> bool:
        """Whether questions go to the model in batches."""
        return self.decode is not None

    def by(self, engine: str) -> Family:
        """The family as an engine asks it: vLLM may need less of it, and take it in batches."""
        if engine != "vllm" or not self.served:
            return self
        return replace(self, transformers=("4.56", None), packages={}, decode="chat")

    def runs_under(self, version: str) -> bool:
        """Whether a version of transformers is in range."""
        first, last = self.transformers
        found = _release(version)
        return _release(first) <= found and (last is None or found <= _release(last))

    @property
    def range(self) -> str:
        """The transformers versions, to read."""
        first, last = self.transformers
        return f">= {first}" if last is None else f"{first}–{last}"


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


# --- what tells families apart that share their marks --------------------------------------


def _newer_internvl(config: Mapping[str, Any]) -> bool:
    """InternVL 2 and later: another template, or a language model that 1.5 never had.

    The sizes that 1.5 and 2 both made of the same language model look alike. With one image, both
    are asked in the same way; for several, name the family by hand.
    """
    language = _part(config, "llm_config").get("architectures") or [""]
    return config.get("template") == "internvl2_5" or not str(language[0]).startswith(
        ("InternLM2", "Phi3")
    )


def _older_internvl(config: Mapping[str, Any]) -> bool:
    return not _newer_internvl(config)


def _ovis_1_6(config: Mapping[str, Any]) -> bool:
    """Ovis 1.6 has keys that 1.5 had not, and the vision model that 2 gave up."""
    vision = str(_part(config, "visual_tokenizer_config").get("model_type", ""))
    return vision.startswith("siglip") and "disable_tie_weight" in config


def _small(config: Mapping[str, Any]) -> bool:
    """SmolVLM, not Idefics3-8B, whose prompts differ: its vocabulary is not Llama 3's."""
    text = _part(config, "text_config")
    return int(text.get("vocab_size", config.get("vocab_size", 0))) < 100_000


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


# --- the table -----------------------------------------------------------------------------

QWEN_UTILS = {"qwen_vl_utils": "qwen-vl-utils"}
INTERNVL_CODE = {"timm": "timm", "einops": "einops", "sentencepiece": "sentencepiece"}
GENERATION = ("max_new_tokens", "repetition_penalty", "num_beams", "length_penalty")
IN_TESTS = "5.17, tests"
BY_HAND = "4.46, hand"

FAMILIES: tuple[Family, ...] = (
    Family(
        name="qwen2-vl",
        title="Qwen2-VL",
        marks=frozenset({"qwen2_vl"}),
        wrapper="Qwen2VLChat",
        transformers=("4.45", None),
        options={"min_pixels": 1280 * 28 * 28, "max_pixels": 16384 * 28 * 28},
        decode="exact",
        packages=QWEN_UTILS,
        workarounds=("gpu-memory", "path"),
        verified=IN_TESTS,
        vllm="equal",
    ),
    Family(
        name="qwen2.5-vl",
        title="Qwen2.5-VL",
        marks=frozenset({"qwen2_5_vl"}),
        wrapper="Qwen2VLChat",
        transformers=("4.49", None),
        options={
            "min_pixels": 1280 * 28 * 28,
            "max_pixels": 16384 * 28 * 28,
            "use_custom_prompt": False,
        },
        decode="exact",
        packages=QWEN_UTILS,
        workarounds=("gpu-memory", "path", "architectures"),
        verified=IN_TESTS,
        vllm="equal",
    ),
    Family(
        name="qwen3-vl",
        title="Qwen3-VL",
        marks=frozenset({"qwen3_vl", "qwen3_vl_moe"}),
        wrapper="Qwen3VLChat",
        transformers=("4.57", None),
        options={"use_custom_prompt": False, "max_new_tokens": 16384},
        decode="exact",
        packages=QWEN_UTILS,
        workarounds=("gpu-memory", "path"),
        verified=IN_TESTS,
        vllm="equal",
    ),
    Family(
        name="internvl-hf",
        title="InternVL 2.5 and 3, converted for transformers (-hf)",
        marks=frozenset({"internvl"}),
        wrapper="soup.evaluators.models.adapters:InternVL",
        transformers=("4.52", None),
        accepts=GENERATION,
        decode="stripped",
        workarounds=("no-image",),
        verified=IN_TESTS,
        vllm="equal",
    ),
    Family(
        name="llava-onevision",
        title="LLaVA-OneVision (-hf)",
        marks=frozenset({"llava_onevision"}),
        wrapper="LLaVA_OneVision_HF",
        transformers=("4.45", None),
        decode="plain",
        workarounds=("empty-images",),
        verified=IN_TESTS,
        vllm="equal",
    ),
    Family(
        name="smolvlm",
        title="SmolVLM",
        marks=frozenset({"idefics3"}),
        when=_small,
        wrapper="SmolVLM",
        transformers=("4.46", None),
        accepts=GENERATION,
        decode="stripped",
        workarounds=("empty-images",),
        verified=IN_TESTS,
        vllm="equal",
    ),
    Family(
        name="smolvlm2",
        title="SmolVLM2",
        marks=frozenset({"smolvlm"}),
        wrapper="SmolVLM2",
        transformers=("4.50", None),
        accepts=GENERATION,
        decode="stripped",
        packages={"num2words": "num2words"},
        workarounds=("empty-images",),
        verified=IN_TESTS,
        vllm="equal",
    ),
    Family(
        name="points",
        title="POINTS",
        marks=frozenset({"points_chat", "POINTSChatModel", "POINTSChatConfig"}),
        wrapper="POINTS",
        transformers=("4.38", "4.46"),
        custom_code=True,
        workarounds=("yi",),
        verified=BY_HAND,
    ),
    Family(
        name="points-1.5",
        title="POINTS1.5",
        marks=frozenset({"pointsv1.5_chat", "POINTSV15ChatModel", "POINTSV15ChatConfig"}),
        wrapper="POINTSV15",
        transformers=("4.45", "4.46"),
        custom_code=True,
        # since 2026 that package is for a later transformers
        packages={
            "wepoints": "the wepoints package of 2025, from its repository WePOINTS/WePOINTS"
        },
        verified=BY_HAND,
    ),
    Family(
        name="ovis1.6",
        title="Ovis1.6",
        marks=frozenset({"ovis", "Ovis"}),
        when=_ovis_1_6,
        wrapper="Ovis1_6",
        transformers=("4.44", "4.46"),
        accepts=GENERATION,
        custom_code=True,
        workarounds=("missing-names",),
        verified=BY_HAND,
    ),
    Family(
        name="internvl-1.5",
        title="InternVL 1.5 and Mini-InternVL 1.5",
        marks=frozenset({"internvl_chat", "InternVLChatModel"}),
        when=_older_internvl,
        wrapper="InternVLChat",
        transformers=("4.37", "4.46"),
        options={"version": "V1.5"},
        accepts=GENERATION,
        custom_code=True,
        packages=INTERNVL_CODE,
        workarounds=("internvl-version", "no-image"),
        verified=BY_HAND,
        vllm="by hand",
        served="internvl",
    ),
    Family(
        name="internvl-2",
        title="InternVL 2, 2.5 and 3, with the code they brought",
        marks=frozenset({"internvl_chat", "InternVLChatModel"}),
        wrapper="InternVLChat",
        transformers=("4.37", "4.46"),
        options={"version": "V2.0"},
        accepts=GENERATION,
        custom_code=True,
        packages=INTERNVL_CODE,
        workarounds=("internvl-version", "no-image"),
        verified=BY_HAND,
        vllm="by hand",
        served="internvl",
    ),
    Family(
        name="mplug-owl",
        title="mPLUG-Owl",
        marks=frozenset({"mplug-owl", "MplugOwlForConditionalGeneration"}),
        wrapper="soup.evaluators.models.adapters:MPlugOwl",
        transformers=("4.33", "4.46"),
        accepts=GENERATION,
        packages={"mplug_owl": "the mplug_owl package, from its repository X-PLUG/mPLUG-Owl"},
        verified=BY_HAND,
    ),
    Family(
        name="mplug-owl2",
        title="mPLUG-Owl2",
        marks=frozenset({"mplug_owl2", "mplug_owl2_1", "MPLUGOwl2LlamaForCausalLM"}),
        wrapper="mPLUG_Owl2",
        transformers=("4.31", "4.34"),
        accepts=GENERATION,
        packages={
            "mplug_owl2": "the mplug_owl2 package, from its repository X-PLUG/mPLUG-Owl",
            "icecream": "icecream",
        },
        workarounds=("model-name", "cache-utils"),
        verified="4.31, hand",
    ),
    Family(
        name="mplug-owl3",
        title="mPLUG-Owl3",
        marks=frozenset({"mplugowl3", "mPLUGOwl3Model", "mPLUGOwl3Config"}),
        wrapper="mPLUG_Owl3",
        transformers=("4.41", "4.46"),
        custom_code=True,
        packages={"icecream": "icecream", "einops": "einops"},
        workarounds=("dataset-name",),
        verified=BY_HAND,
    ),
)
"""The first that fits a checkpoint is its family. Options are those of VLMEvalKit's own list."""


def family_of(config: Mapping[str, Any]) -> str | None:
    """The family of a checkpoint, from its config.json; None where it is none of the table's."""
    marks = set(_marks(config))
    for family in FAMILIES:
        if family.marks & marks and family.when(config):
            return family.name
    return None


def _marks(config: Mapping[str, Any]) -> Iterator[str]:
    yield str(config.get("model_type", ""))
    architectures = config.get("architectures")
    yield from map(str, architectures if isinstance(architectures, list) else [])
    for value in _part(config, "auto_map").values():
        yield str(value).rpartition(".")[2]


def named(name: str) -> Family | None:
    """A family by its name; None where there is none of that name."""
    return next((family for family in FAMILIES if family.name == name), None)


def require_named(name: str, where: str, generic: bool = False) -> None:
    """Raises UsageError where there is no family of that name; ``where`` it was given."""
    names = [family.name for family in FAMILIES] + [GENERIC] * generic
    if name in names or (generic and name == "generic"):
        return
    raise UsageError(f"{where}: no such family of models; {did_you_mean(name, names)}")


def read_config(directory: Path) -> Mapping[str, Any]:
    """What config.json in a model directory says; empty where there is none that can be read."""
    try:
        content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def has_tokenizer(directory: Path) -> bool:
    """Whether a model directory holds any of the files that tokenizers are read from.

    Without one, transformers makes an empty tokenizer for some models, and complains of others in
    words that do not speak of it.
    """
    return any(next(directory.glob(pattern), None) for pattern in TOKENIZERS)
