"""What is known of a benchmark's words: checked once, and not again by every process.

That vLLM asks in the wrapper's words is proven question by question, which takes the making of each
question twice. What is proven stays proven while neither the questions nor the companion files nor
anything of the engine changes; so it is kept in the cache, under a name made of all of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import soup
from soup.evaluators.models.wrapper import Message
from soup.evaluators.writing import write_whole

PLACE = "words"
"""The directory beside what else is cached."""


@dataclass(frozen=True)
class Words:
    """What was found of a benchmark's questions while they were checked.

    Attributes:
        longest: tokens of the longest question and its answer.
        at: where that question is.
        images: most pictures in one question.
        kinds: different settings of vLLM's ``SamplingParams``.
        kind: by question, which of them are its own.
    """

    longest: int
    at: int
    images: int
    kinds: Sequence[Mapping[str, Any]]
    kind: Sequence[int]

    @classmethod
    def of(
        cls, lengths: Sequence[int], images: int, settings: Sequence[Mapping[str, Any]]
    ) -> Words:
        """From lengths and settings of all questions; most of these are alike."""
        kinds: list[Mapping[str, Any]] = []
        for one in settings:
            if one not in kinds:
                kinds.append(one)
        longest = max(lengths, default=1)
        at = lengths.index(longest) if lengths else 0
        return cls(longest, at, images, kinds, [kinds.index(one) for one in settings])

    def settings(self, index: int) -> Mapping[str, Any]:
        """Of one question."""
        return self.kinds[self.kind[index]]


def name_of(
    settings: Mapping[str, Any], companions: str, dataset: str, messages: Sequence[Message]
) -> str:
    """A digest of all that the words depend on.

    Args:
        settings: of engine and wrapper, with versions of what they are made of.
        companions: digest of the files beside the weights.
        dataset: the name by which the wrapper knows the benchmark.
        messages: the questions; of pictures the content counts, not where they lie.
    """
    named = [dict(settings), companions, dataset, soup.__version__, _version_of_kit()]
    total = hashlib.sha256(json.dumps(named, sort_keys=True).encode())
    for message in messages:
        for item in message:
            content = item["value"].encode()
            if item["type"] == "image":
                content = Path(item["value"]).read_bytes()
            total.update(f"\n{item['type']} {hashlib.sha256(content).hexdigest()}".encode())
        total.update(b"\n")
    return total.hexdigest()


def _version_of_kit() -> str:
    for name in ("ms-vlmeval", "vlmeval"):  # it is installed under either name
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def read(cache: Path | None, name: str, count: int) -> Words | None:
    """What was kept under a name, of so many questions; None where nothing that can be read is."""
    if cache is None:
        return None
    try:
        found = Words(**json.loads((cache / PLACE / f"{name}.json").read_text()))
        whole = len(found.kind) == count and all(0 <= k < len(found.kinds) for k in found.kind)
    except (OSError, ValueError, TypeError):
        return None
    return found if whole else None


def write(cache: Path | None, name: str, words: Words) -> None:
    """Keep what was proven."""
    if cache is None:
        return
    (cache / PLACE).mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(words))
    write_whole(cache / PLACE / f"{name}.json", lambda path: path.write_text(text))
