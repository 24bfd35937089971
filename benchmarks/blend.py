"""How fast, and in how much memory, an average is written; side by side in one run.

    python benchmarks/blend.py                    # 5 checkpoints of 2 GB: the whole command
    python benchmarks/blend.py --gigabytes 0.2    # the same, small
    python benchmarks/blend.py --many             # only: 3 checkpoints of 18,000 tensors of 4 kB
    python benchmarks/blend.py --mergekit         # also mergekit's linear, in its own environment
    python benchmarks/blend.py --parts            # also the writing alone, tmpfs, cold cache
    python benchmarks/blend.py --scaling          # also memory, and time by members
    python benchmarks/blend.py --chunks           # only: seconds by elements per chunk
    python benchmarks/blend.py --lora             # only: LoRA adapters against the same, merged

Each is the median of --repeats runs in fresh processes, in turn, inputs in the page cache:
    floor      reading all bytes and writing the output, same threads, no arithmetic
    soup average
               the whole command, by phases: start (Python and imports), open (headers, configs),
               model (what transformers says of config.json; kept in the work directory), pass
               (digests and blend at once, or nothing where digests are known), write (the blend
               where digests are known; the rest of the directory; flushing), rest. Its pools: of
               members that share nothing, of such that share 80% of their bytes, of float16
    soup       with --parts, the blending and writing alone
    mergekit   `mergekit-yaml` with merge_method: linear, bfloat16 out

Memory is the peak resident set of whole commands; of parts, what they need above their imports.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LAYER = {
    "self_attn.q_proj": (2048, 2048),
    "self_attn.k_proj": (512, 2048),
    "self_attn.v_proj": (512, 2048),
    "self_attn.o_proj": (2048, 2048),
    "mlp.gate_proj": (5632, 2048),
    "mlp.up_proj": (5632, 2048),
    "mlp.down_proj": (2048, 5632),
    "input_layernorm": (2048,),
    "post_attention_layernorm": (2048,),
}
LAYER_BYTES = 2 * sum(a * (b[0] if b else 1) for a, *b in LAYER.values())
VOCABULARY = 32000
RANK = 16  # of LoRA adapters
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


# --- checkpoints ---------------------------------------------------------------------------


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a process of its own: a command's peak memory starts at that of its parent."""
    with multiprocessing.get_context("spawn").Pool(1) as one:
        return one.apply(function, arguments)


def make_pool(
    directory: Path, count: int, gigabytes: float, shared: float = 0.0, dtype: str = "bfloat16"
) -> list[Path]:
    """Llama-shaped checkpoints in two shards, with random weights; a share of them alike in all."""
    layers = max(1, round((gigabytes * 1e9 - 4 * VOCABULARY * 2048) / LAYER_BYTES))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, 2048)}
    for k in range(layers):
        shapes |= {f"model.layers.{k}.{name}.weight": shape for name, shape in LAYER.items()}
    shapes |= {"model.norm.weight": (2048,), "lm_head.weight": (VOCABULARY, 2048)}
    paths = []
    for seed in range(count):
        path = directory / f"m{seed}"
        config = CONFIG | {"num_hidden_layers": layers, "torch_dtype": dtype}
        make_checkpoint(path, shapes, seed, 2, config, shared, dtype)
        paths.append(path)
    return paths


def make_many(directory: Path, count: int = 3, tensors: int = 18_000) -> list[Path]:
    """Checkpoints of a mixture of experts' number of tensors, each of 4 kB."""
    parts = ("gate_proj", "up_proj", "down_proj")
    shapes: dict[str, tuple[int, ...]] = {
        f"model.layers.{k // 384}.mlp.experts.{k % 384 // 3}.{parts[k % 3]}.weight": (32, 64)
        for k in range(tensors)
    }
    paths = [directory / f"m{seed}" for seed in range(count)]
    for seed, path in enumerate(paths):
        make_checkpoint(path, shapes, seed, 1, {"model_type": "none", "architectures": ["None"]})
    return paths


