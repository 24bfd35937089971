"""How fast, and in how much memory, an average is written; side by side in one run.

    python benchmarks/blend.py                    # 5 checkpoints of 2 GB: the whole command
    python benchmarks/blend.py --gigabytes 0.2    # the same, small
    python benchmarks/blend.py --many             # only: 3 checkpoints of 18,000 tensors of 4 kB
    python benchmarks/blend.py --mergekit         # also mergekit's linear, in its own environment
    python benchmarks/blend.py --parts            # also the writing alone, tmpfs, cold cache
    python benchmarks/blend.py --scaling          # also memory, and time by members
    python benchmarks/blend.py --chunks           # only: seconds by elements per chunk
    python benchmarks/blend.py --lora             # only: LoRA adapters against the same, merged

Each is the median of --repeats runs in fresh processes, inputs in the page cache; a row is printed
as soon as it is there:
    floor      reading all bytes and writing the output, same threads, no arithmetic
    average    `soup average`, the whole command, by phases: start (Python and imports), open
               (headers, configs), pass (digests and blend at once, or nothing where digests are
               known), model (waiting for what transformers says of config.json, which is asked
               beside that, once, and kept), write (the blend where digests are known; the rest of
               the directory; flushing), rest.
               Its pools: of members that share nothing, of such that share 80% of their bytes, of
               float16
    soup       with --parts, the blending and writing alone
    mergekit   `mergekit-yaml` with merge_method: linear, bfloat16 out: as it comes; writing beside
               the sum in as many files as we; with --device cuda its flags for GPUs, too

Memory is the peak resident set of whole commands; of parts, what they need above their imports.
Our modules are compiled beforehand, as those of an installation are.
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

import pools

SCRIPT = Path(__file__).with_name("blend_jobs.py")
ROOT = SCRIPT.resolve().parent.parent
PARTS = ("floor", "soup")
PHASES = ("start", "open", "model", "pass", "write", "rest")
MERGEKIT = "mergekit==0.1.5"
MERGEKIT_FLAGS = {
    "mergekit": (),
    "mergekit --async-write": ("--async-write", "--write-threads", "2", "--out-shard-size", "1B"),
}
"""On a processor its other flags (--low-cpu-memory, --read-to-gpu, --multi-gpu) change nothing."""
MERGEKIT_ON_GPU = {
    "mergekit --cuda --async-write": ("--cuda", *MERGEKIT_FLAGS["mergekit --async-write"]),
    "mergekit --gpu-rich": ("--gpu-rich",),  # the four of them
    "mergekit --gpu-rich --async-write": (
        "--gpu-rich",
        *MERGEKIT_FLAGS["mergekit --async-write"],
    ),
}


# --- measuring -----------------------------------------------------------------------------


def elsewhere(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a process of its own: a command's peak memory starts at that of its parent."""
    with multiprocessing.get_context("spawn").Pool(1) as one:
        return one.apply(function, arguments)


def made(function: Callable[..., Any], *arguments: Any) -> Any:
    """Make a pool, and say how long that took."""
    start = time.perf_counter()
    found = elsewhere(function, *arguments)
    note(f"made a pool in {time.perf_counter() - start:.0f} s")
    return found


def note(text: str) -> None:
    """Say what is going on, beside the tables."""
    print(text, file=sys.stderr, flush=True)


def measure(
    jobs: Sequence[str],
    paths: list[Path],
    scratch: Path,
    repeats: int,
    threads: int,
    chunk: int = 0,
    cold: bool = False,
) -> dict[str, Any]:
    """Of each job, in turn: median seconds, highest memory, all seconds.

    ``cold`` drops their inputs from the cache.
    """
    results: dict[str, list[dict[str, float]]] = {job: [] for job in jobs}
    for job in [*jobs] * repeats:
        if cold:
            pools.drop_from_cache(paths)
        results[job].append(done(job, paths, scratch, threads, chunk))
    return {job: _middle(found) for job, found in results.items()}


def done(
    job: str, paths: list[Path], scratch: Path, threads: int, chunk: int = 0
) -> dict[str, float]:
    """Run a job once: its seconds, by the clock and of the processor, and its memory."""
    out = scratch / "out"
    arguments = [sys.executable, SCRIPT, job, out, str(threads), str(chunk), *paths]
    said = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(out)
    found: dict[str, float] = json.loads(said)
    return found


