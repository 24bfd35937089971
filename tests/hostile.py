"""Files that strangers made, mutated without end: nothing but a SoupError may come out.

    python -m tests.hostile --cases 1000000 [--seed 0] [--only NAME ...]

Seeds follow each other: 100,000 cases of seed 1 are those after the 100,000 of seed 0. Ctrl-C or
SIGTERM ends it with what has been tried so far.

Each case takes a sound file of one kind, changes it by bytes, by values or by whole pieces, and
reads it as the product does: mostly by what reads this file alone, one time in 64 by the
whole command; but transformers, which takes seconds in a process of its own, is never asked.
Anything but a SoupError, and any case that takes longer than a second of processor
time, is a failure; the first ones are printed with what makes them again.
"""

import argparse
import gc
import io
import json
import random
import signal
import struct
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unicodedata import category
from unittest import mock

import torch
from safetensors.torch import save

from soup.blending import writer
from soup.blending.writer import check_target
from soup.checkpoints import asking, buffers, configs, described
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import inspect
from soup.checkpoints.safetensors_format import read_header
from soup.checkpoints.ties import is_tied
from soup.checkpoints.tokens import compare
from soup.checkpoints.torch_format import read_torch
from soup.choosing.journal import Journal
from soup.cli import config
from soup.errors import SoupError
from soup.evaluators.kit.own_tables import understand
from soup.evaluators.kit.table_files import read_table

LIMIT = 1.0
"""Seconds of processor time that a case may take."""

WHOLE = 64
"""Of so many cases one goes through the whole command, where there is a shorter way."""

NUMBERS = (0, -1, 1, 2**31, 2**32 - 1, 2**63, 2**64, 10**30, 1.5, -0.0, float("nan"), float("inf"))
WORDS = (
    *("", "a" * 5000, "module." * 200 + "x", "\x1b[31m", "\ud800", "../../x", "/etc/passwd", "\0"),
    *("NaN", "lm_head.weight", "embed_tokens.weight", "(a+)+$", "(.*)*x", "[" * 50, "é", "\u202e"),
)
SHAPES = ([], [[]], {}, {"": {}}, None, True, [1] * 300, [[[[[[[[1]]]]]]]])


def value(random: random.Random) -> Any:
    """Something that nobody expects."""
    return random.choice((random.choice(NUMBERS), random.choice(WORDS), random.choice(SHAPES)))


def within(random: random.Random, found: Any) -> Any:
    """A JSON value with one thing in it changed: dropped, doubled, renamed, replaced."""
    if isinstance(found, dict) and found and random.random() < 0.9:
        key = random.choice(list(found))
        rest = {name: inner for name, inner in found.items() if name != key}
        how = random.random()
        if how < 0.1:
            return rest
        if how < 0.25:
            return rest | {random.choice((str(value(random)), *found)): found[key]}
        return rest | {key: within(random, found[key])}
    if isinstance(found, list) and found and random.random() < 0.8:
        at = random.randrange(len(found))
        piece = [] if random.random() < 0.2 else [within(random, found[at])]
        return found[:at] + piece * random.choice((1, 1, 1, 2, 40)) + found[at + 1 :]
    return value(random)


def fits(found: Any, most: int = 1 << 24) -> bool:
    """Whether a JSON value has about ``most`` bytes at most, as text."""
    waiting = [found]
    while waiting and most > 0:
        one = waiting.pop()
        most -= len(one) if isinstance(one, str) else 8
        if isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
    return most > 0


def bytewise(random: random.Random, raw: bytes) -> bytes:
    """Bytes with some of them flipped, cut out, doubled or replaced."""
    found = bytearray(raw)
    for _ in range(random.choice((1, 1, 2, 5))):
        at, size = random.randrange(len(found) + 1), random.choice((1, 1, 4, 8, 64))
        how = random.random()
        if how < 0.5 and at < len(found):
            found[at] ^= 1 << random.randrange(8)
        elif how < 0.65:
            del found[at : at + size]
        elif how < 0.75:
            del found[at:]
        elif how < 0.85:
            found[at : at + size] = random.randbytes(size)
        else:
            found[at:at] = found[at : at + size] * random.choice((1, 3, 50))
    return bytes(found)


