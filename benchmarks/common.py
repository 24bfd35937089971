"""What score.py and greedy.py share: the machine, the demo pool, VLMEvalKit's loop by hand."""

import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BY_HAND = ROOT / "tests" / "kit" / "kit_by_hand.py"

DEMO_SETS = {
    "parity": "CustomMCQDataset:parity",
    "compare": "ImageYORNDataset:compare",
    "digit": "ImageVQADataset:GQA_digit",
}
"""The demo's deciding benchmarks, as CLASS:NAME of VLMEvalKit; its hold-out is left out."""

QUIET = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""What our scorer sets for its worker, set for all: the comparison is not about these."""

csv.field_size_limit(1 << 30)


def machine() -> str:
    """Processor, cores, memory and versions, in a line."""
    from importlib.metadata import version

    name = platform.processor() or platform.machine()
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    memory = ""
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            memory = f", {int(line.split()[1]) / 1e6:.0f} GB"
    versions = ", ".join(
        f"{what} {version(what)}" for what in ("torch", "transformers", "ms-vlmeval")
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores{memory}, Python {platform.python_version()}, {versions}"


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []


def demo(directory: Path) -> Path:
    """The demo's pool and benchmarks, trained unless they are there."""
    place = directory / "demo"
    if not place.is_dir():
        making = directory / "demo-unfinished"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        code = (
            "import sys; from pathlib import Path; from soup.evaluators.demo import build;"
            "build(Path(sys.argv[1]))"
        )
        subprocess.run([sys.executable, "-c", code, str(making)], check=True, env=ours())
        making.rename(place)
    return place


def demo_data(directory: Path, rows: int) -> Path:
    """The demo's benchmarks, their first rows, under the names of ``DEMO_SETS``."""
    data = directory / f"data-{rows}"
    data.mkdir(exist_ok=True)
    for source, kind in DEMO_SETS.items():
        lines = (directory / "demo" / "benchmarks" / f"{source}.tsv").read_text().splitlines(True)
        (data / f"{kind.split(':')[1]}.tsv").write_text("".join(lines[: rows + 1]))
    return data


def ours() -> dict[str, str]:
    """The environment in which a child finds our packages."""
    path = os.environ.get("PYTHONPATH", "")
    return {**QUIET, **os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)}


def kit(
    model: Path,
    data: Path,
    work: Path,
    sets: list[str],
    tokens: int,
    device: str,
    dtype: str,
    wrapper: str = "",
    wrapper_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """VLMEvalKit's loop in a process of its own, with a plain wrapper or with one of its.

    Returns:
        What ``tests/kit/kit_by_hand.py`` prints, and ``wall``: seconds from start to end.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    options = ["--tokens", str(tokens), "--device", device, "--dtype", dtype]
    if wrapper:
        options += ["--wrapper", wrapper, "--options", json.dumps(wrapper_options or {})]
    arguments = [sys.executable, BY_HAND, model, data, work, *sets, *options]
    started = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, env={**QUIET, **os.environ})
    wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"VLMEvalKit by hand failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"wall": wall}


def mean_score(found: dict[str, Any], sets: list[str]) -> float:
    """The mean of the headline numbers, 0–100, from what ``kit`` returned."""
    values = []
    for kind, name in (one.split(":") for one in sets):
        overall = float(found["sets"][name]["report"][0]["Overall"])
        values.append(100 * overall if kind == "CustomMCQDataset" else overall)
    return sum(values) / len(values)


def table(heads: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(heads)} |")
    print("|" + "---|" * len(heads))
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()
