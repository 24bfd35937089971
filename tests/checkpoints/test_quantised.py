"""Packed weights are known by their tensors, whatever config.json says or leaves unsaid."""

import json
from pathlib import Path

import pytest
import torch

from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.errors import QuantisedError
from soup.run import Settings, make
from tests.conftest import CONFIG, make_adapter, make_checkpoint, random_tensors

ANNOUNCED = {**CONFIG, "quantization_config": {"quant_method": "bitsandbytes"}}


def small(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Whole numbers of a type that is no weights' own."""
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    "tensors",
    [
        {"up_blocks": small(torch.uint8, 2, 4, 16), "up_scales": small(torch.uint8, 2, 4)},
        {"q.weight": small(torch.int8, 4, 4), "q.weight_scale": torch.ones(4, 1)},
        {"q.weight": small(torch.uint8, 8, 1)},
        {"q.codes": small(torch.int16, 4, 4, 1), "q.codebooks": torch.ones(1, 4, 1, 8)},
        {"q.weight._data": small(torch.int8, 4, 4)},
        {"experts.w13_weight": small(torch.uint8, 2, 4, 4)},
        {"q.indices": small(torch.int16, 4, 4), "q.centroids.weight": torch.ones(1, 4)},
    ],
    ids=["mxfp4", "int8 with scales", "bytes", "aqlm", "quanto", "fused experts", "vptq"],
)
def test_packed_weights_are_refused_by_name(
    tmp_path: Path, tensors: dict[str, torch.Tensor], announced: bool
) -> None:
    """Whether config.json says so or not, ``check`` names a tensor; nothing is read for it."""
    config = ANNOUNCED if announced else CONFIG
    path = make_checkpoint(tmp_path / "a", random_tensors(0) | tensors, config=config)
    with pytest.raises(QuantisedError, match=f"{next(iter(tensors))} belongs to packed") as caught:
        Pool.open(path)
    assert ("(bitsandbytes)" in str(caught.value)) == announced


def test_whole_numbers_that_are_no_weights(tmp_path: Path) -> None:
    """Indices, masks and counters of a model are whole numbers, too."""
    buffers = {
        "embeddings.position_ids": torch.arange(16)[None],
        "attn.relative_position_index": torch.arange(16).view(4, 4),
        "attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
        "attn.mask": torch.ones(4, 4, dtype=torch.bool),
        "memory_blocks": small(torch.uint8, 4, 4),
        "norm.num_batches_tracked": torch.tensor(3),
    }
    path = make_checkpoint(tmp_path / "a", random_tensors(0) | buffers)
    assert set(buffers) <= open_checkpoint(path).tensors.keys()


def test_words_on_quantisation_that_do_not_hold(tmp_path: Path) -> None:
    """Plain weights are taken, with a warning, and the soup's config.json no longer says it."""
    paths = [
        make_checkpoint(tmp_path / "a", random_tensors(0), config=ANNOUNCED),
        make_checkpoint(tmp_path / "b", random_tensors(1), config=CONFIG),
    ]
    pool = Pool.open(*paths)
    assert pool.warnings == (
        "a: its config.json has a quantization_config (bitsandbytes), but its weights are not "
        "quantised: it is left out, here and in the soup's config.json",
    )
    out, work = tmp_path / "soup", tmp_path / "work"
    make("average", pool, settings=Settings(out=out, work=work))
    assert json.loads((out / "config.json").read_text()) == CONFIG
    assert Pool.open(out).warnings == ()


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (("text_config", "quantization_config"), "quantization_config in its text_config"),
        (("thinker_config", "vision_config", "quantization_config"), "in its thinker_config"),
        (("compression_config",), "a compression_config"),
    ],
)
def test_words_on_quantisation_in_a_part_of_the_config(
    tmp_path: Path, key: tuple[str, ...], said: str
) -> None:
    """They are left out of the soup's config.json; what else the part says stays."""

    def config(inner: dict[str, object]) -> dict[str, object]:
        for part in reversed(key[:-1]):
            inner = {part: {"hidden_size": 4, **inner}}
        return {**CONFIG, **inner}

    path = make_checkpoint(
        tmp_path / "a", random_tensors(0), config=config({key[-1]: {"quant_method": "gptq"}})
    )
    pool = Pool.open(path)
    assert said in pool.warnings[0] and "(gptq)" in pool.warnings[0]
    assert not pool.reference.by_itself
    out = tmp_path / "soup"
    make("average", pool, settings=Settings(out=out, work=tmp_path / "work"))
    assert json.loads((out / "config.json").read_text()) == config({})


def test_an_adapter_on_a_base_that_is_not_quantised_any_more(tmp_path: Path) -> None:
    """The merged model's config.json does not say it either; nor may a loader believe it."""
    base = make_checkpoint(tmp_path / "base", {"lin.weight": torch.ones(4, 3)}, config=ANNOUNCED)
    factors = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(4, 1)}
    adapter = open_checkpoint(make_adapter(tmp_path / "adapter", factors, base))
    assert adapter.config == CONFIG
    assert adapter.rewritten == {"quantization_config": None}
    assert not adapter.by_itself
