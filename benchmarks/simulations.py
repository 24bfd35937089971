"""What the statistics promise, checked in made-up worlds where the truth is known.

    python benchmarks/simulations.py [--runs 400] [--seed 0] [--only TABLE]

Members answer questions of unequal difficulty, each with errors of its own; a soup's latent answer
is the mean of its members', so its errors go with theirs. The truth of a world is what infinitely
many questions would show. docs/statistics.md has the tables of one run.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import numpy as np
from scipy.special import ndtr

from soup.choosing import corrected as correcting
from soup.choosing.corrected import Trial, corrected_gain
from soup.choosing.questions import Questions
from soup.choosing.statistics import Array, Paired, Told, sign_flip

BENCHMARKS = 3


@dataclass(frozen=True)
class Setting:
    """A kind of world.

    Attributes:
        label: for the table.
        questions: of all benchmarks together.
        members: in the pool.
        spread: of the members' skills, standard deviations of the latent scale; 0.1 are about 3
            points.
        merging: how much of its members' errors a soup loses by averaging: 0 none, so that no soup
            is better than its members are on average, 1 all.
        bonus: of a soup of many over its members' mean, on the latent scale; 0.05 are 1.5 points.
        shared: variance of a question's difficulty; the rest, to 1, is each model's own.
        mixed: spread of what members bring to a soup beyond their skill, on the latent scale.
        together: questions about one image; half of all variances is theirs together.
        graded: whether outcomes are 0, 0.1, … 1.
    """

    label: str
    questions: int = 900
    members: int = 6
    spread: float = 0.0
    merging: float = 0.0
    bonus: float = 0.0
    mixed: float = 0.0
    shared: float = 0.6
    together: int = 1
    graded: bool = False


@dataclass
class World:
    """One draw of a setting: the same members, and the questions of one night."""

    setting: Setting
    random: np.random.Generator
    skills: Array = field(init=False)
    extra: Array = field(init=False)
    _known: dict[tuple[int, ...], Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        s = self.setting
        self.skills = s.spread * self.random.standard_normal(s.members)
        self.image = np.arange(s.questions) // s.together
        self._hard = np.sqrt(s.shared) * self._noise(1)[:, 0]
        self._own = np.sqrt(1 - s.shared) * self._noise(s.members)
        self.extra = s.mixed * self.random.standard_normal(s.members)

    def _noise(self, columns: int) -> Array:
        """Of variance 1; half of it of the image, where questions share one."""
        half = 0.5 if self.setting.together > 1 else 0.0
        own = self.random.standard_normal((self.setting.questions, columns))
        images = self.random.standard_normal((self.image[-1] + 1, columns))[self.image]
        return np.asarray(np.sqrt(1 - half) * own + np.sqrt(half) * images)

    def outcomes(self, soup: Sequence[int]) -> Array:
        """Of each question, 0–1."""
        key = tuple(sorted(soup))
        if key not in self._known:
            scale = len(key) ** (0.5 * (1 - self.setting.merging))
            latent = self._skill(key) + self._hard + scale * self._own[:, list(key)].mean(1)
            right = np.clip(np.round(latent + 0.5, 1), 0, 1) if self.setting.graded else latent > 0
            self._known[key] = right.astype(float)
        return self._known[key]

    def number(self, soup: Sequence[int]) -> float:
        """As benchmarks of one size would report it, 0–100."""
        return float(100 * self.outcomes(soup).mean())

    def truth(self, soup: Sequence[int]) -> float:
        """Over all questions that there could be, 0–100."""
        s = self.setting
        spread = np.sqrt(s.shared + (1 - s.shared) / len(soup) ** s.merging)
        mean = self._skill(soup)
        if not s.graded:
            return float(100 * ndtr(mean / spread))
        # round(z, 1) ≥ v where z ≥ v − 0.05; the mean of a bounded number is a sum of such odds
        steps = np.arange(1, 11) / 10
        return float(10 * ndtr((mean + 0.5 - steps + 0.05) / spread).sum())

    def _skill(self, soup: Sequence[int]) -> float:
        bonus = self.setting.bonus + float(self.extra[list(soup)].mean())
        return 0.3 + float(self.skills[list(soup)].mean()) + bonus * (1 - 1 / len(soup))

    def paired(self, soups: Sequence[Sequence[int]]) -> Paired:
        """The blends as the leaderboard sees them: several benchmarks, images as clusters."""
        parts = np.array_split(np.arange(self.setting.questions), BENCHMARKS)
        told = []
        for k, part in enumerate(parts):
            keys = [str(q) for q in part]
            images = {key: f"i{self.image[q]}" for key, q in zip(keys, part, strict=True)}
            rows = [self.outcomes(soup)[part] for soup in soups]
            outcomes = [dict(zip(keys, row, strict=True)) for row in rows]
            values = [float(100 * row.mean()) for row in rows]
            about = Questions(clusters=images)
            told.append(Told(f"b{k}", about, outcomes, values, len(part) / self.setting.questions))
        return Paired(told)


Accept = Callable[[World, Sequence[int], Sequence[int]], bool]


@dataclass(frozen=True)
class Path:
    """A greedy run: members best first, what was tried against what, who is in the soup."""

    order: list[int]
    tried: list[tuple[list[int], int, bool]]
    soup: list[int]


def greedy(world: World, accept: Accept | None = None) -> Path:
    """As ``soup greedy`` does it."""
    order = sorted(range(world.setting.members), key=lambda j: -world.number([j]))
    soup, tried = order[:1], []
    for member in order[1:]:
        trial = [*soup, member]
        rises = world.number(trial) > world.number(soup) + 1e-9
        keep = rises and (accept is None or accept(world, trial, soup))
        tried.append((soup, member, keep))
        soup = trial if keep else soup
    return Path(order, tried, soup)


def corrected(world: World, path: Path) -> tuple[float, float, float]:
    """Estimate and interval of the soup's gain, as the leaderboard has them."""
    members = [[j] for j in path.order]
    blends = [*members, *([*before, member] for before, member, _ in path.tried)]
    place = {tuple(blend): k for k, blend in enumerate(blends)}
    trials = [
        Trial(place[tuple(before)], path.order.index(member), len(before))
        for before, member, _ in path.tried
    ]
    paired = world.paired(blends)
    covariance = paired.covariance(correcting.IMAGINED)
    found = corrected_gain(paired.means, covariance, trials, place[tuple(path.soup)], 0)
    return found.gain, found.low, found.high


