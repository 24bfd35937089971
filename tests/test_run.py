"""soup/run.py: the walk from paths to a leaderboard, with the fake scorer."""

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import Leaderboard
from soup.choosing.scoring import Benchmark, Result
from soup.errors import CheckpointError, OutputError, ScoringError, UsageError
from soup.evaluators.fake import FakeScorer, by_names
from soup.events import Event, Note, Observer
from soup.run import Settings, make, score, show

TABLE = {
    ("a",): 60.0,
    ("b",): 70.0,
    ("c",): 50.0,
    ("d",): 65.0,
    ("b", "d"): 72.0,  # kept
    ("b", "d", "a"): 72.0,  # a tie: not kept
    ("b", "d", "c"): 73.0,  # kept
    ("a", "b", "c", "d"): 71.0,
}


def settings(tmp_path: Path, **changes: object) -> Settings:
    """Places inside the test's directory, two benchmarks and a hold-out."""
    values: dict[str, object] = {
        "benchmarks": ("x", "y"),
        "holdouts": ("z",),
        "out": tmp_path / "out",
        "work": tmp_path / "work",
    }
    return Settings(**{**values, **changes})  # type: ignore[arg-type]


def scorer() -> FakeScorer:
    """Scores from the table; the hold-out's are others, and would decide otherwise."""
    look_up = by_names({**TABLE, ("b", "d", "c"): 73.0})
    return FakeScorer(lambda blend, name: look_up(blend, name) if name != "z" else 1.0)


