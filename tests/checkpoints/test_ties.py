"""soup/checkpoints/ties.py: embeddings that some members store once and others twice."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soup.blending.blend import Blend
from soup.blending.writer import write
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, inspect
from soup.checkpoints.ties import is_tied, pairs
from soup.choosing.journal import Journal
from soup.errors import CheckpointError, PoolError
from soup.evaluators.fake import FakeScorer
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from soup.identifying import identify
from soup.run import Settings, make
from tests.blending.test_writer import loaded
from tests.checkpoints import tiny
from tests.conftest import CONFIG, collect, make_adapter, make_checkpoint, make_torch_checkpoint

HEAD = "language_model.lm_head.weight"
EMBEDDING = "language_model.model.embed_tokens.weight"
TIED: dict[str, Any] = {**CONFIG, "text_config": {"tie_word_embeddings": True}}
UNTIED: dict[str, Any] = {**CONFIG, "tie_word_embeddings": False}


def tensors(seed: int, *stored: str, different: bool = False) -> dict[str, torch.Tensor]:
    """A model's tensors with those of the tied pair that are stored."""
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(7, 4, generator=generator)
    found = {name: embedding.clone() for name in stored}
    if different:
        found[HEAD][3, 2] += 1
    return {**found, "language_model.model.norm.weight": torch.randn(4, generator=generator)}


def member(
    tmp_path: Path, seed: int, *stored: str, different: bool = False, config: Any = TIED
) -> Path:
    """A checkpoint whose name says what it stores."""
    name = f"m{seed}"
    return make_checkpoint(
        tmp_path / name, tensors(seed, *stored, different=different), config=config
    )


@pytest.mark.parametrize("config", [TIED, CONFIG, {**CONFIG, "tie_word_embeddings": True}])
@pytest.mark.parametrize(
    "stored",
    [
        [[EMBEDDING], [EMBEDDING, HEAD], [HEAD]],
        [[EMBEDDING, HEAD], [EMBEDDING], [HEAD]],
        [[HEAD], [EMBEDDING], [EMBEDDING, HEAD]],
        [[EMBEDDING, HEAD], [EMBEDDING, HEAD], [HEAD]],
    ],
)
def test_the_soup_stores_what_the_reference_stores(
    tmp_path: Path, stored: list[list[str]], config: dict[str, Any]
) -> None:
    """One or both: the values are the mean of the members' embeddings, whatever their names."""
    paths = [member(tmp_path, seed, *names, config=config) for seed, names in enumerate(stored)]
    pool = Pool.open(*paths)
    found = loaded(write(Blend(pool.members, pool.reference), tmp_path / "out").path)
    assert set(found) - {"language_model.model.norm.weight"} == set(stored[0])
    embeddings = [tensors(seed, EMBEDDING)[EMBEDDING].double() for seed in range(3)]
    mean = (torch.stack(embeddings).sum(0) / 3).float()
    assert all(torch.equal(found[name], mean) for name in stored[0])


def test_digests_do_not_depend_on_the_pool(tmp_path: Path) -> None:
    """A fitted member is digested as it is stored, so the journal's record holds everywhere."""
    paths = [member(tmp_path, 0, EMBEDDING), member(tmp_path, 1, EMBEDDING, HEAD)]
    for order in (paths, paths[::-1]):
        for opened in Pool.open(*order).members:
            assert opened.digest == open_checkpoint(opened.path).digest


@pytest.mark.parametrize("others", [[EMBEDDING], [EMBEDDING, HEAD]])
def test_tied_values_that_differ_are_an_error_before_anything_is_scored(
    tmp_path: Path, others: list[str]
) -> None:
    """Where the config ties them, transformers would silently drop one: named instead."""
    first = member(tmp_path, 0, *others)
    second = member(tmp_path, 1, EMBEDDING, HEAD, different=True)
    fake = FakeScorer()
    settings = Settings(benchmarks=["x"], out=tmp_path / "out", work=tmp_path / "work")
    message = f"m1: {HEAD} and {EMBEDDING} are tied .* but their values differ"
    for paths in ([first, second], [second, first]):
        with pytest.raises(CheckpointError, match=message):
            make("greedy", Pool.open(*paths), fake, settings)
    assert fake.calls == []


