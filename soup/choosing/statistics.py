"""How sure a difference between two blends is that answered the same questions: pure numbers.

The mean of B benchmarks with weights w_b (1/B each, unless told) is a sum over clusters c of
questions: acc(m) = Σ_c x_c(m), where a group of questions g of term t (see ``soup.choosing.
questions``) adds 100 · w_b · share_t / n_t times its worst outcome to the cluster it lies in. Of a
difference D = acc(p) − acc(q):

- **Interval**: D ± t · √V, t the 97.5% quantile of Student's distribution with C − 1 degrees of
  freedom. V is the cluster-robust variance of a sum (Cameron & Miller 2015; Miller 2024,
  arXiv:2411.00640, section 2.2, where a benchmark is the only stratum):

      V = C/(C−1) · Σ_c u_c² + 2 · Σ_b (100 · w_b)² · mean_c(s_bc²)

  u_c = x_c(p) − x_c(q) − Σ_bt (share of c among the groups of t) · D_bt: what a cluster adds beyond
  its due. For an F1 u_c is its influence (Efron 1982, The Jackknife …, chapter 6: the limit of a
  bootstrap that resamples clusters). The second term is that of two imagined clusters, s_bc being
  the share of a cluster among the questions of b: one wholly won, one wholly lost. Without it the
  interval of two blends that hardly ever disagree is much too short (Bonett & Price 2012, J. Educ.
  Behav. Stat. 37(4); Agresti & Min 2005, Stat. Med. 24(5)).
- **p**: a sign-flip (permutation) test. Were both blends equally good, each cluster's outcomes
  could as well be swapped: p is the share of all swaps of which |Σ ± x_c| is at least |D|. For
  right-or-wrong outcomes without clusters it is McNemar's exact test, pooled over benchmarks. It is
  counted exactly where all |x_c| are multiples of one number, by ``FLIPS`` random swaps, the same
  each time, elsewhere; then p = (1 + count)/(1 + FLIPS) (Phipson & Smyth 2010).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from soup.choosing.difference import Difference as Difference  # known from here, too
from soup.choosing.quantiles import student
from soup.choosing.questions import Questions, Term

Array = NDArray[np.float64]

FLIPS = 9_999
"""Random swaps of a test that is not counted exactly; the smallest p is then 0.0001."""

CLOSE = 0.01
"""Points by which a number may differ from what its outcomes make: kits round reports."""

LATTICE = 1 << 16
"""The most steps of the smallest part that an exact count goes through."""

CHUNK = 512
"""Random swaps made at a time: 512 × 15,000 clusters × 4 bytes are 31 MB."""


@dataclass(frozen=True)
class Told:
    """What was recorded of one benchmark, for several blends.

    Attributes:
        name: the benchmark's.
        questions: as its scorer described them; None for a journal that does not say.
        outcomes: per blend, by question, 0–1; empty where there are none.
        values: per blend, the recorded number, 0–100.
        weight: of the benchmark in the mean.
    """

    name: str
    questions: Questions | None
    outcomes: Sequence[Mapping[str, float]]
    values: Sequence[float]
    weight: float


class Paired:
    """Blends that answered the same questions, ready to be compared with each other.

    Attributes:
        means: per blend, the weighted mean of its numbers, 0–100.
        unknown: why differences cannot be told from noise; empty where they can.
        clusters: how many there are.
    """

    def __init__(self, told: Sequence[Told]) -> None:
        self.means: Array = np.array(
            [sum(t.weight * v for t, v in zip(told, vs, strict=True)) for vs in _columns(told)]
        )
        self.unknown = ""
        names: dict[str, int] = {}
        blocks = []
        for one in told:
            block = _Block.of(one, names)
            if isinstance(block, str):
                self.unknown = block
                return
            blocks.append(block)
        blends = len(self.means)
        self.clusters = count = 1 + max(_roots(blocks, len(names)).values(), default=-1)
        roots = _roots(blocks, len(names))
        self._x = np.zeros((count, blends))
        self._influence = np.zeros((count, blends))
        self._curved: list[tuple[Array, Array, float]] = []
        self._imagined = 0.0
        for block in blocks:
            at = np.array([roots[c] for c in block.cluster])
            whole = np.bincount(at, minlength=count) / len(at)
            self._imagined += 2 * (100 * block.weight) ** 2 * float((whole[whole > 0] ** 2).mean())
            block.add(at, count, self._x, self._influence, self._curved)

    def covariance(self, imagined: float = 1.0) -> Array:
        """Of the blends' means, in square points: (blends, blends); see the module for V.

        Args:
            imagined: how much of the imagined clusters' variance is added, so that the matrix is
                positive definite; 1 as in the intervals of ``differences``.
        """
        scale = self.clusters / max(self.clusters - 1, 1)
        found: Array = scale * self._influence.T @ self._influence
        return found + imagined * self._imagined / 2 * np.eye(len(found))

    def differences(self, pairs: Sequence[tuple[int, int]]) -> list[Difference]:
        """The first of each pair minus the second, by their places among the blends."""
        gains = [round(float(self.means[p] - self.means[q]), 10) for p, q in pairs]
        if self.unknown:
            return [Difference(gain, unknown=self.unknown) for gain in gains]
        scale = self.clusters / max(self.clusters - 1, 1)
        quantile = student(max(self.clusters - 1, 1), 0.975)
        parts = [self._swapped(p, q) for p, q in pairs]
        tails = _tails(parts)
        found = []
        for (p, q), gain, part, (two, one) in zip(pairs, gains, parts, tails, strict=True):
            if not part.any() and gain == 0 and p == q:
                found.append(Difference(0.0, 0.0, 0.0, 1.0, 1.0))
                continue
            u = self._influence[:, p] - self._influence[:, q]
            reach = quantile * float(np.sqrt(scale * u @ u + self._imagined))
            found.append(Difference(gain, gain - reach, gain + reach, two, one))
        return found

    def disagreement(self, p: int, q: int) -> float:
        """The share of clusters of questions, 0–1, in which the two blends did not do alike."""
        apart = np.abs(self._swapped(p, q)) > 1e-12
        return float(apart.mean()) if len(apart) else 0.0

    def _swapped(self, p: int, q: int) -> Array:
        """Per cluster, what swapping the two blends' outcomes would turn around."""
        part: Array = self._x[:, p] - self._x[:, q]
        for right, wrong, weight in self._curved:  # the F1 of both together does not change
            a, e = right[:, p] + right[:, q], wrong[:, p] + wrong[:, q]
            total = float(a.sum() + e.sum()) / 2
            f = float(a.sum()) / 2 / total
            d = (1 - f) * (right[:, p] - right[:, q]) - f * (wrong[:, p] - wrong[:, q])
            part = part + 100 * weight * d / total
        return part


