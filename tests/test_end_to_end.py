"""The main job on a real pool: real checkpoints, real VLMEvalKit, the command line."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.workers import homes
from soup.run import Settings, make, score
from tests.cli.test_cli import fails, run

BENCH = ("parity", "compare", "digit")
TSV = (
    "--bench", "benchmarks/parity.tsv", "--bench", "benchmarks/compare.tsv",
    "--bench", "benchmarks/digit.tsv", "--holdout", "benchmarks/range.tsv",
    "--max-new-tokens", "4", "--device", "cpu",
)  # fmt: skip


@pytest.fixture
def workplace(demo: Path, small_benchmarks: Path, tmp_path: Path) -> Path:
    """A directory with ckpts/ and small benchmarks/, as a user has it."""
    (tmp_path / "ckpts").symlink_to(demo / "ckpts")
    (tmp_path / "benchmarks").symlink_to(small_benchmarks)
    return tmp_path


@pytest.fixture(scope="module")
def greedy(demo: Path, small_benchmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one undisturbed `soup greedy` has run."""
    directory = tmp_path_factory.mktemp("greedy")
    (directory / "ckpts").symlink_to(demo / "ckpts")
    (directory / "benchmarks").symlink_to(small_benchmarks)
    done = run(directory, "greedy", "ckpts/*", *TSV, "--json", "board.json")
    assert done.returncode == 0, done.stderr
    return directory


def files(directory: Path) -> dict[str, str]:
    """Every file's digest."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
        if path.is_file()
    }


OF_ONE_RUN = ("run", "time", "settings")
"""Keys of the JSON document that tell one run from another."""


def document(directory: Path) -> dict[str, Any]:
    """The leaderboard there, without what tells one run from another."""
    found = json.loads((directory / "board.json").read_text())
    return {key: value for key, value in found.items() if key not in OF_ONE_RUN}


def test_the_soup_scores_in_vlmevalkit_alone_what_the_leaderboard_shows(
    greedy: Path, tmp_path: Path
) -> None:
    """Loaded from disk by transformers, one question at a time, infer_data_job and evaluate."""
    data = tmp_path / "lmu"
    data.mkdir()
    for name in ("parity", "compare"):
        shutil.copy(greedy / "benchmarks" / f"{name}.tsv", data)
    # under the name by which VLMEvalKit compares short answers exactly
    shutil.copy(greedy / "benchmarks" / "digit.tsv", data / "GQA_digit.tsv")
    script = Path(__file__).parent / "kit" / "kit_by_hand.py"
    sets = ["CustomMCQDataset:parity", "ImageYORNDataset:compare", "ImageVQADataset:GQA_digit"]
    done = subprocess.run(
        [sys.executable, script, greedy / "soup-greedy", data, tmp_path, *sets],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    by_hand = json.loads(done.stdout)["sets"]
    shown = json.loads((greedy / "board.json").read_text())["soup"]["scores"]
    overall = {name: float(found["report"][0]["Overall"]) for name, found in by_hand.items()}
    assert overall["parity"] * 100 == pytest.approx(shown["parity"], abs=1e-9)
    assert overall["compare"] == pytest.approx(shown["compare"], abs=1e-9)
    assert overall["GQA_digit"] == pytest.approx(shown["digit"], abs=1e-9)


def test_the_soup_loads_with_transformers(greedy: Path) -> None:
    """As any model directory, processor included."""
    path = greedy / "soup-greedy"
    model = transformers.AutoModelForImageTextToText.from_pretrained(path)
    assert model.num_parameters() > 500_000
    assert transformers.AutoProcessor.from_pretrained(path).chat_template


def test_a_finished_run_again_starts_no_worker_and_keeps_the_bytes(
    greedy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No result is added to the journal, no file changes; what benchmarks are is known."""

    def start(*arguments: object) -> None:
        raise AssertionError("a worker is started, and nothing is to be measured")

    monkeypatch.setattr(homes, "Process", start)
    before = files(greedy / "soup-greedy")
    board = document(greedy)
    results = len(Journal.open(greedy / ".soup").results)
    done = run(greedy, "greedy", "ckpts/*", *TSV, "--json", "board.json")
    assert done.returncode == 0, done.stderr
    assert len(Journal.open(greedy / ".soup").results) == results
    assert "evaluation" not in done.stderr
    assert files(greedy / "soup-greedy") == before
    assert document(greedy) == board


