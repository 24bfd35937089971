"""evaluators/engines/vllm_held.py: what need not be sent again; needs no vLLM."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.opening import open_checkpoint
from tests.conftest import make_checkpoint, random_tensors

vllm_held = pytest.importorskip("soup.evaluators.engines.vllm_held")
NAMES = ("q", "k", "o", "norm", "head")
GROUPS = {"attn": frozenset({"q", "k"}), "out": frozenset({"o"}), "both": frozenset({"k", "norm"})}


def held(values: dict[str, str], **seen: Any) -> Any:
    """What a worker holds, with one name for each value."""
    report = {what: dict.fromkeys(NAMES, 1) for what in ("used", "sizes", "sums")}
    named = {name: frozenset({value}) for name, value in values.items()}
    return vllm_held.Held(named, report, vllm_held.Seen(GROUPS, **seen))


def test_all_parts_of_what_is_loaded_together_are_sent() -> None:
    """Where one differs, and where that brings another layer with it; what has no name always."""
    before = held(dict(zip(NAMES, "abcde", strict=True)))
    now = {name: frozenset({value}) for name, value in zip(NAMES, "abcde", strict=True)}
    assert vllm_held.left(before, now, NAMES) == set(NAMES)
    assert vllm_held.left(before, now | {"o": frozenset("x")}, NAMES) == {"q", "k", "norm", "head"}
    assert vllm_held.left(before, now | {"q": frozenset("x")}, NAMES) == {"o", "head"}
    assert vllm_held.left(before, {"o": frozenset("xc")}, NAMES) == {"o"}
    assert vllm_held.left(None, now, NAMES) == set()
    shy = held(dict(zip(NAMES, "abcde", strict=True)), unknown=frozenset({"o"}))
    assert "o" not in vllm_held.left(shy, now, NAMES)


def test_what_was_kept_is_part_of_the_next_report() -> None:
    """With its sums of then, under all names of its value; what was sent is new."""
    before = held(dict(zip(NAMES, "abcde", strict=True)), prints={"attn.w": 1, "out.w": 2})
    sent = {what: {"o": 7} for what in ("used", "sizes", "sums")}
    now = {"q": frozenset({"a", "z"}), "o": frozenset({"new"})}
    kept = frozenset({"q"})
    found, report = vllm_held.after(before, kept, now, sent, vllm_held.Seen(prints={"out.w": 9}))
    assert report["sums"] == {"q": 1, "o": 7}
    assert found.values == {"q": {"a", "z"}, "o": {"new"}}
    assert found.seen.prints == {"attn.w": 1, "out.w": 9}
    assert found.seen.groups == GROUPS


def test_a_change_of_one_bit_is_another_print() -> None:
    """Of the weights themselves."""
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    first = vllm_held.fingerprint(None, weight, None)
    weight.view(torch.int32)[2, 1] ^= 1
    assert vllm_held.fingerprint(None, weight, None) != first


def test_checkpoints_that_were_proven_stay_so_in_a_worker(tmp_path: Path) -> None:
    """A blend that is unpickled again is of the checkpoints that were met the first time."""
    paths = [make_checkpoint(tmp_path / str(k), random_tensors(k)) for k in range(2)]
    known = [open_checkpoint(path).digest for path in paths]
    opened = [open_checkpoint(path) for path in paths]
    for member, digest in zip(opened, known, strict=True):
        member.remember_digest(digest)
    met: dict[Any, Checkpoint] = {}
    one = vllm_held.met_again(pickle.loads(pickle.dumps(Blend((opened[0],), opened[0]))), met)
    assert one.members[0].unproven
    one.members[0].compute_digest()
    both = pickle.dumps(Blend(tuple(opened), opened[0]))
    two = vllm_held.met_again(pickle.loads(both), met)
    assert two.members[0] is two.reference is one.members[0]
    assert [member.unproven for member in two.members] == [False, True]
