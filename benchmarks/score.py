"""How fast a candidate is scored, beside VLMEvalKit's own loop, in one run.

    python benchmarks/score.py                                  # the demo's models, on the CPU
    python benchmarks/score.py --rows 40 --repeats 1            # the same, small
    python benchmarks/score.py --model qwen --device cuda       # 3 billion random weights, a GPU
    python benchmarks/score.py --model qwen --scale tiny        # that it works, on the CPU
    python benchmarks/score.py --only ready --only bf16         # some of the tables

Tables:
    speed    samples per second: VLMEvalKit's loop (one question at a time, the same model, words,
             pixels and lengths; by a plain wrapper, for qwen by its own for the family) and
             ours, the first time that questions are asked and later, when they are prepared. The
             answers are compared; in float32 on a CPU one that differs is a failure.
    ready    seconds until a candidate can be asked: blended into the resident model; or written
             and loaded again
    profile  where our time goes, and what the model alone takes: `generate` on prepared inputs at
             the best batch size, and one forward pass over the questions
    bf16     share of answers that differ between one question at a time and batches, in bfloat16

Everything runs in processes of its own; numbers are medians over --repeats.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import DEMO_SETS, demo, demo_data, kit, machine, ours, table

QWEN = {"min_pixels": 4 * 28 * 28, "max_pixels": 16384 * 28 * 28, "use_custom_prompt": False}
"""Qwen2.5-VL as VLMEvalKit's wrapper asks it, with pictures at their own size: both sides' options.
Its own least size of a picture, a million pixels, would be all that is measured."""

SIZES = (8, 16, 32, 64, 128, 256)
PASSES = 5
"""How often the questions are asked; members take turns, the first of them is the one timed."""


def child(job: str, arguments: dict[str, Any]) -> Any:
    """Run a job in a fresh process."""
    command = [sys.executable, Path(__file__).with_name("jobs.py"), job, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=ours())
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# --- the tables ----------------------------------------------------------------------------


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["demo", "qwen"], default="demo")
    parser.add_argument("--scale", choices=["3b", "tiny"], default="3b", help="of --model qwen")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rows", type=int, help="questions per benchmark [300; qwen: 128]")
    parser.add_argument("--tokens", type=int, help="longest answer [4; qwen: 16]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, help="our batch size [found out]")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="for the model alone")
    parser.add_argument(
        "--only", action="append", choices=["speed", "ready", "profile", "bf16"], help="[all]"
    )
    parser.add_argument("--directory", type=Path, help="where to work, kept [a temporary one]")
    given = parser.parse_args()
    qwen = given.model == "qwen"
    given.rows = given.rows or (128 if qwen else 300)
    given.tokens = given.tokens or (16 if qwen else 4)
    given.only = given.only or ["speed", "ready", "profile", "bf16"]
    with directory(given.directory) as scratch:
        setting = prepare(given, scratch)
        print(f"{machine()}; {given.device}; {given.model}"
              f"{' ' + given.scale if qwen else ''}, {given.rows} questions per benchmark, "
              f"up to {given.tokens} tokens per answer, {setting['dtype']}, "
              f"medians of {given.repeats}")  # fmt: skip
        for name in given.only:
            TABLES[name](given, setting, scratch)


@contextmanager
def directory(named: Path | None) -> Iterator[Path]:
    """A directory to work in; a named one stays."""
    if named is not None:
        named.mkdir(parents=True, exist_ok=True)
        yield named.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="soup-bench-") as scratch:
        yield Path(scratch)


def prepare(given: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Members, benchmark files and settings for the children."""
    if given.model == "demo":
        ckpts = demo(scratch) / "ckpts"
        data, sets = demo_data(scratch, given.rows), list(DEMO_SETS.values())
    else:
        place = scratch / f"qwen-{given.scale}-{given.rows}"
        if not place.is_dir():
            making = scratch / "qwen-unfinished"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir()
            wanted = {"place": str(making), "scale": given.scale, "rows": given.rows}
            child("make_qwen", wanted | {"device": given.device})
            making.rename(place)
        ckpts, data, sets = place / "ckpts", place / "data", ["ImageVQADataset:GQA_scenes"]
    return {
        "members": sorted(str(path) for path in ckpts.iterdir()),
        "data": str(data),
        "sets": sets,
        "files": [str(data / f"{one.split(':')[1]}.tsv") for one in sets],
        "device": given.device,
        "dtype": "float32" if given.device == "cpu" else "bfloat16",
        "tokens": given.tokens,
        "batch": given.batch,
        "passes": PASSES,
        "repeats": given.repeats,
        "sizes": given.sizes,
        "wrapper": ["Qwen2VLChat", QWEN] if given.model == "qwen" else [],
        "families": {"qwen2.5-vl": QWEN} if given.model == "qwen" else {},
    }


