"""Our side of the worker: a scorer that asks VLMEvalKit in a process of its own."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.choosing.questions import Questions
from soup.choosing.scoring import (
    Benchmark,
    Part,
    Result,
    Wanted,
    benchmark_digest,
    result_key,
)
from soup.errors import BenchmarkError, ScoringError, SoupError, UsageError
from soup.evaluators.engines.kept import ANSWERS
from soup.evaluators.engines.vllm_options import VllmOptions, require_engine
from soup.evaluators.kit.early import require_sources
from soup.evaluators.kit.finished import table_of
from soup.evaluators.kit.judge import named_judge
from soup.evaluators.kit.suites import ADD_A_JUDGE, distinct_names, judged_only
from soup.evaluators.models.families import Family, family_of, named, require_named
from soup.evaluators.workers.early import require_beside, require_compute_dtype, require_device
from soup.evaluators.workers.environment import ANY, Environment, find_python, look, require
from soup.evaluators.workers.evaluating import log_of
from soup.evaluators.workers.fleet import Fleet
from soup.evaluators.workers.gathering import Work
from soup.evaluators.workers.homes import home
from soup.evaluators.workers.jobs import Rules
from soup.evaluators.workers.known import Known, now, require_same
from soup.evaluators.workers.leavings import remove_leavings
from soup.evaluators.workers.process import Died
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from soup.evaluators.workers.seats import Hand
from soup.events import Note, Observer, ignore

OURS = ("worker_python", "engine")
"""Options of a family that are no wrapper's."""

WORK = ".soup"
"""Where files are kept that nobody named a place for."""

RESTARTS = 2
"""How often a worker that dies at one piece of work is followed by another one."""