@dataclass
class _Block:
    """One benchmark as arrays: outcomes (questions, blends), and the cluster of each question."""

    weight: float
    keys: list[str]
    outcomes: Array
    cluster: list[int]
    questions: Questions
    joined: list[tuple[int, int]]

    @classmethod
    def of(cls, told: Told, names: dict[str, int]) -> "_Block | str":
        """The arrays; or why there are none."""
        questions = told.questions or Questions()
        keys = list(told.outcomes[0]) if told.outcomes else []
        if not keys or any(not found for found in told.outcomes):
            return f"{told.name}: no outcomes of single questions are recorded"
        if any(found.keys() != told.outcomes[0].keys() for found in told.outcomes):
            return f"{told.name}: not the same questions were recorded for all"
        rows = [np.fromiter(map(found.__getitem__, keys), float) for found in told.outcomes]
        outcomes = np.stack(rows, 1)
        made = values_of(questions, keys, outcomes)
        if np.abs(made - np.array(told.values)).max() > CLOSE:
            return f"{told.name}: its number is not made of its questions' outcomes alone"
        cluster = []
        for key in keys:  # one that shares nothing is alone, whatever other benchmarks call theirs
            name = questions.clusters.get(key)
            name = f"{told.name}\n{key}" if name is None else f"\n{name}"
            cluster.append(names.setdefault(name, len(names)))
        joined = []
        for term in questions.terms:
            first: dict[str, int] = {}
            for key, at in zip(keys, cluster, strict=True):
                group = None if term.groups is None else term.groups.get(key)
                if group is not None and first.setdefault(group, at) != at:
                    joined.append((first[group], at))
        return cls(told.weight, keys, outcomes, cluster, questions, joined)

    def add(
        self,
        at: NDArray[np.int64],
        count: int,
        x: Array,
        influence: Array,
        curved: list[tuple[Array, Array, float]],
    ) -> None:
        """Add this benchmark's part to the clusters' sums."""
        if self.questions.positive:
            right, wrong = _f1_parts(self.questions, self.keys, self.outcomes)
            a, e = _sums(at, right, count), _sums(at, wrong, count)
            total = a.sum(0) + e.sum(0)
            f = a.sum(0) / total
            influence += 100 * self.weight * ((1 - f) * a - f * e) / total
            curved.append((a, e, self.weight))
            return
        for term in self.questions.terms:
            groups, first = _groups(term, self.keys, self.outcomes)
            scale = 100 * self.weight * term.share / len(groups)
            x += scale * _sums(at[first], groups, count)
            influence += scale * _sums(at[first], groups - groups.mean(0), count)


