"""evaluators/workers/fleet.py: many workers, one result; with fake ones, and with real ones."""

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from soup.errors import ScoringError, UsageError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.workers import devices
from soup.evaluators.workers.devices import places, spare
from soup.evaluators.workers.evaluating import EVALUATORS, wants_more
from soup.evaluators.workers.fleet import Fleet
from soup.evaluators.workers.gathering import Work
from soup.evaluators.workers.jobs import Rules
from soup.evaluators.workers.process import Died
from soup.evaluators.workers.sealing import sealed
from soup.evaluators.workers.seats import Hand
from soup.events import Event, Note, Observer, Progress, Took, ignore

SMALL = Rules(shortest=0.002, longest=0.01, fewest=4, grace=0.3, patience=5.0, unknown=20.0)


class FakeHand:
    """A worker that is none: it answers each question with its position, in this process."""

    def __init__(self, number: int, world: "World") -> None:
        self.number, self.world = number, world
        self.ended = threading.Event()

    def ask(self, request: dict[str, Any], observe: Observer = ignore) -> dict[str, Any]:
        """One request, as a worker would do it."""
        self.world.before(self, request)
        if self.ended.is_set():
            raise Died("was ended", "    its words", True)
        if request["do"] == "answer":
            count = len(positions := request["positions"])
            observe(Progress(request["task"], count, count, "samples"))
            return {
                **self.world.made(
                    sealed(positions, [f"{request['blend']} {k}" for k in positions])
                ),
                "loading": 0.0,
                "answering": 0.0005 * count,
            }
        if request["do"] == "positions":
            return {"positions": [int(sample) for sample in request["samples"]]}
        if request["do"] == "right":
            pairs = zip(request["positions"], request["answers"], strict=True)
            return {"outcomes": {str(k): float(text.endswith(f" {k}")) for k, text in pairs}}
        Path(request["keep"]).write_text("\n".join(request["answers"]))
        return {"value": sum(len(answer) for answer in request["answers"])}

    def kill(self) -> None:
        """It answers nothing any more."""
        self.ended.set()

    def close(self) -> None:
        """The same."""
        self.ended.set()


class World:
    """Fake workers, what they were asked, and what happens to them."""

    def __init__(self) -> None:
        self.hands: list[FakeHand] = []
        self.asked: list[tuple[int, str, tuple[int, ...]]] = []
        self.happens: Callable[[FakeHand, dict[str, Any]], None] = lambda hand, request: None
        self.made: Callable[[dict[str, Any]], dict[str, Any]] = lambda reply: reply

    def spawn(self, number: int) -> Hand:
        """Another one."""
        self.hands.append(FakeHand(number, self))
        return self.hands[-1]

    def before(self, hand: FakeHand, request: dict[str, Any]) -> None:
        """Take down what is asked, and let it happen."""
        what = request.get("blend", request["do"])
        self.asked.append((hand.number, str(what), tuple(request.get("positions", ()))))
        self.happens(hand, request)

    def fleet(self, count: int, rules: Rules = SMALL, evaluators: int = 0) -> Fleet:
        """Of so many."""
        return Fleet(
            count,
            self.spawn,
            lambda hand, evaluates: None,
            lambda k: Path(f"log-{k}"),
            rules,
            evaluators=evaluators,
        )


def work(place: Path, blend: str, likelihood: float = 1.0, samples: int = 100) -> Work:
    """A blend that is asked one benchmark."""
    request = {
        "blend": blend,
        "benchmark": "x",
        "key": f"key of {blend}",
        "keep": str(place / f"{blend}.tsv"),
        "task": f"{blend} on x",
    }
    return Work(request, blend, "x", samples, False, likelihood)


def answers(place: Path, blend: str) -> list[str]:
    """What was evaluated."""
    return (place / f"{blend}.tsv").read_text().splitlines()


