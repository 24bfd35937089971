"""cli/board.py: one table at any width, and every digit of it."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from soup.choosing.confident import Stopped
from soup.choosing.leaderboard import Leaderboard, Row, SoupRow, Step
from soup.cli.board import EIGHTHS, distinct, leaderboard

POINTS = (
    "MMBench_DEV_EN",
    "MMStar",
    "AI2D_TEST",
    "MMMU_DEV_VAL",
    "HallusionBench",
    "MathVista_MINI",
    "MMVet",
    "OCRBench",
)
LONG = "llava-onevision-finetune-{}-with-a-long-name"


def board(
    members: int = 3,
    benchmarks: Sequence[str] = POINTS[:5],
    holdouts: Sequence[str] = POINTS[7:],
    name: str = LONG,
) -> Leaderboard:
    """A leaderboard with numbers that are all different."""
    rows = tuple(
        Row(
            name.format(k),
            "/x",
            "d",
            {b: 60.0 - k + i / 8 for i, b in enumerate(benchmarks)},
            {h: 71.0 + k for h in holdouts},
            dict.fromkeys(benchmarks, 0.01),
            60.0 - k,
        )
        for k in range(members)
    )
    soup_row = SoupRow(
        "greedy",
        {rows[0].name: 0.5, rows[1].name: 0.5},
        dict.fromkeys(benchmarks, 61.5),
        dict.fromkeys(holdouts, 72.25),
        dict.fromkeys(benchmarks, 0.01),
        61.5,
        "/out",
        "d",
    )
    path = (
        Step(rows[0].name, 60.0, True),
        Step(rows[1].name, 61.5, True),
        Step(rows[2].name, None, False, Stopped(5400, 19000, -2.31)),
    )
    return Leaderboard("greedy", tuple(benchmarks), tuple(holdouts), rows, path, soup_row)


def shown(board: Leaderboard, width: int, terminal: bool = False) -> list[str]:
    """The lines that a console of that width gets."""
    console = Console(width=width, record=True, file=open(os.devnull, "w"), force_terminal=terminal)
    leaderboard(board, console)
    return [line.rstrip() for line in console.export_text().splitlines()]


def numbers(board: Leaderboard) -> set[str]:
    """All scores of a leaderboard as they are shown."""
    assert board.soup is not None
    found = set()
    for row in (*board.members, board.soup):
        found |= {f"{value:.2f}" for value in (*row.scores.values(), *row.holdouts.values())}
        found |= {f"{row.mean:.2f}"}
    return found


@pytest.mark.parametrize("width", [60, 80, 100, 120, 10_000])
@pytest.mark.parametrize(
    ("members", "benchmarks", "holdouts"),
    [(3, 2, 1), (3, 5, 1), (3, 7, 1), (6, 8, 0), (6, 8, 3), (14, 8, 4)],
)
def test_every_digit_is_there_at_any_width(
    width: int, members: int, benchmarks: int, holdouts: int
) -> None:
    """No line is longer than there is room, no number is cut; there is one table, and another one
    for hold-outs at most.
    """
    held = ["OCR_hold", "Doc_hold", "Chart_hold", "Text_hold"][:holdouts]
    made = board(members, POINTS[:benchmarks], held)
    lines = shown(made, width)
    text = "\n".join(lines)
    assert max(len(line) for line in lines if "written to" not in line) <= width
    assert numbers(made) <= set(re.findall(r"\d+\.\d\d", text))
    table = lines[: next(k for k, line in enumerate(lines) if "tried" in line)]
    rules = [line for line in table if "────" in line]
    one = members < 14 and (width > 60 or members < 6)
    assert bool(rules) == one or width > 80, "a table"
    assert len(rules) <= 1 + bool(holdouts)
    for name in (*made.benchmarks, *made.holdouts):
        assert name in text.replace("\n", " "), "as a head or in the legend"


def test_hold_outs_stand_below_where_that_keeps_heads_whole() -> None:
    """In a table of their own, with the same members."""
    lines = shown(board(3, POINTS[:4], ("OCR_hold", "Doc_hold"), "run-{}"), 80)
    heads = [k for k, line in enumerate(lines) if line.lstrip().startswith("#")]
    assert lines[heads[0]].split()[-4:] == list(POINTS[:4])
    assert lines[heads[1]].split() == ["#", "member", "OCR_hold", "(h)", "Doc_hold", "(h)"]
    assert lines[heads[1] + 2].split() == ["1", "run-0", "71.00", "71.00"]


def test_means_have_bars_where_a_terminal_has_room() -> None:
    """From the lowest to the highest, as the head says; a pipe has none."""
    made = board(3, POINTS[:2], (), "run-{}")
    lines = shown(made, 100, terminal=True)
    assert "58.0 – 61.5" in lines[1]
    bars = ["".join(c for c in line if c in EIGHTHS[1:]) for line in lines[3:8]]
    assert [len(bar) for bar in bars] == [7, 4, 1, 0, 12]
    assert not set(EIGHTHS[1:]) & set("".join(shown(made, 100)))
    assert not set(EIGHTHS[1:]) & set("".join(shown(made, 66, terminal=True)))


def test_more_than_eight_benchmarks_are_rows() -> None:
    """The members are numbers there, and their names stand below."""
    lines = shown(board(6, POINTS, ("exam",)), 80)
    assert next(line for line in lines if "MMStar" in line).split()[:2] == ["MMStar", "60.12"]
    assert f"1  {LONG.format(0)}" in lines
    assert lines[1].split() == ["1", "2", "3", "4", "5", "6", "greedy"]


def test_what_is_equal_in_all_rows_is_a_line_where_room_is_short() -> None:
    """And a column where there is enough of it."""
    assert "unparsed: 1.0% in all rows" in shown(board(), 80)
    assert "unparsed" in shown(board(name="run-{}"), 200)[1]


def test_long_names_stay_apart() -> None:
    """Their middle is left out, unless that is what they differ in."""
    assert distinct(["a" * 30 + "1", "a" * 30 + "2"], 9) == ["aaaa…aaa1", "aaaa…aaa2"]
    names = [LONG.format(k) for k in range(12)]
    short = distinct(names, 16)
    assert len(set(short)) == 12
    assert max(map(len, short)) <= 17
    assert short[3] == "llava-o…3…g-name"
    assert distinct(["base", "x" * 30], 9) == ["base", "xxxx…xxxx"]
    assert distinct(["same", "same"], 3) == ["s…e", "s…e"]


def test_a_stopped_trial_says_how_far_it_came() -> None:
    """In the path below the table."""
    text = " ".join(" ".join(shown(board(), 80)).split())
    assert all(part in text for part in ("stopped after", "5,400", "19,000", "-2.31"))


def test_a_failed_run_says_why() -> None:
    """After whatever it has scored."""
    failed = replace(board(), soup=None, finished=False, error="a: cannot be read [x]")
    assert "this greedy run failed: a: cannot be read [x]" in shown(failed, 80)
    empty = Leaderboard("greedy", ("x",), (), (), finished=False, error="no such thing")
    assert shown(empty, 80)[0] == "this greedy run failed: no such thing"
    assert "**This run failed:** no such thing" in empty.to_markdown()
    assert "| # |" not in empty.to_markdown()


def test_missing_verdicts_are_a_column_only_where_there_are_some() -> None:
    """In the terminal, in Markdown, and by benchmark in JSON."""
    whole = board()
    assert "unjudged" not in whole.to_markdown()
    members = (replace(whole.members[0], unjudged={"MMStar": 3, "OCRBench": 4}), *whole.members[1:])
    part = replace(whole, members=members)
    _, _, head, _, first, second, *_ = part.to_markdown().splitlines()
    assert head.endswith("| unparsed | unjudged |")
    assert (first.split()[-2], second.split()[-2]) == ("7", "0")
    assert any("unjudged" in line for line in shown(part, 200))
    assert part.to_dict()["members"][0]["unjudged"] == {"MMStar": 3, "OCRBench": 4}
    assert part.to_dict()["soup"]["unjudged"] == {}


def test_the_path_of_a_soup_stays_whole_at_any_width() -> None:
    """To be copied: lines are broken between words, and say nothing of that."""
    one = board()
    assert one.soup is not None
    out = "/" + "/".join(["checkpoints"] * 6)
    one = replace(one, soup=replace(one.soup, out=out))
    for width in (40, 60, 80, 120):
        lines = shown(one, width, terminal=True)
        first = next(k for k, line in enumerate(lines) if "greedy soup: " in line)
        said = " ".join(lines[first:])
        assert said.startswith("greedy soup: 2 of 3 members, mean 61.50 (+1.50 to the best ")
        assert said.endswith(f"single), written to {out}")
        assert any(line.endswith(out) for line in lines)
