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
before. A later pass asks the same of the next candidate. 4 and 5 take turns, pass by pass, on a
CPU: what else the machine does is the same for both.

How a candidate comes to be asked: 3 and 5 swap it in, a member and the average of all in turn. The
others load files that somebody must have written, which is not counted: 2 and 4 in a process that
has imported all, 1 and 6 in a fresh one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from common import QUIET, kit, machine, ours, table
from jobs import make_qwen
from score import QWEN, SIZES

SETS = ["ImageVQADataset:GQA_scenes"]
SLACK = 2.0  # seconds that a swap may take beside its reading
SHARE = 0.8  # of the speed of plain reading that a swap is to reach
BESIDE = 0.95  # of the speed of LLM.generate that our vLLM engine is to reach
TIMES = 4.0  # as fast as our transformers engine, it is to be on a GPU

WAYS = {
    1: ("VLMEvalKit's own loop", ""),
    2: ("transformers' `generate` alone", "generate"),
    3: ("soup, transformers", "transformers"),
    4: ("`LLM.generate`, all at once", "llm"),
    5: ("soup, vLLM", "vllm"),
    6: ("`vllm serve`, 64 in flight", "serve"),
}
"""By number, a name and the job of ``engine_jobs.py``."""
ONCE = {1, 2}
"""Ways that keep nothing from one pass to the next: one is enough."""

