"""What blend.py measures, each in a process of its own, which says as JSON what it took.

    python blend_jobs.py floor|soup OUT THREADS CHUNK PATHS…     the parts
    python blend_jobs.py command ARGUMENTS…                      `soup`, by phases
    python blend_jobs.py describe PATH WORK                      what transformers says, kept

Here and not there, for a command's peak memory starts at that of what it has imported.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PHASES = ("start", "open", "model", "pass", "write", "rest")
PIECE = 1 << 18  # bytes; what is fastest here: larger ones leave a core's cache


def run_floor(paths: list[Path], out: Path, threads: int) -> None:
    """Read all bytes in chunks and write as many as the output has, the disk being asked for them
    early, as it is by soup; no arithmetic.
    """
    from concurrent.futures import ThreadPoolExecutor

    from soup.blending.flushing import flushed_early

    out.mkdir()
    files = [sorted(path.glob("*.safetensors")) for path in paths]
    work = []
    for shard, file in enumerate(files[0]):
        target = os.open(out / file.name, os.O_CREAT | os.O_RDWR)
        os.truncate(target, file.stat().st_size)
        handles = [os.open(member[shard], os.O_RDONLY) for member in files]
        work += [(handles, target, at) for at in range(0, file.stat().st_size, PIECE)]
    todo = iter(work)

    def run() -> None:
        buffer = memoryview(bytearray(PIECE))
        for handles, target, at in todo:
            for handle in handles:
                got = os.preadv(handle, [buffer], at)
            os.pwrite(target, buffer[:got], at)

    targets = {target for _, target, _ in work}
    sizes = [(target, os.fstat(target).st_size) for target in targets]
    with flushed_early(sizes), ThreadPoolExecutor(threads) as executor:
        for future in [executor.submit(run) for _ in range(threads)]:
            future.result()
    for target in targets:
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


def part(job: str, out: str, threads: str, chunk: str, *paths: str) -> None:
    """Run one job; print its seconds, by the clock and of the processor, and the memory that it
    needed above its imports.
    """
    import soup.blending.shards
    import soup.checkpoints.pool  # noqa: F401

    if int(chunk):
        from soup.blending import onepass, runs

        runs.CHUNK = onepass.CHUNK = int(chunk)
    before = peak()
    start, busy = time.perf_counter(), time.process_time()
    JOBS[job]([Path(path) for path in paths], Path(out), int(threads))
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": (peak() - before) / 1e6}))


def peak() -> int:
    """This process's peak memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def command(arguments: list[str]) -> None:
    """Run `soup` in this process; print the seconds of its phases as the last line."""
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
        *(("open", Pool, "open"), ("model", soup.run.Loadable, "require")),
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
    took["write"] -= took["model"]  # it is waited for before the result gets its name
    took["rest"] = time.perf_counter() - start - sum(list(took.values())[1:])
    print(json.dumps(took), flush=True)
    raise SystemExit(status)


def describe(path: str, work: str) -> None:
    """Ask transformers what it makes of a checkpoint, as each run would, and keep it."""
    from soup.checkpoints.described import describe as ask
    from soup.checkpoints.opening import open_checkpoint

    start = time.perf_counter()
    found = ask(open_checkpoint(path), work)
    print(json.dumps({"seconds": time.perf_counter() - start, "said": found.kind or found.unknown}))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    if sys.argv[1] == "command":
        command(sys.argv[2:])
    elif sys.argv[1] == "describe":
        describe(*sys.argv[2:])
    else:
        part(*sys.argv[1:])
