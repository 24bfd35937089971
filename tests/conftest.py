"""Small real checkpoints, made where a test needs them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file

from soup.blending.blend import Blend
from soup.blending.streaming import CHUNK, stream
from soup.checkpoints.checkpoint import Checkpoint, TensorInfo

# The same examples in every run, and no time limit: machines are shared.
hypothesis.settings.register_profile("soup", derandomize=True, deadline=None)
hypothesis.settings.load_profile("soup")

LONG = (
    "test_end_to_end.py", "workers/test_second_environment.py", "models/test_fidelity.py",
    "publishing/test_seven_nights.py", "workers/test_worker.py", "test_docs.py",
    "cli/test_terminal.py", "kit/test_traps_left.py", "workers/test_doctor.py",
)  # fmt: skip
"""Files whose tests take a minute or more, most of it in workers that come up.

While one process trains the demo for the first, another has the second, which trains its own pool.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long ones: else one process has the last of them when the others are done."""
    here = Path(__file__).parent
    order = {here / name: number for number, name in enumerate(LONG)}
    if absent := [str(file) for file in order if not file.is_file()]:
        raise pytest.UsageError(f"no such file: {', '.join(absent)}; see LONG in {__file__}")
    items.sort(key=lambda item: order.get(item.path, len(order)))


CONFIG = {"model_type": "tiny", "architectures": ["Tiny"]}


def make_checkpoint(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    shards: int = 1,
    config: Mapping[str, Any] = CONFIG,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a model directory with safetensors weights, in one file or in several with an index."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(dict(config)))
    for name, text in (files or {}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    if shards == 1:
        save_file(dict(tensors), path / "model.safetensors", metadata={"format": "pt"})
        return path
    names = list(tensors)
    weight_map = {}
    for k in range(shards):
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name].contiguous() for name in names[k::shards]}
        save_file(part, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def make_torch_checkpoint(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    shards: int = 1,
    config: Mapping[str, Any] = CONFIG,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a model directory with ``pytorch_model.bin``, in one file or in shards."""
    make_checkpoint(path, {}, config=config, files=files)
    (path / "model.safetensors").unlink()
    if shards == 1:
        torch.save(dict(tensors), path / "pytorch_model.bin")
        return path
    names = list(tensors)
    weight_map = {}
    for k in range(shards):
        file = f"pytorch_model-{k + 1:05d}-of-{shards:05d}.bin"
        # clones: a slice would take the whole storage with it
        part = {name: tensors[name].clone() for name in names[k::shards]}
        torch.save(part, path / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return path


def make_adapter(
    path: Path,
    factors: Mapping[str, torch.Tensor],
    base: Path | None = None,
    files: Mapping[str, str] | None = None,
    **settings: Any,
) -> Path:
    """Write a LoRA adapter as PEFT lays it out; ``factors`` have names without its prefix."""
    path.mkdir(parents=True)
    ranks = [t.shape[0] for name, t in factors.items() if name.endswith(("A", "A.weight"))]
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": None if base is None else str(base),
        "r": ranks[0] if ranks else 8,
        "lora_alpha": 3,
        "target_modules": sorted({name.split(".lora_")[0] for name in factors if "lora_" in name}),
    }
    (path / "adapter_config.json").write_text(json.dumps(config | settings))
    for name, text in (files or {}).items():
        (path / name).write_text(text)
    tensors = {f"base_model.model.{name}": tensor for name, tensor in factors.items()}
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    return path


def collect(
    checkpoint: Checkpoint, chunk: int = CHUNK, threads: int | None = None
) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint in float64, through the engine."""
    found = {
        name: torch.full(info.shape, torch.nan, dtype=torch.float64)
        for name, info in checkpoint.tensors.items()
    }

    class Sink:
        def put(self, info: TensorInfo, start: int, values: torch.Tensor) -> None:
            found[info.name].view(-1)[start : start + len(values)] = values

    blend = Blend((checkpoint,), checkpoint, dtype="F64")
    stream(blend, Sink(), chunk=chunk, threads=threads)
    return found


def random_tensors(seed: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """A few tensors of different sizes, like a very small model's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    return {
        "embed_tokens.weight": normal(13, 4),
        "layers.0.weight": normal(4, 4),
        "layers.0.bias": normal(4),
        "norm.weight": normal(4),
        "scale": normal(),
    }


@pytest.fixture
def pool_paths(tmp_path: Path) -> list[Path]:
    """Four bfloat16 checkpoints of one layout in different shards."""
    return [
        make_checkpoint(
            tmp_path / "ckpts" / name,
            random_tensors(seed),
            shards=shards,
            files={"tokenizer_config.json": "{}", "modeling_tiny.py": "# code\n"},
        )
        for seed, (name, shards) in enumerate([("a", 1), ("b", 2), ("c", 3), ("d", 1)])
    ]


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """What the four of ``pool_paths`` could have been fine-tuned from."""
    return make_checkpoint(tmp_path / "base", random_tensors(99))


def names(paths: Sequence[Path]) -> list[str]:
    """The directories' own names."""
    return [path.name for path in paths]


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's pool and benchmarks, trained once for all tests; treat it as read-only."""
    from soup.evaluators.demo import build

    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # of all processes of this run
    directory, made = place / "demo", place / "demo-made"
    with FileLock(place / "demo-lock"):  # the first that wants it trains it
        if not made.exists():
            directory.mkdir()
            build(directory)
            made.touch()
    return directory


@pytest.fixture(scope="session")
def old_python() -> str:
    """An interpreter with transformers 4.46, as `make test` sets it up."""
    default = f"{sys.prefix}/transformers-4.46/bin/python"
    python = os.environ.get("SOUP_OLD_PYTHON", default)
    if not Path(python).is_file():
        pytest.skip(f"{python}: not there; make test makes it, SOUP_OLD_PYTHON names another")
    return python


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with nothing in it."""
    directory = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    return directory


@pytest.fixture(scope="session")
def small_benchmarks(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's benchmarks with their first forty rows."""
    directory = tmp_path_factory.mktemp("benchmarks")
    for file in (demo / "benchmarks").glob("*.tsv"):
        lines = file.read_text().splitlines(keepends=True)
        (directory / file.name).write_text("".join(lines[:41]))
    return directory
