"""One greedy run in a process of its own, with a fault in it, and the same run again without.

The pool, the journal, blending and writing are real; scores are the fake scorer's. Each run is
forked from a process that has everything imported, so that hundreds take minutes.
"""

import contextlib
import errno
import os
import random
import signal
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.records import head_of
from soup.errors import SoupError
from soup.evaluators.fake import FakeScorer
from soup.events import ignore
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors

STEPS = ("fsync", "write", "pwrite", "rename", "replace", "unlink", "ftruncate", "posix_fallocate")
"""Calls of the system at which faults are put: those that change what is on the disk."""

DONE, REFUSED, TRACEBACK = 0, 3, 4
"""Exit codes of a run: it ended well, in one line, or in an error that is ours."""

PATIENCE = 120
"""Seconds until a run that hangs is ended, by SIGALRM."""

COMPANIONS = {"tokenizer.json": '{"model": {"vocab": {"a": 0, "b": 1}}}', "LICENSE": "x"}

Fault = Callable[[str, int], None]
"""Called before each step, with its name and how many of its kind there were."""


@dataclass
class Row:
    """What came of one kind of fault.

    Attributes:
        kind: which.
        injected: how often.
        survived: how often the same command again ended with the same bytes, and left nothing else.
        lost: bytes of whole records that were there after the fault, and not at the end.
        repeated: results that were measured though they were recorded.
        wrong: what did not survive, in words.
    """

    kind: str
    injected: int = 0
    survived: int = 0
    lost: int = 0
    repeated: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, what: str, wrong: Sequence[str]) -> None:
        """Count one, with what is wrong about it."""
        self.injected += 1
        self.survived += not wrong
        self.wrong += [f"{what}: {text}" for text in wrong]


class Place:
    """A pool and what a run without faults makes of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.members = [root / "ckpts" / name for name in "abc"]
        for k, path in enumerate(self.members):
            make_checkpoint(path, random_tensors(k), shards=1 + k % 2, files=COMPANIONS)
        self.pool: Pool | None = Pool.open(*self.members)
        self.steps: Counter[str] = Counter()
        began = time.monotonic()
        whole = self.fresh("whole")
        assert self.run(whole, counting=root / "steps") == DONE
        self.seconds = time.monotonic() - began
        for line in (root / "steps").read_text().splitlines():
            self.steps[line] += 1
        self.expected = files(whole / "out")
        self.results = len(results(whole / "work"))

    def fresh(self, name: str) -> Path:
        """An empty directory to run in."""
        (place := self.root / name).mkdir()
        return place

    def run(
        self,
        place: Path,
        fault: Fault = lambda name, count: None,
        counting: Path | None = None,
        kill_after: float | None = None,
        after: Fault = lambda name, count: None,
        prepare: Callable[[], None] = lambda: None,
    ) -> int:
        """Run in a child; its exit code, or minus the signal that ended it.

        Args:
            place: where.
            fault: called before each step.
            counting: where to leave what steps there were.
            kill_after: seconds until SIGKILL.
            after: called after each step.
            prepare: called in the child, before anything else.
        """
        child = os.fork()
        if not child:
            code = TRACEBACK
            try:
                signal.alarm(PATIENCE)
                prepare()
                code = self._child(place, fault, counting, after)
            except BaseException:
                with contextlib.suppress(BaseException):
                    (self.root / "traceback").write_text(traceback.format_exc(limit=-3))
            os._exit(code)
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _child(self, place: Path, fault: Fault, counting: Path | None, after: Fault) -> int:
        counts: Counter[str] = Counter()

        def wrapped(name: str) -> Any:
            call = getattr(os, name)

            def step(*arguments: Any, **named: Any) -> Any:
                counts[name] += 1
                fault(name, counts[name])
                found = call(*arguments, **named)
                after(name, counts[name])
                return found

            return step

        for name in STEPS:
            setattr(os, name, wrapped(name))
        given = Settings(("x", "y"), ("z",), out=place / "out", work=place / "work")
        try:
            pool = self.pool or Pool.open(*self.members)
            make("greedy", pool, FakeScorer(right=right, samples=20), given, ignore)
        except SoupError:
            return REFUSED
        if counting is not None:
            counting.write_text("\n".join(counts.elements()))
        return DONE

    def again(
        self, place: Path, row: Row, what: str, first: int, found: Sequence[str] = ()
    ) -> None:
        """Run the same command without a fault, and judge; ``found`` is what is wrong by then."""
        before = lines(place / "work")
        known = results(place / "work")
        code = self.run(place)
        after = lines(place / "work")
        row.lost += sum(len(line) for line in before - after)
        keys = results(place / "work")
        repeats = len(keys) - len(set(keys))
        row.repeated += repeats
        wrong = list(found)
        if first not in (DONE, REFUSED, -signal.SIGKILL) or code != DONE:
            wrong.append(f"ended with {first}, then {code}")
            if TRACEBACK in (first, code):
                wrong.append((self.root / "traceback").read_text())
        if files(place / "out") != self.expected:
            wrong.append("other bytes")
        left = {path.name for path in place.iterdir()} - {"out", "work"}
        left |= {path.name for path in (place / "work").glob(".journal*")}
        if left:
            wrong.append(f"left: {', '.join(sorted(left))}")
        if not set(known) <= set(keys):
            wrong.append("results are gone")
        row.add(what, wrong)


def right(blend: Blend, benchmark: str, sample: int) -> float:
    """An outcome that depends on content alone, whichever process asks."""
    return float(zlib.crc32(f"{blend.digest} {benchmark} {sample}".encode()) % 2)


def files(directory: Path) -> dict[str, bytes]:
    """Everything in a directory."""
    found = directory.rglob("*")
    return {str(p.relative_to(directory)): p.read_bytes() for p in found if p.is_file()}


def lines(work: Path) -> set[bytes]:
    """The whole records of a journal."""
    file = work / "journal.jsonl"
    content = file.read_bytes() if file.exists() else b""
    return {line for line in content.split(b"\n") if head_of(line) is not None}


def results(work: Path) -> list[bytes]:
    """The keys of a journal's whole results, one for each time that it was measured."""
    heads = [head_of(line) for line in lines(work)]
    return [head[4] for head in heads if head is not None and head[2] == b"result"]


