"""evaluators/kit/judge.py: verdicts are asked for, kept, counted where missing, never invented."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from soup.errors import BenchmarkError, ScoringError, UsageError
from soup.evaluators.demo import WORD_TAIL
from soup.evaluators.kit import judge as judge_module
from soup.evaluators.kit.judge import Judge, Verdicts, endpoint, verdict_key
from tests.cli.test_cli import fails, run
from tests.kit.judge_server import KEY, MODEL, sensible, serve
from tests.kit.small_sets import SETS, SmallSet, choice

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user sets it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def evaluate(directory: Path, name: str, small: SmallSet, judge: Judge | None) -> Any:
    """One evaluation, from the TSV on."""
    kit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
    file = small.write(directory / f"{name}.tsv")
    dataset = kit.Dataset(str(file), directory / "cache", judge)
    return dataset.evaluate(small.answers, directory / "kept.tsv")


@pytest.mark.parametrize(
    "url",
    [
        "http://host:8000/v1",
        "http://host:8000/v1/",
        "http://host:8000/v1/chat/completions",
        " http://host:8000/v1/chat/completions/ ",
    ],
)
def test_both_ways_to_write_the_address_are_one(url: str) -> None:
    """The base address, and that of chat completions."""
    assert endpoint(url) == "http://host:8000/v1"


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "", "http://"])
def test_what_is_no_address_is_named(url: str) -> None:
    """Before anything else."""
    with pytest.raises(UsageError, match="expected an address like http://localhost:8000/v1"):
        endpoint(url)


def test_a_key_in_the_address_is_refused_without_repeating_it() -> None:
    """It would stand in logs and messages."""
    with pytest.raises(UsageError, match="put the key into OPENAI_API_KEY") as caught:
        endpoint(f"http://user:{KEY}@host/v1")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["http://host/v1?api_key=sk-secret", "http://host/v1#sk-secret"])
def test_an_address_with_more_than_a_path_is_refused(url: str) -> None:
    """What stands there may be a key, so it is not repeated."""
    with pytest.raises(UsageError, match="without . and #; a key goes into OPENAI_API") as caught:
        endpoint(url)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk one", "“sk-one”"])
def test_what_cannot_be_a_key_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Two lines, a space, a typographic quote: one line that does not show it."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="OPENAI_API_KEY: it holds a space, a line br") as caught:
        Judge(MODEL, "http://127.0.0.1:9/v1", tmp_path)
    assert "sk" not in str(caught.value)


def test_the_key_goes_to_the_endpoint_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not to the log, the verdicts, the output or the message of a server that repeats it."""
    caplog.set_level("DEBUG")
    with serve() as server:
        evaluate(tmp_path, "MMVet", SETS["MMVet"], Judge(MODEL, server.url, tmp_path))
        assert server.keys == {f"Bearer {KEY}"}
        messages = []
        for status in (400, 401, 500):
            server.status = status
            with pytest.raises(BenchmarkError) as caught:
                Judge(MODEL, server.url, tmp_path).probe()
            messages.append(str(caught.value))
    shown = "".join([*capfd.readouterr(), caplog.text, *messages])
    assert KEY not in shown
    assert all(KEY not in file.read_text() for file in tmp_path.rglob("*.*l*") if file.is_file())
    assert "***" in messages[-1]