@pytest.mark.parametrize("seed", range(4))
def test_answers_come_together_by_question_whoever_dies(tmp_path: Path, seed: int) -> None:
    """Five workers of random speed, of whom one in eight dies at each slice."""
    world, chance = World(), random.Random(seed)

    def happens(hand: FakeHand, request: dict[str, Any]) -> None:
        time.sleep(0.004 * chance.random())
        if chance.random() < 0.12:
            hand.kill()

    world.happens = happens
    fleet = world.fleet(5, Rules(shortest=0.002, longest=0.01, fewest=4, deaths=10**6))
    works = [work(tmp_path, blend) for blend in "abcdef"]
    fleet.expect(works, ignore)
    for one in works:
        events: list[Event] = []
        found = fleet.measure(one, events.append)
        expected = [f"{one.holds} {k}" for k in range(100)]
        assert answers(tmp_path, one.holds) == expected
        assert found == {"value": sum(map(len, expected))}
        (took,) = [event for event in events if isinstance(event, Took)]
        assert took.answered == 100
    fleet.close()
    assert all(hand.ended.is_set() for hand in world.hands)
    assert all(seat.thread is None or not seat.thread.is_alive() for seat in fleet._seats)


def test_three_deaths_at_a_slice_end_in_its_error(tmp_path: Path) -> None:
    """Deaths at other slices do not count; what else was answered is kept, and not asked again."""
    world = World()

    def happens(hand: FakeHand, request: dict[str, Any]) -> None:
        if 50 in request.get("positions", ()):
            hand.kill()

    world.happens = happens
    fleet = world.fleet(2)
    notes: list[Event] = []
    with pytest.raises(ScoringError) as error:
        fleet.measure(work(tmp_path, "a"), notes.append)
    fleet.close()
    line, *words = str(error.value).splitlines()
    assert line.startswith("3 workers died at: a on x; the last, worker ")
    assert line.endswith("; the end of what it printed (the whole is in log-0):") or "log-1" in line
    assert words == ["    its words"]
    texts = [event.text for event in notes if isinstance(event, Note)]
    assert [text[-14:] for text in texts] == ["(death 1 of 3)", "(death 2 of 3)"]
    kept = len((tmp_path / "a.answers").read_text().splitlines()) - 1
    assert kept > 0
    world.happens, world.asked = (lambda hand, request: None), []
    again = world.fleet(2)
    again.measure(work(tmp_path, "a"), ignore)
    again.close()
    assert sum(len(positions) for _, _, positions in world.asked) == 100 - kept
    assert answers(tmp_path, "a") == [f"a {k}" for k in range(100)]


LIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "gave 3 answers to 4 questions": lambda reply: reply | {"answers": reply["answers"][:-1]},
    "gave 5 answers to 4 questions": lambda reply: reply | {"answers": [*reply["answers"], "x"]},
    "answered other questions, or in another order": lambda reply: sealed(
        reply["positions"][::-1], reply["answers"][::-1]
    ),
    "gave answers that are not as they were made": lambda reply: (
        reply | {"answers": reply["answers"][::-1]}
    ),
    "said what is no answer": lambda reply: reply | {"answers": [1, 2, 3, 4]},
}


@pytest.mark.parametrize("said", LIES)
def test_answers_that_do_not_fit_are_none(tmp_path: Path, said: str) -> None:
    """Too few, too many, in another order, with a false checksum: they are asked again, and one
    who does nothing else ends the run.
    """
    world, lies = World(), [True]
    world.made = lambda reply: LIES[said](reply) if lies and lies.pop() else reply
    rules = Rules(shortest=0.002, longest=0.01, fewest=4, grace=0.3, deaths=3)
    notes: list[Event] = []
    fleet = world.fleet(1, rules)
    fleet.measure(work(tmp_path, "a", samples=4), notes.append)
    fleet.close()
    assert answers(tmp_path, "a") == [f"a {k}" for k in range(4)]
    (text,) = [event.text for event in notes if isinstance(event, Note)]
    assert text.startswith(f"worker 1 {said} (at: a on x); 4 questions will be done again")
    world.made = LIES[said]
    fleet = world.fleet(1, rules)
    with pytest.raises(
        ScoringError, match=f"3 workers died at: b on x; the last, worker 1, {said}"
    ):
        fleet.measure(work(tmp_path, "b", samples=4), ignore)
    fleet.close()


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    """After so many times what its slice should take; somebody else does it."""
    world = World()
    hung = threading.Event()

    def happens(hand: FakeHand, request: dict[str, Any]) -> None:
        if 90 in request.get("positions", ()) and not hung.is_set():
            hung.set()
            hand.ended.wait(20)

    world.happens = happens
    fleet = world.fleet(2)
    notes: list[Event] = []
    fleet.measure(work(tmp_path, "warm"), ignore)
    fleet.measure(work(tmp_path, "b"), ignore)  # a second load: now it is known how long one takes
    hung.clear()
    fleet.measure(work(tmp_path, "c"), notes.append)
    fleet.close()
    assert any("gave no answer for far longer than it should take" in str(note) for note in notes)
    assert answers(tmp_path, "c") == [f"c {k}" for k in range(100)]


