"""The process that holds one model resident on one device.

It speaks JSON lines: a request on stdin, then any number of ``{"progress": ...}`` and one
``{"result": ...}`` or ``{"error": ...}`` on what was stdout. Everything that libraries print goes
to stderr, which the parent keeps in a log. It gets a blend as paths and coefficients and opens the
checkpoints itself. When stdin closes, the parent is gone and so are we.

Requests, by ``do``:
    open        protocol, reference, options, cache, judge → what of the model decides answers
    benchmark   source → {"name", "samples", "settings"}
    measure     blend, benchmark (source), keep, task → a Result's fields
    outcomes    blend, benchmark (source), samples, task → a Part's fields; their answers are kept
                for a later ``measure`` until another blend is asked for
"""

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from soup.blend import Blend
from soup.checkpoint import Checkpoint
from soup.errors import SoupError
from soup.events import Event, Note, Progress
from soup.running import RunningSum, memory_budget
from soup.ties import fit

PROTOCOL = 1
INTERVAL = 0.2  # seconds between progress lines

Send = Callable[[dict[str, Any]], None]


def encode_checkpoint(checkpoint: Checkpoint) -> list[str | None]:
    """What it takes to open a checkpoint again: its path, its name, an adapter's base's path."""
    base = checkpoint.base
    return [str(checkpoint.path), checkpoint.name, None if base is None else str(base.path)]


def encode_blend(blend: Blend) -> dict[str, Any]:
    """A blend as JSON: paths and coefficients, the latter exact."""
    return {
        "members": [encode_checkpoint(member) for member in blend.members],
        "coefficients": blend.coefficients and [c.hex() for c in blend.coefficients],
        "dtype": blend.dtype,
        "method": blend.method,
        "base": blend.base and encode_checkpoint(blend.base),
        "parameters": [[name, value.hex()] for name, value in blend.parameters],
        "digest": blend.digest,
    }


