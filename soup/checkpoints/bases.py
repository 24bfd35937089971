"""Which base LoRA adapters say that they were trained on."""

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.json_text import read_object
from soup.checkpoints.origins import origin_of
from soup.checkpoints.weights import ADAPTER

BASES = 4
"""Names of bases that a line has, at most."""

QUANTISED = re.compile(
    r"(?i)(^|[-_./])(unsloth-bnb|bnb|4bit|8bit|int4|int8|gptq|awq|nf4|fp8)(?=$|[-_./])"
)
"""What the names of quantised models hold."""


def other_bases(members: Sequence[Checkpoint], base: Checkpoint | None) -> list[str]:
    """A line, or none, for adapters of another base than the one that is used, or than each other.

    A name on a hub and a directory here are one where their last parts are: nothing more is known
    of a directory's origin than what it is called, and what its config.json calls itself. A
    quantised model (QLoRA's) and the one that it was made of are one, too.

    Args:
        members: of a pool; those that are full models are passed over.
        base: the one that ``--base`` names.
    """
    named = {m.name: _named(m) for m in members if m.base is not None}
    named = {name: found for name, found in named.items() if found}
    adapters = {member.name: member for member in members if member.name in named}
    groups: dict[str, list[str]] = {}
    for name, found in named.items():
        groups.setdefault(found, []).append(name)
    if base is not None:
        others = {f: n for f, n in groups.items() if not _is_base(f, adapters[n[0]], base)}
        if not others:
            return []
        return [
            f"{_each(others)} by {ADAPTER}, but --base is {base.path}; an adapter of another base "
            "makes a wrong model"
        ]
    kinds: list[tuple[str, list[str]]] = []
    for found, names in groups.items():
        known = next((k for k in kinds if _last(k[0]) == _last(found)), None)
        if known is None:
            kinds.append((found, list(names)))
        else:
            known[1].extend(names)
    if len(kinds) < 2:
        return []
    return [
        f"{_each(dict(kinds[1:]))} by {ADAPTER}, {_who(kinds[0][1])} on {kinds[0][0]!r}; "
        "fine-tunes of different bases do not average well"
    ]


def _named(member: Checkpoint) -> str:
    return str(read_object(member.path / ADAPTER).get("base_model_name_or_path") or "")


def _is_base(found: str, member: Checkpoint, base: Checkpoint) -> bool:
    with contextlib.suppress(ValueError):  # a NUL, or half a character: that is no path
        if os.path.realpath(member.path / found) == os.path.realpath(base.path):
            return True
    called = [str(base.path), os.path.realpath(base.path), str(base.config.get("_name_or_path"))]
    if (origin := origin_of(base.path)) is not None:
        called.append(origin.where)
    return {_last(found), QUANTISED.sub("", _last(found))} & set(map(_last, called)) != set()


def _last(name: str) -> str:
    """The last part of a path or of a hub's name; of a snapshot in a hub's cache the model's."""
    parts = [part for part in Path(name.replace("\\", "/")).parts if part not in ("/", ".")]
    cached = [part for part in parts if part.startswith("models--")]
    if cached and "snapshots" in parts:
        return cached[-1].split("--")[-1].lower()
    return parts[-1].lower() if parts else ""


def _each(groups: Mapping[str, Sequence[str]]) -> str:
    """``a: trained on 'X', b on 'Y'``: a few of them."""
    (found, names), *more = groups.items()
    texts = [f"{_who(names)} on {found!r}" for found, names in more[: BASES - 1]]
    rest = sum(len(names) for _, names in more[BASES - 1 :])
    texts += [f"{rest:,} more on others"] if rest else []
    return ", ".join([f"{_who(names)}: trained on {found!r}", *texts])


def _who(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
