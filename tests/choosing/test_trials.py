"""soup/choosing/trials.py: greedy runs whose losing trials end early, with the fake scorer."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.confident import Stopped
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import Leaderboard
from soup.choosing.scoring import Benchmark, Part, Result, Scorer
from soup.errors import ScoringError, UsageError
from soup.evaluators.fake import FakeScorer, by_names
from soup.events import Event, Note, Observer
from soup.run import Settings, make, show
from tests.conftest import make_checkpoint, random_tensors

SIZE = 300


def chance(*parts: object) -> float:
    """A number in 0–1 that only its arguments decide."""
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class World:
    """Outcomes as of real models: some questions are hard for all, each model errs by itself.

    A blend is as able as its members are on average, and a bit more for being many.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, blend: Blend, benchmark: str, sample: int) -> float:
        """One outcome."""
        names = [member.name for member in blend.members]
        abilities = [self._ability(name, benchmark) for name in names]
        ability = sum(abilities) / len(names) + 0.04 * (1 - 1 / len(names))
        shared = chance(self.seed, benchmark, sample)
        own = chance(self.seed, *names, benchmark, sample)
        return float(0.8 * shared + 0.2 * own < ability)

    def _ability(self, name: str, benchmark: str) -> float:
        talent = chance(self.seed, name)
        return 0.4 + 0.4 * talent + 0.1 * chance(self.seed, name, benchmark)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Eight small members."""
    directory = tmp_path_factory.mktemp("pool")
    paths = [
        make_checkpoint(directory / name, random_tensors(k)) for k, name in enumerate("abcdefgh")
    ]
    return Pool.open(*paths)


def settings(place: Path, **changes: object) -> Settings:
    """Three benchmarks; confident unless told."""
    values: dict[str, object] = {
        "benchmarks": ("x", "y", "z"),
        "out": place / "out",
        "work": place / "work",
        "confident": 0.95,
    }
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


def decisions(board: Leaderboard) -> list[tuple[str, bool]]:
    """What was tried and whether it was kept."""
    return [(step.tried, step.kept) for step in board.path]


@pytest.mark.parametrize("seed", range(10))
def test_decisions_are_those_of_the_full_run(pool: Pool, tmp_path: Path, seed: int) -> None:
    """The same members kept, the same soup; what is kept has its full mean; fewer samples."""
    full, early = (FakeScorer(right=World(seed), samples=SIZE) for _ in range(2))
    expected = make("greedy", pool, full, settings(tmp_path / "1", confident=None))
    found = make("greedy", pool, early, settings(tmp_path / "2"))
    assert decisions(found) == decisions(expected)
    assert found.soup is not None
    assert expected.soup is not None
    assert found.soup.digest == expected.soup.digest
    assert found.soup.scores == expected.soup.scores
    skipped = 0
    for step, whole in zip(found.path, expected.path, strict=True):
        if step.stopped is None:
            assert step == whole
        else:
            assert step.mean is None
            assert step.stopped.of == 3 * SIZE
            skipped += step.stopped.of - step.stopped.samples
    assert early.answered == full.answered - skipped
    assert skipped > 0


def test_a_run_of_stopped_trials_again_measures_nothing(pool: Pool, tmp_path: Path) -> None:
    """Neither results nor stopped trials are repeated; other settings are another trial."""
    fake = FakeScorer(right=World(0), samples=SIZE)
    first = make("greedy", pool, fake, settings(tmp_path))
    answered = fake.answered
    assert make("greedy", pool, fake, settings(tmp_path)) == first
    assert show(tmp_path / "work") == first
    assert fake.answered == answered
    make("greedy", pool, fake, settings(tmp_path, confident=0.99))
    assert fake.answered > answered


def test_what_is_measured_in_full_is_not_guessed(pool: Pool, tmp_path: Path) -> None:
    """After a full run, or one without --confident after it, full means decide."""
    fake = FakeScorer(right=World(0), samples=SIZE)
    make("greedy", pool, fake, settings(tmp_path))
    full = make("greedy", pool, fake, settings(tmp_path, confident=None))
    assert all(step.mean is not None for step in full.path)
    answered = fake.answered
    again = make("greedy", pool, fake, settings(tmp_path))
    assert again.path == full.path
    assert fake.answered == answered


class Dies(FakeScorer):
    """A scorer that dies after a number of samples, as a killed run does."""

    def __init__(self, after: int) -> None:
        super().__init__(right=World(0), samples=SIZE)
        self.after = after

    def _answer(self, blend: Blend, name: str, samples: Sequence[str]) -> dict[str, float]:
        if self.answered >= self.after:
            raise ScoringError("stopped")
        return super()._answer(blend, name, samples)


@pytest.mark.parametrize("share", [0.82, 0.87, 0.91, 0.95, 0.99])
def test_a_killed_run_goes_on_to_the_same_decisions(
    pool: Pool, tmp_path: Path, share: float
) -> None:
    """Between looks, between trials, in the rest of a trial that was not stopped."""
    whole = FakeScorer(right=World(0), samples=SIZE)
    expected = make("greedy", pool, whole, settings(tmp_path / "1"))
    with pytest.raises(ScoringError):
        make("greedy", pool, Dies(int(share * whole.answered)), settings(tmp_path / "2"))
    found = make("greedy", pool, FakeScorer(right=World(0), samples=SIZE), settings(tmp_path / "2"))
    assert found.path == expected.path
    lines = [json.loads(line) for line in Journal.open(tmp_path / "2" / "work").path.open()]
    keys = [line["key"] for line in lines if "key" in line]
    assert len(keys) == len(set(keys)), "a result or a trial was repeated"
    undisturbed = Journal.open(tmp_path / "1" / "work")
    assert set(keys) == undisturbed.results.keys() | undisturbed.trials.keys()


class Odd(FakeScorer):
    """A scorer one of whose benchmarks has a number of its own making."""

    def __init__(self, odd: str) -> None:
        super().__init__(right=World(0), samples=SIZE)
        self.odd = odd
        self.parts: list[str] = []

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """As VLMEvalKit does for HallusionBench: not the mean of the outcomes."""
        found = super().measure(blend, benchmark, task, observe)
        if benchmark.name != self.odd:
            return found
        return Result(found.benchmark, found.value**2 / 100, found.samples, 0.0, found.outcomes)

    def outcomes(
        self,
        blend: Blend,
        benchmark: Benchmark,
        samples: Sequence[str],
        task: str,
        observe: Observer,
    ) -> Part:
        """Notes what was asked for."""
        self.parts.append(benchmark.name)
        return super().outcomes(blend, benchmark, samples, task, observe)


def test_numbers_that_are_no_mean_of_samples_are_measured_in_full_first(
    pool: Pool, tmp_path: Path
) -> None:
    """The others are stopped as ever, with its exact difference known; decisions are the same."""
    full, early = Odd("y"), Odd("y")
    expected = make("greedy", pool, full, settings(tmp_path / "1", confident=None))
    found = make("greedy", pool, early, settings(tmp_path / "2"))
    assert decisions(found) == decisions(expected)
    assert set(early.parts) == {"x", "z"}
    stopped = [step.stopped for step in found.path if step.stopped]
    assert stopped
    assert all(s.samples > SIZE and s.of == 3 * SIZE for s in stopped)
    tried = {names for names, benchmark in full.calls if len(names) > 1 and benchmark == "y"}
    assert {names for names, name in early.calls if len(names) > 1 and name == "y"} == tried


def test_without_outcomes_everything_is_measured_in_full(pool: Pool, tmp_path: Path) -> None:
    """A benchmark of which only the number is known: confident changes nothing."""
    full, early = FakeScorer(), FakeScorer()
    expected = make("greedy", pool, full, settings(tmp_path / "1", confident=None))
    found = make("greedy", pool, early, settings(tmp_path / "2"))
    assert found.path == expected.path
    assert early.calls == full.calls


def test_what_was_skipped_is_shown(pool: Pool, tmp_path: Path) -> None:
    """In the notes, in JSON beside the keys that stay, in Markdown."""
    events: list[Event] = []
    fake = FakeScorer(right=World(0), samples=SIZE)
    board = make("greedy", pool, fake, settings(tmp_path), events.append)
    step = next(step for step in board.path if step.stopped)
    assert isinstance(step.stopped, Stopped)
    assert step.stopped.estimate < 0
    text = str(step.stopped)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert f"+ {step.tried}: {text}, not kept" in notes
    paths = {entry["tried"]: entry for entry in json.loads(board.to_json())["path"]}
    assert paths[step.tried] == {
        "tried": step.tried,
        "mean": None,
        "kept": False,
        "stopped": {
            "samples": step.stopped.samples,
            "of": 3 * SIZE,
            "estimate": step.stopped.estimate,
        },
    }
    assert paths[board.path[0].tried].keys() == {"tried", "mean", "kept"}
    assert f"| {step.tried} | – |  |  |  | {text} |" in board.to_markdown()


@pytest.mark.parametrize("confidence", [0.5, 1.0, 95.0, -1.0, float("nan")])
def test_confidence_is_more_than_a_coin_and_less_than_certain(confidence: float) -> None:
    """One line, before anything is read."""
    with pytest.raises(UsageError, match="more than 0.5 and less than 1, e.g. 0.95"):
        Settings(confident=confidence)


class Whole:
    """A scorer that knows no parts."""

    def __init__(self) -> None:
        self._fake = FakeScorer(by_names({}))
        self.benchmarks = self._fake.benchmarks
        self.measure = self._fake.measure


def test_confidence_needs_trials_and_a_scorer_of_parts(pool: Pool, tmp_path: Path) -> None:
    """Both are said before anything is scored."""
    for kind in ("max", "average", "blend"):
        with pytest.raises(UsageError, match=f"is for a greedy soup; {kind} has no trials"):
            make(kind, pool, FakeScorer(), settings(tmp_path))
    whole: Scorer = Whole()
    with pytest.raises(UsageError, match="answers a benchmark bit by bit"):
        make("greedy", pool, whole, settings(tmp_path))
