"""The order in which members are named decides nothing; with whose files each is scored."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.choosing.leaderboard import Leaderboard
from soup.choosing.recipes import settled
from soup.errors import PoolError
from soup.evaluators.fake import FakeScorer
from soup.forecast import forecast
from soup.run import Settings, make, score
from tests.conftest import make_checkpoint, random_tensors

NAMES = "abcd"


def tied(blend: Blend, name: str) -> float:
    """All members are equally good; only the first pair of the settled order is better."""
    return {1: 50.0, 2: 51.0}.get(len(blend.members), 40.0)


def by_files(blend: Blend, name: str) -> float:
    """A number that depends on the template that the blend is asked with, and on it alone."""
    template = blend.companions.template
    return {"good": 80.0, "bad": 20.0}[template[1] if template else ""]


def run(kind: str, pool: Pool, work: Path, **more: Any) -> Leaderboard:
    """One run of a kind of soup in a directory of its own."""
    given = Settings(("x",), ("h",), out=work / "soup", work=work, **more)
    return make(kind, pool, FakeScorer(tied), given)


def told(board: Leaderboard) -> dict[str, Any]:
    """All that a leaderboard says, but for times and places."""
    found = json.loads(board.to_json())
    for key in ("run", "time", "settings"):
        found.pop(key)
    found["soup"].pop("out")
    return dict(found)


def weights(board: Leaderboard) -> Mapping[str, list[float]]:
    """The written soup's numbers."""
    assert board.soup is not None
    found = load_file(Path(board.soup.out) / "model.safetensors")
    return {name: tensor.double().flatten().tolist() for name, tensor in found.items()}


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("greedy", {}),
        ("greedy", {"method": "dare", "parameters": {"density": 0.5}}),
        ("average", {}),
        ("max", {}),
        ("greedy", {"confident": 0.9}),
    ],
)
def test_the_order_of_arguments_changes_no_number_and_no_decision(
    tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    """Four members that tie, in any order, with the same reference: one soup, bit for bit."""
    paths = [make_checkpoint(tmp_path / n, random_tensors(k)) for k, n in enumerate(NAMES)]
    base = make_checkpoint(tmp_path / "base", random_tensors(9))
    boards = []
    for k, order in enumerate(((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0))):
        pool = Pool.open(*(paths[i] for i in order), base=base, reference="c")
        boards.append(run(kind, pool, tmp_path / f"w{k}", **more))
    first, *others = map(told, boards)
    assert all(other == first for other in others)
    assert all(weights(board) == weights(boards[0]) for board in boards)
    if kind == "greedy":
        names = [member.name for member in settled(Pool.open(*paths).members)]
        assert [step.tried for step in boards[0].path][:2] == names[:2], "by content digest"


def test_a_blends_weights_stay_with_their_members(tmp_path: Path) -> None:
    """However they are named, 0.7 of the one and 0.3 of the other."""
    paths = [make_checkpoint(tmp_path / n, random_tensors(k)) for k, n in enumerate("ab")]
    found = []
    for k, (order, shares) in enumerate((((0, 1), (0.7, 0.3)), ((1, 0), (0.3, 0.7)))):
        pool = Pool.open(*(paths[i] for i in order), reference="a")
        given = Settings(out=tmp_path / f"s{k}", work=tmp_path / f"w{k}", weights=shares)
        board = make("blend", pool, None, given)
        assert board.soup is not None and dict(board.soup.members) == {"a": 0.7, "b": 0.3}
        found.append(weights(board))
    assert found[0] == found[1]


@pytest.fixture
def templates(tmp_path: Path) -> list[Path]:
    """Two members, one with a template that answers badly."""
    return [
        make_checkpoint(tmp_path / name, random_tensors(k), files={"chat_template.jinja": name})
        for k, name in enumerate(("good", "bad"))
    ]


def test_each_member_is_scored_with_its_own_files(templates: list[Path], tmp_path: Path) -> None:
    """Whoever comes first; a soup of several has the reference's, and the leaderboard says so."""
    for k, order in enumerate((templates, templates[::-1])):
        pool = Pool.open(*order)
        given = Settings(("x",), out=tmp_path / f"s{k}", work=tmp_path / "work")
        scorer = FakeScorer(by_files)
        board = make("average", pool, scorer, given)
        assert {row.name: row.mean for row in board.members} == {"good": 80.0, "bad": 20.0}
        assert board.soup is not None and board.soup.mean == (80.0, 20.0)[k]
        said = (
            f"each member is scored with its own, a soup of several with those of {order[0].name}"
        )
        assert any(said in line for line in board.footer())
        assert said in board.to_markdown()
        document = json.loads(board.to_json())
        assert document["companions"] == {"reference": order[0].name, "differ": True, "same": False}
        assert len(scorer.calls) == (3, 1)[k], "members are known, the soup has other files"
        written = tmp_path / f"s{k}" / "chat_template.jinja"
        assert written.read_text() == order[0].name, "the files that it was scored with"


def test_the_same_files_for_all_where_asked_for(templates: list[Path], tmp_path: Path) -> None:
    """--same-companions: the reference's; results of own files are not taken for them."""
    pool = Pool.open(*templates, reference="bad")
    given = Settings(("x",), out=tmp_path / "soup", work=tmp_path / "work")
    score(pool, FakeScorer(by_files), given)
    scorer = FakeScorer(by_files)
    same = replace(given, same_companions=True)
    (benchmark,) = scorer.benchmarks(pool.reference, ["x"])
    found = forecast("score", pool, [benchmark], same)
    assert (found.results, found.missing) == (2, 1), "the reference's own is known"
    board = score(pool, scorer, same)
    assert [row.mean for row in board.members] == [20.0, 20.0]
    assert [names for names, _ in scorer.calls] == [("good",)]
    assert any("all are scored with those of bad (--same-companions)" in x for x in board.footer())
    assert forecast("score", pool, [benchmark], given).missing == 0


def test_a_maximum_soup_has_the_files_of_its_member(templates: list[Path], tmp_path: Path) -> None:
    """It is that member, as it was scored; with the same files for all it has those."""
    pool = Pool.open(*templates[::-1])
    for k, same in enumerate((False, True)):
        given = Settings(
            ("x",), out=tmp_path / f"s{k}", work=tmp_path / "work", same_companions=same
        )
        make("max", pool, FakeScorer(by_files), given)
        written = (tmp_path / f"s{k}" / "chat_template.jinja").read_text()
        assert written == ("bad" if same else "good")
        manifest = json.loads((tmp_path / f"s{k}" / "soup.json").read_text())
        records = Journal.open(tmp_path / "work").last_run()
        assert records is not None and records[-1]["blend"] == manifest["key"]
        assert manifest["companions_of"] == written


def test_members_of_equal_weights_are_told_apart_by_their_files(tmp_path: Path) -> None:
    """Each has its own result; greedy takes the better one, once."""
    paths = [
        make_checkpoint(tmp_path / name, random_tensors(0), files={"chat_template.jinja": name})
        for name in ("bad", "good")
    ]
    board = run("greedy", Pool.open(*paths), tmp_path / "w")
    assert len(board.path) == 1
    given = Settings(("x",), out=tmp_path / "soup", work=tmp_path / "work")
    board = make("greedy", Pool.open(*paths), FakeScorer(by_files), given)
    assert [row.mean for row in board.members] == [80.0, 20.0]
    assert [step.tried for step in board.path] == ["good"]


def test_a_member_whose_files_are_undecided_is_not_scored(tmp_path: Path) -> None:
    """It lacks what two others have and differ in: one line, before anything is asked."""
    files = [{"chat_template.jinja": "a"}, {"chat_template.jinja": "b"}, {}]
    paths = [
        make_checkpoint(tmp_path / name, random_tensors(k), files=found)
        for k, (name, found) in enumerate(zip("abc", files, strict=True))
    ]
    pool = Pool.open(*paths)
    scorer = FakeScorer()
    given = Settings(("x",), out=tmp_path / "soup", work=tmp_path / "work")
    with pytest.raises(PoolError, match="c has no chat template, and a and others, which have"):
        score(pool, scorer, given)
    assert not scorer.calls
    score(pool, scorer, replace(given, same_companions=True))
    assert len(scorer.calls) == 3
