"""What is found out about members before any is scored: what they hold, and whether it is sound."""

import os
import threading
from collections.abc import Sequence

from soup.blending.draft import Draft
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.described import Described, Description
from soup.checkpoints.digests import Found, Place, place
from soup.checkpoints.pool import Pool
from soup.checkpoints.problems import summary, together
from soup.checkpoints.soundness import problems as unsound
from soup.checkpoints.soundness import remarks
from soup.choosing.journal import Journal
from soup.choosing.likeness import known_distances, remember_distances
from soup.choosing.scoring import forgetting
from soup.errors import PoolError
from soup.events import Event, Note, Observer, Progress


def identify(
    members: Sequence[Checkpoint],
    journal: Journal,
    observe: Observer,
    draft: Draft | None = None,
) -> None:
    """Give each checkpoint its content digest: from the journal where its files are unchanged,
    else by reading it once; where there is a draft, while it is written.

    Raises:
        CheckpointError: one cannot be read; of a draft also all that ``Draft.learn`` raises.
    """
    unknown = [member for member in members if not journal.recall(member)]
    shared: dict[Place, Found] | None = {} if any(m.updates for m in unknown) else None
    total = done = 0

    lock = threading.Lock()

    def progress(count: int) -> None:
        nonlocal done
        with lock:  # the threads that digest report at the same time
            done += count
            observe(Progress("read and digest the pool", done, total, "B"))

    learned: list[Checkpoint] = []
    if draft is not None:
        with forgetting(journal, draft.blend):
            learned = draft.learn(unknown)
    rest = [member for member in unknown if member not in learned]
    if shared is None:
        total = sum(member.nbytes for member in rest)
    else:  # adapters of one base: it is read once
        total = sum(size for *_, size in {place(i) for m in rest for i in m.read_for_digest})
    for member in unknown:
        before = journal.rewritten(member)
        if member not in learned:
            member.compute_digest(progress, shared)
        if before is not None and member.digest != before:
            text = "holds other weights than before, though its files' size and time are the same"
            observe(Note(f"{member.name}: {text}; they are read anew", warning=True))
        journal.remember_digest(member)


def compare_weights(pool: Pool, journal: Journal, observe: Observer) -> None:
    """Record how far members lie apart, and from the base where there is one.

    It takes one reading of the pool, once: distances of known members are not computed again.
    """
    sources = [*pool.members, *([pool.base] if pool.base else [])]
    distinct = {source.digest: source for source in sources}
    if len(distinct) < 2 or known_distances(journal, list(distinct)) is not None:
        return
    from soup.blending.apart import squared_distances

    squares = squared_distances(list(distinct.values()), observe)
    remember_distances(journal, list(distinct), squares)


def require_sound(members: Sequence[Checkpoint], observe: Observer) -> None:
    """No member holds NaN, Inf or a file cut short: an error now, not after hours of scoring."""
    if found := summary(unsound(members), others=len(members) - 1):
        more = f" (and {len(found) - 1} more: `soup check` lists them)" if len(found) > 1 else ""
        raise PoolError(f"{found[0]}{more}")
    for line in together(remarks(members), [member.name for member in members]):
        observe(Note(line, warning=True))


class Loadable:
    """Whether transformers would load a reference as what it says it is: for runs that score
    nothing. It is asked beside the reading and writing, which ``observe`` ends where it would not.

    Without a reference nobody is asked.
    """

    def __init__(
        self, reference: Checkpoint | None, work: str | os.PathLike[str], observe: Observer
    ) -> None:
        self._observe = observe
        self._name = reference.name if reference else ""
        self._count = len(reference.tensors) if reference else 0
        self._description = Description(reference, work, observe) if reference else None

    def __enter__(self) -> "Loadable":
        return self

    def __exit__(self, *of_an_error: object) -> None:
        if self._description is not None:
            self._description.close()

    def observe(self, event: Event) -> None:
        """Pass on what a run tells; a problem that is known by now ends it.

        Raises:
            PoolError: it cannot be loaded.
        """
        if self._description is not None and self._description.found is not None:
            self._require(self._description.found)
        self._observe(event)

    def require(self) -> None:
        """Wait for the answer, and tell what a user should know.

        Raises:
            PoolError: it cannot be loaded.
        """
        if self._description is None:
            return
        found = self._description.wait()
        for note in found.notes:
            self._observe(Note(f"{self._name}: {note}"))
        self._require(found)

    def _require(self, found: Described) -> None:
        problems = found.problems(self._name)
        if problems:
            first, *more = summary(problems, self._count)
            raise PoolError(first + (f" (and {len(more)} more)" if more else ""))
