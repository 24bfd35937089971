"""soup/blending/card.py: the front matter, from what the members say of themselves."""

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.pool import Pool
from tests.conftest import CONFIG, make_adapter, make_checkpoint, random_tensors

HUB = "base_model: Qwen/Qwen2-VL-2B\ndatasets: [a/b, c/d]\n"
APACHE = f"---\nlicense: apache-2.0\n{HUB}---\n# One\n"
OTHER = "---\nlicense: apache-2.0\nbase_model:\n- Qwen/Qwen2-VL-2B\ndatasets: a/a\n---\n"


def matter(directory: Path) -> dict[str, Any]:
    """A card's front matter, as a hub reads it."""
    _, head, _ = (directory / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(head)
    assert isinstance(found, dict)
    return found


def made(
    root: Path, cards: Mapping[str, str | None], config: Mapping[str, Any] = CONFIG
) -> dict[str, Any]:
    """The front matter of a soup of members with these cards."""
    paths = []
    for k, (name, card) in enumerate(cards.items()):
        files = {} if card is None else {"README.md": card}
        paths.append(make_checkpoint(root / name, random_tensors(k), config=config, files=files))
    pool = Pool.open(*paths)
    return matter(write(Blend(pool.members, pool.reference), root / "out").path)


def test_what_the_members_agree_on_is_the_soups(tmp_path: Path) -> None:
    """Licence and base are those of all; data sets are those of any, sorted."""
    found = made(tmp_path, {"x": APACHE, "y": OTHER})
    assert found["base_model"] == "Qwen/Qwen2-VL-2B"
    assert found["license"] == "apache-2.0"
    assert found["datasets"] == ["a/a", "a/b", "c/d"]
    assert found["library_name"] == "transformers"
    assert found["tags"] == ["model-soup", "merge"]


LETTERS = "abcdefgh"
NAMES = "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise(LETTERS))
MERGES = NAMES.replace("[", "{<<: [").replace("]", "]}")


@pytest.mark.parametrize(
    "text",
    [
        f"a: &a [x]\n{NAMES}license: *h\n",
        f"a: &a {{x: 1}}\n{MERGES}license: mit\n",
        f"license: {'[' * 20_000}\n",
    ],
    ids=["names", "merges", "lists"],
)
def test_a_card_that_would_take_for_ever_is_none(tmp_path: Path, text: str) -> None:
    """Names of names that stand for millions of things, and lists in lists without end."""
    started = time.process_time()
    found = made(tmp_path, {"x": f"---\n{text}---\n", "y": f"---\n{text}---\n"})
    assert "license" not in found
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "card",
    [None, "no matter", "---\nlicense: mit\n---\n", "---\n- a list\n---\n", "---\na: [\n---\n"],
)
def test_a_licence_that_not_all_have_is_not_named(tmp_path: Path, card: str | None) -> None:
    """Another, none, or a card that cannot be read: people must look."""
    found = made(tmp_path, {"x": APACHE, "y": card})
    assert "license" not in found
    assert found["base_model"] == "Qwen/Qwen2-VL-2B"


def test_a_licence_of_its_own_name_comes_whole(tmp_path: Path) -> None:
    """Hubs want name and link beside "other"."""
    card = "---\nlicense: other\nlicense_name: qwen\nlicense_link: LICENSE\n---\n"
    found = made(tmp_path, {"x": card, "y": card})
    assert [found[key] for key in ("license", "license_name", "license_link")] == [
        "other",
        "qwen",
        "LICENSE",
    ]


def test_the_config_may_say_where_a_member_comes_from(tmp_path: Path) -> None:
    """By a hub's name; a path of this machine is nobody else's business."""
    named = made(tmp_path / "hub", {"x": None}, CONFIG | {"_name_or_path": "org/base"})
    assert named["base_model"] == "org/base"
    path = made(tmp_path / "path", {"x": None}, CONFIG | {"_name_or_path": "/home/me/base"})
    assert "base_model" not in path


@pytest.mark.parametrize(
    ("named", "found"), [("org/base-7b", "org/base-7b"), (None, "base")], ids=["hub", "path"]
)
def test_an_adapter_always_names_its_base(tmp_path: Path, named: str | None, found: str) -> None:
    """What its members' settings name on a hub, else the base's directory."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.zeros(2, 3)})
    paths = []
    for k in range(2):
        factors = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(2, 1)}
        more = {"base_model_name_or_path": named} if named else {}
        paths.append(make_adapter(tmp_path / f"{k}", factors, base, **more))
    pool = Pool.open(*paths, base=base)
    blend = Blend(pool.members, pool.reference)
    card = matter(write(blend, tmp_path / "out", as_adapter=True).path)
    assert card["library_name"] == "peft"
    assert card["base_model"] == found


def test_scores_stand_in_the_front_matter_as_hubs_read_them(tmp_path: Path) -> None:
    """A model-index that the hub's own library takes apart; none where nothing was scored."""
    from huggingface_hub import ModelCard

    paths = [make_checkpoint(tmp_path / name, random_tensors(k)) for k, name in enumerate("xy")]
    pool = Pool.open(*paths)
    blend = Blend(pool.members, pool.reference)
    scores = {"MMStar": 61.25, "our questions.tsv": 70.0}
    facts = {"scores": scores, "mean": 65.625}
    written = write(blend, tmp_path / "out", kind="greedy", facts=facts).path
    card = ModelCard.load(written / "README.md")
    found = card.data.eval_results
    assert [(one.dataset_name, one.metric_value) for one in found] == list(scores.items())
    assert {one.task_type for one in found} == {"image-text-to-text"}
    assert card.data.model_name == "out"
    assert "model-index" not in matter(write(blend, tmp_path / "plain").path)
