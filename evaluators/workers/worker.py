"""The process that holds one model resident on one device.

It may run under another interpreter than the command, with another transformers: it finds our code
by path (see ``workers.process``) and needs torch, transformers, VLMEvalKit and what the model's
own code needs; nothing of the command line.

What both sides say is in ``soup.evaluators.workers.protocol``.
"""

import faulthandler
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soup.blending.blend import Blend
from soup.blending.common import unpacked
from soup.checkpoints.buffers import without
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.fitting import fit
from soup.checkpoints.opening import open_checkpoint
from soup.errors import CheckpointError, ScoringError, SoupError
from soup.evaluators.engines.kept import ANSWERS, Kept
from soup.evaluators.models.wrapper import QuestionError
from soup.evaluators.workers.protocol import PROTOCOL
from soup.evaluators.workers.sealing import sealed
from soup.events import Event, Note, Progress

INTERVAL = 0.2  # seconds between progress lines

if TYPE_CHECKING:
    from soup.evaluators.engines.engine import Engine

Send = Callable[[dict[str, Any]], None]


class Worker:
    """What the process holds between requests."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._engine: Engine | None = None
        self._opened: dict[str, tuple[Checkpoint, Any]] = {}
        self._datasets: dict[str, Any] = {}
        self._messages: dict[tuple[str, str], Any] = {}
        self._begun: set[str] = set()
        self._last_progress = 0.0

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request and return its result."""
        action: dict[str, Callable[..., dict[str, Any]]] = {
            "open": self.open,
            "benchmark": self.benchmark,
            "measure": self.measure,
            "outcomes": self.outcomes,
            "kit": self.kit,
            "evaluate": self.evaluate,
            "answer": self.answer,
            "score": self.score,
            "positions": self.positions,
            "right": self.right,
        }
        return action[request.pop("do")](**request)

    def open(
        self,
        reference: list[Any],
        options: dict[str, Any],
        cache: str,
        judge: dict[str, str] | None = None,
        engine: str = "transformers",
        vllm: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Read config and processor of the reference; the model is built when first needed."""
        # Before transformers, which must see the environment that VLMEvalKit leaves.
        import soup.evaluators.kit.importing as kit

        # isort: split
        from soup.evaluators.engines.choice import open_engine
        from soup.evaluators.models.wrapper import Options

        self.kit(cache, judge)
        self._refer_to(*reference)
        if self._engine is not None:
            self._engine.close()
        self._engine = open_engine(
            engine, self._reference, Options(**options), self._cache, vllm, self._observe
        )
        return {"model": dict(self._engine.settings), "files": kit.files()}

    def kit(self, cache: str, judge: dict[str, str] | None = None) -> dict[str, Any]:
        """Be ready to evaluate answers; it takes no model."""
        from soup.evaluators.kit.judge import Judge

        self._cache = Path(cache)
        self._judge = Judge(judge["model"], judge["url"], self._cache) if judge else None
        if self._judge and self._judge.verdicts.note:
            self._observe(Note(self._judge.verdicts.note, warning=True))
        return {}

    def benchmark(self, source: str) -> dict[str, Any]:
        """Look a benchmark up, unpack its images; if it asks a judge, see that there is one."""
        from soup.evaluators.kit.questions import questions_of
        from soup.evaluators.kit.suites import benchmark_name
        from soup.evaluators.kit.vlmevalkit import Dataset

        def progress(done: int, total: int) -> None:
            self._observe(Progress(f"unpack {benchmark_name(source)}", done, total, "images"))

        dataset = Dataset(source, self._cache, self._judge, progress)
        if dataset.judge is not None:
            dataset.judge.probe()
        self._datasets[source] = dataset
        self._tell(dataset)
        return {
            "name": dataset.name,
            "samples": len(dataset),
            "settings": dataset.settings,
            "files": dataset.files,
            "questions": questions_of(dataset).to_json(),
        }

    def measure(
        self, blend: dict[str, Any], benchmark: str, key: str, keep: str, task: str
    ) -> dict[str, Any]:
        """Swap the blend in, answer the benchmark, score it.

        Answers are kept beside the predictions, which are to be in ``keep``: what follows a crash,
        of this process or of all, goes on from them. Who records the result removes them.
        """
        dataset = self._datasets[benchmark]
        self._load(blend, benchmark, task)
        kept = self._kept(key, keep, len(dataset), task)
        started = time.perf_counter()
        answers = self._answer(benchmark, range(len(dataset)), kept, task)
        seconds = time.perf_counter() - started
        found = self._evaluated(dataset, answers, Path(keep), task)
        kept.close()
        return {**found, "seconds": seconds}

    def evaluate(self, benchmark: str, answers: str, keep: str, task: str) -> dict[str, Any]:
        """Score answers that a result was made of before, and keep them in ``keep``, too."""
        from soup.evaluators.kit.finished import rows_of

        dataset = self._datasets[benchmark]
        said = {row["index"]: row["prediction"] for row in rows_of(Path(answers))}
        indices = [dataset.index_of(position) for position in range(len(dataset))]
        missing = [index for index in indices if index not in said]
        if missing:
            raise ScoringError(
                f"{task}: {len(missing)} of {len(indices)} questions have no kept answer, the "
                f"first of index {missing[0]}: the benchmark is not what was asked"
            )
        return self._evaluated(dataset, [said[index] for index in indices], Path(keep), task)

    def _evaluated(self, dataset: Any, answers: list[str], keep: Path, task: str) -> dict[str, Any]:
        """A Result's fields."""
        outcome = dataset.evaluate(answers, keep)
        if outcome.unjudged:
            text = f"{task}: no verdict on {outcome.unjudged} of {len(answers)} answers, because "
            text += "the judge's replies could not be read; they count as wrong"
            self._observe(Note(text, warning=True))
        return {
            "benchmark": dataset.name,
            "value": outcome.value,
            "samples": len(dataset),
            "unparsed": outcome.unparsed,
            "unjudged": outcome.unjudged,
            "outcomes": outcome.outcomes,
        }

    def score(self, benchmark: str, answers: list[str], keep: str, task: str) -> dict[str, Any]:
        """Score the answers to all questions of a benchmark, in order."""
        return self._evaluated(self._datasets[benchmark], answers, Path(keep), task)

    def answer(
        self, blend: dict[str, Any], benchmark: str, positions: list[int], task: str
    ) -> dict[str, Any]:
        """Swap the blend in, answer some questions. Who asks keeps the answers."""
        begun = time.perf_counter()
        self._load(blend, benchmark, task)
        loaded = time.perf_counter()
        answers = self._answer(benchmark, positions, None, task)
        seconds = {"loading": loaded - begun, "answering": time.perf_counter() - loaded}
        return {**sealed(positions, answers), **seconds}

    def positions(self, benchmark: str, samples: list[str]) -> dict[str, Any]:
        """The questions behind some samples, see ``soup.evaluators.kit.vlmevalkit.Dataset``."""
        return {"positions": self._datasets[benchmark].positions(samples)}

    def right(self, benchmark: str, positions: list[int], answers: list[str]) -> dict[str, Any]:
        """How right the answers to some questions are."""
        return {"outcomes": self._datasets[benchmark].outcomes(positions, answers)}

    def outcomes(
        self,
        blend: dict[str, Any],
        benchmark: str,
        samples: list[str],
        key: str,
        keep: str,
        task: str,
    ) -> dict[str, Any]:
        """Swap the blend in, answer some samples, say how right each is.

        The answers are kept, as those of ``measure`` are, which will not ask for them again.
        """
        dataset = self._datasets[benchmark]
        positions = dataset.positions(samples)
        self._load(blend, benchmark, task)
        kept = self._kept(key, keep, len(dataset), task)
        answers = self._answer(benchmark, positions, kept, task)
        kept.close()
        outcomes = dataset.outcomes(positions, answers)
        return {"outcomes": outcomes, "samples": len(positions)}

    def _kept(self, key: str, keep: str, total: int, task: str) -> Kept:
        """The answers that a result has already, from this process or from one that crashed."""
        kept = Kept(Path(keep).with_suffix(ANSWERS), key)
        if kept.damaged:
            text = f"{task}: {kept.damaged} kept answers were not as they had been written; they "
            self._observe(Note(f"{text}are in {kept.aside}, and asked again", warning=True))
        if kept.known and key not in self._begun:
            self._observe(Note(f"{task}: {len(kept.known)} of {total} answers are kept"))
        self._begun.add(key)
        return kept

    def _load(self, blend: dict[str, Any], benchmark: str, task: str) -> None:
        """Have the blend's weights in the model, and the benchmark's questions at hand."""
        assert self._engine is not None, "open comes first"
        # The model first: while it streams in, nothing else is held.
        self._engine.load(self._blend(blend), blend["digest"], f"load {task}", self._observe)
        self._asked = benchmark, blend["companions"]  # wrappers may have words of their own
        if self._asked not in self._messages:
            dataset = self._datasets[benchmark]
            self._messages[self._asked] = dataset.messages(self._engine.wrapper)
            self._tell(dataset)

    def _tell(self, dataset: Any) -> None:
        """What a user should know of a benchmark, once."""
        while dataset.notes:
            self._observe(Note(dataset.notes.pop(0), warning=True))

    def _answer(
        self, benchmark: str, positions: Sequence[int], kept: Kept | None, task: str
    ) -> list[str]:
        """The loaded blend's answers to these questions."""
        messages = self._messages[self._asked]
        done, of = (0, len(positions)) if kept is None else (len(kept.known), len(messages))

        def progress(count: int) -> None:
            nonlocal done
            done += count
            self._observe(Progress(task, done, of, "samples"))

        self._last_progress = 0.0  # what has been answered before is not to count as our speed
        progress(0)
        name = self._datasets[benchmark].kit_name
        assert self._engine is not None, "open comes first"
        try:
            return self._engine.answer(benchmark, name, messages, progress, positions, kept)
        except QuestionError as error:
            dataset = self._datasets[benchmark]
            raise ScoringError(
                f"{dataset.name}: the question of index {dataset.index_of(error.position)}: "
                f"{error.reason}"
            ) from error

    def _blend(self, blend: dict[str, Any]) -> Blend:
        coefficients = blend["coefficients"]
        made = Blend(
            tuple(self._checkpoint(*member) for member in blend["members"]),
            self._reference,
            coefficients and tuple(float.fromhex(c) for c in coefficients),
            blend["dtype"],
            blend["method"],
            blend["base"] and self._checkpoint(*blend["base"]),
            tuple((name, float.fromhex(value)) for name, value in blend["parameters"]),
            blend["files_of"] and self._checkpoint(*blend["files_of"]),
            unpacked(blend.get("values", ""), self._reference.tensors),
        )
        if made.companions.digest != blend["companions"]:
            files_of = made.files_of or made.reference
            raise CheckpointError(
                f"{files_of.home}: files beside the weights were changed since they were first "
                "read; run the command again"
            )
        return made

    def _refer_to(
        self,
        path: str,
        name: str,
        base: str | None,
        supplied: Sequence[Sequence[str]] = (),
        left_out: Sequence[str] = (),
    ) -> None:
        """Open the checkpoint that all others are fitted to."""
        opened = without(open_checkpoint(path, name, base), left_out)
        self._reference = replace(opened, supplied=_supplied(supplied))
        self._keep(_key(path, base, supplied), self._reference)

    def _checkpoint(
        self,
        path: str,
        name: str,
        base: str | None,
        supplied: Sequence[Sequence[str]] = (),
        left_out: Sequence[str] = (),
        digest: str | None = None,
    ) -> Checkpoint:
        key = _key(path, base, supplied)
        known = self._opened.get(key)
        if known is None or not _same_files(*known):
            opened = fit(without(open_checkpoint(path, name, base), left_out), self._reference)
            made = self._keep(key, replace(opened, supplied=_supplied(supplied)))
            return _known_as(digest, made)
        return _known_as(digest, known[0])

    def _keep(self, key: str, checkpoint: Checkpoint) -> Checkpoint:
        self._opened[key] = checkpoint, checkpoint.files_key
        return checkpoint

    def _observe(self, event: Event) -> None:
        if isinstance(event, Note):
            self._send({"note": event.text, "warning": event.warning})
        now = time.monotonic()
        if isinstance(event, Progress) and (
            event.done in (0, event.total) or now - self._last_progress >= INTERVAL
        ):
            self._last_progress = now
            self._send({"progress": [event.task, event.done, event.total, event.unit]})


def _key(*parts: Any) -> str:
    return json.dumps(parts)


def _known_as(digest: str | None, checkpoint: Checkpoint) -> Checkpoint:
    """With the digest that whoever asks knows it by."""
    if digest is not None and checkpoint.known_digest != digest:
        checkpoint.remember_digest(digest)
    return checkpoint


def _supplied(given: Sequence[Sequence[str]]) -> tuple[tuple[str, Path], ...]:
    return tuple((kind, Path(place)) for kind, place in given)


def _same_files(checkpoint: Checkpoint, files_key: Any) -> bool:
    """Whether the files are those that were opened; a path may hold others by now."""
    try:
        checkpoint.companions.require_unchanged()
        return bool(checkpoint.files_key == files_key)
    except CheckpointError:
        return False


def _respond(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": worker.handle(request)}
    except SoupError as error:
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return {"error": {"type": "", "message": text}}


def main(out: int) -> None:
    """Answer requests, on the file descriptor ``out``, until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    faulthandler.enable()  # a crash in native code says where, in the log
    lines = os.fdopen(out, "w", buffering=1)
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            lines.write(json.dumps(message) + "\n")

    requests: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(line)
        # Even in the middle of an answer: nobody waits for it any more.
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # and what a library has started
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    worker = Worker(send)
    send({"protocol": PROTOCOL})
    while True:
        send(_respond(worker, json.loads(requests.get())))
        if not gc.isenabled():
            # What the first request imports lives as long as we do. Looking through it again and
            # again for garbage is a fifth of the time that it takes to come up.
            gc.freeze()
            gc.enable()