class VLMEvalKitScorer:
    """Scores blends with VLMEvalKit on one resident model. Use it as a context manager.

    Nothing of VLMEvalKit or transformers is imported into this process.
    """

    def __init__(
        self,
        *,
        work: str | os.PathLike[str] | None = None,
        device: str = "auto",
        compute_dtype: str = "auto",
        batch_size: int | None = None,
        max_new_tokens: int | None = None,
        trust_remote_code: bool = False,
        worker_python: str | os.PathLike[str] | None = None,
        family: str | None = None,
        families: Mapping[str, Mapping[str, Any]] | None = None,
        judge: str | None = None,
        judge_url: str | None = None,
        engine: str = "auto",
        vllm: Mapping[str, Any] | None = None,
        workers: int | str | None = None,
        gpus_per_worker: int = 1,
        evaluators: int | str = "auto",
        ray: str | None = None,
        ray_copy: bool = False,
    ) -> None:
        """Options as in ``soup.evaluators.models.wrapper.Options``, and more.

        Args:
            work: holds predictions and the worker's log; None is where the run has its journal
                (``soup.Settings.work``), ``.soup`` outside of a run. A place named here wins, for
                what the scorer keeps; the journal is in the settings' all the same.
            device: see Options.
            compute_dtype: see Options.
            batch_size: see Options.
            max_new_tokens: see Options.
            trust_remote_code: see Options.
            worker_python: the interpreter that loads and asks the model; None is ours.
            family: see Options.
            families: per family, ``worker_python`` and ``engine`` for its models alone; the rest as
                in Options.
            judge: the model that VLMEvalKit's metrics ask, where they can, as its server names it.
            judge_url: its OpenAI-compatible endpoint, ``…/v1``; the key is in OPENAI_API_KEY.
            engine: who answers, one of ``ENGINES``.
            vllm: options of that engine, see ``VllmOptions``.
            workers: processes that share the work, each with a model of its own; ``auto`` is one
                for each GPU, and one where there is none. None is 1, and ``auto`` on a cluster.
            gpus_per_worker: GPUs that share one model, with vLLM.
            evaluators: processes without a model that evaluate what workers have answered, at most;
                ``auto`` is up to one for each of several workers that have GPUs, as far as the
                processor has cores to spare.
            ray: ``auto`` or HOST:PORT of a Ray cluster whose nodes do the work; then ``auto``
                workers are as many as there is room for, at any time.
            ray_copy: whether members that a node lacks are sent to its own disk.

        Raises:
            UsageError: a number, a device or a dtype that cannot be, a family that is none, a judge
                without an address or the other way round, more workers than GPUs, or Ray is not
                installed.
        """
        self._judge = named_judge(judge, judge_url)
        if family is not None:
            require_named(family, f"--family {family}", generic=True)
        for name, about in (families or {}).items():
            require_named(name, f"[family.{name}]")
            own = about.get("worker_python")
            require_engine(about.get("engine", "auto"), f"[family.{name}] engine")
            if own is not None and not isinstance(own, (str, os.PathLike)):
                where = f"[family.{name}] worker-python"
                raise UsageError(f"{where}: expected a path in quotes, found {own!r}")
        if ray is None:
            require_device(device)
        require_compute_dtype(compute_dtype)
        if any(bound is not None and bound < 1 for bound in (batch_size, max_new_tokens)):
            raise UsageError("batch size and max new tokens must be at least 1")
        self._housed = work is not None
        self._work = Path(os.path.abspath(work or WORK))
        self._options = {
            "device": device,
            "compute_dtype": compute_dtype,
            "batch_size": batch_size,
            "max_new_tokens": max_new_tokens,
            "trust_remote_code": trust_remote_code,
            "family": family,
            "families": {
                name: {key: value for key, value in options.items() if key not in OURS}
                for name, options in (families or {}).items()
            },
        }
        self._engine = require_engine(engine, "--engine")
        VllmOptions.of(vllm or {})
        self._home = home(workers, gpus_per_worker, device, engine, ray, ray_copy, evaluators)
        parallel = {"tensor_parallel": gpus_per_worker} if gpus_per_worker > 1 else {}
        self._vllm = parallel | dict(vllm or {})
        self._fleet: Fleet | None = None
        self._worker_python = worker_python
        self._family = family
        self._families = families or {}
        self._checked: tuple[str, Family, Environment] | None = None
        self._recalled: Known | None = None
        self._process: Hand | None = None
        self._logs: set[int] = set()
        self._measured: Path | None = None
        self._told: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self._sources: dict[str, str] = {}

    def __enter__(self) -> "VLMEvalKitScorer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._forget()
            if self._fleet is not None:
                self._fleet.forget_guesses()
        self.close()

    def work_in(self, directory: str | os.PathLike[str]) -> None:
        """See ``soup.choosing.scoring.HousedScorer``."""
        place = Path(os.path.abspath(directory))
        if not self._housed and place != self._work:
            self._forget()
            self.close()  # its log and its caches are elsewhere
            self._checked = None
            self._work = place

    @property
    def log(self) -> Path:
        """Everything the worker's libraries print."""
        return self._work / "worker.log"

    def benchmarks(
        self, reference: Checkpoint, names: Sequence[str], observe: Observer = ignore
    ) -> list[Benchmark]:
        """See ``soup.choosing.scoring.Scorer``."""
        self._home.told = observe
        known, opening, asking = self._requests(reference, names)
        if self._process is not None or not self._recall(known, [opening, *asking]):
            self._end_fleet()  # its workers know of other benchmarks
            for request in (opening, *asking):
                self._tell(request, known, observe)
        return self._described(reference, opening, asking)

    def remembered(self, reference: Checkpoint, names: Sequence[str]) -> list[Benchmark] | None:
        """The same as ``benchmarks`` would say, where it can be known without starting a worker.

        Returns:
            None where nobody has looked these benchmarks up before, or something has changed since.

        Raises:
            SoupError: ``benchmarks`` would fail, too.
        """
        known, opening, asking = self._requests(reference, names)
        if not self._recall(known, [opening, *asking]):
            return None
        return self._described(reference, opening, asking)

    def _requests(
        self, reference: Checkpoint, names: Sequence[str]
    ) -> tuple[Known, dict[str, Any], list[dict[str, Any]]]:
        """What a worker is asked of a model and of benchmarks, and what is known of that."""
        self.require_sources(names)
        require_beside(reference)
        known = Known(self._work, self._choose_python(reference), reference)
        opening = {
            "do": "open",
            "reference": encode_checkpoint(reference),
            "options": self._options,
            "cache": str(self._work / "cache"),
            "judge": self._judge,
            "engine": self.engine_for(reference),
            "vllm": self._vllm,
        }
        if opening not in [request for request, _ in self._told.values()]:
            self._told.clear()  # about another model
            self._sources.clear()
        return known, opening, [{"do": "benchmark", "source": source} for source in names]

    def _described(
        self, reference: Checkpoint, opening: dict[str, Any], asking: Sequence[dict[str, Any]]
    ) -> list[Benchmark]:
        """What has been answered to these requests."""
        model = self._told[_label(opening)][1]["model"]
        found = []
        names = distinct_names([request["source"] for request in asking])
        for request, name in zip(asking, names, strict=True):
            answer = self._told[_label(request)][1]
            settings = answer["settings"] | model
            digest = benchmark_digest(settings)
            self._sources[digest] = request["source"]
            questions = Questions.from_json(answer["questions"])
            found.append(Benchmark(name, answer["samples"], digest, settings, questions))
        return found

    def require_sources(self, names: Sequence[str]) -> None:
        """Tell at once, before a worker starts, what is wrong with benchmarks, as far as it shows.

        Raises:
            BenchmarkError: one is unknown, its table missing or without a column, or it needs a
                judge.
        """
        require_sources(names)
        lacking = [] if self._judge else judged_only(names)
        if lacking:
            raise BenchmarkError(f"{', '.join(lacking)}: scored by a judge model; {ADD_A_JUDGE}")

    def measure(
        self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer = ignore
    ) -> Result:
        """See ``choosing.scoring.Scorer``; asked again, it has recorded what it was told before."""
        self._forget()
        work = self._work_on(blend, benchmark, task)
        if self._is_shared:
            answer = self._together().measure(self._shared(Wanted(blend, benchmark, task)), observe)
        else:
            answer = self._ask({"do": "measure", **work}, observe)
            answer.pop("seconds")
        self._measured = Path(work["keep"]).with_suffix(ANSWERS)
        return Result(**answer | {"benchmark": benchmark.name}, settings=benchmark.settings)

    def outcomes(
        self,
        blend: Blend,
        benchmark: Benchmark,
        samples: Sequence[str],
        task: str,
        observe: Observer = ignore,
    ) -> Part:
        """See ``soup.choosing.scoring.PartialScorer``."""
        if self._is_shared:
            shared = self._shared(Wanted(blend, benchmark, task))
            return Part(**self._together().outcomes(shared, samples, observe))
        work = self._work_on(blend, benchmark, task)
        return Part(**self._ask({"do": "outcomes", **work, "samples": list(samples)}, observe))

    def expect(self, wanted: Sequence[Wanted], observe: Observer = ignore) -> None:
        """See ``soup.choosing.scoring.ForesightedScorer``; one worker alone does nothing ahead."""
        if self._is_shared and (wanted or self._fleet is not None):
            self._together().expect([self._shared(one) for one in wanted], observe)

    @property
    def at_once(self) -> int:
        """How many things are done at once: by each worker one, and by evaluators metrics."""
        workers = self._home.count if self._fleet is None else self._fleet.count
        return workers + (workers == 1 and self._home.evaluators > 0)

    @property
    def _is_shared(self) -> bool:
        """Whether a fleet does the work: of several, or of nodes that come and go."""
        return self._home.away or self._home.count + self._home.evaluators > 1

    @property
    def guessed(self) -> tuple[int, int]:
        """See ``soup.choosing.scoring.GuessingScorer``."""
        return self._fleet.guessed if self._fleet is not None else (0, 0)

    def _shared(self, wanted: Wanted) -> Work:
        """A measurement as several workers share it."""
        blend, benchmark = wanted.blend, wanted.benchmark
        judged = isinstance(benchmark.settings.get("judge"), Mapping)
        request = self._work_on(blend, benchmark, wanted.task)
        return Work(
            request, blend.key, benchmark.digest, benchmark.samples, judged, wanted.likelihood
        )

    def _together(self) -> Fleet:
        """The workers that share the work; the first may be there already."""
        if self._fleet is None:
            assert self._checked is not None, "benchmarks come first"
            first, self._process = self._process, None
            batch = self._options["batch_size"]
            rules = Rules(fewest=max(batch, 16)) if isinstance(batch, int) else Rules()

            def spawn(number: int) -> Hand:
                nonlocal first
                if number == 0 and first is not None:
                    taken, first = first, None
                    return taken
                return self._spawn(number)

            there = self._home
            self._fleet = Fleet(
                there.count, spawn, self._teach, self._log_of, rules, there.room, there.evaluators
            )
        return self._fleet

    def _end_fleet(self) -> None:
        if self._fleet is not None:
            self._fleet.close()
            self._fleet = None

    def _work_on(self, blend: Blend, benchmark: Benchmark, task: str) -> dict[str, Any]:
        """What the worker needs to know to work on a result."""
        key = result_key(blend.key, benchmark.digest)
        return {
            "blend": encode_blend(blend),
            "benchmark": self._sources[benchmark.digest],
            "key": key,
            "keep": str(table_of(self._work, key)),
            "task": task,
        }

    def _forget(self) -> None:
        """Remove the answers of the last result: it is recorded."""
        if self._measured is not None:
            self._measured.unlink(missing_ok=True)
            self._measured = None

    def tidy(self, recorded: Collection[str]) -> None:
        """See ``soup.choosing.scoring.TidyScorer``: files of commands that were killed."""
        remove_leavings(self._work / "predictions", recorded)

    def close(self) -> None:
        """End the workers."""
        self._end_fleet()
        if self._process is not None:
            self._process.close()
            self._process = None
        self._home.close()

    def python_for(self, reference: Checkpoint | None) -> tuple[str, Family]:
        """The interpreter that asks a model (or one of no family), and the model's family.

        Raises:
            ScoringError: there is no such interpreter.
        """
        name = self._name_of(reference)
        own = self._families.get(name, {}).get("worker_python")
        family = named(name) or ANY
        return find_python(own or self._worker_python), family.by(self.engine_for(reference))

    def engine_for(self, reference: Checkpoint | None) -> str:
        """The engine that is to ask a model: its family's own, or that of all."""
        return str(self._families.get(self._name_of(reference), {}).get("engine", self._engine))

    def _name_of(self, reference: Checkpoint | None) -> str:
        return self._family or (family_of(reference.config) if reference else None) or ""

    def _choose_python(self, reference: Checkpoint) -> Environment:
        """Check what this model needs; end a worker that runs under another interpreter."""
        python, family = self.python_for(reference)
        if self._checked is not None and (python, family) == self._checked[:2]:
            return self._checked[2]
        environment = look(python, family)
        require(environment, family)
        if self._checked is None or python != self._checked[0]:
            self.close()
            self._logs.clear()
        self._checked = python, family, environment
        return environment

    def _recall(self, known: Known, requests: list[dict[str, Any]]) -> bool:
        """Take for told what is known, where all of it is; a worker that starts is asked again."""
        if self._home.away:  # what it came from is on other machines
            return False
        answers = [known.answer(request) for request in requests]
        told = [
            (request, answer) for request, answer in zip(requests, answers, strict=True) if answer
        ]
        if len(told) < len(requests):
            return False
        self._recalled = known
        self._told |= {_label(request): (request, answer) for request, answer in told}
        return True

    def _tell(self, request: dict[str, Any], known: Known, observe: Observer) -> None:
        """Ask what every worker must have been asked before it can measure."""
        asked = now()
        answer = self._ask(request, observe)
        self._told[_label(request)] = request, answer
        if not self._home.away:
            known.remember(request, answer, asked)

    def _ask(self, request: dict[str, Any], observe: Observer = ignore) -> dict[str, Any]:
        """Ask the worker; where it dies, ask another one, which is told what the first knew."""
        deaths = 0
        while True:
            try:
                return self._ready().ask(request, observe)
            except Died as end:
                self.close()
                deaths += 1
                what = _label(request)
                if deaths > RESTARTS or not end.greeted:
                    text = f"the worker {end.how} (at: {what})"
                    if deaths > 1:
                        text = f"the worker died {deaths} times at: {what}; at last it {end.how}"
                    raise ScoringError(
                        f"{text}; the end of what it printed (the whole is in {self.log}):",
                        end.words,
                    ) from None
                text = f"the worker {end.how} (at: {what}); another one goes on from there"
                observe(Note(f"{text} (restart {deaths} of {RESTARTS})", warning=True))

    def _ready(self) -> Hand:
        """The worker; one that is new has been told everything."""
        if self._process is None:
            self._process = self._spawn(0)
            try:
                self._teach(self._process)
            except SoupError:
                self.close()
                raise
            self._recalled = None
        return self._process

    def _log_of(self, number: int) -> Path:
        """What a worker prints, or an evaluator, by its number (see ``Fleet``)."""
        return log_of(self.log, number)

    def _spawn(self, number: int) -> Hand:
        """A worker or evaluator that knows nothing yet, by its number (see ``Fleet``)."""
        assert self._checked is not None, "benchmarks come first"
        log = self._log_of(number)
        if number not in self._logs:  # of an earlier command
            log.unlink(missing_ok=True)
            self._logs.add(number)
        return self._home.spawn(number, self._checked[0], log)

    def _teach(self, process: Hand, evaluates: bool = False) -> None:
        """Tell a worker everything that another one was told; it must say the same.

        Args:
            process: who is told.
            evaluates: whether nothing is to be said of the model, which it will not have.
        """
        for request, known in list(self._told.values()):
            if evaluates and request["do"] == "open":
                process.ask({"do": "kit", "cache": request["cache"], "judge": request["judge"]})
                continue
            found = process.ask(request)
            if found != known and self._recalled is not None:
                self._recalled.forget()
                raise ScoringError(
                    f"{_label(request)}: it is not what it was in an earlier run, though no "
                    "file has changed; that is forgotten now: run the same command again"
                )
            require_same(known, found)


def _label(request: dict[str, Any]) -> str:
    """A request for people."""
    return str(request.get("task") or f"{request['do']} {request.get('source', '')}").strip()