def _middle(found: list[dict[str, float]]) -> Any:
    seconds = [one["seconds"] for one in found]
    return statistics.median(seconds), max(one["memory"] for one in found), seconds


def timed(arguments: Sequence[Any]) -> tuple[float, float, str, int]:
    """Run a command: its wall time, its peak memory in MB, what it printed, its exit code."""
    environment = os.environ | {"SOUP_STARTED": str(time.time())}
    start = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    return seconds, usage.ru_maxrss / 1e3, said, process.returncode


def keep_bytecode() -> None:
    """Have our modules compiled beforehand, as those of an installation are."""
    places = [ROOT / name for name in ("soup", "cli", "evaluators")]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *places], check=True)


def measure_command(
    paths: list[Path], scratch: Path, repeats: int, kind: str, known: bool, said: bool = True
) -> dict[str, Any]:
    """Wall time and phases of a `soup` command; its memory is that of the whole process.

    Args:
        paths: the pool.
        scratch: where to work; what transformers said is kept there from call to call.
        repeats: how often.
        kind: average or check.
        known: whether the members' digests are known: a run before has learned them.
        said: whether it is known, too, what transformers says of config.json.
    """
    runs: list[dict[str, float]] = []
    memory = 0.0
    work, out = scratch / "work", scratch / "out-average"
    arguments = [sys.executable, SCRIPT, "command", kind, *paths, "--work", work]
    if kind == "average":
        arguments += ["--quiet", "--out", out]
    for _ in range(repeats):
        if not known:
            for file in work.iterdir():
                if file.is_file():
                    file.unlink()
        if not said:
            shutil.rmtree(work / "models", ignore_errors=True)
        seconds, most, printed, status = timed(arguments)
        if status:
            raise SystemExit(f"soup {kind} ended with status {status}")
        runs.append({"seconds": seconds, **json.loads(printed.splitlines()[-1])})
        memory = max(memory, most)
        shutil.rmtree(out, ignore_errors=True)
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return middle | {"memory": memory, "runs": [run["seconds"] for run in runs]}


def described(path: Path, scratch: Path) -> None:
    """Have transformers asked of a pool's model, which takes seconds, once."""
    done = timed([sys.executable, SCRIPT, "describe", path, scratch / "work"])
    found = json.loads(done[2])
    note(f"asked transformers of the model, once: {found['seconds']:.1f} s ({found['said']})")
    (scratch / "work").mkdir(exist_ok=True)


def measure_mergekit(
    program: Path, flags: Sequence[str], paths: list[Path], scratch: Path, repeats: int
) -> dict[str, Any]:
    """Mergekit's linear: wall time of its command."""
    recipe = {"merge_method": "linear", "dtype": "bfloat16", "models": []}
    recipe["models"] = [{"model": str(p), "parameters": {"weight": 1.0}} for p in paths]
    (scratch / "recipe.yml").write_text(json.dumps(recipe))  # JSON is YAML
    seconds, memory = [], 0.0
    for _ in range(repeats):
        out = scratch / "out-mergekit"
        took, most, _, status = timed([program, scratch / "recipe.yml", out, *flags])
        if not list(out.glob("*.safetensors")):
            raise SystemExit(f"mergekit wrote nothing (status {status})")
        seconds.append(took)
        memory = max(memory, most)
        shutil.rmtree(out)
    return {"seconds": statistics.median(seconds), "memory": memory, "runs": seconds}


def installed_mergekit(scratch: Path) -> Path:
    """Its program, in an environment that this makes."""
    environment = scratch / "mergekit"
    note(f"installing {MERGEKIT}")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = [environment / "bin" / "pip", "install", "--quiet"]
    subprocess.run([*pip, MERGEKIT], check=True)
    return environment / "bin" / "mergekit-yaml"


# --- the tables ----------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def heads() -> None:
    """The first lines of the table of whole commands: every phase a column."""
    say(f"\n| whole command, seconds | all | {' | '.join(PHASES)} | to the floor | memory | runs |")
    say("|---" * (len(PHASES) + 5) + "|")


def row(name: str, found: dict[str, Any], floor: float | None) -> None:
    """A line of it."""
    cells = " | ".join(f"{found[phase]:.2f}" if phase in found else "" for phase in PHASES)
    ratio = f"{found['seconds'] / floor:.2f} × {floor:.2f}" if floor else ""
    spread = " ".join(f"{run:.2f}" for run in found["runs"])
    say(
        f"| {name} | {found['seconds']:.2f} | {cells} | {ratio} | {found['memory']:.0f} MB | "
        f"{spread} |"
    )