def test_without_a_key_one_is_still_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local servers ask for none; the protocol wants a header."""
    monkeypatch.delenv("OPENAI_API_KEY")
    with serve() as server:
        Judge(MODEL, server.url, tmp_path).probe()
        assert server.keys == {"Bearer none"}


def test_a_judge_is_probed_once(tmp_path: Path) -> None:
    """One short question, whatever the number of benchmarks."""
    with serve() as server:
        judge = Judge(MODEL, server.url + "/chat/completions", tmp_path)
        judge.probe()
        judge.probe()
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nobody there", "cannot be reached .*; check --judge-url"),
        ("key", r"the key was refused \(401\); set OPENAI_API_KEY"),
        ("model", "no such model or address .*`other` does not exist.*check --judge"),
        ("address", "no such model or address .*check --judge and --judge-url"),
        ("broken", "answered with an error .*something broke"),
        ("silent", "no answer within 0.2 s"),
        ("no endpoint", "no OpenAI-compatible endpoint; check --judge-url"),
    ],
)
def test_a_judge_that_cannot_work_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, message: str
) -> None:
    """Wrong address, refused key, unknown model, another kind of server; in seconds."""
    with serve() as server:
        model, url = MODEL, server.url
        if case == "nobody there":
            url = "http://127.0.0.1:9/v1"
        elif case == "key":
            server.status = 401
        elif case == "model":
            model = "other"
        elif case == "address":
            url = url.removesuffix("/v1") + "/v2"
        elif case == "broken":
            server.status = 500
        elif case == "silent":
            monkeypatch.setattr(judge_module, "PROBE_SECONDS", 0.2)
            server.delay = 1.0
        else:
            server.respond = lambda *_: (200, {"hello": "world"})  # type: ignore[method-assign]
        with pytest.raises(BenchmarkError, match=message) as caught:
            Judge(model, url, tmp_path).probe()
    assert "\n" not in str(caught.value)


def test_the_same_answer_is_judged_once(tmp_path: Path) -> None:
    """Again, by another judge object, under another benchmark's name: no request, same numbers."""
    names = ("MMBench_DEV_EN", "MMStar", "HallusionBench", "MathVista_MINI", "MMVet")
    sets = {name: SETS[name] for name in names}
    sets["MathVista_MINI"] = SETS["MathVista_MINI"]._replace(answers=["14", "0", "1", "B", "2"])
    with serve() as server:
        first = [evaluate(tmp_path, n, sets[n], Judge(MODEL, server.url, tmp_path)) for n in names]
        assert len(server.asked) == len(set(server.asked)) == 9
        again = [evaluate(tmp_path, n, sets[n], Judge(MODEL, server.url, tmp_path)) for n in names]
        assert first == again
        other = SETS["MMStar"]._replace(answers=["B", "the third", "the third", "the first"])
        evaluate(tmp_path, "AI2D_TEST", other, Judge(MODEL, server.url, tmp_path))
        assert len(server.asked) == 10


def test_a_verdict_is_one_models_on_one_question() -> None:
    """Another judge, another limit, other words: asked for itself."""
    keys = {verdict_key(*of) for of in (("a", 1, "q"), ("b", 1, "q"), ("a", 2, "q"), ("a", 1, "p"))}
    assert len(keys) == 4


def test_unknown_is_a_verdict(tmp_path: Path) -> None:
    """The judge may say so; VLMEvalKit asks five times before it believes it, but only once."""
    small = SETS["HallusionBench"]._replace(answers=["Yes", "Yes", "Yes", "perhaps"])
    with serve() as server:
        for _ in range(2):
            judge = Judge(MODEL, server.url, tmp_path)
            assert evaluate(tmp_path, "HallusionBench", small, judge).unjudged == 0
            assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("name", "tries", "missing", "value"),
    [
        ("MMStar", 3, 1, 50.0),
        ("MMBench_DEV_EN", 3, 1, 100 / 3),
        ("HallusionBench", 5, 1, (75 + 50 + 50) / 3),
        ("MathVista_MINI", 3, 3, 40.0),
        ("MMVet", 5, 3, 0.0),
    ],
)
def test_a_reply_that_cannot_be_read_is_no_verdict(
    tmp_path: Path, name: str, tries: int, missing: int, value: float
) -> None:
    """Asked again, then counted, and wrong: the same number each time, not a rolled one."""
    small = SETS[name]
    with serve(lambda prompt: "blah, 一二三 <b>?</b>") as server:
        judge = Judge(MODEL, server.url, tmp_path)
        found = [evaluate(tmp_path, name, small, judge) for _ in range(3)]
        assert len(server.asked) == 3 * missing * tries
    assert [outcome.unjudged for outcome in found] == [missing] * 3
    assert [outcome.value for outcome in found] == pytest.approx([value] * 3)
    assert len(judge.verdicts) == 0


def test_an_empty_or_refused_reply_is_no_verdict_either(tmp_path: Path) -> None:
    """As where a prompt is longer than the judge's context; the other samples go on."""
    for answer, status in (("", 200), ("A", 400), ("A", 413)):
        with serve(lambda prompt, reply=answer: reply) as server:  # type: ignore[misc]
            server.status = status
            judge = Judge(MODEL, server.url, tmp_path / str(status))
            assert evaluate(tmp_path, "MMStar", SETS["MMStar"], judge).unjudged == 1


