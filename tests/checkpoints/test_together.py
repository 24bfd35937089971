"""soup/checkpoints/together.py: LoRA on modules that files hold together, or in parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from soup.blending.blend import Blend
from soup.blending.stack import stack
from soup.checkpoints import asking, describe
from soup.checkpoints.asking import unknown
from soup.checkpoints.lora import RowsUpdate
from soup.checkpoints.opening import open_checkpoint
from soup.errors import CheckpointError, PoolError
from tests.checkpoints import merging, shrinking
from tests.checkpoints.architectures import architectures
from tests.conftest import collect, make_adapter, make_checkpoint

TOGETHER = {
    "kimi_k25": "q, k and v of the tower in one tensor, all under other names",
    "minimax_m3_vl": "one projection in two tensors, experts in matrices of their own",
    "inkling_mm_model": "gate and up of all experts in one tensor, row by row in turn",
    "ernie4_5_vl_moe": "experts for text and for pictures, counted through",
    "gemma4": "numbers beside weights that are infinite",
}


def kinds() -> dict[str, str]:
    """Those of transformers' kinds that are tried here and that it has."""
    pytest.importorskip("peft")
    pytest.importorskip("transformers", minversion="5")
    return architectures()


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers is asked in this process, which has it imported; else as a user would."""

    def ask(asked: dict[str, Any]) -> Any:
        return json.loads(json.dumps(describe.answer(asked)))

    monkeypatch.setattr(asking, "ask", ask)


@pytest.mark.parametrize("model_type", TOGETHER)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_values_are_what_peft_merges(tmp_path: Path, model_type: str) -> None:
    """LoRA on every linear layer and on experts; ``python -m tests.checkpoints.merging`` does all
    kinds.
    """
    if model_type not in kinds():
        pytest.skip("this transformers has no such kind")
    torch.manual_seed(0)
    found = merging.compare(shrinking.model(model_type, kinds()[model_type]), tmp_path)
    assert found.factors > 10
    assert not found.wrong


ROWS = {
    "a.q.weight": [["f.weight", 0, 0, 700, 1]],
    "a.k.weight": [["f.weight", 700, 0, 300, 1]],
    "a.odd.weight": [["f.weight", 1001, 0, 400, 2]],
    "a.experts.up": [["g", 0, 5, 5, 1], ["g", 5, 0, 5, 1], ["g", 10, 10, 10, 1]],
}


def factors(**shapes: tuple[int, int, int]) -> dict[str, torch.Tensor]:
    """Random ones: rank, columns and rows of B·A by module."""
    generator = torch.Generator().manual_seed(3)
    found = {}
    for module, (rank, columns, rows) in shapes.items():
        found[f"a.{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        found[f"a.{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    return found


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Any, **more: Any) -> Any:
    """An adapter on a base of which transformers would say that files hold it so."""
    generator = torch.Generator().manual_seed(1)
    tensors = {"f.weight": torch.randn(1900, 90, generator=generator)}
    tensors["g"] = torch.randn(2, 10, 6, generator=generator)
    base = make_checkpoint(tmp_path / "base", tensors)
    monkeypatch.setattr(asking, "unknown", lambda model: "")
    monkeypatch.setattr(asking, "ask", lambda asked: {"names": {}, "rows": ROWS, "tied": {}})
    adapter = make_adapter(tmp_path / "lora", named, base, r=2, lora_alpha=3, **more)
    return open_checkpoint(adapter), tensors


def test_rows_are_changed_where_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: modules one after the other, one in every other row, experts in another order; the
    same bits however a tensor is read.
    """
    named = factors(q=(2, 90, 700), k=(2, 90, 300), odd=(2, 90, 400), experts=(4, 6, 10))
    member, expected = opened(tmp_path, monkeypatch, named, target_parameters=["a.experts.up"])
    change = {
        module: 1.5 * (named[f"a.{module}.lora_B.weight"] @ named[f"a.{module}.lora_A.weight"])
        for module in ("q", "k", "odd")
    }
    expected["f.weight"][:700] += change["q"]
    expected["f.weight"][700:1000] += change["k"]
    expected["f.weight"][1001:1801:2] += change["odd"]
    down, up = named["a.experts.lora_A.weight"], named["a.experts.lora_B.weight"]
    first, second = (1.5 * (up[:, e::2] @ down[2 * e : 2 * e + 2]) for e in (0, 1))
    expected["g"][0] += torch.cat([first[5:], first[:5]])
    expected["g"][1] += second
    found = collect(member)
    for name, values in found.items():
        torch.testing.assert_close(values.float(), expected[name], rtol=1e-5, atol=1e-5)
    for chunk, threads in ((89, 1), (5000, 4)):
        again = collect(member, chunk=chunk, threads=threads)
        assert all(torch.equal(again[name], found[name]) for name in found)
    assert all(isinstance(update, RowsUpdate) for update in member.updates.values())
    with pytest.raises(PoolError, match="several modules' weights"):
        stack(Blend((member,), member))


@pytest.mark.parametrize(
    ("named", "more", "message"),
    [
        (factors(q=(2, 90, 500)), {}, "do not fit a.q of the base"),
        (factors(q=(3, 90, 700)), {}, "do not fit a.q of the base"),
        (factors(q=(2, 90, 700)), {"fan_in_fan_out": True}, "only plain LoRA"),
        (
            factors(q=(2, 90, 700)) | {"a.q.lora_magnitude_vector": torch.ones(700)},
            {"use_dora": True},
            "only plain LoRA",
        ),
        (
            factors(experts=(4, 6, 9)),
            {"target_parameters": ["a.experts.up"]},
            "fits no parameter of the base",
        ),
        (factors(v=(2, 90, 700)), {}, "no tensor a.v.weight"),
        (
            factors(q=(2, 90, 700)) | {"f.weight": torch.ones(1900, 90)},
            {},
            "both belong to f.weight",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: Any, more: Any, message: str
) -> None:
    """Never merged into rows of another module."""
    with pytest.raises(CheckpointError, match=message) as error:
        opened(tmp_path, monkeypatch, named, **more)
    assert "\n" not in str(error.value)


def test_a_module_that_is_another_in_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tensor cannot have the changes of two."""
    tied = {"a.decoder.weight": "a.words.weight"}
    monkeypatch.setattr(asking, "unknown", lambda model: "")
    monkeypatch.setattr(asking, "ask", lambda asked: {"names": {}, "rows": {}, "tied": tied})
    base = make_checkpoint(tmp_path / "base", {"a.words.weight": torch.ones(5, 4)})
    adapter = make_adapter(tmp_path / "lora", factors(decoder=(2, 4, 5)), base, r=2)
    with pytest.raises(
        CheckpointError, match=r"a.decoder.weight and a.words.weight are one tensor"
    ):
        open_checkpoint(adapter)


def test_a_kind_without_a_folder_of_its_name_is_known(tmp_path: Path) -> None:
    """Transformers has inkling_mm_model in ``models/inkling``."""
    if "inkling_mm_model" not in kinds():
        pytest.skip("this transformers has no such kind")
    for kind, known in (("inkling_mm_model", True), ("llava", True), ("no_such_kind", False)):
        path = make_checkpoint(tmp_path / kind, {"x": torch.ones(1)}, config={"model_type": kind})
        assert (unknown(open_checkpoint(path)) == "") is known