def by_splits(world: World, path: Path, splits: int = 200) -> float:
    """The other way: the recipe rerun on halves of the questions, its gain read off the others.

    A trial that nobody scored is guessed: a member adds what it added when it was tried.
    """
    members = np.stack([world.outcomes([j]) for j in path.order], 1)
    added = np.stack([world.outcomes([*b, m]) - world.outcomes(b) for b, m, _ in path.tried], 1)
    images = world.image[-1] + 1
    optimism = []
    for _ in range(splits):
        half = world.random.permutation(images) < images // 2
        chosen, other = half[world.image], ~half[world.image]
        numbers, gains = 100 * members[chosen].mean(0), 100 * added[chosen].mean(0)
        fresh, later = 100 * members[other].mean(0), 100 * added[other].mean(0)
        order = np.argsort(-numbers)
        first, flattery = order[0], 0.0
        for j in order[1:]:
            if j:
                here, there = gains[j - 1], later[j - 1]
            else:  # the recorded best joins another: both together were tried, if at all, so
                here = numbers[0] + gains[first - 1] - numbers[first]
                there = fresh[0] + later[first - 1] - fresh[first]
            flattery += (here - there) * (here > 0)
        optimism.append(flattery / 2)
    naive = world.number(path.soup) - world.number(path.order[:1])
    return naive - float(np.mean(optimism))


NOBODY = [
    Setting("nobody helps"),
    Setting("nobody helps, 200 questions, 10 members", 200, 10),
    Setting("nobody helps, images of 3", together=3),
    Setting("nobody helps, 20 members, 3,000", 3000, 20),
    Setting("unequal members", 900, 10, spread=0.1),
    Setting("unequal members, 20", 900, 20, spread=0.05),
]
SOME = [
    Setting("a little helps", bonus=0.05),
    Setting("a little helps, 300 questions, 10 members", 300, 10, bonus=0.05),
    Setting("much helps", bonus=0.15),
    Setting("averaging removes all errors", merging=1.0),
    Setting("averaging removes some, unequal", 900, 10, spread=0.1, merging=0.3),
    Setting("a little helps, 8,000 questions", 8_000, 10, bonus=0.05, spread=0.05),
]

LARGE = [
    Setting("nobody helps, 15,000 questions, 4 members", 15_000, 4),
    Setting("nobody helps, 15,000 questions, 20 members", 15_000, 20),
    Setting("a little helps, 15,000 questions, 20 members", 15_000, 20, spread=0.05, bonus=0.05),
]
"""Minutes each."""

FEW = [
    Setting("nobody helps, 4 members", members=4),
    Setting("a little helps, 4 members", members=4, bonus=0.05),
    Setting("nobody helps, 3 members", members=3),
    Setting("a little helps, 3 members", members=3, bonus=0.05),
]
MIXED = [
    Setting("some help, some harm", members=8, mixed=0.1),
    Setting("some help much, some harm much", members=8, mixed=0.2),
]