def test_a_later_reply_that_can_be_read_is_the_verdict(tmp_path: Path) -> None:
    """Garbage first, then a verdict: it counts, and is kept for the next time."""
    heard: list[str] = []

    def answer(prompt: str) -> str:
        heard.append(prompt)
        return "well..." if heard.count(prompt) < 3 else sensible(prompt)

    with serve(answer) as server:
        for requests in (9, 9):  # three samples of five need the judge: three tries each
            judge = Judge(MODEL, server.url, tmp_path)
            small = SETS["MathVista_MINI"]
            small = small._replace(answers=[*small.answers[:4], "3, or 4?"])
            outcome = evaluate(tmp_path, "MathVista_MINI", small, judge)
            assert (outcome.value, outcome.unjudged, len(server.asked)) == (60.0, 0, requests)


def test_a_judge_that_is_gone_is_an_error_and_its_verdicts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number from half the verdicts; once it is back, only the others are asked for."""
    monkeypatch.setattr(judge_module, "RETRIES", 1)
    monkeypatch.setattr("soup.evaluators.kit.metrics.THREADS", 2)
    rows = [{**choice("A"), "question": f"Which is number {k}?"} for k in range(20)]
    small = SmallSet("ImageMCQDataset", rows, ["the first"] * 20, 100.0)
    with serve() as server:
        server.failing = lambda number: number > 10
        with pytest.raises(ScoringError, match="something broke.*the verdicts so far are kept"):
            evaluate(tmp_path, "MMStar", small, Judge(MODEL, server.url, tmp_path))
        kept = len(Verdicts(tmp_path / "verdicts.jsonl"))
        assert 8 <= kept <= 10
        server.failing = lambda number: False
        server.asked.clear()
        assert evaluate(tmp_path, "MMStar", small, Judge(MODEL, server.url, tmp_path)).value == 100
        assert len(server.asked) == 20 - kept


def test_a_spell_of_errors_is_waited_for(tmp_path: Path) -> None:
    """Requests that fail are sent again, after a pause."""
    with serve() as server:
        server.failing = lambda number: number == 1 and len(server.asked) == 1
        outcome = evaluate(tmp_path, "MMVet", SETS["MMVet"], Judge(MODEL, server.url, tmp_path))
    assert outcome.value == pytest.approx(SETS["MMVet"].value)


def test_a_flipped_bit_never_changes_a_verdict(tmp_path: Path) -> None:
    """Wherever it is: the verdict is as it was, or it is set aside and asked for again."""
    good, file = tmp_path / "verdicts.jsonl", tmp_path / "damaged.jsonl"
    for key, reply in (("a", "1.0"), ("b", "0.5")):
        Verdicts(good).keep(key, MODEL, reply)
    content = good.read_bytes()
    for bit in range(0, 8 * len(content), 7):
        spoilt = bytearray(content)
        spoilt[bit // 8] ^= 1 << bit % 8
        file.write_bytes(spoilt)
        found = Verdicts(file)
        assert {found.get("a"), found.get("b")} - {None} <= {"1.0", "0.5"}
        assert found.get("a") in ("1.0", None)
        assert found.get("b") in ("0.5", None)
        if bit // 8 < len(content) - 1:  # else the last line is one that was cut short
            assert len(found) < 2, "a bit was not noticed"
            assert "checksum" in found.note
        file.unlink()
    assert content.splitlines()[0][:10] in (tmp_path / "damaged.jsonl.damaged").read_bytes()


def test_verdicts_survive_a_crash(tmp_path: Path) -> None:
    """A line that was cut short is no verdict, and does not spoil the next."""
    file = tmp_path / "deep" / "verdicts.jsonl"
    Verdicts(file).keep("a", MODEL, "1.0")
    with file.open("a") as stream:
        stream.write('{"key": "b", "ju')
    verdicts = Verdicts(file)
    verdicts.keep("c", MODEL, "Z\n")
    verdicts.keep("c", MODEL, "Z\n")
    found = Verdicts(file)
    assert (len(found), found.get("a"), found.get("b"), found.get("c")) == (2, "1.0", None, "Z\n")
    assert len(file.read_text().splitlines()) == 2
    assert "1 verdicts have no right checksum" in found.note
    assert Verdicts(file).note == ""
    assert json.loads(file.read_text().splitlines()[0])["judge"] == MODEL


def test_the_judge_belongs_to_a_benchmarks_identity(tmp_path: Path) -> None:
    """Its model, not its address; and only where a metric can ask it."""
    kit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
    file = str(SETS["MMStar"].write(tmp_path / "MMStar.tsv"))
    judges = [None, Judge("a", "http://x/v1", tmp_path), Judge("a", "http://y/v1", tmp_path),
              Judge("b", "http://x/v1", tmp_path)]  # fmt: skip
    found = [json.dumps(kit.Dataset(file, tmp_path, judge).settings) for judge in judges]
    assert found[1] == found[2]
    assert len(set(found)) == 3
    file = str(SETS["OCRBench"].write(tmp_path / "OCRBench.tsv"))
    settings = [kit.Dataset(file, tmp_path, judge).settings for judge in judges[:2]]
    assert settings[0] == settings[1]


def test_reasoning_models_get_what_they_take(tmp_path: Path) -> None:
    """OpenAI's take no temperature; other names that contain "o1" are no such model."""
    bodies = []
    with serve() as server:
        server.respond = lambda path, key, body: (bodies.append(body), (400, {}))[1]  # type: ignore[method-assign]
        for model in ("o3-mini", "openai/gpt-5", "marco-o1", "gpt-4o"):
            Judge(model, server.url, tmp_path).ask("?", 3, 0.0)
    limits = [
        {"max_tokens", "max_completion_tokens", "temperature"} & body.keys() for body in bodies
    ]
    assert limits == [{"max_completion_tokens"}] * 2 + [{"max_tokens", "temperature"}] * 2


