"""The promises of docs/statistics.md on the scale of a whole suite; `pytest -m slow` runs them.

The worlds are those of benchmarks/simulations.py. Each bound leaves room for three standard
deviations of the simulation itself, so that a promise that is kept fails about once in 700 runs.
"""

import importlib.util
import sys
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from soup.choosing.statistics import sign_flip

slow = pytest.mark.slow

QUESTIONS = 15_000


def load(name: str) -> ModuleType:
    """A module of benchmarks/, which is no package."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


simulations = load("simulations")
confident = load("confident")


def at_most(count: int, of: int, promise: float) -> bool:
    """Whether a rate is at most what was promised, but for the simulation's own error."""
    return count / of <= promise + 3 * sqrt(promise * (1 - promise) / of)


@slow
@pytest.mark.parametrize("label", ["two members", "two members, much alike", "images of 10"])
def test_intervals_have_the_truth_in_them(label: str) -> None:
    """Of nominal 95% at least 93, with 15,000 questions."""
    shapes = {"two members, much alike": {"shared": 0.97}, "images of 10": {"together": 10}}
    base = simulations.Setting(label, QUESTIONS, 2, spread=0.07, **shapes.get(label, {}))
    missed = 0
    for k in range(200):
        world = simulations.World(base, np.random.default_rng([1, k]))
        (found,) = world.paired([[0], [1]]).differences([(0, 1)])
        missed += not found.low <= world.truth([0]) - world.truth([1]) <= found.high
    assert at_most(missed, 200, 0.07)


@slow
@pytest.mark.parametrize("members", [4, 20])
def test_significant_keeps_nobody_where_nobody_helps(members: int) -> None:
    """Of whole runs at most alpha keep anybody; any rise keeps somebody in most."""
    setting = simulations.Setting("nobody helps", QUESTIONS, members)

    def sure(world: "simulations.World", trial: Sequence[int], soup: Sequence[int]) -> bool:
        d = world.outcomes(trial) - world.outcomes(soup)
        return bool(sign_flip(d)[1] <= 0.05 / (members - 1))

    kept, plain = 0, 0
    for k in range(60):
        for accept in (None, sure):
            world = simulations.World(setting, np.random.default_rng([2, k]))
            found = len(simulations.greedy(world, accept).soup) > 1
            kept, plain = kept + (found and accept is not None), plain + (found and not accept)
    assert at_most(kept, 60, 0.05)
    assert plain > 15


@slow
@pytest.mark.parametrize("members", [4, 20])
def test_the_corrected_gain_is_not_flattered(members: int) -> None:
    """Where nobody helps and the shown gain is all luck: less than a tenth of a point remains."""
    setting = simulations.Setting("nobody helps", QUESTIONS, members)
    errors, hits = [], 0
    for k in range(40):
        world = simulations.World(setting, np.random.default_rng([3, k]))
        path = simulations.greedy(world)
        true = world.truth(path.soup) - world.truth(path.order[:1])
        gain, low, high = simulations.corrected(world, path) if len(path.soup) > 1 else (0, 0, 0)
        errors.append(gain - true)
        hits += low - 1e-9 <= true <= high + 1e-9
    assert abs(float(np.mean(errors))) < 0.1
    assert at_most(40 - hits, 40, 0.07)


@slow
@pytest.mark.parametrize("label", ["nobody helps, 200", "a little helps, 300"])
def test_few_questions_and_many_members_flatter_by_a_point_and_more(label: str) -> None:
    """What the corrected gain errs by stays below a tenth, but for the simulation's own error."""
    settings = {"nobody helps, 200": (200, 10), "a little helps, 300": (300, 10)}
    bonus = 0.05 if "little" in label else 0.0
    setting = simulations.Setting(label, *settings[label], bonus=bonus)
    naive, errors = [], []
    for k in range(400):
        world = simulations.World(setting, np.random.default_rng([6, k]))
        path = simulations.greedy(world)
        true = world.truth(path.soup) - world.truth(path.order[:1])
        naive.append(world.number(path.soup) - world.number(path.order[:1]) - true)
        errors.append(simulations.corrected(world, path)[0] - true if len(path.soup) > 1 else 0.0)
    assert np.mean(naive) > 0.8
    assert abs(float(np.mean(errors))) < 0.1 + 3 * float(np.std(errors)) / sqrt(400)


@slow
@pytest.mark.parametrize("sizes", [(1000,) * 15, (300,) * 3])
@pytest.mark.parametrize("error", [0.05, 0.2])
def test_a_winner_is_hardly_ever_stopped(sizes: tuple[int, ...], error: float) -> None:
    """One that wins by a single answer, at all looks together."""
    stopped = 0
    for k in range(300):
        two = confident.pairs(np.random.default_rng([4, k]), sizes, 0.1, 0.0)
        stopped += confident.bets(*two, sizes, error) < 1
    assert at_most(stopped, 300, error)


def test_the_simulated_bets_are_those_of_the_product() -> None:
    """All at once, or look by look: the same share of the questions."""
    from soup.choosing.confident import LOOKS, Seen

    sizes = (100, 300, 50)
    for k in range(40):
        random = np.random.default_rng([5, k])
        differences, room = confident.pairs(random, sizes, 0.2, -6.0)
        count = sum(sizes)
        weights = np.concatenate([np.full(n, count / 3 / n) for n in sizes])
        order = random.permutation(count)
        x, left = (differences * weights)[order], (room * weights)[order]
        expected = confident.walked(x, left, weights, 0.05)
        ends = [-(-count * look // LOOKS) for look in range(1, LOOKS)]
        looks = [Seen(list(x[:end]), float(left[end:].sum()), list(weights)) for end in ends]
        found = next(
            (end / count for end, seen in zip(ends, looks, strict=True) if seen.lost(0.0, 0.05)),
            1.0,
        )
        assert found == pytest.approx(expected)