def factors(seed: int, embedding: bool = False, head: bool = False) -> dict[str, torch.Tensor]:
    """LoRA on the embedding, as PEFT names it, and the same change of the head."""
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(2, 4, generator=generator), torch.randn(7, 2, generator=generator)
    found = {}
    if embedding:
        module = EMBEDDING.removesuffix(".weight")
        found[f"{module}.lora_embedding_A"] = up.t().contiguous()
        found[f"{module}.lora_embedding_B"] = down.t().contiguous()
    if head:
        module = HEAD.removesuffix(".weight")
        found |= {f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}
    return found


@pytest.mark.parametrize("changed", ["embedding", "head", "stored head"])
@pytest.mark.parametrize("other", [[EMBEDDING], [EMBEDDING, HEAD]])
def test_an_adapter_that_changes_one_half_of_a_tied_pair_is_an_error(
    tmp_path: Path, changed: str, other: list[str]
) -> None:
    """Merged, one weight would have two values (or lose its change): named before scoring."""
    base = member(tmp_path, 0, EMBEDDING, HEAD)
    if changed == "stored head":
        new = {HEAD: torch.ones(7, 4)}
    else:
        new = factors(1, embedding=changed == "embedding", head=changed == "head")
    adapter = make_adapter(tmp_path / "adapter", new, base, r=2)
    fake = FakeScorer()
    settings = Settings(benchmarks=["x"], out=tmp_path / "out", work=tmp_path / "work")
    name = EMBEDDING if changed == "embedding" else HEAD
    message = f"adapter: {HEAD} and {EMBEDDING} are tied .*changes {name} alone; .*config.json"
    for paths in ([adapter, member(tmp_path, 2, *other)], [tmp_path / "m2", adapter]):
        with pytest.raises(CheckpointError, match=message) as error:
            make("greedy", Pool.open(*paths), fake, settings)
        assert "\n" not in str(error.value)
    assert fake.calls == []


def test_an_adapter_that_changes_both_halves_alike_is_fine(tmp_path: Path) -> None:
    """As PEFT's ensure_weight_tying leaves it; and any change, where the config ties nothing."""
    base = member(tmp_path, 0, EMBEDDING, HEAD)
    both = make_adapter(tmp_path / "both", factors(1, embedding=True, head=True), base)
    pool = Pool.open(both, member(tmp_path, 2, EMBEDDING))
    write_of(pool, tmp_path / "out")
    found = loaded(tmp_path / "out")
    assert torch.equal(found[HEAD], found[EMBEDDING])
    uneven = factors(1, embedding=True) | factors(2, head=True)
    with pytest.raises(CheckpointError, match="the adapter makes them differ"):
        write_of(Pool.open(make_adapter(tmp_path / "uneven", uneven, base)), tmp_path / "no")
    apart = member(tmp_path, 3, EMBEDDING, HEAD, config=UNTIED)
    half = make_adapter(tmp_path / "half", factors(1, embedding=True), apart)
    write_of(Pool.open(half), tmp_path / "untied")
    found = loaded(tmp_path / "untied")
    assert not torch.equal(found[HEAD], found[EMBEDDING])


def test_an_adapters_digest_does_not_depend_on_the_pool(tmp_path: Path) -> None:
    """What a reference that stores the embedding once drops of it is digested all the same."""
    base = member(tmp_path, 0, EMBEDDING, HEAD)
    both = make_adapter(tmp_path / "both", factors(1, embedding=True, head=True), base)
    fitted = Pool.open(member(tmp_path, 2, EMBEDDING), both).members[1]
    assert HEAD not in fitted.tensors
    assert fitted.digest == open_checkpoint(both).digest


def test_a_silent_config_leaves_it_to_the_values(tmp_path: Path) -> None:
    """Stored by all, they may differ; where a member stores one, the others' must be equal."""
    paths = [member(tmp_path, k, EMBEDDING, HEAD, different=True, config=CONFIG) for k in (0, 1)]
    pool = Pool.open(*paths)
    written = write(Blend(pool.members, pool.reference), tmp_path / "out")
    assert not torch.equal(*(loaded(written.path)[name] for name in (EMBEDDING, HEAD)))
    third = member(tmp_path, 2, EMBEDDING, config=CONFIG)
    with pytest.raises(CheckpointError, match="m0: .* their values differ"):
        write_of(Pool.open(*paths, third), tmp_path / "other")


