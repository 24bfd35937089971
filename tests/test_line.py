"""soup/line.py: the score along the line between two members."""

import os
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.explaining import why_few
from soup.choosing.lines import Line, Point
from soup.choosing.statistics import Difference
from soup.errors import UsageError
from soup.evaluators.fake import FakeScorer
from soup.events import Event
from soup.holding import LOCK
from soup.line import line
from soup.run import Settings, make, show
from soup.watching.state import running


def valley(blend: Blend, benchmark: str) -> float:
    """70 for single members and 40 in the middle of two."""
    return 70 - 120 * min(blend.weights[-1], 1 - blend.weights[-1])


def settings(tmp_path: Path) -> Settings:
    """One benchmark, places inside the test's directory."""
    return Settings(benchmarks="x", work=tmp_path / "work", out=tmp_path / "out")


def test_a_line_has_its_barrier_and_is_kept(pool_paths: list[Path], tmp_path: Path) -> None:
    """Places at equal steps; the greedy run says why it kept nobody, and JSON has the line."""
    scorer = FakeScorer(valley)
    board = make("greedy", Pool.open(*pool_paths), scorer, settings(tmp_path))
    assert board.lines == ()
    found = line(Pool.open(*pool_paths[:2]), scorer, settings(tmp_path), 5)
    assert [(p.t, p.mean) for p in found.points] == [
        (0, 70), (0.25, 40), (0.5, 10), (0.75, 40), (1, 70),
    ]  # fmt: skip
    assert found.barrier == 60
    board = show(tmp_path / "work")
    assert board.command == "greedy"
    assert board.lines == (found,)
    assert board.to_dict()["lines"][0]["barrier"] == 60
    assert "60.00 points below the straight line between a and b" in board.why
    assert "There is a barrier between members" in board.why
    assert "weight differences to the mean of all is" in board.why


def test_known_results_are_not_measured_again(pool_paths: list[Path], tmp_path: Path) -> None:
    """Members', and the middle's, in whichever order it was tried."""

    def ordered(blend: Blend, benchmark: str) -> float:
        return valley(blend, benchmark) - "abcd".index(blend.members[0].name)

    scorer = FakeScorer(ordered)
    make("greedy", Pool.open(*pool_paths), scorer, settings(tmp_path))
    assert any(set(names) == {"a", "b"} for names, _ in scorer.calls)
    scorer.calls.clear()
    line(Pool.open(*reversed(pool_paths[:2])), scorer, settings(tmp_path), 5)
    assert len(scorer.calls) == 2
    scorer.calls.clear()
    line(Pool.open(*reversed(pool_paths[:2])), scorer, settings(tmp_path), 5)
    assert scorer.calls == []


def test_a_line_between_members_of_other_files_says_so(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """Nothing but weights changes along it: all is asked with the first one's files."""
    (pool_paths[1] / "tokenizer_config.json").write_text('{"model_max_length": 7}')
    asked = set()

    def watched(blend: Blend, benchmark: str) -> float:
        asked.add(blend.companions.digest)
        return valley(blend, benchmark)

    found = line(Pool.open(*pool_paths[:2]), FakeScorer(watched), settings(tmp_path), 3)
    assert len(asked) == 1
    assert "was asked with the companion files of a: those of b" in found.words()[-1]
    assert found.to_dict()["asked_with"] == "a"
    again = line(Pool.open(pool_paths[0], pool_paths[2]), FakeScorer(valley), settings(tmp_path), 3)
    assert len(again.words()) == 2 and "asked_with" not in again.to_dict()


def test_what_is_no_line_is_refused(pool_paths: list[Path], tmp_path: Path) -> None:
    """In one line, before anything is scored."""
    two, scorer = Pool.open(*pool_paths[:2]), FakeScorer()
    with pytest.raises(UsageError, match="expected 2 members, found 3"):
        line(Pool.open(*pool_paths[:3]), scorer, settings(tmp_path))
    with pytest.raises(UsageError, match="--points 2: expected 3 or more"):
        line(two, scorer, settings(tmp_path), 2)
    with pytest.raises(UsageError, match="add --bench NAME"):
        line(two, scorer, Settings(work=tmp_path))
    with pytest.raises(UsageError, match="use macro"):
        line(two, scorer, Settings(benchmarks="x", mean="z", work=tmp_path))
    (tmp_path / "copy").symlink_to(pool_paths[0])
    with pytest.raises(UsageError, match="a and copy hold the same weights"):
        line(Pool.open(pool_paths[0], tmp_path / "copy"), scorer, settings(tmp_path))
    assert scorer.calls == []


def test_a_line_without_a_valley_says_so() -> None:
    """And where its best place is."""
    points = [Point(0, 50, {}), Point(0.5, 55, {}), Point(1, 52, {})]
    words = Line("a", "b", points).words()
    assert words[0] == "no place between a and b is below the straight line"
    assert words[1] == "the best place is t = 0.50: 55.00 (+3.00 to the better end)"
    lost = [("c", Difference(-1.0, -2.0, 0.0, 0.1))]
    assert "No place between a and b" in why_few(
        0, lost, 0, 0.5, 0.3, None, [Line("a", "b", points)]
    )


def test_a_line_works_alone_and_says_so(pool_paths: list[Path], tmp_path: Path) -> None:
    """It has the directory for itself, and says what it does meanwhile."""
    seen: list[tuple[str, bool]] = []

    def look(event: Event) -> None:
        held = f"(process {os.getpid()} " in (tmp_path / "work" / LOCK).read_text()
        seen.extend((state.command, held) for state in running(tmp_path / "work"))

    line(Pool.open(*pool_paths[:2]), FakeScorer(valley), settings(tmp_path), 3, look)
    assert ("line", True) in seen
