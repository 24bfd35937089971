"""The files beside the weights: which ones a model needs, and what its tokenizer means."""

import hashlib
import json
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from soup.json_text import parse

WEIGHTS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data",
)
TRAINER_STATE = (
    "optimizer*",
    "scheduler*",
    "trainer_state.json",
    "training_args*",
    "rng_state*",
    "scaler*",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
    "pytorch_model_fsdp*",
    "events.out.tfevents*",
    "trainer_log.jsonl",
    "train_results.json",
    "all_results.json",
    "runs",
    "wandb",
    "checkpoint-*",
    "__pycache__",
    "args.json",  # ms-swift's, and its version 2's:
    "sft_args.json",
    "adapter_config.json",  # a full model is no adapter
)
REPLACED = ("README.md", "soup.json")
"""Files that the soup brings itself: its model card and its manifest."""

VOLATILE_CONFIG = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "_commit_hash",
        "torch_dtype",
        "dtype",
    }
)
"""Keys of config.json that say where a checkpoint came from, not how it computes. The dtype is
among them: the tensors' own is what counts, and is compared with the tensors."""

DOCUMENTS = ("README*", "LICENSE*", "NOTICE*", "*.md", ".gitattributes", "*.png", "*.jpg")


def companions(directory: Path) -> Iterator[Path]:
    """Files, relative to ``directory``, that a model needs beside its weights, sorted.

    Everything but weights, trainer state, version control and what the soup brings itself:
    config, generation config, tokenizer, processor, chat template, custom code, licence.
    """
    for root, folders, files in os.walk(directory):
        here = Path(root)
        top = here == directory
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and not _matches(f, TRAINER_STATE)
        )
        for file in sorted(files):
            skip = WEIGHTS + TRAINER_STATE + (REPLACED if top else ())
            if not _matches(file, skip):
                yield (here / file).relative_to(directory)


def companions_digest(directory: Path) -> str:
    """SHA-256 of what decides a model's answers besides its weights.

    Documents are left out and config.json is taken without the keys of ``VOLATILE_CONFIG``, so
    that a checkpoint saved elsewhere, or by another version, counts as the same.
    """
    total = hashlib.sha256(b"soup-companions-1\n")
    for relative in companions(directory):
        if _matches(relative.name, DOCUMENTS):
            continue
        content = (directory / relative).read_bytes()
        if relative.name == "config.json":
            content = _canonical(content)
        digest = hashlib.sha256(content).hexdigest()
        total.update(f"{relative.as_posix()} {digest}\n".encode())
    return total.hexdigest()


def token_ids(directory: Path) -> dict[str, int] | None:
    """Token to embedding row, from the tokenizer's own files; None where there are none to read.

    A ``tokenizer.model`` (SentencePiece) without ``tokenizer.json`` is compared by its bytes.
    """
    try:
        fast = directory / "tokenizer.json"
        if fast.is_file():
            return _fast_token_ids(parse(fast.read_bytes()))
        ids: dict[str, int] = {}
        for name in ("vocab.json", "added_tokens.json"):
            if (directory / name).is_file():
                ids |= parse((directory / name).read_bytes())
        model = directory / "tokenizer.model"
        if model.is_file():
            digest = hashlib.sha256(model.read_bytes()).hexdigest()
            ids[f"tokenizer.model {digest[:12]}"] = 0
        return ids or None
    except (ValueError, TypeError, KeyError, AttributeError, OSError):
        return None  # not a tokenizer we can read; transformers will say so when it loads it


def chat_template(directory: Path) -> str | None:
    """The chat template beside a model, from the files that transformers reads; None for none."""
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        try:
            text = (directory / name).read_text()
            found = text if name.endswith(".jinja") else parse(text).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(found, str):
            return found.strip()
    return None


def _fast_token_ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    vocab = tokenizer["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [[piece, score], ...] by row
        ids = {str(entry[0]): row for row, entry in enumerate(vocab)}
    else:
        ids = dict(vocab)
    for token in tokenizer.get("added_tokens") or ():
        ids[token["content"]] = token["id"]
    return ids


def _canonical(content: bytes) -> bytes:
    try:
        config = parse(content)
    except ValueError:
        return content
    return json.dumps(_without_volatile(config), sort_keys=True).encode()


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_volatile(v) for k, v in value.items() if k not in VOLATILE_CONFIG}
    return value


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