def write_of(pool: Pool, out: Path) -> None:
    """Write the average."""
    write(Blend(pool.members, pool.reference), out)


def test_a_digest_found_before_does_not_hide_what_differs(tmp_path: Path) -> None:
    """A pool that needs the values to be equal proves it, though the journal knows the digest."""
    silent = member(tmp_path, 0, EMBEDDING, HEAD, different=True, config=CONFIG)
    journal = Journal.open(tmp_path / "work")
    identify(Pool.open(silent).members, journal, lambda event: None)
    pool = Pool.open(silent, member(tmp_path, 1, EMBEDDING, config=CONFIG))
    with pytest.raises(CheckpointError, match="their values differ"):
        identify(pool.members, journal, lambda event: None)


def test_what_the_config_does_not_tie_is_not_made_up(tmp_path: Path) -> None:
    """A missing head of an untied model is missing."""
    paths = [member(tmp_path, 0, EMBEDDING, HEAD), member(tmp_path, 1, EMBEDDING, config=UNTIED)]
    with pytest.raises(PoolError, match=f"m1: tensor {HEAD}: expected .*, found nothing"):
        Pool.open(*paths)


def test_tensors_that_share_a_torch_storage_are_equal_unread(tmp_path: Path) -> None:
    """The .bin of a tied model has one range under both names."""
    both = tensors(0, EMBEDDING)
    both[HEAD] = both[EMBEDDING]
    path = make_torch_checkpoint(tmp_path / "bin", both, config=TIED)
    pool = Pool.open(member(tmp_path, 1, EMBEDDING), path)
    assert pool.members[1].ties == ((HEAD, EMBEDDING),)
    write_of(pool, tmp_path / "out")


def test_a_base_is_fitted_as_members_are(tmp_path: Path) -> None:
    """Differences to a base that stores the head once are differences to its embedding."""
    pool = Pool.open(member(tmp_path, 0, EMBEDDING, HEAD), base=member(tmp_path, 1, EMBEDDING))
    assert pool.base is not None and HEAD in pool.base.tensors
    blend = Blend(pool.members, pool.reference, method="task-arithmetic", base=pool.base)
    found = loaded(write(blend, tmp_path / "out").path)
    assert torch.equal(found[HEAD], found[EMBEDDING])


@pytest.mark.parametrize("config", [TIED, CONFIG])
def test_both_copies_of_an_embedding_get_one_random_mask(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """DARE leaves them equal, and as they are where the reference stores the embedding alone."""
    found = []
    for k, stored in enumerate([[EMBEDDING, HEAD], [EMBEDDING]]):
        at = tmp_path / str(k)
        paths = [member(at, seed, *stored, config=config) for seed in range(3)]
        pool = Pool.open(*paths[:2], base=paths[2])
        blend = Blend(pool.members, pool.reference, method="dare", base=pool.base)
        found.append(loaded(write(blend, at / "out").path))
    assert torch.equal(found[0][HEAD], found[0][EMBEDDING])
    assert torch.equal(found[0][EMBEDDING], found[1][EMBEDDING])
    assert not torch.equal(found[0][EMBEDDING], tensors(2, EMBEDDING)[EMBEDDING])


def test_the_worker_fits_members_to_its_reference(tmp_path: Path) -> None:
    """It gets paths, and must see what the parent sees."""
    pool = Pool.open(member(tmp_path, 0, EMBEDDING, HEAD), member(tmp_path, 1, EMBEDDING))
    blend = Blend(pool.members, pool.reference)
    worker = Worker(lambda message: None)
    worker._refer_to(*encode_checkpoint(pool.reference))
    found = worker._blend(json.loads(json.dumps(encode_blend(blend))))
    assert found.members[1].tensors == pool.members[1].tensors
    assert found.digest == blend.digest
    again = worker._blend(json.loads(json.dumps(encode_blend(blend))))
    assert again.members == found.members  # the same objects: the running sum knows them by that


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({}, None),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({"llm_config": {"tie_word_embeddings": True}}, True),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, None),
        ({"text_config": "nested elsewhere"}, None),
    ],
)
def test_what_a_config_says(config: dict[str, Any], tied: bool | None) -> None:
    """At the top, in the language model's part, or nothing that could be relied on."""
    assert is_tied(config) is tied


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"lm_head.weight": 5, "model.embed_tokens.weight": 5}, 1),
        ({"language_model.output.weight": 5, "language_model.model.tok_embeddings.weight": 5}, 1),
        ({"transformer.wte.weight": 5, "lm_head.weight": 5, "my_lm_head.weight": 5}, 1),
        ({"lm_head.weight": 5, "model.embed_tokens.weight": 6}, 0),  # other vocabularies
        ({"lm_head.weight": 5, "a.embed_tokens.weight": 5, "b.embed_tokens.weight": 5}, 0),
        ({"a.lm_head.weight": 5, "a.embed_tokens.weight": 5, "b.embed_tokens.weight": 5}, 1),
        ({"model.embed_tokens.weight": 5, "norm.weight": 5}, 0),
    ],
)
def test_pairs_are_known_by_name_and_shape(
    tmp_path: Path, shapes: dict[str, int], expected: int
) -> None:
    """The longest common path wins; where two are as good, none is taken."""
    weights = {name: torch.zeros(rows, 3) for name, rows in shapes.items()}
    path = make_checkpoint(tmp_path / "m", weights)
    assert len(pairs(open_checkpoint(path).tensors)) == expected
    assert inspect([path]).problems == ()