def digits(demo: Path, directory: Path) -> list[str]:
    """The demo's questions for digits, in the columns of two benchmarks that need a judge."""
    table = pd.read_csv(demo / "benchmarks" / "digit.tsv", sep="\t", nrows=24)
    table["question"] += WORD_TAIL  # the words that the demo's models know
    truth = [eval(answers)[0] for answers in table["answer"]]
    categories = [("rec,know,gen", "ocr,math", "spat")[k % 3] for k in range(24)]
    sets = {
        "MathVista_MINI": table.assign(
            answer=truth, answer_option="", choices="", question_type="free_form",
            answer_type="integer", task="figure question answering", skills="['counting']",
        ),
        "MMVet": table.assign(answer=truth, category=categories),
    }  # fmt: skip
    for name, frame in sets.items():
        frame.to_csv(directory / f"{name}.tsv", sep="\t", index=False)
    return [f"--bench={name}.tsv" for name in sets]


def test_the_command_line_asks_a_judge(demo: Path, tmp_path: Path) -> None:
    """Real model, real metrics: probed first, verdicts kept, gaps shown, the key nowhere."""
    bench = digits(demo, tmp_path)
    command = ["score", demo / "ckpts" / "parity", *bench, "--device=cpu", "--max-new-tokens=4"]
    gone = run(tmp_path, *command, f"--judge={MODEL}", "--judge-url=http://127.0.0.1:9/v1")
    assert f"judge {MODEL} at http://127.0.0.1:9/v1: cannot be reached" in fails(gone, 1)
    assert not (tmp_path / ".soup" / "predictions").exists()

    def answer(prompt: str) -> str:
        return "hm" if "Extracted answer" in prompt else sensible(prompt)

    with serve(answer) as server:
        judge = [f"--judge={MODEL}", f"--judge-url={server.url}", "--json=board.json"]
        done = run(tmp_path, *command, *judge)
        assert done.returncode == 0, done.stderr
        (first,) = json.loads((tmp_path / "board.json").read_text())["members"]
        missing = first["unjudged"]["MathVista_MINI"]
        assert first["unjudged"]["MMVet"] == 0 < missing
        assert f"no verdict on {missing} of 24 answers" in " ".join(done.stderr.split())
        assert "unjudged" in done.stdout
        shown = done.stdout + done.stderr + gone.stderr
        # Scores are forgotten, verdicts are not.
        (tmp_path / ".soup" / "journal.jsonl").unlink()
        server.asked.clear()
        server.answer = sensible
        done = run(tmp_path, *command, *judge)
        assert done.returncode == 0, done.stderr
        (second,) = json.loads((tmp_path / "board.json").read_text())["members"]
        assert 0 < len(server.asked) <= missing
        assert all("Extracted answer" in prompt for prompt in server.asked)
        assert second["scores"]["MMVet"] == first["scores"]["MMVet"]
        # even a right "0" is asked about: VLMEvalKit's own comparison takes it for no answer
        assert second["scores"]["MathVista_MINI"] >= first["scores"]["MathVista_MINI"]
        assert second["unjudged"] == {"MathVista_MINI": 0, "MMVet": 0}
    files = [file for file in (tmp_path / ".soup").rglob("*") if file.is_file()]
    assert all(KEY.encode() not in file.read_bytes() for file in files)
    assert KEY not in shown + done.stdout + done.stderr
