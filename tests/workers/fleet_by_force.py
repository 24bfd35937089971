"""The long form of what tests/workers/test_fleet.py does with fakes: real workers, real force.

    python -m tests.workers.fleet_by_force

Two real workers on the demo's pool; one is killed, one is stopped, so that it hangs. Their results
must be those of a single worker, and no process may be left.
"""

import os
import signal
import tempfile
from pathlib import Path

import soup
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.demo import build
from soup.evaluators.workers import scorer as scorer_module
from soup.evaluators.workers.jobs import Rules
from soup.events import Event, Note, Progress, ignore


class Force:
    """An observer that kills a worker, and stops one, in the middle of their slices."""

    def __init__(self, scorer: VLMEvalKitScorer) -> None:
        self.scorer = scorer
        self.left = [signal.SIGKILL, signal.SIGSTOP]
        self.pids: set[int] = set()

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Note):
            print(event.text)
        if not isinstance(event, Progress) or not event.who or event.unit != "samples":
            return
        fleet = self.scorer._fleet
        assert fleet is not None
        seat = fleet._seats[int(event.who.split()[1]) - 1]
        if seat.hand is None or not event.done or not self.left:
            return
        pid: int = seat.hand.pid  # type: ignore[attr-defined]
        self.pids.add(pid)
        speeds = fleet._queue.speeds
        known = speeds.load > 0 and speeds.has_built(seat.number)
        if seat.learned and (known or self.left[0] == signal.SIGKILL):
            os.kill(pid, self.left.pop(0))


def main(place: Path) -> None:
    """Both ways, and compare."""
    build(place)
    pool = soup.Pool.open(str(place / "ckpts" / "*"))
    names = [str(place / "benchmarks" / f"{name}.tsv") for name in ("digit", "parity")]
    settings = soup.Settings(benchmarks=names, work=place / "one")
    with VLMEvalKitScorer(device="cpu", max_new_tokens=4) as one:
        expected = soup.score(pool, one, settings, ignore)
    rules = Rules(shortest=0.5, fewest=16, grace=10.0, unknown=300.0)
    scorer_module.Rules = lambda **given: rules  # type: ignore[assignment, misc, attr-defined]
    settings = soup.Settings(benchmarks=names, work=place / "two")
    with VLMEvalKitScorer(device="cpu", max_new_tokens=4, workers=2) as two:
        force = Force(two)
        found = soup.score(pool, two, settings, force)
    assert not force.left, f"not done: {force.left}"
    same = [(m.name, m.scores) for m in found.members] == [
        (m.name, m.scores) for m in expected.members
    ]
    left = [pid for pid in force.pids if Path(f"/proc/{pid}").exists()]
    print(f"one was killed, one hung; results equal: {same}; processes left: {left or 'none'}")
    assert same
    assert not left


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory))