def _none_left_out(x: Array, trials: Sequence[Trial], soup: int, many: int) -> dict[int, float]:
    """But the best member, whose number says nothing of bonuses."""
    return {0: float(x[soup])}


TRIED = {
    "as it is": {"ENOUGH": correcting.ENOUGH},
    "no trial left out": {"_gained": _none_left_out},
    "a prior for β": {"ENOUGH": 1_000},
    "imagined clusters whole": {"IMAGINED": 1.0},
    "bonuses differ in half": {"NONE": (0.5, 0.5, 0.6)},
    "members differ in 0.8": {"NONE": (0.2, 0.8, 0.6)},
}
"""What else ``soup.choosing.corrected`` could be."""


def intervals(runs: int, seed: int) -> Iterator[list[str]]:
    """How often the 95% interval of two members' difference has the truth in it, and p < 0.05."""
    yield ["world", "questions", "95% interval has the truth", "p ≤ 0.05 though equal"]
    for setting in (
        Setting("two members"),
        Setting("two members, much alike", shared=0.97),
        Setting("images of 10", together=10),
        Setting("graded", graded=True),
    ):
        for questions in (200, 2_000):
            hit, false = [], []
            for k in range(2 * runs):
                random = np.random.default_rng([seed, questions, k])
                equal = replace(setting, questions=questions, members=2)
                world = World(replace(equal, spread=0.07), random)
                (found,) = world.paired([[0], [1]]).differences([(0, 1)])
                true = world.truth([0]) - world.truth([1])
                assert found.low is not None
                assert found.high is not None
                hit.append(found.low <= true <= found.high)
                (found,) = World(equal, random).paired([[0], [1]]).differences([(0, 1)])
                assert found.p is not None
                false.append(found.p <= 0.05)
            yield [setting.label, f"{questions:,}", _share(hit), _share(false)]


def tried(runs: int, seed: int) -> Iterator[list[str]]:
    """Of the corrected gain made in other ways: bias, error, and how often its interval has it."""
    yield ["world", "as shown", *TRIED]
    for setting in (*NOBODY[:2], NOBODY[-1], *SOME[:3], *FEW, *MIXED):
        shown: list[float] = []
        found: dict[str, list[tuple[float, float, bool]]] = {name: [] for name in TRIED}
        for k in range(runs):
            world = World(setting, np.random.default_rng([seed, k]))
            path = greedy(world)
            true = world.truth(path.soup) - world.truth(path.order[:1])
            shown.append(world.number(path.soup) - world.number(path.order[:1]) - true)
            for name, changes in TRIED.items():
                with patch.multiple("soup.choosing.corrected", **changes):
                    gain, low, high = corrected(world, path) if len(path.soup) > 1 else (0, 0, 0)
                hit = low - 1e-9 <= true <= high + 1e-9
                found[name].append((gain - true, (gain - true) ** 2, hit))
        means = [np.mean(rows, 0) for rows in found.values()]
        cells = [f"{b:+.2f}, {np.sqrt(square):.2f}, {100 * hit:.0f}%" for b, square, hit in means]
        error = np.sqrt(np.mean(np.square(shown)))
        yield [setting.label, f"{np.mean(shown):+.2f}, {error:.2f}", *cells]


def large(runs: int, seed: int) -> Iterator[list[str]]:
    """The same with 15,000 questions."""
    return selection(runs, seed, LARGE)


def large_accepting(runs: int, seed: int) -> Iterator[list[str]]:
    """The same with 15,000 questions."""
    return accepting(runs, seed, LARGE)