def kills_at_steps(place: Place, each: int) -> Row:
    """SIGKILL right before a step: up to ``each`` of every kind of call, evenly spread."""
    row = Row("SIGKILL at a step")
    for name, count in sorted(place.steps.items()):
        for at in sorted({1 + k * count // each for k in range(each)}):

            def kill(step: str, number: int, name: str = name, at: int = at) -> None:
                if (step, number) == (name, at):
                    os.kill(os.getpid(), signal.SIGKILL)

            where = place.fresh(f"step-{name}-{at}")
            place.again(where, row, f"{name} {at}", place.run(where, kill))
    return row


def kills_at_random(place: Place, times: int, seed: int = 0) -> Row:
    """SIGKILL at moments that nobody chose."""
    row, chosen = Row("SIGKILL at a random moment"), random.Random(seed)
    for k in range(times):
        where = place.fresh(f"random-{k}")
        after = chosen.random() * place.seconds
        place.again(where, row, f"after {after:.3f} s", place.run(where, kill_after=after))
    return row


def errors_at_steps(place: Place, number: int, each: int, only: Sequence[str] = STEPS) -> Row:
    """A call that fails, as on a full or a broken disk: once, at a step."""
    row = Row(errno.errorcode[number])
    for name, count in sorted((n, place.steps[n]) for n in only if place.steps[n]):
        for at in sorted({1 + k * count // each for k in range(each)}):

            def fail(step: str, seen: int, name: str = name, at: int = at) -> None:
                if (step, seen) == (name, at):
                    raise OSError(number, os.strerror(number))

            where = place.fresh(f"{number}-{name}-{at}")
            place.again(where, row, f"{name} {at}", place.run(where, fail))
    return row


def flipped_bits(place: Place, times: int, seed: int = 0) -> Row:
    """One bit of a finished run's journal: what it held is measured again, and nothing else."""
    row, chosen = Row("flipped bit in the journal"), random.Random(seed)
    journal = place.root / "whole" / "work" / "journal.jsonl"
    for k in range(times):
        where = place.fresh(f"flip-{k}")
        (where / "work").mkdir()
        raw = bytearray(journal.read_bytes())
        at = chosen.randrange(len(raw))
        raw[at] ^= 1 << chosen.randrange(8)
        (where / "work" / "journal.jsonl").write_bytes(raw)
        place.again(where, row, f"bit of byte {at}", DONE)
    return row
