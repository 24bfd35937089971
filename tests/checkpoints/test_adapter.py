"""soup/checkpoints/adapter.py: an adapter's directory becomes a checkpoint, or one clear line."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from soup.blending import streaming
from soup.blending.blend import Blend
from soup.blending.running import RunningSum
from soup.blending.streaming import stream
from soup.blending.writer import write
from soup.checkpoints import digests
from soup.checkpoints.checkpoint import TensorInfo
from soup.checkpoints.companions import gather
from soup.checkpoints.files import companions
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool, inspect
from soup.choosing.journal import Journal
from soup.errors import CheckpointError, PoolError
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from soup.events import Progress
from soup.identifying import identify
from tests.conftest import CONFIG, collect, make_adapter, make_checkpoint

LAYOUTS = {
    # names as ms-swift 2 writes them for Mini-InternVL-Chat-4B-V1-5; Phi-3's fused projections
    "internvl": (
        {
            "vision_model.embeddings.class_embedding": (1, 1, 8),
            "language_model.model.embed_tokens.weight": (20, 12),
            "language_model.model.layers.{}.self_attn.o_proj.weight": (12, 12),
            "language_model.model.layers.{}.self_attn.qkv_proj.weight": (36, 12),
            "language_model.model.layers.{}.mlp.gate_up_proj.weight": (64, 12),
            "language_model.model.layers.{}.mlp.down_proj.weight": (12, 32),
            "language_model.lm_head.weight": (20, 12),
            "mlp1.0.weight": (32,),
            "mlp1.1.weight": (12, 32),
            "mlp1.3.weight": (12, 12),
        },
        r"^(language_model|mlp1)(?!.*(lm_head|output|emb|wte|shared)).*",
    ),
    # … and for Ovis1.6-Gemma2-9B, whose lm_head is tied and not stored
    "ovis": (
        {
            "llm.model.embed_tokens.weight": (20, 14),
            "llm.model.layers.{}.self_attn.q_proj.weight": (16, 14),
            "llm.model.layers.{}.self_attn.k_proj.weight": (8, 14),
            "llm.model.layers.{}.self_attn.v_proj.weight": (8, 14),
            "llm.model.layers.{}.self_attn.o_proj.weight": (14, 16),
            "llm.model.layers.{}.mlp.gate_proj.weight": (56, 14),
            "llm.model.layers.{}.mlp.up_proj.weight": (56, 14),
            "llm.model.layers.{}.mlp.down_proj.weight": (14, 56),
            "llm.model.layers.{}.input_layernorm.weight": (14,),
            "visual_tokenizer.head.0.weight": (20, 14),
            "vte.weight": (20, 14),
        },
        r"^(llm)(?!.*(lm_head|output|emb|wte|shared)).*",
    ),
}
FILES = {"tokenizer.json": '{"model": {"vocab": {"a": 0, "b": 1}}}', "modeling_tiny.py": "# code\n"}


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Random float32."""
    return torch.randn(shape, generator=generator)


def layout(tmp_path: Path, kind: str) -> tuple[Path, list[Path]]:
    """A scaled-down base in three shards and two adapters of it, as ms-swift 2 leaves them."""
    shapes, target = LAYOUTS[kind]
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name.format(k): normal(generator, *shape).bfloat16()
        for name, shape in shapes.items()
        for k in range(3 if "{}" in name else 1)
    }
    base = make_checkpoint(tmp_path / "base", tensors, shards=3, files=FILES)
    adapters = []
    for step in (100, 200):
        factors = {}
        for name, tensor in tensors.items():
            module = name.removesuffix(".weight")
            if "_proj" in name or module in ("mlp1.1", "mlp1.3"):
                factors[f"{module}.lora_A.weight"] = normal(generator, 8, tensor.shape[1])
                factors[f"{module}.lora_B.weight"] = normal(generator, tensor.shape[0], 8)
        path = tmp_path / f"checkpoint-{step}"
        make_adapter(path, factors, base, {"sft_args.json": "{}"}, target_modules=target)
        adapters.append(path)
    return base, adapters


