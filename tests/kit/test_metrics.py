"""evaluators/kit/metrics.py: VLMEvalKit's evaluate, as alone, quickly, by no chance."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from soup.evaluators.kit.suites import NEEDS_JUDGE, SUITES
from tests.kit.judge_server import KEY, MODEL, JudgeServer, serve
from tests.kit.small_sets import SETS, SmallSet, choice

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
metrics = pytest.importorskip("soup.evaluators.kit.metrics")
from soup.evaluators.kit.judge import Judge  # noqa: E402

SHORT = SmallSet(
    "ImageVQADataset",
    [{"question": "q?", "answer": repr([text])} for text in ("7", "cat", "No.", "none")],
    ["7", "a dog", "no", "some"],
    25.0,
)
BY_RULE = {name: SETS[name] for name in SETS if name not in NEEDS_JUDGE} | {"GQA_short": SHORT}
CAN_BE_JUDGED = {name: SETS[name] for name in SETS if name != "OCRBench"}


def records(report: Any) -> Any:
    """A report to compare: its rows in an order of their own, VLMEvalKit's is random."""
    if isinstance(report, dict):
        return report
    rows = report if isinstance(report, list) else report.to_dict("records")
    return sorted(rows, key=lambda row: str(next(iter(row.values()))))


class Alone(NamedTuple):
    """What VLMEvalKit alone made of the answers, by name: by rule, and with a judge."""

    by_rule: dict[str, Any]
    judged: dict[str, Any]
    server: JudgeServer


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """Its reports, of one process without us."""
    directory = tmp_path_factory.mktemp("alone")
    (directory / "lmu").mkdir()
    asked = [(BY_RULE, "exact_matching"), (CAN_BE_JUDGED, MODEL)]
    tasks = []
    for sets, model in asked:
        for name, small in sets.items():
            frame = pd.read_csv(small.write(directory / "lmu" / f"{name}.tsv"), sep="\t")
            place = directory / str(len(tasks))
            place.mkdir()
            frame = frame.drop(columns="image").assign(prediction=small.answers)
            frame.to_csv(place / "answers.tsv", sep="\t", index=False)
            tasks.append([small.kind, name, str(place / "answers.tsv"), model])
    with serve() as server:
        judge = {"OPENAI_API_BASE": f"{server.url}/chat/completions", "OPENAI_API_KEY": KEY}
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("evaluate_by_hand.py"), directory / "lmu"],
            input=json.dumps(tasks),
            capture_output=True,
            text=True,
            env=os.environ | judge,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    reports = json.loads(done.stdout.strip().splitlines()[-1])
    by_rule, judged = reports[: len(BY_RULE)], reports[len(BY_RULE) :]
    return Alone(
        dict(zip(BY_RULE, by_rule, strict=True)),
        dict(zip(CAN_BE_JUDGED, judged, strict=True)),
        server,
    )


def ours(
    directory: Path, name: str, small: SmallSet, judge: Judge | None = None
) -> tuple[Any, Any]:
    """The outcome of our `evaluate`, and the report that it was read from."""
    file = small.write(directory / f"{name}.tsv")
    dataset = vlmevalkit.Dataset(str(file), directory / "cache", judge)
    reports = []
    rule = dataset.rule
    dataset.rule = lambda report: rule(reports.append(report) or report)
    return dataset.evaluate(small.answers, directory / "kept.tsv"), reports[0]


def test_reports_are_those_of_vlmevalkit_alone(alone: Alone, tmp_path: Path) -> None:
    """Multiple choice, circular and not, yes/no, short answers, OCR: every number the same."""
    for name, small in BY_RULE.items():
        outcome, report = ours(tmp_path, name, small)
        assert records(report) == records(alone.by_rule[name]), name
        assert outcome.value == pytest.approx(small.value), name