def selection(
    runs: int, seed: int, settings: Sequence[Setting] = (*NOBODY, *SOME)
) -> Iterator[list[str]]:
    """How far a greedy soup's gain, as shown and as corrected, is from the truth."""
    yield [
        "world", "kept anybody", "true gain", "bias: as shown", "corrected", "by splits",
        "error: as shown", "corrected", "interval has the truth", "… of those that kept",
    ]  # fmt: skip
    for setting in settings:
        rows = []
        for k in range(runs):
            world = World(setting, np.random.default_rng([seed, k]))
            path = greedy(world)
            true = world.truth(path.soup) - world.truth(path.order[:1])
            shown = world.number(path.soup) - world.number(path.order[:1])
            if len(path.soup) == 1:
                rows.append([0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
                continue
            gain, low, high = corrected(world, path)
            split = by_splits(world, path, 50) if k < runs // 4 else np.nan
            rows.append([1.0, true, shown - true, gain - true, split - true, low <= true <= high])
        kept, true, shown, gain, split, hit = np.array(rows, float).T
        some = kept > 0
        yield [
            setting.label, f"{100 * kept.mean():.0f}%", f"{true.mean():+.2f}",
            f"{shown.mean():+.2f}", f"{gain.mean():+.2f} ± {gain.std() / len(gain) ** 0.5:.2f}",
            f"{np.nanmean(split):+.2f}",
            f"{np.sqrt((shown**2).mean()):.2f}", f"{np.sqrt((gain**2).mean()):.2f}",
            _share(hit), _share(hit[some]) if some.any() else "–",
        ]  # fmt: skip


def accepting(
    runs: int, seed: int, settings: Sequence[Setting] = (*NOBODY, *SOME)
) -> Iterator[list[str]]:
    """How often a run keeps anybody, and what its soup truly gains, by each rule."""
    yield [
        "world", "kept anybody: gain", "significant", "true gain: gain", "significant",
        "kept one that hurts: gain", "significant",
    ]  # fmt: skip
    for setting in settings:
        level = 0.05 / (setting.members - 1)

        def sure(world: World, trial: Sequence[int], soup: Sequence[int]) -> bool:
            d = world.outcomes(trial) - world.outcomes(soup)
            return sign_flip(np.bincount(world.image, d))[1] <= level  # noqa: B023

        found = []
        for k in range(runs):
            row = []
            for accept in (None, sure):
                world = World(setting, np.random.default_rng([seed, k]))
                path = greedy(world, accept)
                true = world.truth(path.soup) - world.truth(path.order[:1])
                row += [len(path.soup) > 1, true, true < -1e-9]
            found.append(row)
        kept, gain, hurt, kept2, gain2, hurt2 = np.array(found, float).T
        yield [
            setting.label, _share(kept), _share(kept2), f"{gain.mean():+.2f}",
            f"{gain2.mean():+.2f}", _share(hurt), _share(hurt2),
        ]  # fmt: skip


def _share(hits: Sequence[bool] | Array) -> str:
    """With its own Monte-Carlo error, one standard deviation."""
    p = float(np.mean(hits))
    return f"{100 * p:.1f}% ± {100 * np.sqrt(p * (1 - p) / len(hits)):.1f}"


def speed(runs: int, seed: int) -> Iterator[list[str]]:
    """Seconds for all differences of a greedy run of 20 members on benchmarks of POINTS' sizes."""
    yield ["what", "seconds"]
    sizes = (1164, 1500, 3088, 900, 951, 1000, 218, 1000)
    random, blends, told = np.random.default_rng(seed), 39, []
    for b, n in enumerate(sizes):
        latent = random.standard_normal((n, 1)) + 0.5 * random.standard_normal((n, blends))
        right = np.round(ndtr(latent), 1) if n == 218 else (latent > -0.3).astype(float)
        keys = [str(k) for k in range(n)]
        about = Questions(clusters={key: f"{b} {k // 2}" for k, key in enumerate(keys)})
        outcomes = [dict(zip(keys, column, strict=True)) for column in right.T]
        told.append(Told(str(b), about, outcomes, list(100 * right.mean(0)), 1 / len(sizes)))
    trials = [Trial(19 + k if k else 0, k + 1, k + 1) for k in range(19)]
    pairs = [(m, 0) for m in range(1, 39)] + [(20 + k, 19 + k) for k in range(19)]
    started = time.perf_counter()
    paired = Paired(told)
    yield ["outcomes as arrays", f"{time.perf_counter() - started:.2f}"]
    started = time.perf_counter()
    paired.differences(pairs)
    yield [f"{len(pairs)} intervals and p", f"{time.perf_counter() - started:.2f}"]
    started = time.perf_counter()
    corrected_gain(paired.means, paired.covariance(correcting.IMAGINED), trials, 38, 0)
    yield ["corrected gain", f"{time.perf_counter() - started:.2f}"]


TABLES = {"intervals": intervals, "corrected": selection, "accept": accepting, "speed": speed}
MORE = {"tried": tried, "large": large, "large-accept": large_accepting}
"""These take long, and are made where they are asked for by name."""


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted([*TABLES, *MORE]))
    given = parser.parse_args()
    chosen = TABLES if given.only is None else {given.only: (TABLES | MORE)[given.only]}
    for name, table in chosen.items():
        print(f"\n**{name}**: {(table.__doc__ or '').splitlines()[0]}\n")
        for k, row in enumerate(table(given.runs, given.seed)):
            print("| " + " | ".join(row) + " |", flush=True)
            if k == 0:
                print("|" + "---|" * len(row))


if __name__ == "__main__":
    main()
