"""Answers that are kept, evaluated again: VLMEvalKit in a process of its own, and no model.

Neither checkpoints nor a GPU are needed; the members may be gone.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from soup.choosing.journal import Journal
from soup.choosing.questions import Questions
from soup.choosing.rescoring import (
    Change,
    Records,
    Rescored,
    Scored,
    find_run,
    follow,
    rescored,
    scored_in,
    verdict,
)
from soup.choosing.retelling import leaderboard_of
from soup.choosing.scoring import Benchmark, Result, recorded, result_key, result_to_json
from soup.errors import BenchmarkError, JournalError, ScoringError
from soup.evaluators.kit.early import require_sources
from soup.evaluators.kit.finished import rows_of, table_of
from soup.evaluators.kit.judge import named_judge
from soup.evaluators.kit.suites import ADD_A_JUDGE, distinct_names, is_table, judged_only
from soup.evaluators.workers.environment import find_python, look, require
from soup.evaluators.workers.process import Died, Process
from soup.events import Observer, Progress, ignore

LOG = "rescore.log"


class Rescorer:
    """Evaluates kept answers. Use it as a context manager."""

    def __init__(
        self,
        work: str | os.PathLike[str],
        worker_python: str | os.PathLike[str] | None = None,
        judge: str | None = None,
        judge_url: str | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            work: the directory of journal and caches, where the answers are.
            worker_python: the interpreter whose VLMEvalKit evaluates; None is ours.
            judge: the model that VLMEvalKit's metrics ask, where they can, as its server names it.
            judge_url: its OpenAI-compatible endpoint, ``…/v1``; the key is in OPENAI_API_KEY.

        Raises:
            UsageError: a judge without an address or the other way round.
        """
        self._work = Path(os.path.abspath(work))
        self._python = worker_python
        self._judge = named_judge(judge, judge_url)
        self._process: Process | None = None
        self._sources: dict[str, str] = {}

    def __enter__(self) -> "Rescorer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def benchmarks(
        self, sources: Sequence[str], names: Sequence[str], observe: Observer = ignore
    ) -> dict[str, Benchmark]:
        """Benchmarks by name as they would be evaluated; their settings say nothing of a model.

        Args:
            sources: as a run was given them.
            names: what that run called them.
            observe: told of progress.

        Raises:
            BenchmarkError: one is unknown, missing, or cannot be scored as configured.
            ScoringError: the interpreter lacks what evaluating needs.
        """
        require_sources(sources)
        lacking = [] if self._judge else judged_only(sources)
        if lacking:
            raise BenchmarkError(f"{', '.join(lacking)}: scored by a judge model; {ADD_A_JUDGE}")
        found = {}
        for source, name in zip(sources, names, strict=True):
            answer = self._ask({"do": "benchmark", "source": source}, observe)
            self._sources[name] = source
            questions = Questions.from_json(answer["questions"])
            found[name] = Benchmark(name, answer["samples"], "", answer["settings"], questions)
        return found

    def evaluate(self, scored: Scored, benchmark: Benchmark, observe: Observer = ignore) -> Result:
        """What a result's answers are worth in the new way; they are kept for that, too.

        Args:
            scored: the result.
            benchmark: the new way, see ``soup.choosing.rescoring.rescored``.
            observe: told of progress.

        Raises:
            JournalError: the answers are not kept.
            ScoringError: they could not be evaluated.
        """
        request = {
            "do": "evaluate",
            "benchmark": self._sources[benchmark.name],
            "answers": str(table_of(self._work, scored.key)),
            "keep": str(table_of(self._work, result_key(scored.blend, benchmark.digest))),
            "task": f"{scored.name} on {benchmark.name}",
        }
        answer = self._ask(request, observe)
        return Result(**answer | {"benchmark": benchmark.name}, settings=benchmark.settings)

    def _ask(self, request: dict[str, Any], observe: Observer) -> dict[str, Any]:
        try:
            return self._ready().ask(request, observe)
        except Died as end:
            raise ScoringError(
                f"the worker {end.how} (at: {request['do']}); the end of what it printed (the "
                f"whole is in {self._work / LOG}):",
                end.words,
            ) from None

    def _ready(self) -> Process:
        if self._process is None:
            python = find_python(self._python)
            require(look(python))
            log = self._work / LOG
            log.unlink(missing_ok=True)
            self._process = Process(python, log)
            cache = str(self._work / "cache")
            self._process.ask({"do": "kit", "cache": cache, "judge": self._judge})
        return self._process