def test_a_killed_run_goes_on_and_repeats_nothing(greedy: Path, workplace: Path) -> None:
    """Stopped, then killed, in the middle of scoring: finished benchmarks stay finished."""
    arguments = [sys.executable, "-m", "soup", "greedy", "ckpts/*", *TSV]
    journal = workplace / ".soup" / "journal.jsonl"
    for how, results in ((signal.SIGTERM, 7), (signal.SIGKILL, 14)):
        process = subprocess.Popen(arguments, cwd=workplace, stderr=subprocess.PIPE, text=True)
        while not (journal.exists() and journal.read_text().count('"kind":"result"') >= results):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(how)
        last_words = process.communicate()[1]
        if how == signal.SIGTERM:
            assert process.returncode == 130
            assert last_words.splitlines()[-1].startswith("error: stopped; what has been scored is")
        assert not (workplace / "soup-greedy").exists()
        assert [path.name for path in workplace.iterdir() if path.name.startswith(".soup-")] == []

    done = run(workplace, "greedy", "ckpts/*", *TSV, "--json", "board.json")
    assert done.returncode == 0, done.stderr
    keys = [
        json.loads(line)["key"]
        for line in journal.read_text().splitlines()
        if '"kind":"result"' in line
    ]
    assert len(keys) == len(set(keys)), "a finished benchmark was repeated"
    assert set(keys) == set(Journal.open(greedy / ".soup").results)
    assert files(workplace / "soup-greedy") == files(greedy / "soup-greedy")
    expected, found = document(greedy), document(workplace)
    for one in (expected, found):
        one["soup"].pop("out")
        for member in one["members"]:
            member.pop("path")
    assert found == expected


def children(parent: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def evaluates(pid: int) -> bool:
    """Whether a process is one that no GPU is shown to."""
    return b"CUDA_VISIBLE_DEVICES=\0" in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_two_workers_make_the_same_soup_even_when_one_is_killed(
    greedy: Path, workplace: Path
) -> None:
    """Leaderboard, bytes, what was said: all as by one; one death is a warning; nobody is left.

    The same with a third process that evaluates what these have answered.
    """
    arguments = [sys.executable, "-m", "soup", "greedy", "ckpts/*", *TSV, "--workers", "2"]
    arguments += ["--evaluators", "1"]
    with (workplace / "told").open("w") as told:
        process = subprocess.Popen(
            [*arguments, "--json", "board.json"], cwd=workplace, stdout=told, stderr=told
        )
    journal = workplace / ".soup" / "journal.jsonl"
    workers: set[int] = set()
    while process.poll() is None:
        found = children(process.pid)
        if len(workers) < 4 and journal.exists() and '"kind":"result"' in journal.read_text():
            if len(found) == 3 and not workers:
                os.kill(next(pid for pid in found if not evaluates(pid)), signal.SIGKILL)
            workers.update(found)
        time.sleep(0.05)
    words = (workplace / "told").read_text()
    assert process.returncode == 0, words
    assert "was killed (signal 9)" in words
    assert "(death 1 of 3)" in words
    assert [pid for pid in workers if Path(f"/proc/{pid}").exists()] == []
    assert files(workplace / "soup-greedy") == files(greedy / "soup-greedy")
    predictions = [place / ".soup" / "predictions" for place in (greedy, workplace)]
    assert files(predictions[1]) == files(predictions[0])
    expected, board = document(greedy), document(workplace)
    for one in (expected, board):
        one["soup"].pop("out")
        for member in one["members"]:
            member.pop("path")
    assert board == expected


def test_what_a_method_merged_scores_the_same_when_it_is_read_again(
    demo: Path, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Greedy's candidates are merged by it, and what is scored is, to the bit, what is written."""
    members = [demo / "ckpts" / name for name in ("parity", "compare", "digit")]
    pool = Pool.open(*members, base=demo / "base")
    asked = Settings(
        benchmarks=[small_benchmarks / f"{name}.tsv" for name in BENCH],
        holdouts=[small_benchmarks / "range.tsv"],
        work=tmp_path / ".soup",
    )
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"method": "task-arithmetic", "parameters": {"lambda": 0.5}},
        "average": {"method": "ties", "parameters": {"density": 0.5}},
    }
    with VLMEvalKitScorer(max_new_tokens=4, device="cpu") as scorer:  # one worker for all of it
        boards = {}
        for kind, way in ways.items():
            board = make(kind, pool, scorer, replace(asked, out=tmp_path / f"by-{kind}", **way))
            boards[kind] = json.loads(board.to_json())
        assert len(boards["greedy"]["path"]) == 3
        kept = boards["greedy"]["soup"]["members"]
        alone = len(kept) == 1  # on this machine's models; then the soup is that member
        assert boards["greedy"]["soup"]["method"] == ("linear" if alone else "task-arithmetic")
        assert boards["average"]["soup"]["method"] == "ties"
        assert len(boards["average"]["soup"]["members"]) == 3

        before = set(Journal.open(asked.work).results)
        again = Pool.open(members[0], *(tmp_path / f"by-{kind}" for kind in ways))
        found = json.loads(score(again, scorer, asked).to_json())
    added = set(Journal.open(asked.work).results) - before
    assert len(added) == (4 if alone else 8), "a member's results were not found"
    rows = {row["name"]: row for row in found["members"]}
    for kind, shown in boards.items():
        for key in ("scores", "holdouts", "unparsed", "mean", "digest"):
            assert rows[f"by-{kind}"][key] == shown["soup"][key]