def make_checkpoint(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    seed: int,
    shards: int,
    config: dict[str, Any],
    shared: float = 0.0,
    dtype: str = "bfloat16",
) -> None:
    """Random weights like a fine-tune's: normal, of spread 0.02; a share of the bytes of seed 0."""
    from math import prod

    import torch
    from safetensors.torch import save_file

    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    # a pool of values, cut at random places: drawing every element would take minutes
    pools, starts = [], []
    for one in (0, seed):
        generator = torch.Generator().manual_seed(one)
        values = torch.randn(1 << 24, generator=generator).mul_(0.02)
        pools.append(values.to(getattr(torch, dtype)))
        starts.append(torch.randint(1 << 23, (len(shapes),), generator=generator).tolist())
    names = list(shapes)
    cut = -(-len(names) // shards)
    total, done = sum(map(prod, shapes.values())), 0
    weight_map = {}
    for k in range(shards):
        tensors = {}
        for number, name in enumerate(names[k * cut : (k + 1) * cut], k * cut):
            size = prod(shapes[name])
            own = int(done >= shared * total)
            done += size
            pieces = [pools[own][starts[own][number] :]]
            pieces += [pools[own]] * (size // len(pools[own]) + 1)
            whole = torch.cat(pieces) if size > 1 << 23 else pieces[0]
            tensors[name] = whole[:size].reshape(shapes[name]).clone()
        file = f"model-{k + 1:05d}-of-{shards:05d}.safetensors"
        save_file(tensors, path / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def make_adapters(base: Path, count: int) -> tuple[list[Path], list[Path]]:
    """LoRA adapters of every projection, and each merged into its base."""
    import torch
    from safetensors.torch import save_file

    from soup.blending.blend import Blend
    from soup.blending.writer import write
    from soup.checkpoints.opening import open_checkpoint

    adapters, merged = [], []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for name, info in open_checkpoint(base).tensors.items():
            if "_proj" in name:
                module = f"base_model.model.{name.removesuffix('.weight')}"
                for factor, shape in (("A", (RANK, info.shape[1])), ("B", (info.shape[0], RANK))):
                    values = torch.randn(shape, generator=generator).mul_(0.02)
                    tensors[f"{module}.lora_{factor}.weight"] = values
        path = base.parent / f"adapter-{seed}"
        path.mkdir()
        settings = {"base_model_name_or_path": str(base), "r": RANK, "lora_alpha": RANK}
        (path / "adapter_config.json").write_text(json.dumps(settings))
        save_file(tensors, path / "adapter_model.safetensors")
        member = open_checkpoint(path)
        adapters.append(path)
        merged.append(write(Blend((member,), member), base.parent / f"merged-{seed}").path)
    return adapters, merged


# --- what is measured, each in a process of its own ----------------------------------------


def run_floor(paths: list[Path], out: Path, threads: int) -> None:
    """Read all bytes in chunks and write as many as the output has; no arithmetic."""
    from concurrent.futures import ThreadPoolExecutor

    size = 1 << 18  # bytes; what is fastest here: larger ones leave a core's cache
    out.mkdir()
    files = [sorted(path.glob("*.safetensors")) for path in paths]
    work = []
    for shard, file in enumerate(files[0]):
        target = os.open(out / file.name, os.O_CREAT | os.O_RDWR)
        os.truncate(target, file.stat().st_size)
        handles = [os.open(member[shard], os.O_RDONLY) for member in files]
        work += [(handles, target, at) for at in range(0, file.stat().st_size, size)]
    todo = iter(work)

    def run() -> None:
        buffer = memoryview(bytearray(size))
        for handles, target, at in todo:
            for handle in handles:
                got = os.preadv(handle, [buffer], at)
            os.pwrite(target, buffer[:got], at)

    with ThreadPoolExecutor(threads) as executor:
        for future in [executor.submit(run) for _ in range(threads)]:
            future.result()
    for target in {target for _, target, _ in work}:
        os.fsync(target)


def run_soup(paths: list[Path], out: Path, threads: int) -> None:
    """The average, as `soup average` writes it (digests are measured apart: they are kept)."""
    from soup.blending.blend import Blend
    from soup.blending.shards import write_weights
    from soup.checkpoints.pool import Pool

    pool = Pool.open(*paths)
    out.mkdir()
    write_weights(Blend(pool.members, pool.reference), out, "write", lambda event: None, threads)


JOBS: dict[str, Callable[[list[Path], Path, int], None]] = {"floor": run_floor, "soup": run_soup}


def child(job: str, out: Path, threads: int, paths: list[Path]) -> None:
    """Run one job; print its seconds and the memory it needed above its imports."""
    sys.path.insert(0, str(ROOT))
    import soup.blending.shards
    import soup.checkpoints.pool  # noqa: F401

    before = _peak()
    start = time.perf_counter()
    JOBS[job](paths, out, threads)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "memory": (_peak() - before) / 1e6}))


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def measure(
    jobs: Sequence[str],
    paths: list[Path],
    scratch: Path,
    repeats: int,
    threads: int,
    extra: Sequence[str] = (),
    cold: bool = False,
) -> dict[str, Any]:
    """Of each job, in turn: median seconds, highest memory, all seconds.

    ``cold`` drops their inputs from the cache.
    """
    results: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
    for job in [*jobs] * repeats:
        out = scratch / "out"
        if cold:
            drop_from_cache(paths)
        arguments = [sys.executable, __file__, "--child", job, "--out", str(out), *extra]
        done = subprocess.run(
            [*arguments, "--threads", str(threads), *map(str, paths)],
            check=True,
            capture_output=True,
            text=True,
        )
        results[job].append(json.loads(done.stdout))
        shutil.rmtree(out)
    return {job: _middle(found) for job, found in results.items()}


