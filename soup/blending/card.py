"""The model card: README.md of a soup, with the front matter that model hubs read."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from soup._version import __version__
from soup.blending.blend import Blend
from soup.blending.methods import describe
from soup.blending.picture import Picture
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.json_text import parse
from soup.checkpoints.safe import read_bounded
from soup.checkpoints.weights import ADAPTER
from soup.markup import Strong, inline, markdown
from soup.words import counted

LICENSE = ("license", "license_name", "license_link")
HUB = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
"""How models and data sets are called on a hub; a path of this machine means nothing there."""

LONGEST = 1 << 16
"""Characters of a card in which front matter is looked for."""

LISTS = 1000
"""Lists and objects in brackets, at most: of those within each other each costs as much as all."""


def model_card(
    name: str, blend: Blend, manifest: Mapping[str, Any], pictures: Sequence[Picture] = ()
) -> str:
    """README.md of a soup.

    Args:
        name: its heading.
        blend: what was written; the cards beside its members are read.
        manifest: the content of ``soup.json``.
        pictures: shown below the scores; their files lie beside it.
    """
    adapter = manifest.get("adapter", False)
    matter = front_matter(blend, adapter) | model_index(name, manifest.get("scores") or {})
    head = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    lines = ["---", head.rstrip(), "---", "", f"# {inline(name)}", ""]
    lines.append(
        f"A model soup ({manifest['kind']}) of {counted(len(blend.members), 'checkpoint')}, made "
        f"with soup {__version__}. "
        + (
            "It is a LoRA adapter: it changes the base as the sum of its members' changes, each "
            "times its coefficient."
            if adapter
            else f"Weights are the float64 {_described(manifest)} rounded once to "
            f"{manifest['dtype']}."
        )
    )
    members = [
        [
            entry["name"],
            f"{entry['coefficient']:.6g}" if "coefficient" in entry else "–",
            entry["digest"][:12],
        ]
        for entry in manifest["members"]
    ]
    lines += ["", markdown(["member", "coefficient", "digest"], members)]
    scores = manifest.get("scores") or {}
    if scores:
        rows = [[bench, f"{value:.2f}"] for bench, value in scores.items()]
        if (mean := manifest.get("mean")) is not None:
            rows.append([Strong("mean of those it was chosen by"), Strong(f"{mean:.2f}")])
        lines += ["", markdown(["benchmark", "score (0–100)"], rows)]
    for one in pictures:
        lines += ["", f"## {inline(one.title)}", "", f"![{inline(one.words)}]({one.file})"]
    lines += ["", "`soup.json` holds the whole recipe; config, tokenizer, processor and code are"]
    lines += ["the base's." if adapter else f"copied from {inline(manifest['reference'])}.", ""]
    return "\n".join(lines)


def front_matter(blend: Blend, adapter: bool) -> dict[str, Any]:
    """What hubs read: of the members' own cards what is known, and true of the soup.

    ``base_model`` is what the members were fine-tuned from, by their cards, adapters' settings or
    configs; an adapter always has one, if only the name of its base's directory. ``license`` is the
    members', where all of them name the same; ``datasets`` are those of all of them.
    """
    found: dict[str, Any] = {"library_name": "peft" if adapter else "transformers"}
    found["pipeline_tag"] = "image-text-to-text"
    cards = [_card(member.path) or _card(member.home) for member in blend.members]
    bases = _distinct(
        base for m, card in zip(blend.members, cards, strict=True) for base in _bases(m, card)
    )
    if not bases and adapter:
        bases = [blend.reference.home.name]
    if bases:
        found["base_model"] = bases[0] if len(bases) == 1 else bases
    licences = [{key: card[key] for key in LICENSE if card.get(key)} for card in cards]
    if all(one == licences[0] and "license" in one for one in licences):
        found |= licences[0]
    if datasets := _distinct(name for card in cards for name in _hub_names(card.get("datasets"))):
        found["datasets"] = datasets
    found["tags"] = ["model-soup", "merge"]
    return found


def model_index(name: str, scores: Mapping[str, float]) -> dict[str, Any]:
    """Scores as hubs read them in a card's front matter; nothing where there are none.

    Args:
        name: the model's.
        scores: by benchmark, 0–100.
    """
    results = [
        {
            "task": {"type": "image-text-to-text"},
            "dataset": {"name": benchmark, "type": re.sub(r"[^\w.-]+", "-", benchmark)},
            "metrics": [{"type": "score", "name": "score, 0–100", "value": round(value, 4)}],
        }
        for benchmark, value in scores.items()
    ]
    return {"model-index": [{"name": name, "results": results}]} if results else {}


def _bases(member: Checkpoint, card: Mapping[str, Any]) -> list[str]:
    """What a member was fine-tuned from: the first place that says so by a hub's name."""
    settings = _json(member.path / ADAPTER) if member.base is not None else {}
    named = [card.get("base_model"), settings.get("base_model_name_or_path")]
    for place in (named[0], named[1], member.config.get("_name_or_path")):
        if found := _hub_names(place):
            return found
    return []


def _card(directory: Path) -> dict[str, Any]:
    """The front matter of the card in a directory; empty where there is none to read."""
    try:
        text = read_bounded(directory / "README.md").decode("utf-8")
        matter = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text[:LONGEST], re.DOTALL)
        if matter is None or sum(map(matter[1].count, "[{")) > LISTS:
            return {}
        found = yaml.load(matter[1], _Plain)
    except (OSError, ValueError, TypeError, ArithmeticError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class _Plain(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Safe YAML in which nothing stands for something that is said elsewhere.

    A few names of names are a list of thousands of millions to whoever compares or writes it.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As for all, but for aliases."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = parse(read_bounded(file))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hub_names(value: Any) -> list[str]:
    """Names on a hub, of one or of several."""
    several: Sequence[Any] = value if isinstance(value, list) else [value]
    return [name for name in several if isinstance(name, str) and HUB.fullmatch(name)]


def _distinct(names: Iterator[str]) -> list[str]:
    """Sorted: the order of the members changes no byte."""
    return sorted(set(names))


def _described(manifest: Mapping[str, Any]) -> str:
    """The merge in words: method, parameters, paper and base."""
    if "method" not in manifest:
        return "sum,"
    text = f"result of {describe(manifest['method'], manifest['parameters'])}, {manifest['paper']},"
    if manifest["base"] is not None:
        base = manifest["base"]
        text += f" on the base {inline(base['name'])} (`{base['digest'][:12]}`),"
    return text