Found = dict[str, Any]
"""Of a way: ``passes`` and ``swaps``, seconds; ``ready``: seconds that a candidate takes to be
asked; ``answers`` of the first member by index; or ``why`` there is none of that."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vllm-python", required=True, help="an interpreter that has vLLM")
    parser.add_argument("--scale", choices=["3b", "small"], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rows", type=int, help="questions [48; on a GPU 128]")
    parser.add_argument("--tokens", type=int, help="longest answer [8; on a GPU 16]")
    parser.add_argument("--passes", type=int, help="of each way [5; on a GPU 3]")
    parser.add_argument("--only", action="append", type=int, choices=list(WAYS), help="[all]")
    given = parser.parse_args()
    on_gpu = given.device == "cuda"
    given.rows = given.rows or (128 if on_gpu else 48)
    given.tokens = given.tokens or (16 if on_gpu else 8)
    given.passes = max(2, given.passes or (3 if on_gpu else 5))
    python = given.vllm_python
    given.vllm_python = str(Path(python).absolute()) if "/" in python else python
    require(given)
    with tempfile.TemporaryDirectory(prefix="soup-engines-") as scratch:
        setting = prepared(given, Path(scratch))
        print(f"{machine()}; {given.device}; Qwen2.5-VL {given.scale}, {given.rows} questions, "
              f"up to {given.tokens} tokens, {setting['dtype']}", flush=True)  # fmt: skip
        table(["questions per second", "first pass", "later passes", "seconds per candidate"], [])
        found: dict[int, Found] = {}
        for group in groups(given.only or list(WAYS), together=not on_gpu):
            found |= measured(group, setting, given.rows)
        print()
        judge(found, setting["members"], on_gpu)
        differ = compare(found)
        failed = [WAYS[number][0] for number, one in found.items() if "why" in one]
        if failed:
            raise SystemExit(f"not measured: {', '.join(failed)}; the reason is above")
        if differ and not on_gpu:
            raise SystemExit("in float32 on a CPU all answers must be equal")


def require(given: argparse.Namespace) -> None:
    """Raises SystemExit where what was asked for cannot be had; in seconds, not after minutes."""
    code = "import importlib.util as u, torch; print(bool(u.find_spec('vllm')), torch.cuda." \
           "is_available())"  # fmt: skip
    try:
        done = subprocess.run(
            [given.vllm_python, "-c", code], capture_output=True, text=True, env=QUIET | ours()
        )
    except OSError as error:
        raise SystemExit(f"--vllm-python {given.vllm_python}: {error.strerror}") from None
    said = done.stdout.split() or ["", ""]
    if done.returncode or said[0] != "True":
        why = (done.stderr.strip().splitlines() or ["it has no vLLM"])[-1]
        raise SystemExit(f"--vllm-python {given.vllm_python}: {why}")
    if given.device == "cuda" and said[1] != "True":
        raise SystemExit(f"--device cuda: torch of {given.vllm_python} finds no GPU")


def prepared(given: argparse.Namespace, place: Path) -> dict[str, Any]:
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
        "python": given.vllm_python,
        "work": str(place),
        "families": {"qwen2.5-vl": QWEN},
        "sizes": list(SIZES),
    }


def groups(wanted: Sequence[int], together: bool) -> Iterator[list[int]]:
    """Which ways are measured at a time: 4 and 5 side by side, where there is room for both."""
    for number in WAYS:
        if number not in wanted:
            continue
        if together and {4, 5} <= set(wanted) and number in (4, 5):
            if number == 4:
                yield [4, 5]
        else:
            yield [number]


# --- measuring -----------------------------------------------------------------------------


def measured(group: Sequence[int], setting: dict[str, Any], rows: int) -> dict[int, Found]:
    """What was found of these ways; their rows are printed."""
    begun = time.perf_counter()
    try:
        found = {1: by_kit(setting)} if group == [1] else in_turns(group, setting)
    except (SystemExit, RuntimeError) as error:
        why = (str(error).strip().splitlines() or ["failed"])[-1][:200]
        found = {number: {"why": why} for number in group}
    for number, one in found.items():
        print(f"| {' | '.join(row(WAYS[number][0], one, rows))} |", flush=True)
    names = " and ".join(WAYS[number][0] for number in group)
    print(f"{names}: {time.perf_counter() - begun:.0f} s in all", file=sys.stderr, flush=True)
    return found


def row(name: str, found: Found, rows: int) -> list[str]:
    """A line of the table."""
    if "why" in found:
        return [name, f"FAILED: {found['why'].replace('|', '/')}", "", ""]
    if found.get("batch"):
        name += f" ({found['batch']} at a time)"
    return [name, f"{rows / first(found):.1f}", f"{rows / later(found):.1f}", f"{swap(found):.2f}"]


def first(found: Found) -> float:
    """Seconds of the first pass."""
    return float(found["passes"][0])


def later(found: Found) -> float:
    """Seconds of a pass after it."""
    return statistics.median(found["passes"][1:] or found["passes"])


def swap(found: Found) -> float:
    """Seconds until a candidate can be asked; at the first pass there is nothing to be swapped."""
    return statistics.median(found["swaps"][1:]) if found["swaps"] else float(found["ready"])


def by_kit(given: dict[str, Any]) -> Found:
    """VLMEvalKit's loop."""
    found = kit(
        Path(given["members"][0]), Path(given["file"]).parent, Path(given["work"]) / "kit", SETS,
        given["tokens"], given["device"], given["dtype"], "Qwen2VLChat", QWEN,
    )  # fmt: skip
    (one,) = found["sets"].values()
    ready = found["wall"] - one["infer"] - one["evaluate"]
    return {"passes": [one["infer"]], "swaps": [], "ready": ready, "answers": one["predictions"]}


def in_turns(group: Sequence[int], given: dict[str, Any]) -> dict[int, Found]:
    """Jobs of ``engine_jobs.py`` under the interpreter that has vLLM, pass by pass in turns."""
    found: dict[int, Found] = {}
    with ExitStack() as stack:
        jobs = {n: stack.enter_context(job(WAYS[n][1], given)) for n in group}
        for number, one in jobs.items():
            found[number] = {"passes": [], "swaps": [], "answers": {}, **said(one)}
        for _ in range(1 if ONCE & set(group) else given["passes"]):
            for number, one in jobs.items():
                with suppress(BrokenPipeError):  # it has ended: why, it has said
                    print(file=one.stdin, flush=True)
                heard, kept = said(one), found[number]
                kept["passes"].append(heard["seconds"])
                kept["swaps"] += [heard["swap"]] if "swap" in heard else []
                kept["answers"] = kept["answers"] or heard["answers"]
                kept |= {"batch": heard.get("batch")}
    return found