def _middle(found: list[dict[str, float]]) -> Any:
    seconds = [one["seconds"] for one in found]
    return statistics.median(seconds), max(one["memory"] for one in found), seconds


def drop_from_cache(paths: list[Path]) -> None:
    """Ask the kernel to forget the pages of the weight files."""
    os.sync()
    for path in paths:
        for file in path.glob("*.safetensors"):
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


PHASES = ("start", "open", "model", "pass", "write", "rest")


def command(arguments: list[str]) -> None:
    """Run `soup` in this process; print the seconds of its phases as the last line."""
    sys.path.insert(0, str(ROOT))
    import soup.run
    import soup.walk
    from soup.checkpoints.pool import Pool
    from soup.cli.app import main

    took = dict.fromkeys(PHASES, 0.0)

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                took[phase] += time.perf_counter() - start

        return run

    places: list[tuple[str, Any, str]] = [
        *(("open", Pool, "open"), ("model", soup.run, "require_described")),
        *(("pass", soup.walk, "identify"), ("write", soup.run, "write")),
    ]
    for phase, owner, name in places:
        setattr(owner, name, timed(phase, getattr(owner, name)))
    took["start"] = time.time() - float(os.environ["SOUP_STARTED"])
    start = time.perf_counter()
    sys.argv[1:] = arguments
    status: Any = 0
    try:
        main()
    except SystemExit as ended:
        status = ended.code
    took["rest"] = time.perf_counter() - start - sum(list(took.values())[1:])
    print(json.dumps(took), flush=True)
    raise SystemExit(status)


def measure_command(
    paths: list[Path], scratch: Path, repeats: int, first: bool, kind: str = "average"
) -> dict[str, Any]:
    """Wall time and phases of a `soup` command; its memory is that of the whole process.

    Args:
        paths: the pool.
        scratch: where to work.
        repeats: how often.
        first: whether nothing is known of the members each time, but what transformers says of
            their config.json.
        kind: average or check.
    """
    runs: list[dict[str, float]] = []
    memory = 0.0
    work, out = scratch / "work", scratch / "out-average"
    arguments = [sys.executable, __file__, "--command", kind, *map(str, paths), "--work", str(work)]
    if kind == "average":
        arguments += ["--quiet", "--out", str(out)]
    for k in range(repeats + 1):  # the first run learns digests, and what transformers says
        if first and work.is_dir():
            for file in work.iterdir():
                if file.is_file():
                    file.unlink()
        environment = os.environ | {"SOUP_STARTED": str(time.time())}
        start = time.perf_counter()
        process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            raise SystemExit(f"soup {kind} ended with status {status}")
        phases = json.loads(said.splitlines()[-1])
        if k:
            runs.append({"seconds": seconds, **phases})
            memory = max(memory, usage.ru_maxrss / 1e3)
        shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return middle | {"memory": memory, "runs": [run["seconds"] for run in runs]}


def print_commands(rows: dict[str, dict[str, Any]], floors: dict[str, float]) -> None:
    """The table of whole commands: every phase a column."""
    print(
        f"\n| whole command, seconds | all | {' | '.join(PHASES)} | to the floor | memory | runs |"
    )
    print("|---" * (len(PHASES) + 5) + "|")
    for name, row in rows.items():
        cells = " | ".join(f"{row[phase]:.2f}" for phase in PHASES)
        floor = floors.get(name)
        ratio = f"{row['seconds'] / floor:.2f} × {floor:.2f}" if floor else ""
        spread = " ".join(f"{run:.2f}" for run in row["runs"])
        print(
            f"| {name} | {row['seconds']:.2f} | {cells} | {ratio} | {row['memory']:.0f} MB | "
            f"{spread} |"
        )


