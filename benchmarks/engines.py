"""Six ways to answer the same questions with the same weights, side by side in one run.

    python benchmarks/engines.py --vllm-python .venv/vllm/bin/python       # small, on a CPU
    python benchmarks/engines.py --vllm-python python --scale 3b --device cuda --only 3 --only 5

The second is for a GPU, and shows what only one can.

    1  VLMEvalKit's own loop, with its wrapper of the family
    2  `generate` of transformers alone, on inputs that are ready, at its best batch size
    3  our transformers engine
    4  vLLM's `LLM.generate`, all questions at once
    5  our vLLM engine
    6  `vllm serve`, with 64 requests in flight, as VLMEvalKit's API mode asks

Random weights of Qwen2.5-VL's shape, pictures at their own size. All ask in the words of
VLMEvalKit's wrapper; all answers are compared, and in float32 on a CPU one that differs is a
failure. 2 to 6 run under the interpreter that has vLLM; 6 needs its HTTP server there, as
tests/vllm.txt has it. The first pass has all that is done to questions once; models are built
before. A later pass asks the same of the next candidate. How a candidate comes to be asked: 3 and 5
swap it in, a member and the average of all in turn; 1 and 6 load files in a fresh process, which
somebody must have written: that is not counted. 4 has no way.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import QUIET, kit, machine, ours, table
from jobs import make_qwen
from score import QWEN, SIZES

SETS = ["ImageVQADataset:GQA_scenes"]
SLACK = 2.0  # seconds that a swap may take beside its reading
SHARE = 0.8  # of the speed of plain reading that a swap is to reach


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm-python", required=True, help="an interpreter that has vLLM")
    parser.add_argument("--scale", choices=["3b", "small"], default="small")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rows", type=int, default=128, help="questions")
    parser.add_argument("--tokens", type=int, default=16, help="longest answer")
    parser.add_argument("--passes", type=int, default=5, help="of each way")
    parser.add_argument("--only", action="append", type=int, choices=range(1, 7), help="[all]")
    given = parser.parse_args()
    python = given.vllm_python
    python = str(Path(python).absolute()) if "/" in python else python
    with tempfile.TemporaryDirectory(prefix="soup-engines-") as scratch:
        setting = prepared(given, Path(scratch), python)
        print(f"{machine()}; {given.device}; Qwen2.5-VL {given.scale}, {given.rows} questions, "
              f"up to {given.tokens} tokens, {setting['dtype']}", flush=True)  # fmt: skip
        found = {}
        for number, (name, way) in WAYS.items():
            if given.only and number not in given.only:
                continue
            begun = time.perf_counter()
            try:
                found[name] = way(setting)
            except (SystemExit, RuntimeError) as error:
                found[name] = {"why": (str(error).strip().splitlines() or ["failed"])[-1][:200]}
            took = time.perf_counter() - begun
            said = found[name].get("why", "done")
            print(f"{name}: {said} ({took:.0f} s)", file=sys.stderr, flush=True)
        show(found, given.rows)
        judge(found, setting["members"])
        if compare(found) and given.device == "cpu":
            raise SystemExit("in float32 on a CPU all answers must be equal")


def prepared(given: argparse.Namespace, place: Path, python: str) -> dict[str, Any]:
    """Checkpoints, questions and settings for the jobs."""
    wanted = {"place": str(place), "scale": given.scale, "rows": given.rows}
    make_qwen(wanted | {"device": given.device})
    return {
        "members": sorted(str(path) for path in (place / "ckpts").iterdir()),
        "file": str(place / "data" / "GQA_scenes.tsv"),
        "device": given.device,
        "dtype": "float32" if given.device == "cpu" else "bfloat16",
        "tokens": given.tokens,
        "passes": given.passes,
        "python": python,
        "work": str(place),
        "families": {"qwen2.5-vl": QWEN},
        "sizes": [size for size in SIZES if size >= 16],
    }


# --- what is said of it --------------------------------------------------------------------


def show(found: dict[str, Any], rows: int) -> None:
    """The table."""

    def rate(one: dict[str, Any], name: str) -> str:
        return f"{rows / one[name]:.1f}" if one.get(name) else "–"

    lines = []
    for name, one in found.items():
        if "why" in one:
            lines.append([name, one["why"], "", ""])
            continue
        ready = f"{one['swap']:.2f}" if one.get("swap") is not None else "–"
        lines.append([name, rate(one, "first"), rate(one, "later"), ready])
    heads = ["questions per second", "first pass", "later passes", "seconds per candidate"]
    table(heads, lines)
    print()


def judge(found: dict[str, Any], members: list[str]) -> None:
    """Say what was reached of what is aimed at, where both sides were measured."""
    kit_of = {number: found.get(name, {}) for number, (name, _) in WAYS.items()}

    def ratio(one: int, other: int, part: str) -> float | None:
        ours, theirs = kit_of[one].get(part), kit_of[other].get(part)
        return theirs / ours if ours and theirs else None

    for part, title in (("first", "first pass"), ("later", "later passes")):
        if (share := ratio(5, 4, part)) is not None:
            print(f"Our vLLM engine has {share:.0%} of LLM.generate's speed in {title} (aim: 95%).")
    if (times := ratio(5, 3, "later")) is not None:
        print(f"It is {times:.1f} times as fast as our transformers engine (aim on a GPU: 4).")
    if "swap" in kit_of[5]:
        files = [file for one in members for file in sorted(Path(one).glob("*.safetensors"))]
        begun = time.perf_counter()
        size = sum(len(file.read_bytes()) for file in files)
        speed = size / (time.perf_counter() - begun)
        allowed = SLACK + size / (SHARE * speed)
        print(f"A swap in of the average of {len(members)} takes {kit_of[5]['average']:.2f} s; "
              f"aim: at most {allowed:.2f} s ({size / 1e6:.0f} MB, read plainly at "
              f"{speed / 1e9:.1f} GB/s).")  # fmt: skip


def compare(found: dict[str, Any]) -> int:
    """Say how many answers differ from the first way's that ran; in capitals where any does."""
    said = {name: one["answers"] for name, one in found.items() if one.get("answers")}
    if not said:
        return 0
    base = next(iter(said))
    total = 0
    for name, answers in said.items():
        differ = sum(answers[k] != said[base][k] for k in said[base])
        total += differ
        if differ:
            print(f"{differ} OF {len(answers)} ANSWERS OF {name.upper()} DIFFER from: {base}")
    if not total:
        print(f"All answers of {len(said)} ways are equal.")
    return total


