"""What is asked of several workers, and what has come of it: answers are gathered by question.

They are kept by this process alone, as they come, so that none is lost whoever ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from soup.errors import SoupError
from soup.evaluators.engines.kept import ANSWERS, Kept
from soup.evaluators.kit.finished import packed
from soup.evaluators.workers.jobs import Job, Slice
from soup.events import Note, Observer


@dataclass(frozen=True)
class Work:
    """A blend that is asked a benchmark.

    Attributes:
        request: ``blend``, ``benchmark``, ``key``, ``keep`` and ``task``, as a worker is asked.
        holds: names what a worker holds for it.
        asks: names the benchmark.
        samples: its questions.
        judged: whether its metric asks a judge, who may cost money.
        likelihood: that its result is wanted, above 0; 1 is certain.
    """

    request: Mapping[str, Any]
    holds: str
    asks: str
    samples: int
    judged: bool = False
    likelihood: float = 1.0

    @property
    def key(self) -> str:
        """Of the result."""
        return str(self.request["key"])


def _remove_table(work: Work) -> None:
    table = Path(work.request["keep"])
    for file in (table, packed(table)):
        file.unlink(missing_ok=True)


@dataclass(eq=False)
class Asked:
    """What has come of a work so far."""

    work: Work
    job: Job
    answers: dict[int, str]
    kept: Kept | None = None
    result: dict[str, Any] | None = None
    seconds: float = 0.0  # of workers, in this process's time
    fresh: int = 0  # answers that were not there before

    @property
    def task(self) -> str:
        """For people."""
        return str(self.work.request["task"])

    @property
    def file(self) -> Path:
        """Where its answers are kept."""
        return Path(self.work.request["keep"]).with_suffix(ANSWERS)

    def keep(self, positions: Sequence[int], answers: Sequence[str]) -> None:
        """Take in some answers."""
        self.kept = self.kept or Kept(self.file, self.work.key)
        for position, answer in zip(positions, answers, strict=True):
            if position not in self.answers:
                self.fresh += 1
                self.answers[position] = answer
                self.kept.add(position, answer)

    def close(self) -> None:
        """Keep no more."""
        if self.kept is not None:
            self.kept.close()
            self.kept = None

    def forget(self) -> None:
        """Remove what is kept: nobody wants it."""
        self.close()
        self.file.unlink(missing_ok=True)
        if self.result is not None:
            _remove_table(self.work)


class Gathering:
    """Everything that is asked, by its job. Not safe to use from several threads at once.

    Attributes:
        saved: answers that were there when somebody asked for them, made ahead because they were
            likely to be wanted.
        dropped: the same that nobody asked for.
    """

    def __init__(self) -> None:
        self.saved = 0
        self.dropped = 0
        self._asked: dict[Job, Asked] = {}
        self._errors: dict[str, SoupError] = {}
        self._begun: set[str] = set()
        self._measured: set[str] = set()

    def __getitem__(self, job: Job) -> Asked:
        return self._asked[job]

    def all(self) -> list[Asked]:
        """Everything that has not ended."""
        return list(self._asked.values())

    def begin(self, work: Work, observe: Observer) -> Asked:
        """Take in a work; what is kept of a run that was stopped counts."""
        task = work.request["task"]
        answers: dict[int, str] = {}
        file = Path(work.request["keep"]).with_suffix(ANSWERS)
        if file.exists():
            kept = Kept(file, work.key)
            kept.close()
            answers = dict(kept.known)
            if kept.damaged:
                text = f"{task}: {kept.damaged} kept answers were not as they had been written; "
                observe(Note(f"{text}they are in {kept.aside}, and asked again", True))
            if answers and work.key not in self._begun:
                observe(Note(f"{task}: {len(answers)} of {work.samples} answers are kept"))
        self._begun.add(work.key)
        missing = [position for position in range(work.samples) if position not in answers]
        job = Job(work.key, work.holds, work.asks, missing, work.likelihood, eager=not work.judged)
        asked = self._asked[job] = Asked(work, job, answers)
        return asked

    def narrow(self, asked: Asked, positions: Sequence[int]) -> Asked:
        """Ask of a work nothing but some questions, and no metric."""
        work = asked.work
        missing = [position for position in positions if position not in asked.answers]
        del self._asked[asked.job]
        part = Job(work.key, work.holds, work.asks, missing, metric=False)
        found = self._asked[part] = replace(asked, job=part)
        return found

    def rate(self, asked: Asked, work: Work) -> None:
        """A work is as likely to be wanted as is said now."""
        if work.likelihood >= 1 and asked.work.likelihood < 1:
            self.saved += asked.fresh
        asked.work = work
        asked.job.likelihood = work.likelihood

    def take_in(self, found: Slice, asked: Asked, answer: dict[str, Any], seconds: float) -> None:
        """What a worker said to a slice of a work, after so long."""
        if self._asked.get(found.job) is asked:
            asked.seconds += seconds
            if found.is_metric:
                asked.result = answer
                asked.close()
            else:
                asked.keep(found.positions, answer["answers"])
        elif not found.job.certain:  # it was dropped meanwhile
            self.dropped += len(found.positions)
            if found.is_metric and found.job.key not in self._measured:
                _remove_table(asked.work)

    def measured(self, work: Work) -> None:
        """Somebody has asked for a work's result: its predictions stay."""
        self._measured.add(work.key)

    def end(self, job: Job) -> None:
        """Somebody has a job's result; its answers stay."""
        self._asked.pop(job, None)

    def drop(self, job: Job) -> None:
        """Nobody wants a job any more: what was made ahead of it goes."""
        asked = self._asked.pop(job)
        asked.close()
        if asked.work.likelihood < 1:
            self.dropped += asked.fresh
            asked.forget()

    def give_up(self, job: Job, error: SoupError) -> None:
        """A job has no result; who asks for it hears why."""
        asked = self._asked.pop(job, None)
        if asked is not None:
            asked.close()
            self._errors[job.key] = error

    def has_failed(self, work: Work) -> bool:
        """Whether a work has been given up."""
        return work.key in self._errors

    def raise_error(self, work: Work) -> None:
        """Say why a work has been given up, where it has, to one who asks."""
        if work.key in self._errors:
            raise self._errors.pop(work.key)

    def task_of(self, found: Slice) -> str:
        """What a slice is of, for people."""
        asked = self._asked.get(found.job)
        task = asked.task if asked else "something else"
        return f"{task} (its metric)" if found.is_metric else task