def test_what_was_made_ahead_is_used_or_goes(tmp_path: Path) -> None:
    """Answers to what was likely are counted as saved or as dropped; no file of theirs stays."""
    world = World()
    fleet = world.fleet(2)
    for blend in "xyz":  # now it knows how long things take
        fleet.measure(work(tmp_path, blend), ignore)
    ahead = threading.Event()

    def happens(hand: FakeHand, request: dict[str, Any]) -> None:
        if request["do"] == "score" and request["task"] == "a on x":
            ahead.wait(20)

    world.happens = happens
    fleet._queue.speeds.evaluated("x", 10.0)  # a judge is slow: there is time for guesses
    a, b, c = (work(tmp_path, blend, share) for blend, share in (("a", 1), ("b", 0.5), ("c", 0.5)))
    fleet.expect([a, b, c], ignore)

    def watch() -> None:
        while any(len(one.answers) < 100 for one in fleet.gathered.all()):
            time.sleep(0.005)
        ahead.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    fleet.measure(a, ignore)
    watcher.join()
    events: list[Event] = []
    fleet.expect([work(tmp_path, "b")], events.append)
    before = len(world.asked)
    fleet.measure(work(tmp_path, "b"), events.append)
    assert [x for x in world.asked[before:] if x[1] == "b"] == [], "all was there"
    fleet.expect([], events.append)
    assert (fleet.gathered.saved, fleet.gathered.dropped) == (100, 100)
    assert Note("2 workers: of 200 answers that were made on a guess, 100 were wanted") in events
    fleet.close()
    assert {path.name[0] for path in tmp_path.iterdir()} == set("xyzab")


@pytest.mark.parametrize("seed", range(3))
def test_evaluators_change_nothing_whoever_dies(tmp_path: Path, seed: int) -> None:
    """Workers and evaluators of random speed, of whom some die: the same tables, no question twice.

    An evaluator is asked nothing but metrics.
    """
    world, chance = World(), random.Random(seed)

    def happens(hand: FakeHand, request: dict[str, Any]) -> None:
        time.sleep(0.004 * chance.random())
        if chance.random() < 0.1:
            hand.kill()

    world.happens = happens
    rules = Rules(shortest=0.002, longest=0.01, fewest=4, deaths=10**6)
    fleet = world.fleet(3, rules, evaluators=2)
    works = [work(tmp_path, blend) for blend in "abcdefgh"]
    fleet.expect(works, ignore)
    for one in works:
        fleet.measure(one, ignore)
        assert answers(tmp_path, one.holds) == [f"{one.holds} {k}" for k in range(100)]
    fleet.close()
    assert all(hand.ended.is_set() for hand in world.hands)
    theirs = {what for number, what, _ in world.asked if number >= EVALUATORS}
    assert theirs == {"score"}


def test_evaluators_that_cannot_begin_are_done_without(tmp_path: Path) -> None:
    """A warning, and workers evaluate themselves."""
    world = World()

    def teach(hand: Hand, evaluates: bool) -> None:
        if evaluates:
            raise ScoringError("no memory is left")

    fleet = Fleet(2, world.spawn, teach, lambda k: Path(f"log-{k}"), SMALL, evaluators=4)
    notes: list[Event] = []
    for blend in "abc":
        fleet.measure(work(tmp_path, blend), notes.append)
        assert answers(tmp_path, blend) == [f"{blend} {k}" for k in range(100)]
    fleet.close()
    assert [event.text for event in notes if isinstance(event, Note)] == [
        "evaluator 1 does not come back, the others go on: no memory is left"
    ]
    assert {number for number, what, _ in world.asked if what == "score"} <= {0, 1}


def test_how_many_evaluators_there_are() -> None:
    """One for four that there may be; more where metrics wait for longer than one takes to come."""
    assert [wants_more(there, 8, 0.0) for there in range(4)] == [True, True, False, False]
    assert wants_more(2, 8, 41.0)
    assert not wants_more(8, 8, 1000.0)
    assert not wants_more(0, 0, 1000.0)


