"""The short form of ``python -m tests.hostile``: each kind of file, a few cases of each."""

import gc
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.json_text import MOST, parse
from soup.checkpoints.pool import Pool
from tests.conftest import make_checkpoint, random_tensors
from tests.hostile import Kind, kinds, tried, unasked

NAMES = (
    *("header", "pool", "index", "config", "tokenizer", "tokens", "adapter", "factors", "pickle"),
    *("soup.toml", "manifest", "journal", "table"),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Mapping[str, Kind]]]:
    """Sound files of every kind, made once."""
    place = tmp_path_factory.mktemp("hostile")
    with unasked():
        yield place, kinds(place)


@given(name=st.sampled_from(NAMES), source=st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_nothing_but_our_errors_comes_out(
    places: tuple[Path, Mapping[str, Kind]], name: str, source: Random
) -> None:
    """Whatever is done to a file: it reads, or one safe line says why not, within a second."""
    place, every = places
    failure = tried(place / name, every[name], source)
    assert not failure or failure.startswith("took"), failure  # others may use the processor, too


def test_every_kind_is_tried(places: tuple[Path, Mapping[str, Kind]]) -> None:
    """A kind that is added is among the names above; sound files read without a word."""
    place, every = places
    assert set(every) == set(NAMES)
    for name, kind in every.items():
        assert not tried(
            place / name, Kind(kind.file, kind.sound, lambda _, raw: raw, kind.read), Random(0)
        )


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("adapter", {"base_model_name_or_path": "\0"}),
        ("adapter", {"rank_pattern": {"[[a]q_proj": 2}}),
        ("tokens", {"chat_template": "\ud800"}),
        ("config", {"model_type": [1] * 300}),
    ],
)
def test_what_was_found(
    places: tuple[Path, Mapping[str, Kind]],
    name: str,
    change: Mapping[str, object],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """A path that is none or too long, half a character, a pattern that Python warns of: no error
    of Python.
    """
    place, every = places
    kind = every[name]
    content = json.dumps({**json.loads(kind.sound), **change}).encode()
    for whole in (replace(kind, alone=None), kind):
        assert not tried(place / name, replace(whole, change=lambda *_: content), Random(1))
    assert not recwarn.list


def test_millions_of_lists_are_refused_before_they_are_made() -> None:
    """Short texts could take seconds and gigabytes otherwise."""
    with pytest.raises(ValueError, match="more than 1,000,000 objects and lists"):
        parse(b"[" + b"[]," * MOST + b"[]]")
    assert gc.isenabled()


@pytest.mark.parametrize(
    "text", ["[]", "[" * 100_000, '{"blend": "../../../x"}', '{"blend": "a\\nb"}', '{"blend": 1}']
)
def test_a_hostile_manifest_is_moved_aside(tmp_path: Path, text: str) -> None:
    """What stands in it becomes no path; the soup is written, the old directory kept."""
    pool = Pool.open(make_checkpoint(tmp_path / "a", random_tensors(0)))
    out = tmp_path / "soup"
    out.mkdir()
    (out / "soup.json").write_text(text)
    write(Blend(pool.members, pool.reference), out)
    assert (tmp_path / "soup.old" / "soup.json").read_text() == text
    assert json.loads((out / "soup.json").read_text())["version"] == 1
