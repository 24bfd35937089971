"""What --confident keeps of its promise, and saves: beside the test before it, and beside a race.

    python benchmarks/confident.py [--runs 200] [--seed 0] [--only TABLE]

docs/early-stopping.md has the tables of one run.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist

import numpy as np
from simulations import Setting, World

from soup.choosing.confident import DISAGREE, LOOKS, MOST, PRIOR, SHARE
from soup.choosing.statistics import Array

SIZES = {
    "3 of 300": (300,) * 3,
    "3 of 1,000": (1000,) * 3,
    "six of POINTS' sizes": (1164, 1500, 3088, 1000, 1000, 218),
}
TRIALS = 9
"""Of a run whose error is split over all of them."""

Test = Callable[[Array, Array, Sequence[int], float], float]
"""From differences and what could be won, question by question, benchmark after benchmark, to the
share of questions that was answered."""


def pairs(random: np.random.Generator, sizes: Sequence[int], q: float, d: float) -> list[Array]:
    """Paired differences with a share q of questions answered otherwise, d points on average.

    With d = 0 the candidate wins by one answer of the first benchmark, exactly.
    """
    found = []
    for b, n in enumerate(sizes):
        if d == 0:
            losses = int(q * n / 2)
            row = np.zeros(n)
            row[:losses], row[losses : 2 * losses + (b == 0)] = -1, 1
            found.append(random.permutation(row))
        else:
            u = random.random(n)
            up, down = (q + d / 100) / 2, (q - d / 100) / 2
            found.append((u < up).astype(float) - ((u >= up) & (u < up + down)))
    differences = np.concatenate(found)
    soup = np.where(differences == 0, random.random(len(differences)) < 0.6, differences < 0)
    return [differences, 1.0 - soup]


def normal(differences: Array, room: Array, sizes: Sequence[int], error: float) -> float:
    """The test of earlier versions: stratified, normal, nine looks, Bonferroni."""
    z = NormalDist().inv_cdf(1 - error / 9)
    starts, count = np.cumsum([0, *sizes]), len(sizes)
    for look in range(1, 10):
        mean = variance = possible = 0.0
        answered = 0
        for start, n in zip(starts, sizes, strict=False):
            seen = -(-n * look // 10)
            d = differences[start : start + seen]
            u = d.sum() / (seen + 2)
            mean += (d.sum() + (n - seen) * u) / n / count
            variance += (n - seen) / n * (((d * d).sum() + 2) / (seen + 2) - u**2) / seen / count**2
            possible += (d.sum() + room[start + seen : start + n].sum()) / n / count
            answered += seen
        if min(mean + z * np.sqrt(variance), possible) <= 1e-11:
            return answered / starts[-1]
    return 1.0


def bets(differences: Array, room: Array, sizes: Sequence[int], error: float) -> float:
    """As ``soup.choosing.confident``, all questions at once; a test compares the two."""
    count = sum(sizes)
    weights = np.concatenate([np.full(n, count / len(sizes) / n) for n in sizes])
    order = np.random.default_rng(len(differences)).permutation(count)
    return walked(*((part * weights)[order] for part in (differences, room)), weights, error)


def walked(x: Array, room: Array, weights: Array, error: float) -> float:
    """The same for weighted differences in the order in which they are answered."""
    count, most = len(x), float(weights.max())
    k = np.arange(count)
    total = np.concatenate([[0.0], np.cumsum(x)[:-1]])
    square = PRIOR * DISAGREE * (weights**2).mean() + np.concatenate([[0.0], np.cumsum(x * x)[:-1]])
    missing = -total / (count - k)
    bet = np.sqrt(
        2
        * np.log(1 / error)
        / (SHARE * count)
        / (square / (PRIOR + k) - (total / (PRIOR + k)) ** 2)
    )
    inside = missing < most
    bet[inside] = np.minimum(bet[inside], MOST / (most - missing[inside]))
    growth = np.where(missing > -most, np.log1p(np.maximum(bet * (missing - x), -1 + 1e-12)), 0.0)
    growth[missing > most] = np.inf
    possible = np.cumsum(x) + room.sum() - np.cumsum(room)
    lost = (np.cumsum(growth) >= np.log(1 / error)) | (possible <= 1e-9)
    lost = np.maximum.accumulate(lost)
    for look in range(1, LOOKS):
        seen = -(-count * look // LOOKS)
        if lost[seen - 1]:
            return seen / count
    return 1.0


def promises(runs: int, seed: int) -> Iterator[list[str]]:
    """A winner by one answer stopped, and the share of answers that losers take, by points lost."""
    yield [
        "questions", "answered otherwise", "promise", "test", "winner stopped",
        "loses by 4", "by 2", "by 1", "by ½",
    ]  # fmt: skip
    levels = {"each trial 95%": 0.05, f"all {TRIALS} together 95%": 0.05 / TRIALS}
    tests: dict[str, Test] = {"before": normal, "now": bets}
    for label, sizes in SIZES.items():
        for q in (0.05, 0.15):
            for level, error in levels.items():
                for name, test in tests.items():
                    cells = []
                    for d in (0.0, -4.0, -2.0, -1.0, -0.5):
                        random = np.random.default_rng([seed, int(100 * q), int(-10 * d)])
                        made = (pairs(random, sizes, q, d) for _ in range(runs))
                        stops = np.array([test(*two, sizes, error) for two in made])
                        rate = (stops < 1).mean()
                        spread = np.sqrt(rate * (1 - rate) / runs)
                        cells.append(
                            f"{100 * stops.mean():.0f}%"
                            if d
                            else f"{100 * rate:.1f}% ± {100 * spread:.1f}"
                        )
                    yield [label, f"{100 * q:.0f}%", level, name, *cells]


WORLDS = (
    Setting("nobody helps", 3000, 10),
    Setting("unequal members", 3000, 10, spread=0.1),
    Setting("a little helps", 3000, 10, spread=0.05, bonus=0.05),
    Setting("averaging removes some errors", 3000, 10, spread=0.1, merging=0.3),
)


def racing(runs: int, seed: int) -> Iterator[list[str]]:
    """Whole greedy runs: trials one after another, or all raced; answers of trials, true gain."""
    yield ["world", "order", "answers, of all trials in full", "kept", "true gain"]
    for setting in WORLDS:
        found: dict[str, list[list[float]]] = {"rank": [], "race": []}
        for k in range(runs):
            for name, run in (("rank", one_by_one), ("race", raced)):
                world = World(setting, np.random.default_rng([seed, k]))
                order = sorted(range(setting.members), key=lambda j: -world.number([j]))
                answered, soup = run(world, order)
                gain = world.truth(soup) - world.truth(order[:1])
                found[name].append([answered / (setting.members - 1), len(soup) - 1, gain])
        for name, rows in found.items():
            share, kept, gain = np.array(rows).mean(0)
            yield [setting.label, name, f"{100 * share:.0f}%", f"{kept:.1f}", f"{gain:+.2f}"]


def _behind(world: World, trial: Sequence[int], soup: Sequence[int], error: float) -> float:
    order = np.random.default_rng(1).permutation(world.setting.questions)
    x = (world.outcomes(trial) - world.outcomes(soup))[order]
    room = 1 - world.outcomes(soup)[order]
    return walked(x, room, np.ones(len(x)), error)


def one_by_one(world: World, order: Sequence[int]) -> tuple[float, list[int]]:
    """As ``soup greedy --confident 0.95``: questions answered, in benchmarks, and the soup."""
    soup, answered = list(order[:1]), 0.0
    for member in order[1:]:
        trial = [*soup, member]
        share = _behind(world, trial, soup, 0.05 / (len(order) - 1))
        answered += share
        if share == 1.0 and world.number(trial) > world.number(soup) + 1e-9:
            soup = trial
    return answered, soup


def raced(world: World, order: Sequence[int]) -> tuple[float, list[int]]:
    """Successive elimination: all that are left are tried on the same questions, the best is kept.

    A candidate leaves the run when it has lost to the soup, and the stage when it has lost to
    another candidate; the error is split over all pairs.
    """
    soup, left, answered = list(order[:1]), list(order[1:]), 0.0
    error = 0.05 / (len(order) * (len(order) - 1))
    while left:
        to_soup = {j: _behind(world, [*soup, j], soup, error) for j in left}
        ends = dict(to_soup)
        for i in left:
            for j in left:
                if i != j:
                    end = _behind(world, [*soup, i], [*soup, j], error)
                    if end <= ends[j]:  # j was still in the race
                        ends[i] = min(ends[i], end)
        answered += sum(ends.values())
        whole = [j for j in left if ends[j] == 1.0]
        best = max(whole, key=lambda j: world.number([*soup, j]), default=None)
        if best is None or world.number([*soup, best]) <= world.number(soup) + 1e-9:
            break
        left = [j for j in left if j != best and to_soup[j] == 1.0]
        soup.append(best)
    return answered, soup


TABLES = {"promises": promises, "race": racing}


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(TABLES))
    given = parser.parse_args()
    for name, table in TABLES.items():
        if given.only in (None, name):
            print(f"\n**{name}**: {(table.__doc__ or '').splitlines()[0]}\n")
            for k, row in enumerate(table(given.runs, given.seed)):
                print("| " + " | ".join(row) + " |", flush=True)
                if k == 0:
                    print("|" + "---|" * len(row))


if __name__ == "__main__":
    main()
