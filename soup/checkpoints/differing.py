"""Companion files that decide answers and differ between members: named by file, key and value.

Until a member can be asked with its own files, all are asked with the reference's; whoever reads
the scores must know which of them are not what a member alone would reach.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.files import chat_template
from soup.checkpoints.json_text import parse
from soup.words import counted, shown

DECIDING = (
    "processor_config.json",
    "preprocessor_config.json",
    "generation_config.json",
    "tokenizer_config.json",
)
"""JSON files of settings that decide what a model is shown and how it answers."""

WITHOUT_EFFECT = frozenset(
    {
        "transformers_version",
        "_from_model_config",
        "_name_or_path",
        "name_or_path",
        "_commit_hash",
        "_processor_class",
        "processor_class",
        "auto_map",  # the code itself is a file
        "tokenizer_file",
        "tokenizer_class",
        "backend",
        "is_local",
        "local_files_only",
        "extra_special_tokens",  # tokens are compared as such, whatever files hold them
        "added_tokens_decoder",
        "additional_special_tokens",
        "chat_template",  # compared as a text, whatever file holds it
    }
)
"""Keys, at any depth, that change no answer or are compared elsewhere."""

KEYS = 4  # of a file are shown


def differing(reference: Checkpoint, member: Checkpoint) -> list[str]:
    """What a user should know of a member's companion files, a line for each that differs.

    A file that the member lacks is no difference: it would not run without the reference's.
    """
    lines = []
    for name in DECIDING:
        ours, theirs = _settings(reference.home / name), _settings(member.home / name)
        if theirs is None:
            continue
        keys = sorted({*(ours or {}), *theirs})
        found = [key for key in keys if (ours or {}).get(key) != theirs.get(key)]
        if found:
            lines.append(f"{name}: {_pairs(found, theirs, ours or {}, reference.name)}")
    template = chat_template(member.home)
    if template is not None and template != chat_template(reference.home):
        lines.append("chat template")
    code = [
        path.name
        for path in sorted(member.home.glob("*.py"))
        if _content(path) != _content(reference.home / path.name)
    ]
    if code:
        lines.append(f"code: {', '.join(shown(name) for name in code[:KEYS])}")
    return [
        f"{member.name}: differs from {reference.name} in {line}; all members are scored, and the "
        f"soup is written, with {reference.name}'s: alone, this member may score otherwise"
        for line in lines
    ]


def _settings(file: Path) -> dict[str, Any] | None:
    """Flat keys of a JSON file; None where there is none that can be read."""
    try:
        found = parse(file.read_text()) if file.is_file() else None
    except (OSError, ValueError):
        return None
    return dict(_leaves(found)) if isinstance(found, dict) else None


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if key in WITHOUT_EFFECT:
            continue
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _pairs(
    keys: list[str], theirs: Mapping[str, Any], ours: Mapping[str, Any], reference: str
) -> str:
    said = [
        f"{shown(key)} {_value(theirs, key)} ({reference}: {_value(ours, key)})"
        for key in keys[:KEYS]
    ]
    more = len(keys) - KEYS
    return ", ".join(said) + (f" and {counted(more, 'more setting')}" if more > 0 else "")


def _value(settings: Mapping[str, Any], key: str) -> str:
    return shown(settings[key], 60) if key in settings else "nothing"


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes() if file.is_file() else b""
    except OSError:
        return b""