@contextmanager
def job(name: str, given: dict[str, Any]) -> Iterator[Any]:
    """One of them, in a process of its own, that ends with the block."""
    here = Path(__file__).with_name("engine_jobs.py")
    errors = Path(given["work"]) / f"{name}.err"
    with errors.open("w") as noise:
        process = subprocess.Popen(
            [given["python"], here, name, json.dumps(given)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True,
            env=QUIET | ours(),
        )  # fmt: skip
    process.errors = errors  # type: ignore[attr-defined]
    try:
        yield process
    finally:
        process.communicate()  # it ends where it has nothing more to read


def said(process: Any) -> dict[str, Any]:
    """The next line of a job.

    Raises:
        RuntimeError: it has ended instead; with what it said last.
    """
    line = process.stdout.readline()
    if not line:
        text = process.errors.read_text()[-3000:]
        print(text, file=sys.stderr)
        raise RuntimeError(text)
    return dict(json.loads(line))


# --- what is said of it --------------------------------------------------------------------


def judge(found: dict[int, Found], members: list[str], on_gpu: bool) -> None:
    """Say what was reached of what is aimed at, where both sides were measured."""

    def have(*numbers: int) -> bool:
        return all("passes" in found.get(number, {}) for number in numbers)

    if have(4, 5):
        pairs = list(zip(found[4]["passes"], found[5]["passes"], strict=True))
        shares = [theirs / ours for theirs, ours in pairs]
        for share, title in (
            (shares[0], "the first pass"), (statistics.median(shares[1:]), "later passes")
        ):  # fmt: skip
            print(f"Our vLLM engine has {share:.0%} of LLM.generate's speed in {title}; aim: "
                  f"{BESIDE:.0%}, {verdict(share >= BESIDE)}.")  # fmt: skip
    if have(3, 5):
        times = later(found[3]) / later(found[5])
        aim = f"; aim: {TIMES:.0f}, {verdict(times >= TIMES)}" if on_gpu else ""
        print(f"It is {times:.1f} times as fast as our transformers engine in later passes{aim}.")
    if have(5):
        files = [file for one in members for file in sorted(Path(one).glob("*.safetensors"))]
        begun = time.perf_counter()
        size = sum(len(file.read_bytes()) for file in files)
        speed = size / (time.perf_counter() - begun)
        allowed = SLACK + size / (SHARE * speed)
        average = statistics.median(found[5]["swaps"][1::2])  # a member and the average in turn
        print(f"It swaps the average of {len(members)} in within {average:.2f} s; aim: "
              f"{allowed:.2f} s ({size / 1e6:.0f} MB, read plainly at {speed / 1e9:.1f} GB/s), "
              f"{verdict(average <= allowed)}.")  # fmt: skip
        if alike := found[5].get("alike"):
            print(f"Of members that share all but {alike['share']:.0%} of their bytes a swap takes "
                  f"{alike['differing']:.3f} s; where all is sent, {alike['all']:.3f} s: "
                  f"{alike['differing'] / alike['all']:.2f} times as long.")  # fmt: skip


def verdict(reached: bool) -> str:
    """In a word."""
    return "reached" if reached else "NOT REACHED"


def compare(found: dict[int, Found]) -> int:
    """Say how many answers differ from the first way's that ran; in capitals where any does."""
    answers = {WAYS[n][0]: one["answers"] for n, one in found.items() if "answers" in one}
    if not answers:
        return 0
    base, *others = answers
    total = 0
    for name in others:
        differ = sum(answers[name].get(k) != text for k, text in answers[base].items())
        total += differ
        if differ:
            print(f"{differ} OF {len(answers[base])} ANSWERS OF {name.upper()} DIFFER from: {base}")
    if others and not total:
        count = len(answers[base])
        print(f"All {count} answers of each of the {len(answers)} ways are equal.")
    return total


if __name__ == "__main__":
    main()
