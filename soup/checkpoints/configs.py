"""Two ``config.json``, compared by what they mean rather than by how they are written.

Transformers 4 wrote every setting of generation into it and the text model's settings at the top;
transformers 5 writes all defaults and calls some settings otherwise. Only what makes the same
weights compute something else counts.
"""

import copy
import importlib.util
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from soup.checkpoints.files import VOLATILE_CONFIG
from soup.words import shown

WITHOUT_EFFECT = frozenset(
    {
        "model_type",  # compared apart
        "architectures",
        "auto_map",  # the code itself is a file
        "use_cache",
        "initializer_range",
        "initializer_factor",
        "attention_dropout",  # dropouts: training only
        "hidden_dropout",
        "dropout",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_attn_implementation_internal",
        "gradient_checkpointing",
        "ignore_index",  # of the loss
        "id2label",  # of classifiers
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "return_dict",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        "finetuning_task",
        "problem_type",
        "task_specific_params",
        "tokenizer_class",
        "_vocab_size",
        "chunk_size_feed_forward",
    }
)
"""Keys that change nothing in what a model answers."""

ALWAYS_WRITTEN: Mapping[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "diversity_penalty": 0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "is_decoder": False,
    "is_encoder_decoder": False,
    "length_penalty": 1,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "use_backbone_lora": 0,  # InternVL's, in merged models
    "use_llm_lora": 0,
    "num_return_sequences": 1,
    "output_scores": False,
    "remove_invalid_values": False,
    "repetition_penalty": 1,
    "return_dict_in_generate": False,
    "temperature": 1,
    "tie_encoder_decoder": False,
    "top_k": 50,
    "top_p": 1,
    "typical_p": 1,
}
"""What transformers 4 wrote into every part of a config, and 5 leaves out: as good as nothing."""

MOST = 12
"""Keys shown with their values; of more only the names."""

_NOTHING = object()


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, flattened, with both values; None for one that is not there.

    A key that only one has is its default in the other: where transformers is installed and knows
    the model, that is looked up, and only then counts.
    """
    found = _differing(meaning(ours), meaning(theirs))
    in_both = {key: pair for key, pair in found.items() if None not in pair}
    if len(in_both) == len(found):
        return found
    read = [_as_transformers_reads(config) for config in (ours, theirs)]
    if read[0] is not None and read[1] is not None:
        return dict(sorted((_differing(meaning(read[0]), meaning(read[1])) | in_both).items()))
    if _saved_by(ours) != _saved_by(theirs):  # one of them may write all defaults out
        return in_both
    return found


def described(found: Mapping[str, tuple[Any, Any]], reference: str) -> str:
    """Differences for people: ``rope_theta 10000 (a: 1000000)``, all of them."""
    texts = [
        f"{shown(key)} {_value(theirs)} ({shown(reference)}: {_value(ours)})"
        for key, (ours, theirs) in found.items()
    ]
    rest = [shown(key, 40) for key in list(found)[MOST:]]
    return ", ".join(texts[:MOST]) + (f"; and in {', '.join(rest)}" if rest else "")


def _value(value: Any) -> str:
    return "nothing" if value is None else shown(json.dumps(value, ensure_ascii=False), 60)


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted(ours.keys() | theirs.keys())
    pairs = {key: (ours.get(key), theirs.get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not _equal(*pair)}


def _equal(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _saved_by(config: Mapping[str, Any]) -> str:
    return str(config.get("transformers_version", "")).partition(".")[0]


def meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flat keys and plain values: what computes, by its name in transformers 5."""
    lifted = dict(config)
    text = lifted.pop("text_config", None)
    if isinstance(text, dict):
        # The text model's settings stood at the top before transformers 4.52.
        outer = {k: v for k, v in lifted.items() if k in text and not isinstance(v, dict)}
        lifted |= text
        lifted |= {f"(outer) {k}": v for k, v in outer.items() if not _equal(v, text[k])}
    elif text is not None:
        lifted["text_config"] = text
    return {key: value for key, value in _leaves(lifted, "") if value is not None}


def _leaves(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in _with_rope(config).items():
        bare = key.removeprefix("(outer) ")
        if bare in VOLATILE_CONFIG or bare in WITHOUT_EFFECT:
            continue
        if bare == "tie_word_embeddings" and prefix:  # a part that has no embeddings to tie
            continue
        plain = _plain(value)
        if ALWAYS_WRITTEN.get(bare, _NOTHING) == plain or plain in ({}, []):
            continue
        if isinstance(plain, dict):
            yield from _leaves(plain, f"{prefix}{key}.")
        else:
            yield prefix + key, plain


def _plain(value: Any) -> Any:
    """Whole numbers without a point: 500000.0 is 500000; not in what a model could overflow."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _with_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings as transformers 5 names them, without those that mean nothing."""
    found = dict(config)
    scaling, parameters = found.pop("rope_scaling", None), found.pop("rope_parameters", None)
    parameters = parameters if isinstance(parameters, dict) else {}
    if all(isinstance(value, dict) for value in parameters.values()) and parameters:
        full, sliding = parameters.get("full_attention"), parameters.get("sliding_attention")
        if isinstance(sliding, dict) and "rope_theta" in sliding:
            found.setdefault("rope_local_base_freq", sliding["rope_theta"])
        parameters = full if isinstance(full, dict) else {}
    merged = dict(scaling if isinstance(scaling, dict) else {}) | parameters
    kind = merged.pop("rope_type", merged.pop("type", None))
    merged.pop("type", None)
    if "rope_theta" in merged:
        found["rope_theta"] = merged.pop("rope_theta")
    if kind not in (None, "default", "mrope", "axial"):
        merged["rope_type"] = kind
    return found | ({"rope": merged} if merged else {})


def _may_be_known(model_type: str) -> bool:
    """Whether importing transformers, which takes seconds, may tell anything of a kind of model."""
    spec = importlib.util.find_spec("transformers")
    folder = re.sub(r"[^a-z0-9]", "_", model_type)
    places = (spec and spec.submodule_search_locations) or []
    # os.path: a name that is too long is no folder
    return bool(folder) and any(os.path.isdir(f"{place}/models/{folder}") for place in places)


def _as_transformers_reads(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A config with its defaults; None where transformers is not installed or does not know it.

    No code of the checkpoint runs: only classes of transformers are used.
    """
    if not _may_be_known(str(config.get("model_type", ""))):
        return None
    try:
        from transformers import CONFIG_MAPPING
    except Exception:  # an installation that is broken is told by those who need it
        return None
    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)  # what it thinks of the file is not the question
        kind = CONFIG_MAPPING[str(config.get("model_type"))]
        found: dict[str, Any] = kind.from_dict(copy.deepcopy(dict(config))).to_dict()
        json.dumps(found)
    except Exception:  # it raises whatever a checkpoint's settings make it
        return None
    finally:
        logger.setLevel(level)
    return found