# --- the six ways --------------------------------------------------------------------------


def by_kit(given: dict[str, Any]) -> dict[str, Any]:
    """VLMEvalKit's loop."""
    found = kit(
        Path(given["members"][0]), Path(given["file"]).parent, Path(given["work"]) / "kit", SETS,
        given["tokens"], given["device"], given["dtype"], "Qwen2VLChat", QWEN,
    )  # fmt: skip
    (one,) = found["sets"].values()
    ready = found["wall"] - one["infer"] - one["evaluate"]
    return {
        "first": one["infer"],
        "later": one["infer"],  # it keeps nothing
        "swap": ready,
        "answers": one["predictions"],
    }


def inside(job: str, given: dict[str, Any]) -> dict[str, Any]:
    """A job of ``engine_jobs.py`` under the interpreter that has vLLM."""
    here = Path(__file__).with_name("engine_jobs.py")
    done = subprocess.run(
        [given["python"], here, job, json.dumps(given)],
        capture_output=True, text=True, env=QUIET | ours(),
    )  # fmt: skip
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
        raise RuntimeError(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


WAYS: dict[int, tuple[str, Any]] = {
    1: ("VLMEvalKit's own loop", by_kit),
    2: ("transformers' generate alone", lambda given: inside("generate", given)),
    3: ("soup, transformers", lambda given: inside("transformers", given)),
    4: ("LLM.generate, all at once", lambda given: inside("llm", given)),
    5: ("soup, vLLM", lambda given: inside("vllm", given)),
    6: ("vllm serve, 64 in flight", lambda given: inside("serve", given)),
}

if __name__ == "__main__":
    main()
