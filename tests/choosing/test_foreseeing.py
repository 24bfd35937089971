"""soup/choosing/foreseeing.py and explaining.py: before a run, and after a disappointing one."""

import json
from pathlib import Path

import pytest
from scipy import stats

from soup.checkpoints.pool import Pool
from soup.choosing.explaining import why_few
from soup.choosing.foreseeing import detectable, foresee
from soup.choosing.journal import Journal
from soup.choosing.records import encode
from soup.choosing.statistics import Difference
from soup.evaluators.fake import FakeScorer
from soup.evaluators.kit.suites import questions_in
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors


def trial(gain: float, reach: float = 1.0) -> Difference:
    """A measured one."""
    return Difference(gain, gain - reach, gain + reach, 0.5, 0.3)


def test_a_detectable_gain_is_found_four_times_in_five() -> None:
    """By a two-sided test at 5%."""
    gain = detectable(0.7)
    power = stats.norm.sf(1.959964 - gain / 0.7)
    assert power == pytest.approx(0.8, abs=1e-4)


def test_without_a_journal_the_number_of_questions_decides(tmp_path: Path) -> None:
    """Two benchmarks of 15% disagreement; costs of a greedy run and of a plain score."""
    journal = Journal.open(tmp_path)
    found = foresee(journal, "greedy", 6, ["x", "y"], ["z"], {"x": 1000, "y": 500, "z": 10})
    error = 100 * (0.25 * 0.15 / 1000 + 0.25 * 0.15 / 500) ** 0.5
    assert found.gain == pytest.approx(2.8016 * error, rel=1e-4)
    assert not found.measured
    assert (found.evaluations, found.samples) == (11, 11 * 1500 + 7 * 10)
    assert found.seconds is None
    assert foresee(journal, "score", 6, ["x"], [], {"x": 10}).samples == 60
    blind = foresee(journal, "greedy", 6, ["x", "y"], [], {"x": 10})
    assert (blind.gain, blind.samples, blind.unknown) == (None, None, ("y",))


def test_a_journal_knows_errors_and_speeds(tmp_path: Path) -> None:
    """The median of its trials' intervals, and of its seconds per question."""
    paths = [make_checkpoint(tmp_path / n, random_tensors(k)) for k, n in enumerate("abc")]

    def right(blend: object, benchmark: str, sample: int) -> float:
        names = str([m.name for m in blend.members])  # type: ignore[attr-defined]
        return float(hash_of(names, sample) % 3 > 0)

    def hash_of(*parts: object) -> int:
        import hashlib

        return int(hashlib.sha256(repr(parts).encode()).hexdigest()[:8], 16)

    settings = Settings(("x",), out=tmp_path / "out", work=tmp_path / "work")
    board = make("greedy", Pool.open(*paths), FakeScorer(right=right, samples=400), settings)
    file = tmp_path / "work" / "journal.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for k, line in enumerate(line for line in lines if line["kind"] == "result"):
        assert line["seconds"] >= 0
        line["seconds"] = 100.0 * (k + 1)
    file.write_bytes(
        b"".join(encode({k: v for k, v in line.items() if k != "crc"}) for line in lines)
    )
    found = foresee(Journal.open(tmp_path / "work"), "greedy", 3, ["x"], [], {})
    ends = [step.difference for step in board.path[1:]]
    errors = sorted((d.high - d.low) / 3.92 for d in ends)  # type: ignore[operator,union-attr]
    assert found.measured
    assert found.gain == pytest.approx(2.8016 * sum(errors) / 2, rel=1e-3)
    assert found.seconds == pytest.approx(5 * 300)


def test_questions_are_counted_in_a_file_or_known_by_name(tmp_path: Path) -> None:
    """A quoted line break is none; what is neither is not known."""
    file = tmp_path / "mine.tsv"
    file.write_text('index\tquestion\n1\t"two\nlines"\n2\tx\n')
    assert questions_in(str(file)) == 2
    assert questions_in("MMVet") == 218
    assert questions_in("Unheard") is None
    assert questions_in(str(tmp_path / "none.tsv")) is None
    with file.open("wb") as endless:
        endless.truncate(1 << 40)
    assert questions_in(str(file)) is None


@pytest.mark.parametrize(
    ("trials", "behind", "disagree", "advice"),
    [
        ([trial(-0.2), trial(0.1)], 0.5, 0.02, "too much alike"),
        ([trial(-0.2), trial(-2)], 5.0, 0.3, "5.0 points behind the best"),
        ([trial(-9), trial(-8)], 0.5, 0.3, "different basins"),
        ([trial(-0.2), trial(0.1)], 0.5, 0.3, "more questions"),
        ([trial(-2.5), trial(-2.0)], 0.5, 0.3, "add nothing here"),
    ],
)
def test_why_nobody_was_kept(
    trials: list[Difference], behind: float, disagree: float, advice: str
) -> None:
    """From the run's own numbers, one piece of advice."""
    text = why_few(0, [("b", trials[0]), ("c", trials[1])], 0, behind, disagree)
    assert text.startswith("greedy kept nobody of 2 trials. The best was + ")
    assert f"differ on {100 * disagree:.0f}% of the questions" in text
    assert "cannot tell gains below 1.4 points" in text
    assert advice in text


def test_a_soup_that_kept_many_needs_no_reason() -> None:
    """Nor one of a single member; without outcomes only the count and advice are left."""
    assert why_few(1, [("b", trial(1)), ("c", trial(-1))], 0, 1.0, 0.3) == ""
    assert why_few(0, [], 0, None, None) == ""
    assert why_few(0, [("b", trial(-1))], 0, None, None).startswith(
        "greedy kept nobody of 1 trial. "
    )
    blind = [("b", Difference(-1.0, unknown="x: none"))]
    assert why_few(0, blind, 1, 1.0, None) == (
        "greedy kept nobody of 2 trials. The others add nothing here: try members trained on other "
        "data."
    )
