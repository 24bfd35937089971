"""What members lack of the files beside the weights, and who supplies it.

HF's Trainer leaves full checkpoints without tokenizer and processor, and custom code is seldom
copied. A kind of file (``companions.KINDS``) that a member lacks is taken, whole, from the
directory named for that, else from the base, else from the members that have it, if they agree.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.companions import KINDS, Companions, gather
from soup.checkpoints.json_text import parse

WANTED = ("tokenizer", "processor", "chat template", "code")
"""Kinds that can be supplied, in this order: a template may come with a tokenizer's settings."""

SEES = ("vision", "visual", "image", "mm_", "vit_")
"""What keys of a config.json contain whose model sees, so that it needs an image processor."""

_RELATIVE = re.compile(r"(?m)^[ \t]*from[ \t]+\.([A-Za-z_][\w.]*)[ \t]+import\b")
"""How custom code imports what lies beside it; transformers looks for it in the same way."""

NAMES_CODE = ("config.json", "tokenizer_config.json", *KINDS["processor"])
"""Files that may name custom code, under ``auto_map``."""


@dataclass(frozen=True)
class Source:
    """A directory that may supply what members lack.

    Attributes:
        name: for people.
        path: the directory.
    """

    name: str
    path: Path

    @cached_property
    def files(self) -> Companions:
        """What lies there."""
        return gather(self.path)


def supply(
    members: Sequence[Checkpoint], base: Checkpoint | None, processor: Path | None
) -> tuple[list[Checkpoint], list[str]]:
    """Members with what they lack, as far as there is one answer, and what to say of it.

    Args:
        members: of a pool.
        base: where one was named.
        processor: the directory named to supply what is lacking.
    """
    named = [] if processor is None else [Source(str(processor), processor)]
    named += [] if base is None else [Source(f"the base {base.name}", base.home)]
    by_name = sorted(members, key=lambda member: member.name)  # whoever was named first
    others = [Source(member.name, member.home) for member in by_name]
    found: list[Checkpoint] = []
    said: dict[str, list[str]] = {}
    for member in members:
        dressed, lines = _supply_one(member, named, others)
        found.append(dressed)
        for line in lines:
            said.setdefault(line, []).append(member.name)
    lines = [
        f"{_listed(names)}: {'have' if len(names) > 1 else 'has'} no {line}"
        for line, names in said.items()
    ]
    used = {place for member in found for _, place in member.supplied}
    if processor is not None and processor not in used:
        lines.append(f"--processor {processor}: not used: no member lacks what it has")
    return found, lines


def lacking(member: Checkpoint) -> list[str]:
    """What its model needs beside the weights, and is neither there nor supplied.

    A chat template is not among it: some models are asked without one.
    """
    files, config = member.companions, member.config
    sees = any(part in key for key in config for part in SEES)
    inner = (value for value in config.values() if isinstance(value, dict))
    speaks = sees or any("vocab_size" in each for each in (config, *inner))
    found = ["tokenizer"] if speaks and not files.has("tokenizer") else []
    if sees and not files.has("processor"):
        found.append("processor")
    return found + [f"code ({', '.join(absent)})" for absent in [absent_code(files)] if absent]


def absent_code(files: Companions) -> list[str]:
    """Python files that the others name or import, and that are not there."""
    found, waiting = [], list(_named_code(files))
    seen = set(waiting)
    while waiting:
        name = waiting.pop(0)
        if (content := files.read(name)) is None:
            found.append(name)
            continue
        for module in _RELATIVE.findall(content.decode(errors="replace")):
            inside = f"{name.rpartition('/')[0]}/".lstrip("/") + module
            ways = [f"{inside.replace('.', '/')}{end}" for end in (".py", "/__init__.py")]
            there = next((way for way in ways if way in files.files), ways[0])
            if there not in seen:
                seen.add(there)
                waiting.append(there)
    return found


def _supply_one(
    member: Checkpoint, named: Sequence[Source], others: Sequence[Source]
) -> tuple[Checkpoint, list[str]]:
    supplied: dict[str, Path] = {}
    by_source: dict[str, list[str]] = {}
    undecided = ""
    files = member.companions
    for kind in WANTED:
        if not _lacks(files, kind):
            continue
        having = [source for source in named if source.files.has(kind)]
        if not having:
            having = [s for s in others if s.path != member.home and s.files.has(kind)]
            if not having and not files.any_of(kind):  # of a tokenizer perhaps its settings
                having = [s for s in others if s.files.any_of(kind)]
            if _disagree(having, kind):
                undecided = undecided or (
                    f"{member.name} has no {kind}, and {having[0].name} and others, which have "
                    "one, differ in it: name the directory whose it is with --processor"
                )
                continue
        if having:
            supplied[kind] = having[0].path
            files = replace(member, supplied=tuple(supplied.items())).companions
            called = kind if having[0].files.has(kind) else f"{kind} settings"
            by_source.setdefault(having[0].name, []).append(called)
    if not supplied and not undecided:
        return member, []
    lines = [
        f"{_listed(kinds, 'or')}; {_its(kinds)} of {source} {_are(kinds)} used instead"
        for source, kinds in by_source.items()
    ]
    return replace(member, supplied=tuple(supplied.items()), undecided=undecided), lines


def _lacks(files: Companions, kind: str) -> bool:
    return bool(absent_code(files)) if kind == "code" else not files.has(kind)


def _disagree(sources: Sequence[Source], kind: str) -> bool:
    return any(s.files.of_kind(kind) != sources[0].files.of_kind(kind) for s in sources[1:])


def _named_code(files: Companions) -> Iterator[str]:
    """Files that ``auto_map`` names; not code that lies in another place (``repo--name``)."""
    for name in NAMES_CODE:
        settings = files.read(name)
        named = _auto_map(settings)
        for reference in dict.fromkeys(named):
            module = reference.rpartition(".")[0]
            if module and "--" not in reference:
                yield f"{module.replace('.', '/')}.py"


def _auto_map(content: bytes | None) -> list[str]:
    try:
        settings: Any = parse(content) if content is not None else None
    except ValueError:
        return []
    table = settings.get("auto_map") if isinstance(settings, dict) else None
    values = table.values() if isinstance(table, Mapping) else table or []
    if not isinstance(values, (list, type({}.values()))):
        return []
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return [one for one in flat if isinstance(one, str)]


def _listed(names: Sequence[str], word: str = "and") -> str:
    if len(names) > 3 and word == "and":
        return f"{', '.join(names[:2])} and {len(names) - 2} more"
    return f" {word} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _its(kinds: Sequence[str]) -> str:
    return "those" if len(kinds) > 1 else "that"


def _are(kinds: Sequence[str]) -> str:
    return "are" if len(kinds) > 1 else "is"