def jsonwise(random: random.Random, raw: bytes) -> bytes:
    """JSON text with its values changed, or its bytes."""
    if random.random() < 0.3:
        return bytewise(random, raw)
    found = json.loads(raw)
    for _ in range(random.choice((1, 1, 2, 4))):
        found = within(random, found)
    if not fits(found):  # what is repeated within what is repeated can fill any memory
        return bytewise(random, raw)
    text = json.dumps(found, ensure_ascii=random.random() < 0.9)
    return text.encode(errors="surrogatepass")


TENSORS = {
    "model.embed_tokens.weight": torch.ones(4, 2),
    "model.layers.0.q_proj.weight": torch.ones(2, 2),
    "model.layers.0.q_proj.bias": torch.ones(2),
    "lm_head.weight": torch.ones(4, 2),
}
CONFIG = {
    "model_type": "llava",
    "architectures": ["A"],
    "tie_word_embeddings": False,
    "text_config": {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}},
    "vision_config": {"patch": 14},
    "quantization_config": {"quant_method": "x"},
}
ADAPTER = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "rank_pattern": {"q_proj": 2, "layers.*.v": 1},
    "alpha_pattern": {"q_proj": 4},
    "target_modules": ["q_proj"],
    "target_parameters": [],
    "modules_to_save": None,
    "base_model_name_or_path": None,
    "use_rslora": False,
}
FACTORS = {
    "base_model.model.model.layers.0.q_proj.lora_A.weight": torch.ones(2, 2),
    "base_model.model.model.layers.0.q_proj.lora_B.weight": torch.ones(2, 2),
    "base_model.model.lm_head.weight": torch.ones(4, 2),
}
TOKENIZER = {
    "model": {"vocab": {"a": 0, "b": 1}},
    "added_tokens": [{"id": 2, "content": "<x>"}],
}
TOML = b"""work = ".soup"
dtype = "bfloat16"
batch-size = 4
bench = ["MMStar", "x.tsv"]
[greedy]
min-gain = 0.5
out = "x"
[family."ovis1.6"]
max-new-tokens = 4
[engine]
name = "vllm"
[engine.vllm]
gpu = 0.5
"""
TSV = (
    b"index\tquestion\tA\tB\tanswer\timage\tcategory\n"
    b"0\twhat?\tone\ttwo\tA\tiVBORw0KGgo=\tx\n"
    b'1\t"who\tand ""when"""\t1.10\t007\tB\tiVBORw0KGgo=\ty\n'
)


def pickled() -> bytes:
    """A state dict as torch saves it."""
    stream = io.BytesIO()
    torch.save(TENSORS, stream)
    return stream.getvalue()


def repickled(random: random.Random, raw: bytes) -> bytes:
    """Such an archive with its pickle's bytes changed, its sizes true, or changed as a whole."""
    if random.random() < 0.3:
        return bytewise(random, raw)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(("data.pkl", "byteorder")):
                content = bytewise(random, content)
            new.writestr(name, content)
    return stream.getvalue()