def rescore(
    journal: Journal,
    rescorer: Rescorer,
    run: str | None = None,
    only: Sequence[str] = (),
    observe: Observer = ignore,
) -> Rescored:
    """Evaluate a run's answers again, and say what changes.

    New results are recorded under a key of their own, and found there the next time. Where
    VLMEvalKit says that it is the version that it was, and the judge is the same, the key is the
    old one: then nothing is recorded, and what is shown is what its code makes of the answers now.

    Args:
        journal: that the run is in.
        rescorer: has another VLMEvalKit, or another judge.
        run: how its id begins; None is the newest one that scored anything.
        only: benchmarks, by name or, where a table is elsewhere now, by path; none means all.
        observe: told of progress.

    Raises:
        SoupError: see ``soup.errors``; what was evaluated until then stays recorded.
    """
    records = find_run(journal, run)
    names = distinct_names(only)
    every = scored_in(journal, records, names)
    require_answers(journal.path.parent, every)
    sources = _sources(records, dict(zip(names, only, strict=True)))
    asked = list(dict.fromkeys(scored.benchmark for scored in every))
    found = rescorer.benchmarks([sources[name] for name in asked], asked, observe)
    ways: dict[str, Benchmark] = {}
    changes = []
    for done, scored in enumerate(every):
        observe(Progress("evaluate kept answers", done, len(every), "results"))
        way = rescored(scored, found[scored.benchmark])
        ways[scored.benchmark] = way
        result = None
        if way.digest != scored.digest:
            result = recorded(journal, result_key(scored.blend, way.digest))
        if result is None:
            result = rescorer.evaluate(scored, way, observe)
            if way.digest != scored.digest:
                _record(journal, scored, way, result)
        changes.append(Change(scored, result))
    observe(Progress("evaluate kept answers", len(every), len(every), "results"))
    after, decided = follow(journal, records, ways, changes)
    old = {scored.benchmark: scored.result.settings for scored in every}
    return Rescored(
        records[0]["run"],
        changes,
        {name: _differing(old[name], way.settings) for name, way in ways.items()},
        leaderboard_of(after, decided),
        verdict(after, decided),
        tuple(s.benchmark for s in _firsts(every) if ways[s.benchmark].digest != s.digest),
    )


def _sources(records: Records, given: Mapping[str, str]) -> dict[str, str]:
    """By name what a run was given, or what is given now."""
    start = records[0]
    settings = start.get("settings", {})
    found: dict[str, str] = {}
    for kind in ("benchmarks", "holdouts"):
        names = list(start[kind])
        found |= dict(zip(names, settings.get(kind, names), strict=True))
    return found | {name: source for name, source in given.items() if is_table(source)}


def _record(journal: Journal, scored: Scored, way: Benchmark, result: Result) -> None:
    if way.questions is not None and way.digest not in journal.benchmarks:
        journal.append("benchmark", digest=way.digest, questions=way.questions.to_json())
    journal.append(
        "result",
        key=result_key(scored.blend, way.digest),
        blend=scored.blend,
        benchmark=way.digest,
        rescored=scored.key,
        result=result_to_json(result, way.settings),
    )


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = dict.fromkeys([*old, *new])
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _firsts(every: Sequence[Scored]) -> list[Scored]:
    """One of each benchmark."""
    return list({scored.benchmark: scored for scored in reversed(every)}.values())[::-1]


def require_answers(work: Path, every: Sequence[Scored]) -> None:
    """Raises JournalError, before anything is evaluated, where answers are not there or damaged."""
    missing = []
    for scored in every:
        try:
            rows_of(table_of(work, scored.key))
        except JournalError:
            missing.append(f"{scored.name} on {scored.benchmark}")
    if missing:
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if missing[6:] else "")
        raise JournalError(
            f"{work}: the answers of {len(missing)} of {len(every)} results are not kept, or are "
            f"damaged ({shown}); name benchmarks whose answers are, with --bench, or score these "
            "again in an empty directory (--work DIR), which asks the models again"
        )