@pytest.mark.parametrize("kind", LAYOUTS)
def test_adapters_of_real_layouts_average_into_a_full_model(tmp_path: Path, kind: str) -> None:
    """Names, shards, files and dtype are the base's; values are the mean of the merged models."""
    _, adapters = layout(tmp_path, kind)
    report = inspect(adapters)
    assert not report.problems
    assert not report.warnings
    assert [member.kind for member in report.members] == ["LoRA r=8 on base"] * 2
    pool = Pool.open(*adapters)
    out = write(Blend(pool.members, pool.reference), tmp_path / "out").path
    merged = [collect(member) for member in pool.members]
    written = open_checkpoint(out)
    assert written.sharded
    assert len(written.shards) == 3
    assert list(written.tensors) == list(pool.reference.tensors)
    for name, values in collect(written).items():
        mean = (merged[0][name] + merged[1][name]) / 2
        torch.testing.assert_close(values, mean, rtol=2**-8, atol=1e-7)
    trained = [name for name in written.tensors if re.search(r"_proj|mlp1\.[13]", name)]
    assert set(pool.reference.updates) == set(trained)
    files = {path.name for path in out.iterdir() if path.suffix != ".safetensors"}
    assert files == {
        "config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "modeling_tiny.py",
        "soup.json",
        "README.md",
    }


def small(tmp_path: Path) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A base of one layer, an adapter of it, and the adapter's factors."""
    generator = torch.Generator().manual_seed(2)
    tensors = {"lin.weight": normal(generator, 5, 3), "norm.weight": normal(generator, 3)}
    base = make_checkpoint(tmp_path / "base", tensors, files=FILES)
    factors = {
        "lin.lora_A.weight": normal(generator, 2, 3),
        "lin.lora_B.weight": normal(generator, 5, 2),
    }
    return base, make_adapter(tmp_path / "adapter", factors, base), factors


def test_the_average_is_of_merged_weights_not_of_factors(tmp_path: Path) -> None:
    """mean(B·A) is not mean(B)·mean(A); the soup is the former."""
    base, first, factors = small(tmp_path)
    other = {name: tensor.flip(0) for name, tensor in factors.items()}
    second = make_adapter(tmp_path / "second", other, base)
    pool = Pool.open(first, second)
    out = write(Blend(pool.members, pool.reference), tmp_path / "out").path
    weight = load_file(base / "model.safetensors")["lin.weight"].double()
    products = [
        part["lin.lora_B.weight"].double() @ part["lin.lora_A.weight"].double() * 1.5
        for part in (factors, other)
    ]
    expected = weight + sum(products) / 2
    found = load_file(out / "model.safetensors")["lin.weight"]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    of_factors = {name: (factors[name] + other[name]) / 2 for name in factors}
    wrong = weight + 1.5 * (
        of_factors["lin.lora_B.weight"].double() @ of_factors["lin.lora_A.weight"].double()
    )
    assert not torch.allclose(found.double(), wrong, atol=1e-2)


@pytest.mark.parametrize("compiled", [True, False])
def test_running_sums_of_adapters_are_the_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    """A greedy trial that reads the new member alone has the bits of one that reads all."""
    if not compiled:
        monkeypatch.setattr(streaming, "_kernel", lambda blend: None)
    base, first, factors = small(tmp_path)
    doubled = {name: 2 * tensor for name, tensor in factors.items()}
    second = make_adapter(tmp_path / "second", doubled, base)
    pool = Pool.open(first, second, base)
    running = RunningSum(1 << 20, tmp_path)
    for count in (1, 2, 3):
        blend = Blend(pool.members[:count], pool.reference)
        found: list[dict[str, torch.Tensor]] = [{}, {}]
        for known, into in zip((running, None), found, strict=True):
            stream(blend, Into(into), running=known)
        assert found[0].keys() == found[1].keys() == {"lin.weight", "norm.weight"}
        assert all(torch.equal(values, found[1][name]) for name, values in found[0].items())


class Into:
    """A sink that keeps tensors of one chunk."""

    def __init__(self, found: dict[str, torch.Tensor]) -> None:
        self.found = found

    def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
        """See ``soup.blending.streaming.Sink``."""
        assert start == 0
        self.found[info.name] = values.clone()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_adapters_mix_with_full_checkpoints(tmp_path: Path, order: tuple[int, ...]) -> None:
    """An adapter, the same merged, and the base: the first two weigh the same, in any order."""
    base, adapter, _ = small(tmp_path)
    member = open_checkpoint(adapter)
    full = write(Blend((member,), member), tmp_path / "full").path
    paths = [adapter, full, base]
    pool = Pool.open(*(paths[k] for k in order))
    out = write(Blend(pool.members, pool.reference, dtype="F64"), tmp_path / "out").path
    merged, before = collect(member)["lin.weight"], collect(open_checkpoint(base))["lin.weight"]
    found = collect(open_checkpoint(out))["lin.weight"]
    torch.testing.assert_close(found, (2 * merged + before) / 3, rtol=1e-6, atol=1e-6)
    assert list(companions(out)) == list(companions(base))