def values_of(questions: Questions, keys: Sequence[str], outcomes: Array) -> Array:
    """The benchmark's number, 0–100, per blend: ``outcomes`` is (questions, blends)."""
    if questions.positive:
        right, wrong = (part.sum(0) for part in _f1_parts(questions, keys, outcomes))
        return np.asarray(100 * right / np.maximum(right + wrong, 1e-12))
    total = np.zeros(outcomes.shape[1])
    for term in questions.terms:
        total += 100 * term.share * _groups(term, keys, outcomes)[0].mean(0)
    return total


def _groups(
    term: Term, keys: Sequence[str], outcomes: Array
) -> tuple[Array, NDArray[np.int64] | slice]:
    """Each group's worst outcome (groups, blends), and the place of its first question."""
    if term.groups is None:
        return outcomes, slice(None)
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        if key in term.groups:
            places.setdefault(term.groups[key], []).append(place)
    if not places:
        return np.zeros((1, outcomes.shape[1])), np.zeros(1, int)
    order = [place for group in places.values() for place in group]
    starts = np.cumsum([0, *(len(group) for group in places.values())])[:-1]
    first = np.array([group[0] for group in places.values()])
    return np.minimum.reduceat(outcomes[order], starts, axis=0), first


def _f1_parts(questions: Questions, keys: Sequence[str], outcomes: Array) -> tuple[Array, Array]:
    """Per question and blend 2·TP and FP + FN: F1 is the first's share of both."""
    yes = np.array([questions.positive.get(key, 0.0) for key in keys])[:, None]
    no = np.array([questions.negative.get(key, 0.0) for key in keys])[:, None]
    return 2 * yes * outcomes, (yes + no) * (1 - outcomes)


def _columns(told: Sequence[Told]) -> list[tuple[float, ...]]:
    return list(zip(*(one.values for one in told), strict=True))


