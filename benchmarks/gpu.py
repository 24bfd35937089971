"""How fast a blend reaches a GPU, against the copy from host to device alone; in one run.

    python benchmarks/gpu.py                           # 5 checkpoints of 2 GB
    python benchmarks/gpu.py --gigabytes 15 --lanes 4 8 --chunks 20 21 22

Rows, medians of --repeats runs, members in the page cache; speeds are members' bytes per second:
    copy       a pinned buffer copied to the device again and again, as often as the members fill it
    read       the members' bytes into pinned buffers by as many threads, and no further
    device     read, copied, summed and rounded there, into tensors of a model's size; and how long
               each stage took, of its last run: what is near the whole time bounds it
    processor  summed and rounded by the processor, then copied: what models get that `device` does
               not serve
    fastsafetensors, runai_model_streamer, instanttensor
               where they are installed: the members' tensors loaded there by them, one member after
               the other, and no sum
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from loaders import installed, loaded
from pools import make_pool

from soup.blending.blend import Blend
from soup.blending.device import CHUNK, LANES
from soup.blending.stages import Stages
from soup.blending.streaming import CHUNK as ON_PROCESSOR
from soup.blending.streaming import stream
from soup.checkpoints.pool import Pool
from soup.checkpoints.reading import open_shards, read_into
from soup.evaluators.engines.places import CopyIn


def run_copy(blend: Blend, device: torch.device, chunk: int) -> None:
    """As many bytes as the members have, from one pinned buffer."""
    host = torch.empty(2 * chunk, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.empty_like(host, device=device)
    for _ in range(-(-sum(member.nbytes for member in blend.members) // host.nbytes)):
        there.copy_(host, non_blocking=True)


def run_read(blend: Blend, device: torch.device, chunk: int, threads: int) -> None:
    """Every byte once, into memory of the kind that copies start from."""
    from concurrent.futures import ThreadPoolExecutor

    pinned = device.type == "cuda"
    work = iter(
        [
            (info, start, min(chunk, info.numel - start))
            for member in blend.members
            for info in member.tensors.values()
            for start in range(0, info.numel, chunk)
        ]
    )
    with ExitStack() as stack:
        files = open_shards((shard for m in blend.members for shard in m.shards), stack)

        def run() -> None:
            buffer = torch.empty(2 * chunk, dtype=torch.uint8, pin_memory=pinned).numpy()
            for info, start, count in work:
                read_into(files, info, start, buffer[: 2 * count].data)

        with ThreadPoolExecutor(threads) as executor:
            for future in [executor.submit(run) for _ in range(threads)]:
                future.result()


def seconds(job: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Median wall time, after a run that does not count."""
    found = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of each checkpoint")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda:0", help="cpu: only to try the script")
    parser.add_argument("--lanes", type=int, nargs="*", default=[LANES], help="threads")
    parser.add_argument(
        "--chunks", type=int, nargs="*", default=[CHUNK.bit_length() - 1], help="log2 of elements"
    )
    parser.add_argument("--no-loaders", action="store_true", help="no other loaders")
    parser.add_argument("--directory", type=Path, help="where to work [a temporary directory]")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA GPU here; --device cpu only tries the script")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, {given.members} members of "
          f"{given.gigabytes} GB in bfloat16, median of {given.repeats}")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="soup-bench-", dir=given.directory) as scratch:
        pool = Pool.open(*make_pool(Path(scratch), given.members, given.gigabytes))
        table(Blend(pool.members, pool.reference), device, given)


def table(blend: Blend, device: torch.device, given: argparse.Namespace) -> None:
    """Print all rows, and prove that both ways gave the same bits."""
    total = sum(member.nbytes for member in blend.members)
    infos = blend.reference.tensors.values()
    there, plain = (
        {info.name: torch.empty(info.shape, dtype=torch.bfloat16, device=device) for info in infos}
        for _ in range(2)
    )
    stages: dict[str, Stages] = {}  # of each row's last run

    def on_device(name: str, size: int, lanes: int) -> None:
        stages[name] = Stages()
        stream(
            blend,
            CopyIn(there),
            chunk=size,
            threads=lanes,
            device=device,
            stages=stages[name],
        )

    rows: dict[str, Callable[[], None]] = {
        "processor": lambda: stream(blend, CopyIn(plain), chunk=ON_PROCESSOR)
    }
    for bits in given.chunks:
        size = 1 << bits
        rows[f"copy, {2 * size >> 20} MiB at a time"] = lambda size=size: run_copy(
            blend, device, size
        )
        for lanes in given.lanes:
            label = f"{lanes} threads, chunks of 2^{bits}"
            rows[f"read, {label}"] = lambda size=size, lanes=lanes: run_read(
                blend, device, size, lanes
            )
            name = f"device, {label}"
            rows[name] = lambda size=size, lanes=lanes, name=name: on_device(name, size, lanes)
    others = {} if given.no_loaders else installed()
    for loader in others:
        rows[loader] = lambda loader=loader: loaded(
            others[loader], [member.shards for member in blend.members], device
        )
    print("\n| | seconds | GB/s | to the copy | where the time went |\n|---|---|---|---|---|")
    best = 0.0
    for name, job in sorted(rows.items(), key=lambda row: not row[0].startswith("copy")):
        try:
            took = seconds(job, device, given.repeats)
        except Exception as error:
            if name not in others:
                raise
            print(f"| {name} | | | | {type(error).__name__}: {str(error)[:100]} |", flush=True)
            continue
        speed = total / took / 1e9
        best = max(best, speed) if name.startswith("copy") else best
        where = str(stages[name]) if name in stages else ""
        line = f"| {name} | {took:.3f} | {speed:.1f} | {speed / best:.0%} | {where} |"
        print(line, flush=True)
    print("\naimed at: the device at 80% of the copy's speed")
    if not all(torch.equal(there[name], plain[name]) for name in plain):
        raise SystemExit("the device's bits are not the processor's")
    print("\nboth ways gave the same bits")


if __name__ == "__main__":
    main()