def show_speed(given: argparse.Namespace, setting: dict[str, Any], scratch: Path) -> None:
    """Samples per second, side by side: their process, then ours, --repeats times."""
    theirs, mine = [], []
    for k in range(given.repeats):
        theirs.append(
            kit(
                Path(setting["members"][0]), Path(setting["data"]), scratch / "kit",
                setting["sets"], given.tokens, given.device, setting["dtype"],
                *setting["wrapper"],
            )
        )  # fmt: skip
        mine.append(child("our_scorer", setting | {"work": str(scratch / f"ours-{k}")}))
    samples = mine[0]["passes"][0]["samples"]

    def rate(seconds: list[float]) -> float:
        return samples / statistics.median(seconds)

    infer = [sum(one["infer"] for one in found["sets"].values()) for found in theirs]
    scored = [
        seconds + found["seconds"]["load"] + sum(s["evaluate"] for s in found["sets"].values())
        for seconds, found in zip(infer, theirs, strict=True)
    ]
    later = [p for found in mine for p in found["passes"][2::2]]
    first = [found["passes"][0] for found in mine]
    whole = ("load", "answer", "evaluate")
    lines: list[tuple[str, list[float], list[float], list[float]]] = [
        ("answering alone", infer, [p["answer"] for p in first], [p["answer"] for p in later]),
        (
            "with loading the model, and evaluate", scored,
            [sum(p[part] for part in whole) for p in first],
            [sum(p[part] for part in whole) for p in later],
        ),
        (
            "with starting the process, too", [found["wall"] for found in theirs],
            [f["start"] + sum(p[part] for part in whole)
             for f, p in zip(mine, first, strict=True)],
            [sum(p[part] for part in whole) for p in later],
        ),
    ]  # fmt: skip
    rows = []
    for name, base, one, more in lines:
        cells = [f"{rate(base):.1f}"]
        cells += [f"{rate(s):.1f} ({rate(s) / rate(base):.1f} ×)" for s in (one, more)]
        rows.append([name, *cells])
    table(["samples per second", "VLMEvalKit", "soup, first pass", "soup, later passes"], rows)
    print("\nA later pass needs no new process: its last two lines are the same measurement.")
    said = {name: one["predictions"] for name, one in theirs[0]["sets"].items()}
    differ, total = differences(said, mine[0]["answers"])
    print(f"Of {total} answers, {differ} differ from VLMEvalKit's.")
    if differ:
        print(
            "THE ANSWERS DIFFER: read no speed from this table unless rounding alone explains it."
        )
        if given.device == "cpu" and setting["dtype"] == "float32":
            raise SystemExit("in float32 on a CPU all answers must be equal")


def show_ready(given: argparse.Namespace, setting: dict[str, Any], scratch: Path) -> None:
    """Seconds from a decision to a model that can be asked."""
    small = {"files": setting["files"][:1], "passes": 2 * PASSES}
    swapped = []
    for k in range(given.repeats):
        found = child("our_scorer", setting | small | {"work": str(scratch / f"ready-{k}")})
        swapped += [p["load"] for p in found["passes"][3::2]]  # each time the average, after one
    found = child("written_and_loaded", setting | {"work": str(scratch / "written")})
    swap = statistics.median(swapped)
    rows = [["soup: blended into the resident model", f"{swap:.3f}", "1"]]
    for name, parts in (
        ("soup.write, then from_pretrained", ("write", "reload")),
        ("save_pretrained of averaged state dicts, then from_pretrained", ("hand", "hand reload")),
        ("from_pretrained alone", ("reload",)),
    ):
        seconds = sum(found[part] for part in parts)
        rows.append([name, f"{seconds:.3f}", f"{seconds / swap:.1f}"])
    count = len(setting["members"])
    table([f"an average of {count} ready to answer", "seconds", "to the swap"], rows)


def show_profile(given: argparse.Namespace, setting: dict[str, Any], scratch: Path) -> None:
    """Our worker's time by part, and the model's own."""
    found = child("profile", setting | {"work": str(scratch / "profile")})
    first, later = found["passes"][0], found["passes"][2::2]
    part_names = (
        "unpack",
        "load",
        "prompts",
        "prepare",
        "collate",
        "generate",
        "decode",
        "evaluate",
    )
    middle = {
        part: statistics.median(p.get(part, 0.0) for p in later) for part in (*part_names, "whole")
    }
    rows = []
    for part in (*part_names, "whole"):
        cells = [f"{p.get(part, 0.0):.3f} ({p.get(part, 0.0) / p['whole']:.0%})"
                 for p in (first, middle)]  # fmt: skip
        rows.append([part + (" (in a thread beside)" if part == "prepare" else ""), *cells])
    table(["seconds", "first pass", "later passes"], rows)
    samples = found["samples"]
    rate = {
        size: {name: samples / alone[name] for name in ("generate", "forward")}
        for size, alone in found["alone"].items()
    }
    rows = [
        [f"{size} (largest made: {found['alone'][size]['rows']})",
         f"{r['generate']:.0f}", f"{r['forward']:.0f}"]
        for size, r in rate.items()
    ]  # fmt: skip
    table(["batch size", "generate alone, samples/s", "one forward pass, samples/s"], rows)
    best = max(r["generate"] for r in rate.values())
    ours_rate = samples / middle["whole"]
    print(f"\nA later pass, all included: {ours_rate:.0f} samples per second, "
          f"{ours_rate / best:.0%} of `generate` alone at its best batch size.")  # fmt: skip


def show_bf16(given: argparse.Namespace, setting: dict[str, Any], scratch: Path) -> None:
    """Answers of one question at a time against those in batches, text by text."""
    rows = []
    for dtype in ("bfloat16", "float32"):
        answers = []
        for batch in (1, given.batch):
            asked = {"dtype": dtype, "batch": batch, "passes": 1, "work": str(scratch / "bf16")}
            answers.append(child("our_scorer", setting | asked)["answers"])
        differ, total = differences(*answers)
        rows.append([dtype, str(total), str(differ), f"{differ / total:.2%}"])
    table(["dtype", "answers", "differ between batch size 1 and batches", "share"], rows)


def differences(one: dict[str, Any], other: dict[str, Any]) -> tuple[int, int]:
    """How many answers differ, of how many; both by benchmark and index."""
    pairs = [(one[name][index], other[name][index]) for name in one for index in one[name]]
    return sum(a != b for a, b in pairs), len(pairs)


TABLES = {"speed": show_speed, "ready": show_ready, "profile": show_profile, "bf16": show_bf16}

if __name__ == "__main__":
    main()
