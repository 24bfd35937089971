"""Six ways to answer the same questions, side by side in one run, and what a swap costs.

    python benchmarks/engines.py --vllm-python .venv/vllm/bin/python            # small, on a CPU
    python benchmarks/engines.py --vllm-python python --scale 3b --device cuda  # 3 billion, a GPU

Rows: VLMEvalKit's own loop; `generate` of transformers alone, on prepared inputs at its best batch
size; our transformers engine; vLLM's `LLM.generate`, all questions at once; our vLLM engine; and
`vllm serve`, driven with 64 requests in flight. Random weights of Qwen2.5-VL's shape; all ask in
the words of VLMEvalKit's wrapper, with pictures at their own size, and all answers are compared
with those of the first row. Both engines, and LLM.generate, run under the same interpreter; a way
that cannot run says why. Swaps: the median of a single model and an average, in turn.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import QUIET, kit, machine, ours, table
from jobs import make_qwen
from score import QWEN, SIZES

SETS = ["ImageVQADataset:GQA_scenes"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm-python", required=True, help="an interpreter that has vLLM")
    parser.add_argument("--scale", choices=["3b", "small"], default="small")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--only", action="append", choices=[*ROWS], help="[all]")
    given = parser.parse_args()
    python = given.vllm_python
    python = str(Path(python).absolute()) if "/" in python else python
    with tempfile.TemporaryDirectory(prefix="soup-engines-") as scratch:
        place = Path(scratch)
        wanted = {"place": scratch, "scale": given.scale, "rows": given.rows}
        make_qwen(wanted | {"device": given.device})
        setting: dict[str, Any] = {
            "members": sorted(str(path) for path in (place / "ckpts").iterdir()),
            "file": str(place / "data" / "GQA_scenes.tsv"),
            "device": given.device,
            "dtype": "float32" if given.device == "cpu" else "bfloat16",
            "tokens": given.tokens,
            "python": python,
            "work": scratch,
            "families": {"qwen2.5-vl": QWEN},
            "sizes": SIZES,
        }
        print(f"{machine()}; {given.device}; Qwen2.5-VL {given.scale}, {given.rows} questions, "
              f"up to {given.tokens} tokens, {setting['dtype']}", flush=True)  # fmt: skip
        found = {}
        for name, way in ROWS.items():
            if given.only and name not in given.only:
                continue
            try:
                found[name] = way(setting)
            except (SystemExit, RuntimeError) as error:
                found[name] = {"why": (str(error).strip().splitlines() or ["failed"])[-1][:200]}
            print(f"{name}: {found[name].get('why', 'done')}", file=sys.stderr, flush=True)
        show(found, given.rows)
        differing = compare(found)
        if differing and given.device == "cpu":
            raise SystemExit("in float32 on a CPU all answers must be equal")


def show(found: dict[str, Any], rows: int) -> None:
    """The table."""
    lines = []
    for name, one in found.items():
        if "why" in one:
            lines.append([name, one["why"], "", ""])
            continue
        first, later = one["first"], one.get("later")
        swap = one.get("swap")
        lines.append(
            [name, f"{rows / first:.1f}", f"{rows / later:.1f}" if later else "–",
             f"{swap:.2f}" if swap is not None else "–"]
        )  # fmt: skip
    table(["", "samples/s, first pass", "later passes", "seconds per swap"], lines)


def compare(found: dict[str, Any]) -> int:
    """Say how many answers differ from the first row's that ran; in capitals where any does."""
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
        print(f"All answers are equal to those of: {base}.")
    return total


# --- the six ways --------------------------------------------------------------------------


def by_kit(given: dict[str, Any]) -> dict[str, Any]:
    """VLMEvalKit's loop."""
    found = kit(
        Path(given["members"][0]), Path(given["file"]).parent, Path(given["work"]) / "kit", SETS,
        given["tokens"], given["device"], given["dtype"], "Qwen2VLChat", QWEN,
    )  # fmt: skip
    (one,) = found["sets"].values()
    return {"first": one["infer"], "answers": one["predictions"]}


def inside(job: str, given: dict[str, Any]) -> dict[str, Any]:
    """A job of ``engine_jobs.py`` under the interpreter that has vLLM."""
    here = Path(__file__).with_name("engine_jobs.py")
    done = subprocess.run(
        [given["python"], here, job, json.dumps(given)],
        capture_output=True, text=True, env=QUIET | ours(),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


ROWS: dict[str, Any] = {
    "VLMEvalKit's own loop": by_kit,
    "transformers' generate alone": lambda given: inside("generate", given),
    "soup, transformers": lambda given: inside("transformers", given),
    "LLM.generate, all at once": lambda given: inside("llm", given),
    "soup, vLLM": lambda given: inside("vllm", given),
    "vllm serve, 64 in flight": lambda given: inside("serve", given),
}

if __name__ == "__main__":
    main()