def whole_commands(given: argparse.Namespace, scratch: Path) -> None:
    """The headline: `soup average` on several pools, each against the floor of its own bytes."""
    took = [timed([sys.executable, "-c", ""])[0] for _ in range(5)]
    say(f"start of Python alone: {statistics.median(took):.3f} s")
    seconds: dict[str, float] = {}
    kinds = {
        "": (0.0, "bfloat16"),
        ", 80% shared": (0.8, "bfloat16"),
        ", float16": (0.0, "float16"),
    }
    for label, (shared, dtype) in kinds.items():
        place = scratch / "whole"
        paths = made(pools.make_pool, place, given.members, given.gigabytes, shared, dtype)
        if not label:
            described(paths[0], scratch)
            heads()
        floor = measure(["floor"], paths, scratch, given.repeats, given.threads)["floor"][0]
        seconds[f"floor{label}"] = floor
        for what, known in (("nothing known", False), ("digests known", True)):
            name = f"average, {what}{label}"
            found = measure_command(paths, scratch, given.repeats, "average", known)
            row(name, found, floor)
            seconds[name] = found["seconds"]
        if not label:
            found = measure_command(paths, scratch, given.repeats, "average", False, False)
            row("average, transformers not asked yet", found, floor)
        if given.mergekit and not label:
            program = given.mergekit_program or installed_mergekit(scratch)
            flags = MERGEKIT_FLAGS | (MERGEKIT_ON_GPU if given.device == "cuda" else {})
            for name, those in flags.items():
                repeats = max(1, given.repeats // 2)
                row(name, measure_mergekit(program, those, paths, scratch, repeats), floor)
        shutil.rmtree(place)
    none, alike, half = (seconds[f"average, nothing known{label}"] for label in kinds)
    known = [seconds[f"average, digests known{label}"] for label in list(kinds)[:2]]
    aim = 1.5 * seconds["floor"] + 0.5
    say(f"\nnothing known: {none:.2f} s, aimed at 1.5 × floor + 0.5 = {aim:.2f} s")
    say(f"80% shared: {alike / none:.2f} × of none, digests known {known[1] / known[0]:.2f} ×, "
        "aimed at 0.5 ×")  # fmt: skip
    say(f"float16: {half / none:.2f} × bfloat16, aimed at 1.2 ×")


def many(given: argparse.Namespace, scratch: Path) -> None:
    """Print what tens of thousands of small tensors take."""
    paths = made(pools.make_many, scratch / "many")
    (scratch / "work").mkdir()
    floor = measure(["floor"], paths, scratch, given.repeats, given.threads)["floor"][0]
    say("3 checkpoints of 18,000 tensors of 4 kB; aimed at: check 1 s, average 2 s")
    heads()
    row("check", measure_command(paths, scratch, given.repeats, "check", True), None)
    for what, known in (("nothing known", False), ("digests known", True)):
        found = measure_command(paths, scratch, given.repeats, "average", known)
        row(f"average, {what}", found, floor)


def chunks(given: argparse.Namespace, scratch: Path) -> None:
    """Print seconds by elements per chunk."""
    paths = made(pools.make_pool, scratch / "pool", given.members, given.gigabytes)
    for bits in range(17, 22):  # whole blocks of a digest
        found = measure(["soup"], paths, scratch, given.repeats, given.threads, 1 << bits)
        seconds, memory, _ = found["soup"]
        say(f"{1 << bits:8d} elements per chunk: {seconds:.2f} s, {memory:.0f} MB")


def parts(given: argparse.Namespace, scratch: Path, paths: list[Path]) -> None:
    """Print what the blending and writing alone takes, to a disk, to memory, from a cold cache."""
    say("\n| | seconds | to the floor | all runs | memory above imports |")
    say("|---|---|---|---|---|")

    def rows(label: str, place: Path, cold: bool = False) -> None:
        found = measure(PARTS, paths, place, given.repeats, given.threads, cold=cold)
        for job, (seconds, memory, runs) in found.items():
            spread = " ".join(f"{run:.2f}" for run in runs)
            ratio = seconds / found["floor"][0]
            say(f"| {job}{label} | {seconds:.2f} | {ratio:.2f} × | {spread} | {memory:.0f} MB |")

    rows("", scratch)
    shared = Path("/dev/shm")
    if shared.is_dir():
        with tempfile.TemporaryDirectory(prefix="soup-bench-", dir=shared) as there:
            rows(", output on tmpfs", Path(there))
    rows(", cold cache", scratch, cold=True)


def lora(given: argparse.Namespace, scratch: Path) -> None:
    """Print time and memory for adapters of one base, and for the merged models of the same."""
    (base,) = made(pools.make_pool, scratch / "base", 1, given.gigabytes)
    adapters, merged = made(pools.make_adapters, base, given.members)
    described(base, scratch)
    ways = {"merged models": merged, f"LoRA adapters, rank {pools.RANK}": adapters}
    say("\n| blended and written | seconds | processor's | all runs | memory above imports |")
    say("|---|---|---|---|---|")
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for name in [*ways] * given.repeats:  # in turn: what else the machine does is the same for both
        runs[name].append(done("soup", ways[name], scratch, given.threads))
    for name, found in runs.items():
        seconds, cpu = (statistics.median(run[key] for run in found) for key in ("seconds", "cpu"))
        spread = " ".join(f"{run['seconds']:.2f}" for run in found)
        memory = max(run["memory"] for run in found)
        say(f"| {name} | {seconds:.2f} | {cpu:.2f} | {spread} | {memory:.0f} MB |")
    heads()
    for name, paths in ways.items():
        for what, known in (("nothing known", False), ("digests known", True)):
            command = measure_command(paths, scratch, given.repeats, "average", known)
            row(f"average, {what}, {name}", command, None)


def scaling(given: argparse.Namespace, scratch: Path, paths: list[Path]) -> None:
    """Print memory and time by number of members, and for one very large tensor."""
    say("\n| members | seconds | seconds per member | memory above imports |")
    say("|---|---|---|---|")
    ten = [*paths, *(path.parent / f"again-{path.name}" for path in paths)]
    for path, copy in zip(paths, ten[len(paths) :], strict=True):
        copy.symlink_to(path)
    shared = Path("/dev/shm")  # where it is there: a disk's own ups and downs hide the line
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else scratch) as there:
        for count in (2, 4, 6, 8, 10):
            found = measure(["soup"], ten[:count], Path(there), 3, given.threads)
            seconds, memory, _ = found["soup"]
            say(f"| {count} | {seconds:.2f} | {seconds / count:.2f} | {memory:.0f} MB |")
    large = []
    for k in range(2):
        large.append(scratch / "large" / str(k))
        elsewhere(pools.make_checkpoint, large[-1], {"w": (500_000_000,)}, k, 1, pools.CONFIG)
    seconds, memory, _ = measure(["soup"], large, scratch, 3, given.threads)["soup"]
    say(f"| 2, one tensor of 1 GB | {seconds:.2f} | {seconds / 2:.2f} | {memory:.0f} MB |")


