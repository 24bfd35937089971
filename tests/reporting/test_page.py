"""soup/reporting: a run as one page."""

import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from soup.checkpoints.pool import Pool
from soup.choosing.confident import Stopped
from soup.choosing.journal import Journal
from soup.choosing.retelling import last_leaderboard
from soup.errors import JournalError, ScoringError
from soup.reporting.cost import cost_of
from soup.reporting.facts import command_of, gather
from soup.reporting.flips import SIDE, first_file, thumbnail
from soup.reporting.history import history
from soup.reporting.page import LARGEST, page
from soup.run import Settings, make, score
from tests.reporting.conftest import BENCH, EVIL, Asked, Made, right
from tests.test_run import Stops

VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Text by section, tags, and addresses; what is opened and never closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It must be what was opened last."""
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """SVG's own."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Take all but what runs or paints."""
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def test_the_page_says_all_that_is_known(made: Made) -> None:
    """Verdict, members, path, gains, flips, likeness, line, history, cost, command; well-formed."""
    text = made.page
    found = Reader(text)
    assert found.open == []
    heads = re.findall(r"<h2[^>]*>(.*?)</h2>", text)
    assert len(heads) == 10
    assert found.text.count("95%") >= 3
    for part in (
        "greedy soup of", "average soup", "hold‑out", "Questions that flipped", "expected: 1",
        "cosine of differences to the mean", "straight line", "Runs so far", "soup greedy 'ckpts/",
        "known already", "even <img", made.facts.board.about.run,
    ):  # fmt: skip
        assert part in found.text, part
    pictures = [attrs for tag, attrs in found.tags if tag == "img"]
    assert 0 < len(pictures) <= 36
    assert all(attrs["alt"] for attrs in pictures)
    assert len(text.encode()) < LARGEST


def test_nothing_from_files_is_more_than_text(made: Made) -> None:
    """No tag, attribute, address or template of a name; one script, of ours."""
    text = made.page
    found = Reader(text)
    assert EVIL in found.text
    assert "{{ 7*7 }}" in found.text
    assert [tag for tag, _ in found.tags].count("script") == 1
    assert not [a for _, attrs in found.tags for a in attrs if a.startswith("on")]
    sources = [
        str(attrs[name])
        for _, attrs in found.tags
        for name in ("src", "href", "xlink:href", "action")
        if name in attrs
    ]
    assert {source.split(":")[0] for source in sources} == {"data"}
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "https://" not in text


def test_every_chart_has_words_and_a_table_beside_it(made: Made) -> None:
    """Whoever cannot see it has the numbers; two drawings each, for wide pages and for phones."""
    found = Reader(made.page)
    drawings = [attrs for tag, attrs in found.tags if tag == "svg"]
    assert len(drawings) == 2 * 6
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawings)
    assert len([1 for tag, _ in found.tags if tag == "details"]) >= 6
    tables = [1 for tag, _ in found.tags if tag == "table"]
    assert len([1 for tag, _ in found.tags if tag == "caption"]) == len(tables)


def test_the_verdict_is_one_sentence(made: Made) -> None:
    """Better only where it is no luck; what is within the noise cannot be told."""
    facts = made.facts
    assert facts.board.soup is not None
    told = facts.board.soup.difference
    assert told is not None
    assert facts.word == ("cannot tell" if told.noise else "better")
    assert f"{told.low:+.2f} … {told.high:+.2f}" in facts.verdict


def test_runs_of_other_ends_have_a_page_too(pool_paths: list[Path], tmp_path: Path) -> None:
    """Scores alone, a failure, a soup of one, outcomes that nobody recorded; none at all."""
    with pytest.raises(JournalError, match="no run is recorded there yet"):
        gather(tmp_path / "none")
    settings = Settings(benchmarks="x", work=tmp_path / "work", out=tmp_path / "out")
    pool = Pool.open(*pool_paths)
    with pytest.raises(ScoringError):
        make("greedy", pool, Stops(1), settings)
    assert gather(settings.work).word == "failed"
    assert "This greedy run failed: stopped" in page(gather(settings.work))
    score(pool, Asked(right=right), settings)
    assert gather(settings.work).word == "scored"
    assert "is the best" in page(gather(settings.work))
    make("max", pool, Asked(right=right), settings)
    assert gather(settings.work).word == "the best single"
    assert "Questions that flipped" not in page(gather(settings.work))


def test_what_a_run_reused_is_told_from_what_it_measured(made: Made) -> None:
    """The members were known from the average; trials, and questions saved, are its own."""
    journal = Journal.open(made.work)
    records = journal.last_run()
    assert records is not None
    cost = cost_of(journal, records, [Stopped(10, 60, -1.0), Stopped(20, 60, -2.0)])
    own = [r for r in journal.results.values() if r["run"] == records[0]["run"]]
    assert cost.measured == len(own)
    assert cost.reused == cost.used - len(own) >= 4 * 3
    assert cost.saved == 90
    assert (cost.guessed, cost.wanted) == (0, 0)
    guesses = {"kind": "guesses", "wanted": 30, "made": 40}
    cost = cost_of(journal, [*records, guesses], [])
    assert (cost.guessed, cost.wanted) == (40, 30)
    text = page(replace(made.facts, cost=cost))
    assert "40 (30 of them were wanted, and were there already)" in text
    assert cost.read == sum(Pool.open(path).members[0].nbytes for path in made.paths)
    for record in journal.results.values():
        record.pop("run")  # as journals of earlier versions are
    assert cost_of(journal, records, []).measured is None