def headed(random: random.Random, raw: bytes) -> bytes:
    """Safetensors with a changed header, whose length is mostly true."""
    if random.random() < 0.3:
        return bytewise(random, raw)
    (length,) = struct.unpack("<Q", raw[:8])
    header = jsonwise(random, raw[8 : 8 + length])
    told = len(header) if random.random() < 0.9 else random.choice((0, 2**40, 2**63, 7))
    return struct.pack("<Q", told) + header + raw[8 + length :]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        file: which one is changed, in a directory that is sound otherwise.
        sound: what stands in it.
        change: how it is changed.
        read: how the product reads it, given the directory.
        alone: what reads this file alone on that way, which takes a tenth of the time.
    """

    file: str
    sound: bytes
    change: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path], object]
    alone: Callable[[Path], object] | None = None


def checked(place: Path) -> object:
    """As ``soup check`` does, in both orders, with its lines."""
    found = [inspect([place, place.parent / "good"]), inspect([place.parent / "good", place])]
    return [(report.lines, repr(report)) for report in found]


def adapted(place: Path) -> object:
    """As an adapter on a sound base."""
    return inspect([place], base=place.parent / "good").lines


def opened(place: Path) -> object:
    """A model, by itself."""
    found = open_checkpoint(place)
    return is_tied(found.config), configs.meaning(found.config), found.digest


@cache
def good_base(place: Path) -> Checkpoint:
    """The sound model, opened once."""
    return open_checkpoint(place)


def on_its_base(place: Path) -> object:
    """An adapter, by itself."""
    return open_checkpoint(place, "a", good_base(place.parent / "good")).updates


@cache
def commands() -> Mapping[str, Any]:
    """Every command's options."""
    from soup.cli.app import application
    from soup.cli.values import options_of

    found = {}
    for known in application().registered_commands:
        assert known.callback is not None
        found[known.name or known.callback.__name__] = options_of(known.callback)
    return found


def configured(place: Path) -> object:
    """soup.toml, as the command line reads it."""
    with chdir(place):
        return config.defaults(commands()), config.families(), config.vllm()


def resumed(place: Path) -> object:
    """A journal that was damaged, and what is shown of it."""
    from soup.choosing.retelling import last_leaderboard

    board = last_leaderboard(Journal.open(place, create=False))
    return board and (board.to_json(), board.to_markdown())


def tabled(place: Path) -> object:
    """A benchmark of a user's own."""
    table, _ = read_table(place / "x.tsv", "x.tsv")
    return understand(table, "x.tsv")


def written_over(place: Path) -> object:
    """An earlier soup where the next one is to be written."""
    from soup.blending.blend import Blend

    good = good_base(place.parent / "good")
    blend = Blend((good,), good)
    check_target(place, blend)
    same = writer._same_soup(place, {}, None, good.companions, lambda _: None)
    return same, writer._free_name(place)


def journal(place: Path) -> bytes:
    """A small run's journal."""
    from soup.checkpoints.pool import Pool
    from soup.evaluators.fake import FakeScorer
    from soup.run import Settings, make

    settings = Settings(["a"], work=place / "w", out=place / "soup")
    make("greedy", Pool.open(place / "good"), FakeScorer(samples=3), settings)
    return (place / "w" / "journal.jsonl").read_bytes()


def kinds(place: Path) -> Mapping[str, Kind]:
    """By name; ``place`` gets what they stand beside."""
    weights, text = save(TENSORS, {"format": "pt"}), json.dumps
    index = {"metadata": {}, "weight_map": dict.fromkeys(TENSORS, "model-1.safetensors")}
    good = place / "good"
    good.mkdir()
    (good / "config.json").write_text(text(CONFIG))
    (good / "model.safetensors").write_bytes(weights)
    (good / "tokenizer.json").write_text(text(TOKENIZER))
    sound: dict[str, Mapping[str, bytes]] = {
        "header": {"config.json": text(CONFIG).encode()},
        "pool": {"config.json": text(CONFIG).encode()},
        "index": {"config.json": text(CONFIG).encode(), "model-1.safetensors": weights},
        "config": {"model.safetensors": weights},
        "tokenizer": {"model.safetensors": weights, "config.json": text(CONFIG).encode()},
        "tokens": {"model.safetensors": weights, "config.json": text(CONFIG).encode()},
        "adapter": {"adapter_model.safetensors": save(FACTORS, {"format": "pt"})},
        "factors": {"adapter_config.json": text(ADAPTER).encode()},
    }
    for name, files in sound.items():
        (place / name).mkdir()
        for file, content in files.items():
            (place / name / file).write_bytes(content)
    manifest = {"blend": "0" * 64, "digest": "0" * 64, "members": [], "scores": {"a": 1.0}}
    decoder = {"added_tokens_decoder": {"2": {"content": "<x>"}}, "chat_template": "x"}
    return {
        "header": Kind(
            "model.safetensors", weights, headed, lambda p: read_header(p / "model.safetensors")
        ),
        "pool": Kind("model.safetensors", weights, headed, checked, opened),
        "index": Kind(
            "model.safetensors.index.json", text(index).encode(), jsonwise, checked, opened
        ),
        "config": Kind("config.json", text(CONFIG).encode(), jsonwise, checked, opened),
        "tokenizer": Kind(
            "tokenizer.json", text(TOKENIZER).encode(), jsonwise, checked,
            lambda p: compare(p, p.parent / "good"),
        ),
        "tokens": Kind(
            "tokenizer_config.json", text(decoder).encode(), jsonwise, checked,
            lambda p: compare(p, p.parent / "good"),
        ),
        "adapter": Kind(
            "adapter_config.json", text(ADAPTER).encode(), jsonwise, adapted, on_its_base
        ),
        "factors": Kind(
            "adapter_model.safetensors", save(FACTORS, {"format": "pt"}), headed, adapted,
            on_its_base,
        ),
        "pickle": Kind("x.bin", pickled(), repickled, lambda p: read_torch(p / "x.bin")),
        "soup.toml": Kind("soup.toml", TOML, bytewise, configured),
        "manifest": Kind("soup.json", text(manifest).encode(), jsonwise, written_over),
        "journal": Kind("journal.jsonl", journal(place), bytewise, resumed),
        "table": Kind("x.tsv", TSV, bytewise, tabled),
    }  # fmt: skip