def test_confident_decides_as_the_full_run_and_shows_what_it_skipped(
    demo: Path, tmp_path: Path
) -> None:
    """Real models on 300 real questions: the same soup, byte for byte, of fewer answers."""
    pool = Pool.open(*sorted((demo / "ckpts").iterdir()))
    boards = []
    with VLMEvalKitScorer(
        max_new_tokens=4, device="cpu", work=tmp_path / "scorer"
    ) as scorer:  # one worker for both
        for name, confident in (("full", None), ("early", 0.95)):
            settings = Settings(
                benchmarks=demo / "benchmarks" / "compare.tsv",
                confident=confident,
                work=tmp_path / name / ".soup",
                out=tmp_path / name / "soup-greedy",
            )
            if confident:  # the members' own scores are the same: take them from the full run
                lines = (tmp_path / "full" / ".soup" / "journal.jsonl").read_text().splitlines(True)
                scored = itertools.takewhile(lambda line: '"kind":"decision"' not in line, lines)
                Path(settings.work).mkdir(parents=True)
                (tmp_path / name / ".soup" / "journal.jsonl").write_text("".join(scored))
            boards.append(json.loads(make("greedy", pool, scorer, settings).to_json()))
    full, early = boards
    assert [(s["tried"], s["kept"]) for s in early["path"]] == [
        (s["tried"], s["kept"]) for s in full["path"]
    ]
    assert early["soup"]["scores"] == full["soup"]["scores"]
    assert files(tmp_path / "early" / "soup-greedy") == files(tmp_path / "full" / "soup-greedy")
    stopped = [step for step in early["path"] if "stopped" in step]
    assert stopped
    shown = run(tmp_path / "early", "leaderboard", "--markdown", "-").stdout
    for step in stopped:
        assert (step["mean"], step["kept"]) == (None, False)
        assert 0 < step["stopped"]["samples"] < step["stopped"]["of"] == 300
        assert f"stopped after {step['stopped']['samples']} of 300 samples (estimate " in shown
    assert [s["mean"] for s in early["path"] if "stopped" not in s] == [
        whole["mean"]
        for whole, step in zip(full["path"], early["path"], strict=True)
        if "stopped" not in step
    ]


def test_the_leaderboard_is_shown_again(greedy: Path) -> None:
    """From the journal alone, at 80 columns."""
    shown = run(greedy, "leaderboard", COLUMNS="80").stdout.splitlines()
    assert any("greedy soup" in line for line in shown)
    assert max(len(line) for line in shown if "written to" not in line) <= 80
    markdown = run(greedy, "leaderboard", "--markdown", "-").stdout
    assert markdown.startswith("## greedy soup of 6 members on parity, compare, digit, 20")
    assert "\n\n| # | member | parity | compare | digit | mean |" in markdown


@pytest.mark.parametrize(
    ("bench", "message"),
    [
        ("MMStarr", "did you mean MMStar"),
        ("MMStar", "could not be downloaded"),
        ("MMVet", "MMVet: scored by a judge model; add --judge MODEL"),
        ("absent.tsv", "absent.tsv: no such file"),
        ("columns.tsv", "no column 'answer'"),
    ],
)
def test_benchmarks_that_cannot_be_scored_are_known_before_generation(
    workplace: Path, bench: str, message: str
) -> None:
    """One line, exit code 1, nothing scored, nothing written."""
    (workplace / "columns.tsv").write_text("index\tquestion\n0\tq?\n")
    (workplace / "lmu").mkdir()
    done = run(workplace, "greedy", "ckpts/*", "--bench", bench, LMUData=str(workplace / "lmu"))
    assert message in fails(done, 1)
    assert not (workplace / "soup-greedy").exists()
    assert Journal.open(workplace / ".soup").results == {}


def test_unparsed_answers_are_shown(greedy: Path) -> None:
    """A model that never learned yes and no: its rate stands beside its score."""
    members = {row["name"]: row for row in document(greedy)["members"]}
    assert set(members) > {"digit-only", "compare"}
    assert all(0 <= row["unparsed"]["compare"] <= 1 for row in members.values())


def test_the_python_interface_does_what_the_command_does(greedy: Path) -> None:
    """The dozen lines of the README, in a notebook's place."""
    code = """
import soup
from soup.evaluators import VLMEvalKitScorer

pool = soup.Pool.open("ckpts/*")
settings = soup.Settings(
    benchmarks=["benchmarks/parity.tsv", "benchmarks/compare.tsv", "benchmarks/digit.tsv"],
    holdouts=["benchmarks/range.tsv"],
    out="soup-greedy",
)
with VLMEvalKitScorer(max_new_tokens=4, device="cpu") as scorer:
    board = soup.make("greedy", pool, scorer, settings)
print(board.to_json())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=greedy, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for key in OF_ONE_RUN:
        found.pop(key)
    assert found == document(greedy)
