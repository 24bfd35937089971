"""A whole greedy run, beside the script that a user would write today, in one run.

    python benchmarks/greedy.py                        # the demo's six members, all questions
    python benchmarks/greedy.py --members 3 --rows 60  # the same, small

Ours is the command `soup greedy`. The script scores each candidate with VLMEvalKit's own loop (a
plain transformers wrapper, one question at a time) in a fresh process, and makes each average with
mergekit's `linear`, which this installs into an environment of its own; nothing is resident, every
candidate is written and loaded. Both take the same decisions by the same rule, from the same
questions; both are timed from start to end, once each, with nothing cached.

Of mergekit it is `mergekit-pytorch`, which merges tensor by tensor: `mergekit-yaml` does not know
this architecture, infers one, and leaves out the whole language model without an error (0.1.5, on
LLaVA as transformers 5 saves it). It takes single files, so members in shards are put together
before the clock starts.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import DEMO_SETS, demo, demo_data, kit, machine, mean_score, ours, table

MERGEKIT = "mergekit==0.1.5"
SETS = list(DEMO_SETS.values())
TOKENS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, default=6, help="of the demo's pool [6]")
    parser.add_argument("--rows", type=int, default=300, help="questions per benchmark [300]")
    parser.add_argument("--directory", type=Path, help="where to work, kept [a temporary one]")
    given = parser.parse_args()
    if given.directory is None:
        with tempfile.TemporaryDirectory(prefix="soup-bench-") as scratch:
            compare(given, Path(scratch))
    else:
        given.directory.mkdir(parents=True, exist_ok=True)
        compare(given, given.directory.absolute())


def compare(given: argparse.Namespace, scratch: Path) -> None:
    """Both ways, and a table."""
    members = sorted((demo(scratch) / "ckpts").iterdir())[: given.members]
    data = demo_data(scratch, given.rows)
    mergekit = install(scratch)
    print(f"{machine()}; {len(members)} members of the demo, {len(SETS)} benchmarks of "
          f"{given.rows} questions, {MERGEKIT}")  # fmt: skip
    mine = our_greedy(members, data, scratch)
    whole = [put_together(path, scratch / "whole") for path in members]
    theirs = script(whole, data, scratch / "script", mergekit)
    rows = [
        [
            name, f"{found['seconds']:.1f}", f"{found['merging']:.1f}" if "merging" in found
            else "", f"{found['scored']}", ", ".join(found["kept"]), f"{found['mean']:.2f}",
        ]
        for name, found in (("script", theirs), ("soup greedy", mine))
    ]  # fmt: skip
    table(["", "seconds", "of them merging", "models scored", "kept", "mean"], rows)
    print(f"\n`soup greedy` is {theirs['seconds'] / mine['seconds']:.1f} times as fast.")


def install(scratch: Path) -> Path:
    """Mergekit's command, in an environment of its own."""
    environment = scratch / "mergekit"
    if not (environment / "bin" / "mergekit-pytorch").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pip = [str(environment / "bin" / "pip"), "install", "--quiet"]
        subprocess.run([*pip, MERGEKIT], check=True)
    return environment / "bin" / "mergekit-pytorch"


def our_greedy(members: list[Path], data: Path, scratch: Path) -> dict[str, Any]:
    """The command, as a user types it, in a directory where nothing is known yet."""
    place = scratch / "ours"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    command = [sys.executable, "-m", "soup", "greedy", *map(str, members), "-o", "best"]
    for one in SETS:
        command += ["--bench", str(data / f"{one.split(':')[1]}.tsv")]
    command += ["--max-new-tokens", str(TOKENS), "--device", "cpu", "--json", "board.json"]
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=ours())
    seconds = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stderr)
    board = json.loads((place / "board.json").read_text())
    return {
        "seconds": seconds,
        "scored": len(board["members"]) + len(board["path"]) - 1,
        "kept": list(board["soup"]["members"]),
        "mean": board["soup"]["mean"],
    }


# --- what a user would write today ---------------------------------------------------------


def script(members: list[Path], data: Path, work: Path, mergekit: Path) -> dict[str, Any]:
    """Score all, best first, keep what raises the mean: a directory and a process for each."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    begun, merging, scored = time.perf_counter(), 0.0, 0

    def score(model: Path) -> float:
        nonlocal scored
        scored += 1
        found = kit(model, data, work / "kit", SETS, TOKENS, "cpu", "float32")
        return mean_score(found, SETS)

    means = {path: score(path) for path in members}
    order = sorted(members, key=lambda path: -means[path])
    kept, best = order[:1], means[order[0]]
    for member in order[1:]:
        started = time.perf_counter()
        merge([*kept, member], work / "merged", mergekit)
        merging += time.perf_counter() - started
        mean = score(work / "merged")
        if mean > best:
            kept, best = [*kept, member], mean
    return {
        "seconds": time.perf_counter() - begun,
        "merging": merging,
        "scored": scored,
        "kept": [path.name for path in kept],
        "mean": best,
    }


def merge(members: list[Path], out: Path, mergekit: Path) -> None:
    """Mergekit's linear, and beside the weights the first member's other files."""
    shutil.rmtree(out, ignore_errors=True)
    recipe: dict[str, Any] = {"merge_method": "linear", "dtype": "bfloat16"}
    recipe["models"] = [
        {"model": str(path / "model.safetensors"), "parameters": {"weight": 1.0}}
        for path in members
    ]
    file = out.with_suffix(".yml")
    file.write_text(json.dumps(recipe))  # JSON is YAML
    done = subprocess.run([mergekit, file, out], capture_output=True, text=True)
    if not (out / "model.safetensors").is_file():
        raise SystemExit(f"mergekit wrote nothing:\n{done.stderr[-3000:]}")
    for path in members[0].iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, out)


def put_together(path: Path, directory: Path) -> Path:
    """A member in one file: itself, or a copy without shards."""
    if (path / "model.safetensors").is_file():
        return path
    from safetensors.torch import load_file, save_file

    out = directory / path.name
    if not out.is_dir():
        whole = shutil.ignore_patterns("*.safetensors", "*.index.json")
        shutil.copytree(path, out, ignore=whole)
        tensors = {}
        for shard in sorted(path.glob("*.safetensors")):
            tensors |= load_file(shard)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


if __name__ == "__main__":
    main()
