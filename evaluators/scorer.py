"""Our side of the worker: a scorer that asks VLMEvalKit in a process of its own."""

import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from evaluators.judge import endpoint
from evaluators.suites import ADD_A_JUDGE, judged_only
from evaluators.worker import PROTOCOL, encode_blend, encode_checkpoint
from soup.blend import Blend
from soup.checkpoint import Checkpoint
from soup.errors import BY_NAME, BenchmarkError, ScoringError, UsageError
from soup.events import Note, Observer, Progress, ignore
from soup.files import companions_digest
from soup.scoring import Benchmark, Part, Result, result_key

ROOT = Path(__file__).resolve().parent.parent
START = "import sys; sys.path.insert(0, sys.argv[1]); from evaluators.worker import main; main()"


class VLMEvalKitScorer:
    """Scores blends with VLMEvalKit on one resident model. Use it as a context manager.

    Nothing of VLMEvalKit or transformers is imported into this process.
    """

    def __init__(
        self,
        *,
        work: str | os.PathLike[str] = ".soup",
        device: str = "auto",
        compute_dtype: str = "auto",
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        trust_remote_code: bool = False,
        judge: str | None = None,
        judge_url: str | None = None,
    ) -> None:
        """Options as in ``evaluators.wrapper.Options``; ``work`` holds predictions and the log.

        ``judge`` is the model that VLMEvalKit's metrics ask, where they can, as its server names
        it; ``judge_url`` its OpenAI-compatible endpoint, ``…/v1``. Its key is in the environment:
        OPENAI_API_KEY.

        Raises:
            UsageError: a number below 1, or a judge without an address or the other way round.
        """
        if (judge is None) != (judge_url is None):
            raise UsageError(
                "a judge is a model and an address: give both --judge MODEL and --judge-url URL, "
                "e.g. --judge-url http://localhost:8000/v1"
            )
        self._judge = {"model": judge, "url": endpoint(judge_url)} if judge and judge_url else None
        if any(bound is not None and bound < 1 for bound in (batch_size, max_new_tokens)):
            raise UsageError("batch size and max new tokens must be at least 1")
        self._work = Path(os.path.abspath(work))
        self._options = {
            "device": device,
            "compute_dtype": compute_dtype,
            "batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "trust_remote_code": trust_remote_code,
        }
        self._process: subprocess.Popen[str] | None = None
        self._sources: dict[str, str] = {}

    def __enter__(self) -> "VLMEvalKitScorer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def log(self) -> Path:
        """Everything the worker's libraries print."""
        return self._work / "worker.log"

    def benchmarks(self, reference: Checkpoint, names: Sequence[str]) -> list[Benchmark]:
        """See ``soup.scoring.Scorer``."""
        lacking = [] if self._judge else judged_only(names)
        if lacking:
            raise BenchmarkError(f"{', '.join(lacking)}: scored by a judge model; {ADD_A_JUDGE}")
        if self._process is None:
            self._start()
        model = self._ask(
            {
                "do": "open",
                "protocol": PROTOCOL,
                "reference": encode_checkpoint(reference),
                "options": self._options,
                "cache": str(self._work / "cache"),
                "judge": self._judge,
            }
        )
        common = model | {"companions": companions_digest(reference.home)}
        found = []
        for source in names:
            answer = self._ask({"do": "benchmark", "source": source})
            settings = answer["settings"] | common
            digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
            self._sources[digest] = source
            found.append(Benchmark(answer["name"], answer["samples"], digest, settings))
        return found

    def measure(
        self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer = ignore
    ) -> Result:
        """See ``soup.scoring.Scorer``."""
        key = result_key(blend.digest, benchmark.digest)
        answer = self._ask(
            {
                "do": "measure",
                "blend": encode_blend(blend),
                "benchmark": self._sources[benchmark.digest],
                "keep": str(self._work / "predictions" / f"{key[:16]}.tsv"),
                "task": task,
            },
            observe,
        )
        answer.pop("seconds")
        return Result(**answer, settings=benchmark.settings)

    def outcomes(
        self,
        blend: Blend,
        benchmark: Benchmark,
        samples: Sequence[str],
        task: str,
        observe: Observer = ignore,
    ) -> Part:
        """See ``soup.scoring.PartialScorer``."""
        answer = self._ask(
            {
                "do": "outcomes",
                "blend": encode_blend(blend),
                "benchmark": self._sources[benchmark.digest],
                "samples": list(samples),
                "task": task,
            },
            observe,
        )
        return Part(**answer)

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    # closing flushes what a worker that died did not take
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self._process = None

    def _start(self) -> None:
        for module in ("vlmeval", "transformers"):
            if importlib.util.find_spec(module) is None:
                raise BenchmarkError(
                    f"scoring needs {module}, which is not installed here; "
                    "run: pip install 'vlm-soup[vlmeval]'"
                )
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",  # its bars would fill the log
            "TRANSFORMERS_VERBOSITY": os.environ.get("TRANSFORMERS_VERBOSITY", "error"),
            "PYTHONUNBUFFERED": "1",
            # On a busy machine, threads that spin at a barrier cost far more than they save.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        }
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )

    def _ask(self, request: dict[str, Any], observe: Observer = ignore) -> dict[str, Any]:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                message = json.loads(line)
                if "progress" in message:
                    observe(Progress(*message["progress"]))
                elif "note" in message:
                    observe(Note(message["note"], message.get("warning", False)))
                elif "error" in message:
                    self._fail(message["error"])
                else:
                    return dict(message["result"])
        except BrokenPipeError:
            pass
        raise ScoringError(f"the worker {self._how_it_ended()}; its last words: {self._tail()}")

    def _fail(self, error: dict[str, str]) -> None:
        known = BY_NAME.get(error["type"])
        if known is not None:
            raise known(error["message"])
        raise ScoringError(f"the worker failed: {error['message']}; details are in {self.log}")

    def _how_it_ended(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self.close()
        if code == -signal.SIGKILL:
            return "was killed (signal 9), perhaps for using too much memory"
        if code < 0:
            return f"was ended by signal {-code} ({signal.Signals(-code).name})"
        return f"ended with exit code {code}"

    def _tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return (lines[-1].strip()[:300] if lines else "none") + f" (all of them: {self.log})"