def whole_commands(given: argparse.Namespace, scratch: Path) -> None:
    """The headline: `soup average` on several pools, each against the floor of its own bytes."""
    start = []
    for _ in range(5):
        before = time.perf_counter()
        subprocess.run([sys.executable, "-c", ""], check=True)
        start.append(time.perf_counter() - before)
    print(f"start of Python alone: {statistics.median(start):.3f} s")
    rows: dict[str, dict[str, Any]] = {}
    floors: dict[str, float] = {}
    pools = {
        "": (0.0, "bfloat16"),
        ", 80% shared": (0.8, "bfloat16"),
        ", float16": (0.0, "float16"),
    }
    for label, (shared, dtype) in pools.items():
        place = scratch / "whole"
        paths = elsewhere(make_pool, place, given.members, given.gigabytes, shared, dtype)
        floor = measure(["floor"], paths, scratch, given.repeats, given.threads)["floor"][0]
        for what, first in (("nothing known", True), ("digests known", False)):
            name = f"average, {what}{label}"
            rows[name] = measure_command(paths, scratch, given.repeats, first)
            floors[name] = floor
        shutil.rmtree(place)
    print_commands(rows, floors)
    none, alike, half = (rows[f"average, nothing known{label}"]["seconds"] for label in pools)
    known = [rows[f"average, digests known{label}"]["seconds"] for label in list(pools)[:2]]
    floor = floors["average, nothing known"]
    print(f"\nnothing known: {none:.2f} s, aimed at 1.5 × floor + 0.5 = {1.5 * floor + 0.5:.2f} s")
    print(f"80% shared: {alike / none:.2f} × of none, digests known {known[1] / known[0]:.2f} ×, "
          "aimed at 0.5 ×")  # fmt: skip
    print(f"float16: {half / none:.2f} × bfloat16, aimed at 1.2 ×")


def many(given: argparse.Namespace, scratch: Path) -> None:
    """Print what tens of thousands of small tensors take."""
    paths = elsewhere(make_many, scratch / "many")
    floor = measure(["floor"], paths, scratch, given.repeats, given.threads)["floor"][0]
    rows = {"check": measure_command(paths, scratch, given.repeats, False, "check")}
    for what, first in (("nothing known", True), ("digests known", False)):
        rows[f"average, {what}"] = measure_command(paths, scratch, given.repeats, first)
    print("3 checkpoints of 18,000 tensors of 4 kB; aimed at: check 1 s, average 2 s")
    print_commands(rows, dict.fromkeys([name for name in rows if name != "check"], floor))


def measure_mergekit(paths: list[Path], scratch: Path, repeats: int) -> Any:
    """Mergekit's linear in an environment that this installs; wall time of its command."""
    environment = scratch / "mergekit"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "pip"), "install", "--quiet"]
    subprocess.run([*pip, "mergekit==0.1.5"], check=True)
    recipe = {"merge_method": "linear", "dtype": "bfloat16", "models": []}
    recipe["models"] = [{"model": str(p), "parameters": {"weight": 1.0}} for p in paths]
    (scratch / "recipe.yml").write_text(json.dumps(recipe))  # JSON is YAML
    seconds, memory = [], 0.0
    for _ in range(repeats):
        out = scratch / "out-mergekit"
        command = [
            str(environment / "bin" / "mergekit-yaml"),
            str(scratch / "recipe.yml"),
            str(out),
        ]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - start)
        memory = max(memory, usage.ru_maxrss / 1e3)
        if not list(out.glob("*.safetensors")):
            raise SystemExit(f"mergekit wrote nothing (status {status})")
        shutil.rmtree(out)
    return statistics.median(seconds), memory, seconds