def _roots(blocks: Sequence[_Block], count: int) -> dict[int, int]:
    """Clusters that a group of questions holds together become one; numbered from 0."""
    parent = list(range(count))

    def find(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for block in blocks:
        for a, b in block.joined:
            parent[find(a)] = find(b)
    numbers: dict[int, int] = {}
    return {k: numbers.setdefault(find(k), len(numbers)) for k in range(count)}


def _sums(at: NDArray[np.int64], rows: Array, count: int) -> Array:
    """Rows summed by cluster: (count, blends)."""
    found = np.empty((count, rows.shape[1]))
    for column in range(rows.shape[1]):
        found[:, column] = np.bincount(at, rows[:, column], minlength=count)
    return found


def sign_flip(parts: Array) -> tuple[float, float]:
    """Two-sided and one-sided (above) p of the sum of ``parts``; see the module."""
    return _tails([parts])[0]


def _tails(parts: Sequence[Array]) -> list[tuple[float, float]]:
    found: list[tuple[float, float] | None] = [_exact(part) for part in parts]
    left = [k for k, pair in enumerate(found) if pair is None]
    if left:
        for k, pair in zip(left, _sampled(np.stack([parts[k] for k in left], 1)), strict=True):
            found[k] = pair
    return [pair for pair in found if pair is not None]


def _exact(part: Array) -> tuple[float, float] | None:
    """Counted over all swaps, where all parts are multiples of one number."""
    sizes = np.abs(part)
    largest = float(sizes.max(initial=0.0))
    sizes = sizes[sizes > 1e-9 * largest]
    if not len(sizes):
        return 1.0, 1.0
    unit = float(sizes.min())
    for divisor in range(1, 13):
        steps = sizes * divisor / unit
        if np.abs(steps - steps.round()).max() < 1e-6 * divisor and steps.sum() <= LATTICE:
            break
    else:
        return None
    odds = np.ones(1)  # of the sum of the parts that were turned around, in steps
    for step, many in zip(*np.unique(steps.round().astype(int), return_counts=True), strict=True):
        one = np.zeros(int(step) * int(many) + 1)
        one[:: int(step)] = _fair_coins(int(many))
        odds = _convolve(odds, one)
    total = len(odds) - 1
    mine = round(float(part.sum()) * divisor / unit)  # = 2 · turned − total
    sums = 2 * np.arange(total + 1) - total
    two = float(odds[np.abs(sums) >= abs(mine)].sum())
    return min(two, 1.0), min(float(odds[sums >= mine].sum()), 1.0)


def _fair_coins(n: int) -> Array:
    """Odds of 0 … n heads."""
    k = np.arange(1, n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])
    return np.asarray(np.exp(logs - n * np.log(2)))


def _convolve(a: Array, b: Array) -> Array:
    if min(len(a), len(b)) < 64:
        return np.convolve(a, b)
    size = 1 << (len(a) + len(b) - 2).bit_length()
    found = np.fft.irfft(np.fft.rfft(a, size) * np.fft.rfft(b, size), size)
    return np.asarray(np.maximum(found[: len(a) + len(b) - 1], 0.0))


def _sampled(parts: Array) -> list[tuple[float, float]]:
    """Of each column of (clusters, columns), by the same random swaps for all."""
    parts = parts[np.abs(parts).any(1)]
    scale = np.abs(parts).sum(0)
    columns = (parts / scale).astype(np.float32)
    mine = columns.sum(0, dtype=np.float64)
    edge = np.abs(mine) - 1e-6
    generator = np.random.default_rng(20_200_921)
    two, above = np.zeros(parts.shape[1]), np.zeros(parts.shape[1])
    for start in range(0, FLIPS, CHUNK):
        rows = min(CHUNK, FLIPS - start)
        bits = generator.integers(0, 256, (rows, -(-len(parts) // 8)), dtype=np.uint8)
        signs = np.unpackbits(bits, axis=1, count=len(parts)).astype(np.float32)
        sums = 2 * (signs @ columns) - columns.sum(0)
        two += (np.abs(sums) >= edge).sum(0)
        above += (sums >= mine - 1e-6).sum(0)
    tails = np.stack([1 + two, 1 + above], 1) / (1 + FLIPS)
    return [(float(t), float(a)) for t, a in tails]