def test_a_base_that_is_not_named_is_asked_for(tmp_path: Path) -> None:
    """Nothing named, or a hub's name or another machine's path: the message offers --base."""
    base, adapter, factors = small(tmp_path)
    for k, named in enumerate((None, "", "org/model", "/data/of/another/machine")):
        path = make_adapter(tmp_path / f"a{k}", factors, base_model_name_or_path=named)
        with pytest.raises(CheckpointError, match="a LoRA adapter .*with --base DIR"):
            open_checkpoint(path)
        assert open_checkpoint(path, base=base).digest == open_checkpoint(adapter).digest


def test_a_base_beside_the_adapter_is_found(tmp_path: Path) -> None:
    """A relative path is relative to the adapter, wherever the command runs."""
    base, _, factors = small(tmp_path)
    path = make_adapter(tmp_path / "b", factors, base_model_name_or_path="../base")
    assert open_checkpoint(path).home.samefile(base)


def test_the_base_that_is_given_wins(tmp_path: Path) -> None:
    """--base stands above what the adapter names."""
    base, adapter, _ = small(tmp_path)
    moved = tmp_path / "moved"
    shutil.copytree(base, moved)
    pool = Pool.open(adapter, base=moved)
    assert pool.reference.home == moved
    assert pool.reference.digest == open_checkpoint(adapter).digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"use_bdlora": {"nblocks": 2}}, "BD-LoRA"),
        ({"alora_invocation_tokens": [5]}, "aLoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the base"),
        ({"init_lora_weights": "olora"}, "'olora', which changes the base"),
        ({"peft_type": "LOHA"}, "a LOHA adapter, expected LORA"),
        ({"r": 16}, "has rank 2, expected 16"),
        ({"rank_pattern": {"lin": 3}}, "has rank 2, expected 3"),
        ({"r": 0, "rank_pattern": {}}, "cannot be told"),
        ({"rank_pattern": {"(": 3}}, "cannot be told"),
        ({"use_dora": True}, "lin has no LoRA magnitude vector"),
    ],
)
def test_settings_that_are_not_supported_are_named(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    """Nothing is merged almost right."""
    base, _, factors = small(tmp_path)
    path = make_adapter(tmp_path / "odd", factors, base, **settings)
    with pytest.raises(CheckpointError, match=message) as error:
        open_checkpoint(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"other.lora_A.weight": (2, 3), "other.lora_B.weight": (5, 2)}, "no tensor other.weight"),
        ({"other.bias": (5,)}, "no tensor other.bias"),
        ({"lin.lora_C.weight": (5,)}, "no tensor lin.lora_C.weight"),
        ({"lin.lora_B.bias": (5,)}, "no tensor lin.lora_B.bias"),
        ({"lin.weight": (7, 3)}, r"expected \[5, 3\].*found \[7, 3\]; were tokens added"),
        ({"norm.weight": (4,)}, r"expected \[3\].*found \[4\]"),
        ({"lin.lora_A.weight": (2, 4)}, "B·A is"),
        ({"lin.lora_A.weight": (2, 3, 1, 1)}, "a matrix or of a convolution"),
        ({"lin.lora_magnitude_vector": (4,)}, "has 4 values, expected 5"),
        ({"norm.lora_A.weight": (2, 3)}, "norm has no LoRA B"),
        ({"lin.lora_A.default.weight": (2, 3)}, "are the same factor of lin"),
        ({"norm.weight": (3,), "norm.modules_to_save.weight": (3,)}, "both stand for norm.weight"),
        ({"model.visual.lin.weight": (5, 3)}, "no tensor model.visual.lin.weight"),
    ],
)
def test_tensors_that_do_not_fit_the_base_are_named(
    tmp_path: Path, change: dict[str, tuple[int, ...]], message: str
) -> None:
    """The wrong base, added tokens, unknown tensors: which one, what was expected, what found."""
    base, _, factors = small(tmp_path)
    tensors = factors | {name: torch.ones(shape) for name, shape in change.items()}
    path = make_adapter(tmp_path / "odd", tensors, base, r=2)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bin", "not a complete torch file"),
        ("empty", "adapter_config.json without adapter_model.safetensors"),
        ("part", "expected 00002 parts of adapter_model, found 1"),
        ("not json", "adapter_config.json: not JSON"),
        ("no object", "expected a JSON object"),
        ("no prefix", "expected a name that begins with base_model.model."),
        ("its own base", "found the LoRA adapter"),
        ("an adapter as base", "found the LoRA adapter"),
    ],
)
def test_directories_that_are_no_whole_adapter_are_named(
    tmp_path: Path, kind: str, message: str
) -> None:
    """Each odd directory has its own line."""
    _, path, factors = small(tmp_path)
    weights, settings = path / "adapter_model.safetensors", path / "adapter_config.json"
    if kind == "bin":
        weights.rename(path / "adapter_model.bin")
    if kind == "empty":
        weights.unlink()
    if kind == "part":
        weights.rename(path / "adapter_model-00001-of-00002.safetensors")
    if kind == "not json":
        settings.write_text("{")
    if kind == "no object":
        settings.write_text("[]")
    if kind == "no prefix":
        save_file({"lin.lora_A.weight": torch.ones(2, 3)}, weights)
    if kind == "its own base":
        path = make_adapter(tmp_path / "self", factors, base_model_name_or_path=".")
    if kind == "an adapter as base":
        path = make_adapter(tmp_path / "second", factors, path)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(path)