def main() -> None:
    """Measure and print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="of each checkpoint")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--many", action="store_true", help="only: 18,000 small tensors")
    parser.add_argument("--parts", action="store_true", help="also the writing alone")
    parser.add_argument("--mergekit", action="store_true", help="also mergekit's linear")
    parser.add_argument(
        "--mergekit-program", type=Path, help="an installed mergekit-yaml [installs its own]"
    )
    parser.add_argument("--device", default="cpu", help="cuda: mergekit's flags for GPUs, too")
    parser.add_argument("--chunks", action="store_true", help="only: seconds by chunk size")
    parser.add_argument("--lora", action="store_true", help="only: adapters against merged models")
    parser.add_argument("--scaling", action="store_true", help="also memory and time by members")
    parser.add_argument("--directory", type=Path, help="where to work [a temporary directory]")
    given = parser.parse_args()
    of = "" if given.many else f"{given.members} checkpoints of {given.gigabytes} GB in bfloat16, "
    say(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}, "
        f"{of}{given.threads} threads, median of {given.repeats}")  # fmt: skip
    keep_bytecode()
    with tempfile.TemporaryDirectory(prefix="soup-bench-", dir=given.directory) as place:
        scratch = Path(place)
        for only in (many, chunks, lora):
            if getattr(given, only.__name__):
                only(given, scratch)
                return
        whole_commands(given, scratch)
        if given.parts or given.scaling:
            paths = made(pools.make_pool, scratch / "pool", given.members, given.gigabytes)
            if given.parts:
                parts(given, scratch, paths)
            if given.scaling:
                scaling(given, scratch, paths)


if __name__ == "__main__":
    main()
