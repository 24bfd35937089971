"""soup/checkpoints/configs.py: two config.json are compared by what they mean.

The files in ``configs/`` were written by ``save_pretrained`` of transformers 4.46.3 and 5.17.0, of
the same small models.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from soup.checkpoints import configs
from soup.checkpoints.configs import described, differences

FILES = Path(__file__).parent / "configs"
KINDS = ("idefics3", "llavaov", "mllama", "qwen2_vl")


def saved(kind: str, version: int) -> dict[str, Any]:
    """A real config.json."""
    found: dict[str, Any] = json.loads((FILES / f"{kind}-{version}.json").read_text())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_model_saved_by_transformers_4_and_5_is_the_same(kind: str) -> None:
    """Settings at another place, under another name, or left out as defaults, are no difference."""
    assert differences(saved(kind, 4), saved(kind, 5)) == {}
    older, newer = saved(kind, 4), saved(kind, 5)
    assert differences(newer, older) == {}
    assert (older, newer) == (saved(kind, 4), saved(kind, 5)), "comparing changes nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_difference_between_them_is_the_only_one(kind: str) -> None:
    """Whichever version has it: rope_theta, by its value in both."""
    older, newer = saved(kind, 4), saved(kind, 5)
    text = newer.get("text_config", newer)
    theta = text["rope_parameters"]["rope_theta"]
    changed = copy.deepcopy(newer)
    changed["text_config"]["rope_parameters"]["rope_theta"] = 77.0
    assert differences(older, changed) == {"rope_theta": (theta, 77)}
    other = copy.deepcopy(older)
    (other if kind == "qwen2_vl" else other["text_config"])["rope_theta"] = 88
    assert differences(other, newer) == {"rope_theta": (88, theta)}


def test_transformers_is_not_asked_where_nothing_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes seconds: two files of one version, or names that only moved, need none."""
    monkeypatch.setattr(configs, "_as_transformers_reads", lambda config: pytest.fail("imported"))
    assert differences(saved("mllama", 4), saved("mllama", 5)) == {}
    assert differences(saved("qwen2_vl", 5), saved("qwen2_vl", 5)) == {}
    other = saved("qwen2_vl", 5)
    other["vision_config"]["patch_size"] = 99
    assert differences(saved("qwen2_vl", 5), other) == {"vision_config.patch_size": (4, 99)}


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ({"rope_theta": 1e6}, {"rope_parameters": {"rope_theta": 1000000}}, {}),
        ({"rope_scaling": {"type": "linear"}}, {"rope_scaling": {"rope_type": "linear"}}, {}),
        ({"rope_scaling": {"type": "mrope"}}, {"rope_scaling": {"type": "default"}}, {}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "yarn", "factor": 2}},
            {"rope.rope_type": ("linear", "yarn")},
        ),
        (
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4},
            {
                "rope_parameters": {
                    "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
                    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
                }
            },
            {},
        ),
        ({"hidden_size": 8}, {"text_config": {"hidden_size": 8}}, {}),
        ({"heads": 8}, {"text_config": {"heads": 4}}, {"heads": (8, 4)}),
        ({"text_config": {"x": 1, "y": [1, 2.0]}}, {"text_config": {"x": 1.0, "y": [1, 2]}}, {}),
        ({"vision_config": {"a": {"b": 1}}}, {"vision_config": {"a": {"b": 2}}},
         {"vision_config.a.b": (1, 2)}),
        ({"top_k": 50, "use_cache": True, "torch_dtype": "float32"}, {}, {}),
        ({"top_k": 20}, {}, {"top_k": (20, None)}),
        ({"a": None}, {}, {}),
        ({"a": True}, {"a": 1}, {"a": (True, 1)}),
        ({"text_config": [1]}, {"text_config": "x"}, {"text_config": ([1], "x")}),
        ({"rope_scaling": [1], "rope_parameters": "x"}, {}, {}),
    ],
)  # fmt: skip
def test_what_means_the_same_is_the_same(
    ours: dict[str, Any], theirs: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Flattened, by the name of today, without what changes no answer."""
    assert differences(ours, theirs) == expected


def test_a_default_that_another_version_wrote_out_is_no_difference() -> None:
    """Of a model that transformers does not know, from the versions in the files."""
    ours = {"transformers_version": "4.46.3", "a": 1}
    theirs = {"transformers_version": "5.17.0", "a": 1, "b": 2}
    assert differences(ours, theirs) == {}
    assert differences(ours, {**theirs, "a": 3}) == {"a": (1, 3)}
    assert differences(ours, {**theirs, "transformers_version": "4.40"}) == {"b": (None, 2)}


def test_a_difference_is_shown_with_its_values() -> None:
    """All keys, whatever they hold; the first with both values, each short and safe."""
    found: dict[str, tuple[Any, Any]] = {"rope_theta": (10000, 5), "act": ("silu", None)}
    assert described(found, "a") == 'rope_theta 5 (a: 10000), act nothing (a: "silu")'
    many = {f"k{n}": (n, "\x1b[31m" + "x" * 1000) for n in range(30)}
    text = described(many, "a")
    assert all(f"k{n}" in text for n in range(30))
    assert "\x1b" not in text
    assert len(text) < 2000