class Worker:
    """What the process holds between requests."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._opened: dict[tuple[str, str | None], Checkpoint] = {}
        self._datasets: dict[str, Any] = {}
        self._messages: dict[str, Any] = {}
        self._asked: str | None = None
        self._kept: dict[str, dict[int, str]] = {}
        self._last_progress = 0.0

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request and return its result."""
        action: dict[str, Callable[..., dict[str, Any]]] = {
            "open": self.open,
            "benchmark": self.benchmark,
            "measure": self.measure,
            "outcomes": self.outcomes,
        }
        return action[request.pop("do")](**request)

    def open(
        self,
        protocol: int,
        reference: list[Any],
        options: dict[str, Any],
        cache: str,
        judge: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Read config and processor of the reference; the model is built when first needed."""
        if protocol != PROTOCOL:
            raise SoupError(f"worker protocol {PROTOCOL}, the command speaks {protocol}")
        # Before transformers, which must see the environment that VLMEvalKit leaves.
        import evaluators.vlmevalkit  # noqa: F401
        from evaluators.judge import Judge
        from evaluators.resident import Resident
        from evaluators.wrapper import Options

        self._cache = Path(cache)
        self._judge = Judge(judge["model"], judge["url"], self._cache) if judge else None
        self._refer_to(*reference)
        self._resident = Resident(self._reference, Options(**options), self._cache)
        self._resident.running = RunningSum(memory_budget(), self._cache)
        import torch
        import transformers

        return {
            "device": self._resident.device.type,
            "compute_dtype": str(self._resident.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **self._resident.wrapper.settings,
        }

    def benchmark(self, source: str) -> dict[str, Any]:
        """Look a benchmark up; if it asks a judge, see that there is one."""
        from evaluators.vlmevalkit import Dataset

        dataset = Dataset(source, self._cache, self._judge)
        if dataset.judge is not None:
            dataset.judge.probe()
        self._datasets[source] = dataset
        return {"name": dataset.name, "samples": len(dataset), "settings": dataset.settings}

    def measure(
        self, blend: dict[str, Any], benchmark: str, keep: str, task: str
    ) -> dict[str, Any]:
        """Swap the blend in, answer the benchmark, score it."""
        dataset = self._datasets[benchmark]
        self._load(blend, benchmark, task)
        started = time.perf_counter()
        answers = self._answer(benchmark, range(len(dataset)), task)
        seconds = time.perf_counter() - started
        del self._kept[benchmark]
        outcome = dataset.evaluate(answers, Path(keep))
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
            "seconds": seconds,
        }

    def outcomes(
        self, blend: dict[str, Any], benchmark: str, samples: list[str], task: str
    ) -> dict[str, Any]:
        """Swap the blend in, answer some samples, say how right each is."""
        dataset = self._datasets[benchmark]
        positions = dataset.positions(samples)
        self._load(blend, benchmark, task)
        answers = self._answer(benchmark, positions, task)
        outcomes = dataset.outcomes(positions, answers)
        return {"outcomes": outcomes, "samples": len(positions)}

    def _load(self, blend: dict[str, Any], benchmark: str, task: str) -> None:
        """Have the blend's weights in the model, and the benchmark's questions at hand."""
        running = self._resident.running
        noted = running.note if running else ""
        # The model first: while it streams in, nothing else is held.
        self._resident.load(self._blend(blend), blend["digest"], f"load {task}", self._observe)
        if running and running.note != noted:
            self._observe(Note(running.note))
        if benchmark not in self._messages:
            dataset = self._datasets[benchmark]
            self._messages[benchmark] = dataset.messages(self._resident.wrapper)
        if self._asked != blend["digest"]:
            self._asked, self._kept = blend["digest"], {}

    def _answer(self, benchmark: str, positions: Sequence[int], task: str) -> list[str]:
        """The loaded blend's answers to these questions; those that it has given are kept."""
        messages = self._messages[benchmark]
        answers = self._kept.setdefault(benchmark, {})
        missing = [k for k in positions if k not in answers]
        done = len(answers)

        def progress(count: int) -> None:
            nonlocal done
            done += count
            self._observe(Progress(task, done, len(messages), "samples"))

        self._last_progress = 0.0  # what has been answered before is not to count as our speed
        progress(0)
        name = self._datasets[benchmark].kit_name
        texts = self._resident.answer(benchmark, name, messages, progress, missing)
        answers.update(zip(missing, texts, strict=True))
        return [answers[k] for k in positions]

    def _blend(self, blend: dict[str, Any]) -> Blend:
        coefficients = blend["coefficients"]
        return Blend(
            tuple(self._checkpoint(*member) for member in blend["members"]),
            self._reference,
            coefficients and tuple(float.fromhex(c) for c in coefficients),
            blend["dtype"],
            blend["method"],
            blend["base"] and self._checkpoint(*blend["base"]),
            tuple((name, float.fromhex(value)) for name, value in blend["parameters"]),
        )

    def _refer_to(self, path: str, name: str, base: str | None) -> None:
        """Open the checkpoint that all others are fitted to."""
        self._reference = self._opened[path, base] = Checkpoint.open(path, name, base)

    def _checkpoint(self, path: str, name: str, base: str | None) -> Checkpoint:
        if (path, base) not in self._opened:
            self._opened[path, base] = fit(Checkpoint.open(path, name, base), self._reference)
        return self._opened[path, base]

    def _observe(self, event: Event) -> None:
        if isinstance(event, Note):
            self._send({"note": event.text, "warning": event.warning})
        now = time.monotonic()
        if isinstance(event, Progress) and (
            event.done in (0, event.total) or now - self._last_progress >= INTERVAL
        ):
            self._last_progress = now
            self._send({"progress": [event.task, event.done, event.total, event.unit]})


def _respond(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": worker.handle(request)}
    except SoupError as error:
        return {"error": {"type": type(error).__name__, "message": str(error)}}
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return {"error": {"type": "", "message": text}}


def main() -> None:
    """Answer requests until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print must not stand between our lines
    lock = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            out.write(json.dumps(message) + "\n")

    requests: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)  # even in the middle of an answer: nobody waits for it any more

    threading.Thread(target=read, daemon=True).start()
    worker = Worker(send)
    while True:
        send(_respond(worker, json.loads(requests.get())))