def test_the_command_makes_the_run_again(made: Made) -> None:
    """Quoted for a shell, paths relative to where the journal lies, only what is not usual."""
    board = last_leaderboard(Journal.open(made.work))
    assert board is not None
    text = command_of(board, str(made.work.parent))
    assert text.startswith("soup greedy 'ckpts/<img src=x onerror=")
    assert text.endswith("--bench plain --holdout held -o out")
    assert BENCH in text
    changed = {**board.about.settings, "accept": "significant", "dtype": "BF16"}
    changed |= {"bench_weights": {"plain": 0.5}, "method": "ties", "parameters": {"density": 0.25}}
    again = replace(board, about=replace(board.about, settings=changed))
    assert command_of(again, "/").endswith(
        "--dtype bfloat16 --accept significant --method ties --set density=0.25"
    )
    assert "--bench plain=0.5" in command_of(again, "/")
    weighed = {**board.about.settings, "weights": [3.0, 1.0]}
    assert board.soup is not None
    names = [row.name for row in board.members][:2]
    blended = replace(
        board,
        command="blend",
        members=board.members[:2],
        soup=replace(board.soup, members={names[1]: 0.75, names[0]: 0.25}),
        about=replace(board.about, settings=weighed),
    )
    words = shlex.split(command_of(blended, str(made.work.parent)))
    assert [Path(word).name for word in words[2:4]] == names[::-1]
    assert words[-4:] == ["--weight", "0.75", "--weight", "0.25"]


def test_pictures_are_small_copies(tmp_path: Path) -> None:
    """What is no picture is left out; several files are told by where each begins."""
    from PIL import Image

    Image.effect_noise((900, 600), 80).save(tmp_path / "a b.png")
    text, tiny = thumbnail(tmp_path / "a b.png")
    assert text.startswith("data:image/webp;base64,")
    assert not tiny
    assert len(text) < SIDE * SIDE
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert thumbnail(tmp_path / "bad.png") == ("", False)
    assert first_file(f"{tmp_path}/a b.png") == tmp_path / "a b.png"
    assert first_file(f"{tmp_path}/a b.png {tmp_path}/bad.png") == tmp_path / "a b.png"


def test_nights_say_their_verdict(made: Made, tmp_path: Path) -> None:
    """Where a night's record names it; the others say whether they came to an end."""
    shutil.copy(made.work / "journal.jsonl", tmp_path)
    journal = Journal.open(tmp_path)
    (first, _), *_ = journal.runs.items()
    journal.append("verdict", run=first, word="not better", gain=-0.5)
    journal = Journal.open(tmp_path)
    start = list(journal.runs.values())[-1][0]
    past = history(journal, start)
    assert [one.verdict for one in past] == ["not better", ""]
    told = made.facts.board.soup.difference if made.facts.board.soup else None
    assert told is not None and past[-1].low is not None and told.low is not None
    assert (past[-1].low, past[-1].high) == pytest.approx((told.low, told.high))
    assert f"{told.low:+.2f} … {told.high:+.2f}" in made.page.split('id="history"')[1]


def test_a_night_says_what_its_gate_said(made: Made, tmp_path: Path) -> None:
    """Before what it gained over the best single; to repeat it writes into no shelf."""
    shutil.copy(made.work / "journal.jsonl", tmp_path)
    journal = Journal.open(tmp_path)
    run = next(reversed(list(journal.runs)))
    assert "-o out" in gather(made.work).command
    rail = {"benchmark": "<b>", "allowed": 0.5, "new": 1.0, "published": 2.0, "broken": True}
    asked = {"gain": 1.0, "low": -0.5, "high": 2.5, "step": 0.75, "level": 0.05, "nights": 1}
    journal.append(
        "verdict", run=run, word="not better", why="<b> fell", rails=[rail], **asked, tellable=1.5
    )
    facts = gather(tmp_path)
    assert "-o" not in facts.command.split()
    assert facts.word == "not better"
    against = "The night's soup, against the published one: <b> fell"
    assert facts.verdict.startswith(f"{against} (95% interval -0.50 … +2.50); it was published as")
    required, tellable, broken, single = facts.more[:4]
    assert required.startswith("required: more than 0.75 points, one standard error")
    assert "could have been told: 1.50 points" in tellable
    assert broken == "guard rail broken: <b> fell from 2.00 to 1.00, a fall of 0.5 is allowed"
    assert single == gather(made.work).verdict
    assert "against the published one: &lt;b&gt; fell" in page(facts)