def test_names_that_a_stranger_chose_cost_no_time(tmp_path: Path) -> None:
    """Thousands of heads and embeddings are paired with nothing, at once."""
    empty = torch.zeros(1, 1)
    weights = {f"{k}.lm_head.weight": empty.clone() for k in range(3000)}
    weights |= {f"{k}.embed_tokens.weight": empty.clone() for k in range(3000)}
    paths = [make_checkpoint(tmp_path / "a", weights)]
    paths.append(
        make_checkpoint(tmp_path / "b", {f"{k}.wte.weight": empty.clone() for k in range(3)})
    )
    started = time.monotonic()
    assert len(inspect(paths).problems) > 0
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("where", [{}, {"text_config": {}}])
@pytest.mark.parametrize("said", [[1], {"a": 1}, "yes", 2, 0.5])
def test_a_tie_that_is_neither_true_nor_false_is_an_error(
    tmp_path: Path, where: dict[str, Any], said: Any
) -> None:
    """Named, with its file."""
    part = {"tie_word_embeddings": said}
    config = CONFIG | ({"text_config": part} if where else part)
    with pytest.raises(CheckpointError, match="config.json: tie_word_embeddings is .*, expected"):
        open_checkpoint(make_checkpoint(tmp_path / "m", tensors(0, EMBEDDING), config=config))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_change_of_both_halves_is_made_once(tmp_path: Path) -> None:
    """As the adapter acts unmerged; PEFT's own merge adds it twice to the tied weight."""
    peft = pytest.importorskip("peft", minversion="0.19")
    base = tiny.saved(tmp_path / "base", "qwen2_5", tie=True)
    stored = load_file(base / "model.safetensors")
    (name,) = (name for name in stored if name.endswith("embed_tokens.weight"))
    save_file(stored | {"lm_head.weight": stored[name].clone()}, base / "model.safetensors")
    torch.manual_seed(100)
    modules = ["embed_tokens", "lm_head"]
    settings = peft.LoraConfig(
        r=4, init_lora_weights=False, target_modules=modules, ensure_weight_tying=True
    )
    wrapped = peft.get_peft_model(tiny.model("qwen2_5", tie=True), settings)
    wrapped.save_pretrained(tmp_path / "lora")
    member = Pool.open(tmp_path / "lora", base=base).members[0]
    assert member.digest
    found = {name: values.float() for name, values in collect(member).items()}
    assert torch.equal(found[name], found["lm_head.weight"])
    with torch.no_grad():
        words = wrapped.get_input_embeddings()(torch.arange(64))
        ones = wrapped.base_model.model.lm_head(torch.eye(32))
    torch.testing.assert_close(words, found[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ones.t(), found[name], rtol=1e-5, atol=1e-5)