# --- the tables ----------------------------------------------------------------------------


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of each checkpoint")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--many", action="store_true", help="only: 18,000 small tensors")
    parser.add_argument("--parts", action="store_true", help="also the writing alone")
    parser.add_argument("--mergekit", action="store_true")
    parser.add_argument("--chunks", action="store_true", help="only: seconds by chunk size")
    parser.add_argument("--chunk", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--lora", action="store_true", help="only: adapters against merged models")
    parser.add_argument("--scaling", action="store_true", help="also memory and time by members")
    parser.add_argument("--directory", type=Path, help="where to work [a temporary directory]")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    if sys.argv[1:2] == ["--command"]:
        command(sys.argv[2:])
    given = parser.parse_args()
    if given.child:
        if given.chunk:
            sys.path.insert(0, str(ROOT))
            from soup.blending import onepass, runs

            runs.CHUNK = onepass.CHUNK = given.chunk
        child(given.child, given.out, given.threads, given.paths)
        return
    with tempfile.TemporaryDirectory(prefix="soup-bench-", dir=given.directory) as scratch:
        tables(given, Path(scratch))


def tables(given: argparse.Namespace, scratch: Path) -> None:
    """Print all rows."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}, "
          f"{given.members} checkpoints of {given.gigabytes} GB in bfloat16, "
          f"{given.threads} threads, median of {given.repeats}")  # fmt: skip
    if given.lora:
        lora(given, scratch)
        return
    if given.many:
        many(given, scratch)
        return
    if not given.chunks:
        whole_commands(given, scratch)
        if not (given.parts or given.mergekit or given.scaling):
            return
    paths = elsewhere(make_pool, scratch / "pool", given.members, given.gigabytes)
    if given.chunks:
        for bits in range(17, 22):  # whole blocks of a digest
            extra = ["--chunk", str(1 << bits)]
            found = measure(["soup"], paths, scratch, given.repeats, given.threads, extra)
            seconds, memory, _ = found["soup"]
            print(f"{1 << bits:8d} elements per chunk: {seconds:.2f} s, {memory:.0f} MB")
        return
    rows = measure([*JOBS], paths, scratch, given.repeats, given.threads)
    shared = Path("/dev/shm")
    if shared.is_dir():
        with tempfile.TemporaryDirectory(prefix="soup-bench-", dir=shared) as there:
            found = measure([*JOBS], paths, Path(there), given.repeats, given.threads)
            rows |= {f"{job}, output on tmpfs": row for job, row in found.items()}
    found = measure([*JOBS], paths, scratch, given.repeats, given.threads, cold=True)
    rows |= {f"{job}, cold cache": row for job, row in found.items()}
    if given.mergekit:
        rows["mergekit"] = measure_mergekit(paths, scratch, max(1, given.repeats // 2))
    print("\n| | seconds | to the floor | all runs | memory above imports |")
    print("|---|---|---|---|---|")
    for job, (seconds, memory, runs) in rows.items():
        spread = " ".join(f"{run:.2f}" for run in runs)
        beside = job.replace("soup", "floor") if job.startswith("soup,") else "floor"
        floor = rows[beside][0]
        print(f"| {job} | {seconds:.2f} | {seconds / floor:.2f} × | {spread} | {memory:.0f} MB |")
    if given.scaling:
        scaling(given, scratch, paths)


def lora(given: argparse.Namespace, scratch: Path) -> None:
    """Print time and memory for adapters of one base, and for the merged models of the same."""
    (base,) = elsewhere(make_pool, scratch / "base", 1, given.gigabytes)
    adapters, merged = elsewhere(make_adapters, base, given.members)
    for name, paths in (("merged models", merged), (f"LoRA adapters, rank {RANK}", adapters)):
        found = measure(["soup"], paths, scratch, given.repeats, given.threads)
        seconds, memory, runs = found["soup"]
        spread = " ".join(f"{run:.2f}" for run in runs)
        print(f"{len(paths)} {name}: {seconds:.2f} s ({spread}), {memory:.0f} MB")


def scaling(given: argparse.Namespace, scratch: Path, paths: list[Path]) -> None:
    """Print memory and time by number of members, and for one very large tensor."""
    print("\n| members | seconds | seconds per member | memory above imports |")
    print("|---|---|---|---|")
    ten = [*paths, *(path.parent / f"again-{path.name}" for path in paths)]
    for path, copy in zip(paths, ten[len(paths) :], strict=True):
        copy.symlink_to(path)
    shared = Path("/dev/shm")  # where it is there: a disk's own ups and downs hide the line
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else scratch) as there:
        for count in (2, 4, 6, 8, 10):
            found = measure(["soup"], ten[:count], Path(there), 3, given.threads)
            seconds, memory, _ = found["soup"]
            print(f"| {count} | {seconds:.2f} | {seconds / count:.2f} | {memory:.0f} MB |")
    large = []
    for k in range(2):
        large.append(scratch / "large" / str(k))
        elsewhere(make_checkpoint, large[-1], {"w": (500_000_000,)}, k, 1, CONFIG)
    seconds, memory, _ = measure(["soup"], large, scratch, 3, given.threads)["soup"]
    print(f"| 2, one tensor of 1 GB | {seconds:.2f} | {seconds / 2:.2f} | {memory:.0f} MB |")


if __name__ == "__main__":
    main()