@contextmanager
def unasked() -> Iterator[None]:
    """Transformers has no word for any model: a process of its own for each case takes too long."""
    with ExitStack() as stack:
        for module in (asking, buffers, described):
            answer = mock.patch.object(module, "ask", return_value={"unknown": "not asked"})
            stack.enter_context(answer)
        yield


def run(cases: int, seed: int, only: tuple[str, ...] = ()) -> tuple[dict[str, int], list[str]]:
    """Try so many cases, spread over the kinds; how many each had, and what failed."""
    memory = Path("/dev/shm")  # where there is one, writing a file costs nothing
    place = memory if memory.is_dir() else None
    with unasked(), tempfile.TemporaryDirectory(dir=place) as directory:
        every = kinds(place := Path(directory))
        chosen = {name: kind for name, kind in every.items() if not only or name in only}
        counts, failures = dict.fromkeys(chosen, 0), []
        configs.differences(CONFIG, {**CONFIG, "more": 1})  # imports transformers, where it is
        for name, kind in chosen.items():  # what is imported for the first case is not its time
            tried(place / name, replace(kind, change=lambda _, raw: raw), random.Random(0))
        gc.collect()
        gc.freeze()  # what is imported by now is not looked through again and again
        for number in range(seed * cases, (seed + 1) * cases):
            name = list(chosen)[number % len(chosen)]
            try:
                failure = tried(place / name, chosen[name], random.Random(f"{number} {name}"))
            except KeyboardInterrupt:
                break  # what has been tried counts
            counts[name] += 1
            if failure:
                failures.append(f"{name}, case {number}: {failure}")
                if len(failures) >= 20:
                    break
    return counts, failures


def tried(place: Path, kind: Kind, source: random.Random) -> str:
    """What went wrong with one case; empty where nothing did."""
    place.mkdir(exist_ok=True)
    content = kind.change(source, kind.sound)
    (place / kind.file).write_bytes(content)
    short = kind.alone if kind.alone is not None and source.randrange(WHOLE) else None
    started = time.process_time()
    try:
        (short or kind.read)(place)
    except SoupError as error:
        if not all(char.isprintable() or category(char) == "Zs" for char in str(error)):
            return f"not one safe line: {str(error)[:200]!r}"
    except Exception:
        return "".join(traceback.format_exc(limit=-4)) + f"  {content[:300]!r}"
    took = time.process_time() - started
    return f"took {took:.1f} s: {content[:300]!r}" if took > LIMIT else ""


def main() -> None:
    """Try and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    counts, failures = run(given.cases, given.seed, tuple(given.only))
    for failure in failures:
        print(failure)
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    print(f"{sum(counts.values()):,} cases, {len(failures)} failures")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