def test_judged_reports_are_those_of_vlmevalkit_alone(alone: Alone, tmp_path: Path) -> None:
    """The same questions with the same settings to the judge, and the same numbers."""

    def sampling(server: JudgeServer) -> list[str]:
        bodies = [body | {"temperature": float(body["temperature"])} for body in server.requests]
        asked = [body for body in bodies if body["messages"][-1]["content"] != "hello"]
        return [json.dumps(body, sort_keys=True) for body in asked]

    with serve() as server:
        judge = Judge(MODEL, server.url, tmp_path / "verdicts")
        for name, small in CAN_BE_JUDGED.items():
            _, report = ours(tmp_path, name, small, judge)
            assert records(report) == records(alone.judged[name]), name
    assert set(sampling(alone.server)) == set(sampling(server))
    # What is the same is asked once; but MathVista's metric takes a reply that it cannot read, and
    # there we ask again.
    repeated = [body for body in sampling(server) if sampling(server).count(body) > 1]
    assert ["No idea" in body for body in repeated] == [True] * 3


@pytest.mark.parametrize("name", SUITES["points"])
def test_headlines_of_the_suite_are_read_from_real_reports(name: str, tmp_path: Path) -> None:
    """Each of the eight: its own class, its own columns, one number on 0–100, outcomes that fit."""
    small = SETS[name]
    with serve() as server:
        judge = Judge(MODEL, server.url, tmp_path) if name in NEEDS_JUDGE else None
        outcome, _ = ours(tmp_path, name, small, judge)
    assert outcome.value == pytest.approx(small.value)
    if name in ("MMStar", "AI2D_TEST", "MathVista_MINI", "MMVet"):
        assert 100 * sum(outcome.outcomes.values()) / len(small.rows) == pytest.approx(small.value)


@pytest.mark.parametrize("name", ["MMBench_DEV_EN", "MMStar", "MathVista_MINI", "MMVet"])
def test_parts_of_the_suite_have_the_outcomes_of_the_whole(name: str, tmp_path: Path) -> None:
    """Each sample by itself, judged or not, even where VLMEvalKit's report on a part fails."""
    small = SETS[name]
    with serve() as server:
        judge = Judge(MODEL, server.url, tmp_path) if name in NEEDS_JUDGE else None
        file = small.write(tmp_path / f"{name}.tsv")
        dataset = vlmevalkit.Dataset(str(file), tmp_path / "cache", judge)
        whole = dataset.evaluate(small.answers, tmp_path / "kept.tsv").outcomes
        for key, outcome in whole.items():
            positions = dataset.positions([key])
            answers = [small.answers[k] for k in positions]
            assert dataset.outcomes(positions, answers) == {key: outcome}


def test_evaluate_writes_its_results_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not all of them again after each sample, which took twenty times as long as scoring them."""
    written: list[int] = []
    dump = metrics.dump
    monkeypatch.setattr(
        metrics, "dump", lambda *given: (written.append(len(given[0])), dump(*given))
    )
    small = SmallSet("ImageMCQDataset", [choice("A") for _ in range(50)], ["A"] * 50, 100.0)
    assert ours(tmp_path, "MMStar", small)[0].value == 100.0
    assert written == [50]


def test_the_loop_over_samples_keeps_its_contract(tmp_path: Path) -> None:
    """Results in order, for all kinds of tasks and threads; what was saved before is kept."""
    save = str(tmp_path / "saved.pkl")
    assert metrics.track(divmod, [(7, 2), [9, 4]], nproc=1, save=save, keys=["a", "b"]) == [
        (3, 1),
        (2, 1),
    ]
    assert metrics.track(str, [{"object": 5}, 6], nproc=3, save=save, keys=["c", "d"]) == ["5", "6"]
    assert metrics.load(save) == {"a": (3, 1), "b": (2, 1), "c": "5", "d": "6"}
    begun = []

    def fails(number: int) -> None:
        begun.append(number)
        raise ValueError(number)

    with pytest.raises(ValueError, match="0"):
        metrics.track(fails, range(1000), nproc=1)
    with pytest.raises(ValueError, match=r"\d"):
        metrics.track(fails, range(1000), nproc=2)
    assert len(begun) <= 3


def test_circular_evaluation_shares_no_file(tmp_path: Path) -> None:
    """VLMEvalKit names a file in /tmp after the second: two runs would read each other's."""
    names = {metrics.multiple_choice.timestr() for _ in range(100)}
    assert len(names) == 100
    before = set(Path("/tmp").glob("soup-*.tsv"))
    ours(tmp_path, "MMBench_DEV_EN", SETS["MMBench_DEV_EN"])
    assert set(Path("/tmp").glob("soup-*.tsv")) <= before