def test_an_adapter_in_parts_is_one_adapter(tmp_path: Path) -> None:
    """Factors in two files count as if they were in one."""
    _, path, factors = small(tmp_path)
    whole = open_checkpoint(path).digest
    (path / "adapter_model.safetensors").unlink()
    for k, (name, tensor) in enumerate(factors.items(), 1):
        file = path / f"adapter_model-0000{k}-of-00002.safetensors"
        save_file({f"base_model.model.{name}": tensor}, file)
    assert open_checkpoint(path).digest == whole


def test_an_adapter_in_torchs_format_is_the_same_adapter(tmp_path: Path) -> None:
    """adapter_model.bin, as older PEFT saved it."""
    _, path, factors = small(tmp_path)
    whole = open_checkpoint(path).digest
    (path / "adapter_model.safetensors").unlink()
    renamed = {f"base_model.model.{name}": tensor for name, tensor in factors.items()}
    torch.save(renamed, path / "adapter_model.bin")
    assert open_checkpoint(path).digest == whole


def test_a_merged_model_with_a_note_of_its_adapter_is_a_full_model(tmp_path: Path) -> None:
    """adapter_config.json beside full weights changes nothing."""
    base, adapter, _ = small(tmp_path)
    shutil.copyfile(adapter / "adapter_config.json", base / "adapter_config.json")
    assert not open_checkpoint(base).updates
    assert "adapter_config.json" not in {path.name for path in companions(base)}


@pytest.mark.parametrize(
    ("memory", "file"),
    [
        ("model.language_model.layers.0.q", "language_model.model.layers.0.q"),
        ("model.language_model.layers.0.q", "model.layers.0.q"),
        ("model.vision_tower.encoder.q", "vision_tower.vision_model.encoder.q"),
        ("model.visual.blocks.0.q", "visual.blocks.0.q"),
        ("model.multi_modal_projector.q", "multi_modal_projector.q"),
        ("language_model.model.layers.0.q", "model.language_model.layers.0.q"),
    ],
)
def test_names_in_memory_find_the_file_names(tmp_path: Path, memory: str, file: str) -> None:
    """Trained under one version of transformers, on a base saved by another."""
    base = make_checkpoint(tmp_path / "base", {f"{file}.weight": torch.ones(4, 4)})
    factors = {
        f"{memory}.lora_A.weight": torch.ones(1, 4),
        f"{memory}.lora_B.weight": torch.ones(4, 1),
    }
    member = open_checkpoint(make_adapter(tmp_path / "adapter", factors, base))
    assert list(member.updates) == [f"{file}.weight"]


def test_a_name_that_could_be_two_is_refused(tmp_path: Path) -> None:
    """Both ways to rename lead to a tensor of the base: no guess."""
    names = ("language_model.q.weight", "model.language_model.model.q.weight")
    base = make_checkpoint(tmp_path / "base", {name: torch.ones(4, 4) for name in names})
    factors = {
        "model.language_model.q.lora_A.weight": torch.ones(1, 4),
        "model.language_model.q.lora_B.weight": torch.ones(4, 1),
    }
    with pytest.raises(CheckpointError, match="could belong to"):
        open_checkpoint(make_adapter(tmp_path / "adapter", factors, base))