def test_a_member_that_changes_while_it_is_scored_gets_no_score(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """Its result would be recorded for weights that were not scored."""

    def late(blend: Blend, name: str) -> float:
        if blend.members[0].name == "b":
            os.utime(pool_paths[1] / "model-00001-of-00002.safetensors", ns=(0, 1))
        return 50.0

    pool = Pool.open(*pool_paths)
    with pytest.raises(CheckpointError, match="b/model-00001.*: was changed while it was read"):
        make("greedy", pool, FakeScorer(late), settings(tmp_path))
    recorded = Journal.open(tmp_path / "work").results.values()
    digests = [
        Blend((pool.members[k],), pool.reference, files_of=pool.members[k]).key for k in range(2)
    ]
    assert digests[0] in {record["blend"] for record in recorded}
    assert digests[1] not in {record["blend"] for record in recorded}
    assert not (tmp_path / "out").exists()


def test_greedy_walks_to_a_written_soup(pool_paths: list[Path], tmp_path: Path) -> None:
    """Ranking, path, coefficients, hold-outs and output, as the table demands."""
    board = make("greedy", Pool.open(*pool_paths), scorer(), settings(tmp_path))
    assert [row.name for row in board.members] == ["b", "d", "a", "c"]
    assert [(s.tried, s.mean, s.kept) for s in board.path] == [
        ("b", 70.0, True),
        ("d", 72.0, True),
        ("a", 72.0, False),
        ("c", 73.0, True),
    ]
    assert board.soup is not None
    assert board.soup.members == {"b": 1 / 3, "d": 1 / 3, "c": 1 / 3}
    assert board.soup.holdouts == {"z": 1.0}
    assert open_checkpoint(board.soup.out).digest == board.soup.digest
    manifest = json.loads((Path(board.soup.out) / "soup.json").read_text())
    assert manifest["scores"] == {"x": 73.0, "y": 73.0, "z": 1.0}


def test_holdouts_are_scored_for_members_and_soup_only(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """Trials do not see them."""
    fake = scorer()
    make("greedy", Pool.open(*pool_paths), fake, settings(tmp_path))
    held = [names for names, benchmark in fake.calls if benchmark == "z"]
    assert held == [("a",), ("b",), ("c",), ("d",), ("b", "d", "c")]


def test_a_finished_run_again_measures_nothing(pool_paths: list[Path], tmp_path: Path) -> None:
    """Same leaderboard, same bytes, no call; a soup after `score` reuses its scores."""
    first = make("greedy", Pool.open(*pool_paths), scorer(), settings(tmp_path))
    fake = scorer()
    again = make("greedy", Pool.open(*pool_paths), fake, settings(tmp_path))
    assert fake.calls == []
    assert again == first
    make("max", Pool.open(*pool_paths), fake, settings(tmp_path, out=tmp_path / "max"))
    assert fake.calls == []


def test_renamed_and_reordered_members_keep_their_scores(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """The journal goes by content, not by names."""
    score(Pool.open(*pool_paths), scorer(), settings(tmp_path))
    moved = [path.rename(path.with_name(f"new-{path.name}")) for path in reversed(pool_paths)]
    fake = FakeScorer()
    score(Pool.open(*moved), fake, settings(tmp_path))
    assert fake.calls == []


class Stops(FakeScorer):
    """A scorer that dies after a number of measurements, as a killed run does."""

    def __init__(self, after: int) -> None:
        super().__init__(by_names(TABLE))
        self.after = after

    def measure(self, blend: Blend, benchmark: Benchmark, task: str, observe: Observer) -> Result:
        """Measure, or stop."""
        if len(self.calls) == self.after:
            raise ScoringError("stopped")
        return super().measure(blend, benchmark, task, observe)


@pytest.mark.parametrize("after", [0, 1, 5, 9, 13])
def test_a_stopped_run_goes_on_where_it_was(
    pool_paths: list[Path], tmp_path: Path, after: int
) -> None:
    """No measurement is repeated and the result is that of an undisturbed run."""
    plain = {"holdouts": ()}
    whole = FakeScorer(by_names(TABLE))
    pool = Pool.open(*pool_paths)
    expected = make("greedy", pool, whole, settings(tmp_path / "1", **plain))
    broken, rest = Stops(after), FakeScorer(by_names(TABLE))
    with pytest.raises(ScoringError):
        make("greedy", pool, broken, settings(tmp_path / "2", **plain))
    assert not (tmp_path / "2" / "out").exists()
    assert not show(tmp_path / "2" / "work").finished
    found = make("greedy", pool, rest, settings(tmp_path / "2", **plain))
    assert broken.calls + rest.calls == whole.calls
    assert found.path == expected.path
    assert found.soup is not None
    assert expected.soup is not None
    assert found.soup.digest == expected.soup.digest


def test_equal_members_count_once_in_greedy(pool_paths: list[Path], tmp_path: Path) -> None:
    """A duplicate is dropped with a warning; it would weigh double."""
    events: list[Event] = []
    (tmp_path / "copy").symlink_to(pool_paths[1])
    pool = Pool.open(*pool_paths, tmp_path / "copy")
    board = make("greedy", pool, FakeScorer(), settings(tmp_path), events.append)
    assert "copy" not in [step.tried for step in board.path]
    notes = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert notes == ["copy holds the same weights as b; greedy takes them once"]


def test_average_without_benchmarks_asks_no_scorer(pool_paths: list[Path], tmp_path: Path) -> None:
    """It needs none."""
    fake = FakeScorer()
    plain = settings(tmp_path, benchmarks=(), holdouts=())
    board = make("average", Pool.open(*pool_paths), fake, plain)
    assert fake.calls == []
    assert board.soup is not None
    assert board.soup.mean is None
    assert open_checkpoint(board.soup.out)


def test_soups_by_score_need_a_benchmark(pool_paths: list[Path], tmp_path: Path) -> None:
    """The line shows how to name one."""
    plain = settings(tmp_path, benchmarks=())
    for kind in ("max", "greedy"):
        with pytest.raises(UsageError, match="--bench MMBench_DEV_EN"):
            make(kind, Pool.open(*pool_paths), FakeScorer(), plain)
    with pytest.raises(UsageError, match="named twice"):
        make("max", Pool.open(*pool_paths), scorer(), settings(tmp_path, benchmarks=("x", "x")))


def test_a_bad_place_for_the_result_is_known_before_scoring(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """Nothing is measured for a soup that could not be written."""
    fake = scorer()
    with pytest.raises(OutputError):
        make("greedy", Pool.open(*pool_paths), fake, settings(tmp_path, out=pool_paths[0]))
    assert fake.calls == []


def test_a_score_outside_its_scale_is_an_error(pool_paths: list[Path], tmp_path: Path) -> None:
    """Neither 101 nor NaN becomes a number on the leaderboard."""
    for value in (101.0, float("nan")):
        fake = FakeScorer(lambda blend, name, value=value: value)  # type: ignore[misc]
        with pytest.raises(ScoringError, match="expected a score in 0–100"):
            score(Pool.open(*pool_paths), fake, settings(tmp_path))


def test_one_benchmark_need_not_be_a_list(tmp_path: Path) -> None:
    """A name is one name, not its letters; a path is one, too."""
    assert Settings(benchmarks="x.tsv", holdouts="exam.tsv").benchmarks == ("x.tsv",)
    assert Settings(holdouts="exam.tsv").holdouts == ("exam.tsv",)
    there = Settings(benchmarks=[tmp_path / "x.tsv", "y"])  # type: ignore[list-item]
    assert there.benchmarks == (str(tmp_path / "x.tsv"), "y")


def test_a_scorer_works_where_the_run_does(pool_paths: list[Path], tmp_path: Path) -> None:
    """It is told the settings' directory before it is asked anything."""

    class Housed(FakeScorer):
        places: ClassVar[list[object]] = []

        def work_in(self, directory: object) -> None:
            self.places.append(directory)

        def benchmarks(self, *arguments: Any) -> list[Benchmark]:
            self.places.append("asked")
            return super().benchmarks(*arguments)

    score(Pool.open(*pool_paths), Housed(), settings(tmp_path))
    assert Housed.places == [tmp_path / "work", "asked"]


def test_json_is_what_readme_promises(pool_paths: list[Path], tmp_path: Path) -> None:
    """Version 1: the keys that CI jobs read."""
    board: Leaderboard = make("greedy", Pool.open(*pool_paths), scorer(), settings(tmp_path))
    document = json.loads(board.to_json())
    assert document["version"] == 1
    assert document["command"] == "greedy"
    assert document["benchmarks"] == ["x", "y"]
    assert document["holdouts"] == ["z"]
    member = document["members"][0]
    assert member["name"] == "b"
    assert member["scores"] == {"x": 70.0, "y": 70.0}
    assert member["holdouts"] == {"z": 1.0}
    assert member["unparsed"] == {"x": 0.0, "y": 0.0, "z": 0.0}
    assert member["mean"] == 70.0
    assert {"path", "digest"} <= member.keys()
    assert document["path"][0] == {"tried": "b", "mean": 70.0, "kept": True}
    assert document["soup"]["kind"] == "greedy"
    assert {"members", "scores", "holdouts", "mean", "out", "digest"} <= document["soup"].keys()
    merging = {"method": "linear", "parameters": {}, "base": None}
    assert merging.items() <= document["soup"].items()
    assert "| 1 | b | 70.00 | 70.00 | 70.00 | +0.00 | 1.00 | 0.0% |" in board.to_markdown()
    assert show(tmp_path / "work") == board


def test_greedy_tries_merges_by_the_method(
    pool_paths: list[Path], base_path: Path, tmp_path: Path
) -> None:
    """Candidates are ties of the kept ones on the base; single members are themselves."""
    scored: list[Blend] = []

    def value(blend: Blend, name: str) -> float:
        scored.append(blend)
        return 50.0 + len(blend.members)

    pool = Pool.open(*pool_paths, base=base_path)
    asked = settings(tmp_path, method="ties", parameters={"density": 0.5}, holdouts=())
    board = make("greedy", pool, FakeScorer(value), asked)
    assert {(len(b.members), b.method) for b in scored} == {
        (1, "linear"),
        (2, "ties"),
        (3, "ties"),
        (4, "ties"),
    }
    assert all(
        dict(b.parameters) == {"density": 0.5, "lambda": 1.0} and b.base is pool.base
        for b in scored
        if b.method == "ties"
    )
    assert board.soup is not None
    manifest = json.loads((Path(board.soup.out) / "soup.json").read_text())
    assert manifest["method"] == "ties"
    assert manifest["parameters"] == {"density": 0.5, "lambda": 1.0}
    assert manifest["base"] == {"name": "base", "digest": open_checkpoint(base_path).digest}
    assert [m["coefficient"] for m in manifest["members"]] == [1.0] * 4
    document = json.loads(board.to_json())["soup"]
    assert {key: document[key] for key in ("method", "parameters", "base")} == {
        key: manifest[key] for key in ("method", "parameters", "base")
    }


def test_naming_a_default_is_the_same_blend(
    pool_paths: list[Path], base_path: Path, tmp_path: Path
) -> None:
    """So its scores are found again, and its files are left alone."""
    pool = Pool.open(*pool_paths, base=base_path)
    plain = settings(tmp_path, method="dare", holdouts=())
    first = make("average", pool, FakeScorer(), plain)
    fake = FakeScorer()
    named = settings(tmp_path, method="dare", holdouts=(), parameters={"seed": 0.0})
    assert make("average", pool, fake, named) == first
    assert fake.calls == []


def test_a_blend_takes_weights_in_the_order_of_the_pool(
    pool_paths: list[Path], tmp_path: Path
) -> None:
    """And needs no scorer; weights that do not sum to one are used, with a warning."""
    events: list[Event] = []
    pool = Pool.open(*pool_paths)
    plain = settings(tmp_path, benchmarks=(), holdouts=(), weights=[1.0, 0.0, -0.5, 1.5])
    board = make("blend", pool, None, plain, events.append)
    assert board.soup is not None
    assert (board.command, board.soup.kind) == ("blend", "blend")
    assert board.soup.members == {"a": 1.0, "b": 0.0, "c": -0.5, "d": 1.5}
    notes = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert notes == ["the weights sum to 2, so the blend is that many times an average"]


def test_a_blend_of_one_is_merged_too(
    pool_paths: list[Path], base_path: Path, tmp_path: Path
) -> None:
    """Task arithmetic with λ = 0 is the base, where greedy and average keep a single member."""
    pool = Pool.open(pool_paths[0], base=base_path)
    asked = {"method": "task-arithmetic", "parameters": {"lambda": 0.0}}
    plain = settings(tmp_path, benchmarks=(), holdouts=(), **asked)
    blend, average = (make(kind, pool, None, plain) for kind in ("blend", "average"))
    assert blend.soup is not None
    assert average.soup is not None
    assert blend.soup.digest == open_checkpoint(base_path).digest
    assert average.soup.digest == pool.reference.digest


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("greedy", {"method": "slerp"}, "slerp takes exactly 2 members, found 4; name as many"),
        ("average", {"method": "slerp"}, "slerp takes exactly 2 members, found 4"),
        ("greedy", {"method": "ties"}, "ties works on differences to a base: name it with --base"),
        ("greedy", {"method": "tise"}, "unknown method 'tise'"),
        ("blend", {"parameters": {"t": 0.5}}, "linear has no parameter 't'; it has none"),
        ("blend", {"weights": [1.0]}, "expected 4 weights, one per member .*, found 1"),
        ("blend", {"weights": [1.0, 1, 1, float("inf")]}, "weight 4: expected a finite number"),
        ("greedy", {"weights": [1.0] * 4}, "weights are for a blend; greedy gives all"),
    ],
)
def test_a_method_that_does_not_fit_is_known_before_scoring(
    pool_paths: list[Path], tmp_path: Path, kind: str, changes: dict[str, object], message: str
) -> None:
    """One line; nothing is measured, recorded or written."""
    fake = FakeScorer()
    with pytest.raises(UsageError, match=message):
        make(kind, Pool.open(*pool_paths), fake, settings(tmp_path, **changes))
    assert fake.calls == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpts"]


def test_slerp_makes_soups_of_two(pool_paths: list[Path], tmp_path: Path) -> None:
    """Greedy tries the arc from the best member to the other."""
    table = by_names({("a",): 1.0, ("b",): 2.0, ("b", "a"): 3.0})
    asked = settings(tmp_path, method="slerp", parameters={"t": 0.25}, holdouts=())
    board = make("greedy", Pool.open(*pool_paths[:2]), FakeScorer(table), asked)
    assert board.soup is not None
    manifest = json.loads((Path(board.soup.out) / "soup.json").read_text())
    assert [m["name"] for m in manifest["members"]] == ["b", "a"]
    assert all("coefficient" not in member for member in manifest["members"])
    assert manifest["base"] is None
