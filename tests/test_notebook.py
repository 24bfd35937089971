"""In a notebook: cells that a person would type, run by a real kernel."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from soup.checkpoints.pool import Pool, Problem, Report, inspect
from soup.choosing.leaderboard import Leaderboard, Row, SoupRow, Step
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors

CELLS = [
    "import soup\nfrom soup.evaluators import FakeScorer",
    "pool = soup.Pool.open('ckpts/*')\npool",
    "soup.inspect(['ckpts/*'])",
    "settings = soup.Settings(benchmarks='x', out='best')\n"
    "board = soup.make('greedy', pool, FakeScorer(), settings)\nboard",
    "board.to_frame()",
    "print([pool, board])",
]


def test_a_notebook_runs_and_shows_tables(pool_paths: list[Path], tmp_path: Path) -> None:
    """A pool, a report and a leaderboard as last lines of cells are tables; in print, one line."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = "execute_result"  # not the progress that is displayed meanwhile
    shown = [[out for out in cell.outputs if out.output_type == last] for cell in book.cells]
    assert list(map(len, shown)) == [0, 1, 1, 1, 1, 0]
    for (out,) in shown[1:4]:
        assert out.data["text/html"].startswith("<table>")
        assert "\n|---|" in out.data["text/markdown"]
        assert "\n" not in out.data["text/plain"]
    frame = shown[4][0].data["text/html"]
    assert all(f"<td>{path.name}</td>" in frame for path in pool_paths)
    (printed,) = book.cells[5].outputs
    assert len(printed.text.splitlines()) == 1
    assert (tmp_path / "best" / "soup.json").is_file()


EVIL = "<script>alert(1)</script> | [x](http://x) **b**\n\n# head `c`"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt; | [x](http://x) **b**"


def evil_board() -> Leaderboard:
    """Strings of others, everywhere that there are some."""
    row = Row(EVIL, EVIL, "0", {EVIL: 50.0}, {EVIL + "h": 40.0}, {EVIL: 0.0}, 50.0)
    soup = SoupRow(EVIL, {EVIL: 1.0}, {EVIL: 51.0}, {}, {}, 51.0, EVIL, "1")
    path = (Step(EVIL, 50.0, True), Step(EVIL, 51.0, True))
    return Leaderboard(EVIL, (EVIL,), (EVIL + "h",), (row,), path, soup)


@pytest.mark.parametrize("kind", ["board", "pool", "report"])
def test_names_are_only_text(kind: str, tmp_path: Path) -> None:
    """No tag, link, emphasis, cell or heading comes of a member's or benchmark's name."""
    name = "<b>&[x](y)*z*|`c`"
    member = make_checkpoint(tmp_path / name, random_tensors(1))
    found: Pool | Report | Leaderboard = evil_board()
    if kind == "pool":
        found = Pool(Pool.open(member).members, warnings=(EVIL,))
    if kind == "report":
        problem = Problem(EVIL, EVIL, EVIL, EVIL)
        found = Report(inspect([member]).members, (problem,), (EVIL,), ((EVIL, EVIL),))
    page, markdown = found._repr_html_(), found._repr_markdown_()
    assert "<script" not in page
    assert "<b>" not in page
    assert ESCAPED in page
    assert "&lt;b&gt;&amp;[x](y)*z*|`c`" in page or kind == "board"
    plain = markdown.replace("\\\\", "")
    for sign in ("&lt;", "\\[", "\\*", "\\`"):
        assert sign in plain
        plain = plain.replace(sign, "")
    assert not {"<", "[", "`"} & set(plain)
    table = next(block for block in markdown.split("\n\n") if block.startswith("|"))
    heads, _, *rows = table.splitlines()
    cells = heads.replace("\\|", "").count("|")
    assert all(row.replace("\\|", "").count("|") == cells for row in rows)
    headings = [line for line in markdown.splitlines() if line.startswith("#")]
    assert len(headings) == (1 if kind == "board" else 0)  # its own


def test_a_line_says_what_it_is(pool_paths: list[Path], tmp_path: Path) -> None:
    """Pool, report and leaderboard, with no path of a tensor in it."""
    assert repr(Pool.open(*pool_paths)) == "<Pool of 4 (154 bytes each): a, b, c, d>"
    odd = make_checkpoint(tmp_path / "odd", {"embed_tokens.weight": random_tensors(1)["scale"]})
    assert repr(inspect([*pool_paths, odd])).startswith("<Report of 5 (154 bytes each): a, b, c, d")
    assert "problem" in repr(inspect([*pool_paths, odd]))
    settings = Settings(benchmarks="x", out=tmp_path / "out", work=tmp_path / "work")
    board = make("max", Pool.open(*pool_paths), FakeScorer(), settings)
    line = repr(board)
    assert line.startswith("<Leaderboard of max: 4 members; best ")
    assert line.endswith(f" at {tmp_path / 'out'}>")
    assert len(line.splitlines()) == 1


def test_a_leaderboard_as_a_frame(pool_paths: list[Path], tmp_path: Path) -> None:
    """Rows best first, the soup last; numbers are numbers, and what is not known is NaN."""
    settings = Settings(
        benchmarks=["x", "y"], holdouts="z", out=tmp_path / "out", work=tmp_path / "work"
    )
    board = make("max", Pool.open(*pool_paths), FakeScorer(), settings)
    frame = board.to_frame()
    assert list(frame.columns[:7]) == ["name", "kind", "mean", "difference", "x", "y", "z"]
    assert list(frame["kind"]) == ["member"] * 4 + ["max"]
    assert list(frame["mean"][:4]) == sorted(frame["mean"][:4], reverse=True)
    assert frame["mean"][4] == frame["mean"][0] == board.best
    assert frame[["mean", "x", "y", "z", "unparsed"]].dtypes.eq("float64").all()
    rows = tuple(Row(name, "", "", {}, {}, {}, None) for name in "ab")
    unknown = Leaderboard("score", ("x",), (), rows).to_frame()
    assert pd.isna(unknown["mean"]).all()
    assert pd.isna(unknown["x"]).all()