def test_a_square_weight_is_oriented_by_its_siblings(tmp_path: Path) -> None:
    """PEFT may save the wrong fan_in_fan_out; shapes that are not square prove the right one."""
    tensors = {"conv.weight": torch.zeros(3, 5), "square.weight": torch.zeros(4, 4)}
    base = make_checkpoint(tmp_path / "base", tensors)
    factors = {
        "conv.lora_A.weight": torch.ones(1, 3),
        "conv.lora_B.weight": torch.ones(5, 1),
        "square.lora_A.weight": torch.arange(4.0).view(1, 4),
        "square.lora_B.weight": torch.ones(4, 1),
    }
    adapter = make_adapter(tmp_path / "adapter", factors, base, r=1, lora_alpha=1)
    found = collect(open_checkpoint(adapter))["square.weight"]
    assert torch.equal(found, torch.arange(4.0).double().view(4, 1).expand(4, 4))
    lin = {"lin.lora_A.weight": torch.ones(1, 3), "lin.lora_B.weight": torch.ones(5, 1)}
    mixed = make_checkpoint(tmp_path / "mixed", tensors | {"lin.weight": torch.zeros(5, 3)})
    adapter = make_adapter(tmp_path / "both", factors | lin, mixed, r=1)
    with pytest.raises(CheckpointError, match=r"square.weight is square"):
        open_checkpoint(adapter)


def test_a_tokenizer_beside_the_adapter_must_mean_what_the_bases_means(tmp_path: Path) -> None:
    """The same is fine, none is fine; another one is a problem as in any pool."""
    _, adapter, _ = small(tmp_path)
    (adapter / "tokenizer.json").write_text(FILES["tokenizer.json"])
    assert not inspect([adapter]).problems
    (adapter / "tokenizer.json").write_text('{"model": {"vocab": {"a": 1, "b": 0}}}')
    with pytest.raises(PoolError, match="expected 'a' in row 0"):
        Pool.open(adapter)


def test_what_merging_changes_beyond_training_is_said(tmp_path: Path) -> None:
    """A tied output layer, and a chat template that the base has not."""
    base = make_checkpoint(tmp_path / "base", {"model.embed_tokens.weight": torch.ones(4, 2)})
    factors = {
        "model.embed_tokens.lora_embedding_A": torch.ones(1, 4),
        "model.embed_tokens.lora_embedding_B": torch.ones(2, 1),
    }
    files = {"chat_template.jinja": "{{ messages }}"}
    adapter = make_adapter(tmp_path / "adapter", factors, base, files, r=1)
    warnings = inspect([adapter]).warnings
    assert ["tied" in warnings[0], "chat template" in warnings[1]] == [True, True]


def test_workers_open_adapters_again_on_the_same_base(tmp_path: Path) -> None:
    """What crosses to the worker's process is paths; the base's is among them."""
    base, _, factors = small(tmp_path)
    path = make_adapter(tmp_path / "unnamed", factors, base_model_name_or_path="org/model")
    pool = Pool.open(path, base=base)
    blend = Blend(pool.members, pool.reference)
    message = json.loads(json.dumps(encode_blend(blend)))
    worker = Worker(lambda message: None)
    worker._refer_to(*encode_checkpoint(pool.reference))
    assert worker._blend(message).digest == message["digest"] == blend.digest
    assert pool.reference.companions.digest == gather(base).digest


def test_digests_of_adapters_take_one_reading_of_their_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is what it is alone; every byte is read once for all, the base as a member, too."""
    base, first, factors = small(tmp_path)
    second = make_adapter(tmp_path / "second", {n: 2 * t for n, t in factors.items()}, base)
    alone = [open_checkpoint(path).digest for path in (first, second, base)]
    read: list[digests.Place] = []
    roots = digests.read_roots

    def watched(infos: Any, *rest: Any) -> Any:
        read.extend(map(digests.place, infos))
        return roots(infos, *rest)

    monkeypatch.setattr(digests, "read_roots", watched)
    pool = Pool.open(first, second, base)
    told: list[Progress] = []
    identify(pool.members, Journal.open(tmp_path / "work"), told.append)
    by_path = {member.path: member.digest for member in pool.members}
    assert [by_path[path] for path in (first, second, base)] == alone
    assert len(read) == len(set(read)) == 2 + 2 + 2
    assert told[-1].done == told[-1].total == sum(size for *_, size in read)


def test_the_command_averages_adapters(tmp_path: Path) -> None:
    """From the shell: --base where none is named, a full model where one was asked for."""
    base, first, factors = small(tmp_path)
    second = make_adapter(tmp_path / "second", factors, base_model_name_or_path="org/model")

    def soup(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "soup", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=Path.cwd())

    work = ("--work", tmp_path / "work", "-o", tmp_path / "out")
    failed = soup("average", first, second, *work)
    assert failed.returncode == 1
    assert "--base DIR" in failed.stderr
    done = soup("average", first, second, "--base", base, *work)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "config.json").read_text())
    assert found == CONFIG
    assert open_checkpoint(tmp_path / "out").tensors.keys() == open_checkpoint(base).tensors.keys()
    checked = soup("check", first, second, "--base", base)
    assert checked.returncode == 0, checked.stderr
    assert "LoRA r=2 on" in checked.stdout