def test_cores_that_are_to_spare_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each of several workers that have GPUs; a number is as many."""
    monkeypatch.setattr(devices, "gpus", lambda: 4)
    for cores, expected in ((64, 4), (10, 2), (8, 0), (2, 0)):
        monkeypatch.setattr(devices, "cores", lambda cores=cores: cores)
        assert spare("auto", 4, "auto") == expected
    monkeypatch.setattr(devices, "cores", lambda: 64)
    assert spare("auto", 1, "auto") == spare("auto", 4, "cpu") == spare(0, 4, "auto") == 0
    assert spare("3", 1, "cpu") == spare(3, 8, "auto") == 3
    for given in ("many", -1, 1.5):
        with pytest.raises(UsageError, match=f"--evaluators {given}: expected 0 or a number"):
            spare(given, 1, "cpu")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="on a Ray cluster workers evaluate"):
        VLMEvalKitScorer(ray="auto", evaluators=2)


def test_parts_are_answered_once(tmp_path: Path) -> None:
    """Some questions, others, then the rest of them."""
    world = World()
    fleet = world.fleet(3)
    one = work(tmp_path, "a")
    for samples in (["7", "3", "39"], ["0", "3", "21"]):
        found = fleet.outcomes(one, samples, ignore)
        assert found == {"outcomes": dict.fromkeys(samples, 1.0), "samples": 3}
    fleet.measure(one, ignore)
    fleet.close()
    asked = [k for _, what, positions in world.asked if what == "a" for k in positions]
    assert sorted(asked) == list(range(100))


def test_an_error_is_said_to_whoever_asks(tmp_path: Path) -> None:
    """What is only likely may fail: nobody hears of it, until it is wanted."""
    world = World()

    def happens(hand: FakeHand, request: dict[str, Any]) -> None:
        if request.get("blend") == "b":
            raise ScoringError("no room for b")

    world.happens = happens
    fleet = world.fleet(1)
    fleet.expect([work(tmp_path, "a"), work(tmp_path, "b", 0.5)], ignore)
    fleet.measure(work(tmp_path, "a"), ignore)
    with pytest.raises(ScoringError, match="no room for b"):
        fleet.measure(work(tmp_path, "b"), ignore)
    fleet.measure(work(tmp_path, "c"), ignore)
    fleet.close()


def test_a_seat_that_stays_empty_is_left_to_the_others(tmp_path: Path) -> None:
    """Its device does not come back: a warning, and the rest of the work for the others."""
    world = World()
    gone = threading.Event()

    def happens(hand: FakeHand, request: dict[str, Any]) -> None:
        mine = sum(number == 0 for number, _, _ in world.asked)
        if hand.number == 0 and request["do"] == "answer" and mine > 2 and not gone.is_set():
            gone.set()
            raise ScoringError("index 3: CUDA error: an illegal memory access")
        time.sleep(0.002)

    def teach(hand: Hand, evaluates: bool) -> None:
        if gone.is_set():
            raise ScoringError("torch cannot compute there")

    world.happens = happens
    fleet = Fleet(2, world.spawn, teach, lambda k: Path(f"log-{k}"), SMALL)
    notes: list[Event] = []
    for blend in "abc":
        fleet.measure(work(tmp_path, blend, samples=200), notes.append)
        assert len(answers(tmp_path, blend)) == 200
    fleet.close()
    texts = [event.text for event in notes if isinstance(event, Note)]
    assert texts[0].startswith("worker 1 lost its device (index 3: CUDA error")
    assert texts[1] == ("worker 1 does not come back, the others go on: torch cannot compute there")


def test_one_that_ends_when_it_begins_is_started_again(tmp_path: Path) -> None:
    """Three times at most; where it never spoke, and nobody else did, at once it is an error."""
    world = World()
    died: list[Hand] = []

    def teach(hand: Hand, evaluates: bool) -> None:
        if len(died) < 2:
            died.append(hand)
            raise Died("was killed", "", True)

    fleet = Fleet(1, world.spawn, teach, lambda k: Path(f"log-{k}"), SMALL)
    notes: list[Event] = []
    fleet.measure(work(tmp_path, "a"), notes.append)
    fleet.close()
    texts = [event.text for event in notes if isinstance(event, Note)]
    begun = "worker 1 was killed (when it began); it is started again"
    assert texts == [f"{begun} (death {k} of 3)" for k in (1, 2)]

    def never(hand: Hand, evaluates: bool) -> None:
        raise Died("ended with exit code 1", "    No module", False)

    fleet = Fleet(2, world.spawn, never, lambda k: Path(f"log-{k}"), SMALL)
    with pytest.raises(ScoringError, match=r"exit code 1 \(when it began\); (?s:.*)No module"):
        fleet.measure(work(tmp_path, "b"), ignore)
    fleet.close()


def test_all_end_at_once_whatever_they_are_at(tmp_path: Path) -> None:
    """As at Ctrl-C: within two seconds, with a worker that answers nothing and one that starts."""
    world = World()
    blocked = threading.Event()

    def teach(hand: Hand, evaluates: bool) -> None:
        if world.hands[0] is not hand:
            blocked.set()
            world.hands[-1].ended.wait(30)
            raise Died("was ended", "", True)

    world.happens = lambda hand, request: hand.ended.wait(30) and None
    fleet = Fleet(2, world.spawn, teach, lambda k: Path(f"log-{k}"), SMALL)
    fleet.expect([work(tmp_path, "a"), work(tmp_path, "b")], ignore)
    blocked.wait(10)
    begun = time.monotonic()
    fleet.close()
    assert time.monotonic() - begun < 2
    assert all(hand.ended.is_set() for hand in world.hands)
    assert not any(seat.thread and seat.thread.is_alive() for seat in fleet._seats)


PARENT = """
import os, signal, sys, time
from pathlib import Path
from soup.evaluators.workers.process import Process
process = Process(sys.executable, Path(sys.argv[1]))
time.sleep(float(sys.argv[2]))
os.kill(process.pid, signal.SIGSTOP)
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_not_even_a_worker_that_hangs_outlives_its_parent(tmp_path: Path) -> None:
    """It cannot see that its input has closed: the kernel ends it."""
    if sys.platform != "linux":
        pytest.skip("PR_SET_PDEATHSIG is Linux's")
    arguments = [sys.executable, "-c", PARENT, str(tmp_path / "log"), "1.5"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    place = Path("/proc") / done.stdout.strip()
    end = time.monotonic() + 10
    while place.exists() and ") Z" not in (place / "stat").read_text():
        assert time.monotonic() < end, f"worker {place.name} is still there"
        time.sleep(0.02)


def test_each_worker_has_devices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs by CUDA_VISIBLE_DEVICES, those that were named; without any the cores are shared out."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "cores", lambda: 8)
    monkeypatch.setattr(devices, "gpus", lambda: 0)
    assert places("auto", 1, "auto", "auto") == [{}]
    assert [place["OMP_NUM_THREADS"] for place in places(3, 1, "auto", "auto")] == ["2"] * 3
    monkeypatch.setattr(devices, "gpus", lambda: 4)
    seen = "CUDA_VISIBLE_DEVICES"
    assert places("auto", 1, "auto", "auto") == [{seen: str(k)} for k in range(4)]
    assert places("2", 2, "cuda", "vllm") == [{seen: "0,1"}, {seen: "2,3"}]
    assert [place["OMP_NUM_THREADS"] for place in places(2, 1, "cpu", "auto")] == ["4"] * 2
    monkeypatch.setenv(seen, "GPU-a, GPU-b,7")
    assert places("auto", 1, "auto", "auto") == [{seen: x} for x in ("GPU-a", "GPU-b", "7")]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("many", 1, "auto", "auto"), "--workers many: expected a number of workers, or auto"),
        ((0, 1, "auto", "auto"), "--workers 0: expected a number"),
        ((5, 1, "auto", "auto"), "--workers 5: 5 GPUs needed, 4 seen here"),
        (("auto", 8, "auto", "vllm"), "--workers auto --gpus-per-worker 8: 8 GPUs needed, 4 seen"),
        ((2, 2, "auto", "auto"), "only vLLM puts a model on several GPUs; add --engine vllm"),
        ((2, 1, "cuda:1", "auto"), "--device cuda:1 is one device"),
        ((1, 2, "cpu", "vllm"), "--gpus-per-worker 2: no GPU is seen here, or --device cpu"),
    ],
)
def test_workers_that_cannot_be_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, given: tuple[Any, ...], words: str
) -> None:
    """Before anything starts."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "gpus", lambda: 4)
    with pytest.raises(UsageError, match=words):
        places(*given)


def test_a_scorer_of_several_workers_is_made_like_any_other() -> None:
    """From Python: a number."""
    assert VLMEvalKitScorer(workers=3, device="cpu").at_once == 3
    assert VLMEvalKitScorer().at_once == 1
