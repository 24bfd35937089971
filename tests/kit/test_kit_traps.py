"""VLMEvalKit's thirteen traps: one test or more for each, that fails where we fall into it.

1 stale predictions, 2 inherited partials, 3 remembered scores, 4 spent dataset objects, 5 old
images, 6 partial sets, 7 failures scored 0, 8 side effects of importing, 9 the environment, 10 the
vanished "None", 11 one at a time, 12 versions, 13 files that were code.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from soup.blending.blend import Blend
from soup.checkpoints.opening import open_checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.journal import Journal
from soup.choosing.scoring import RecordedScorer
from soup.errors import BenchmarkError, ScoringError
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.fake import FakeScorer
from soup.evaluators.workers.protocol import encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from tests.conftest import make_checkpoint, random_tensors
from tests.kit.small_sets import SETS
from tests.kit.test_vlmevalkit import CHOICE, SHORT, YES_NO, tsv

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")
importing = pytest.importorskip("soup.evaluators.kit.importing")
metrics = pytest.importorskip("soup.evaluators.kit.metrics")

ROOT = Path(__file__).resolve().parents[2]
HALLUSION = SETS["HallusionBench"].rows


def dataset(path: Path, rows: list[dict[str, Any]], name: str = "set") -> Any:
    """A data set from rows, with its images unpacked beside it."""
    return vlmevalkit.Dataset(str(tsv(path / f"{name}.tsv", rows)), path / "cache")


def outcomes(
    scorer: VLMEvalKitScorer, reference: Path, path: Path, benchmark: Path
) -> dict[str, float]:
    """How right a model directory, a member beside ``reference``, is on each question."""
    pool = Pool.open(reference, path)
    (found,) = scorer.benchmarks(pool.reference, [str(benchmark)])
    result = scorer.measure(Blend((pool.members[1],), pool.reference), found, "task")
    return dict(result.outcomes)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLMEvalKitScorer]:
    """A scorer with a work directory of its own."""
    work = tmp_path_factory.mktemp("work")
    with VLMEvalKitScorer(work=work, device="cpu", max_new_tokens=4) as one:
        yield one


def counted_dumps(patch: pytest.MonkeyPatch) -> list[str]:
    """The files, by real path, that multiple choice writes from now on."""
    written: list[str] = []
    dump = metrics.dump

    def noted(data: Any, file: str, **rest: Any) -> None:
        written.append(os.path.realpath(file))
        dump(data, file, **rest)

    patch.setattr(metrics, "dump", noted)
    patch.setattr(metrics.multiple_choice, "dump", noted)
    return written


# --- what lies about: 1, 2, 3, 4, 5 ----------------------------------------------------------


def test_trap_1_new_weights_under_an_old_name_get_answers_of_their_own(
    scorer: VLMEvalKitScorer, demo: Path, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Trap 1, stale predictions: same path, same work directory, even the same process."""
    path, base, benchmark = tmp_path / "model", demo / "base", small_benchmarks / "parity.tsv"
    found, expected = [], []
    for name in ("parity", "compare"):  # the latter in several shards
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(demo / "ckpts" / name, path)
        found.append(outcomes(scorer, base, path, benchmark))
        expected.append(outcomes(scorer, base, demo / "ckpts" / name, benchmark))
    assert found == expected
    assert found[0] != found[1]


def test_trap_1_the_journal_does_not_know_names(tmp_path: Path) -> None:
    """Trap 1, stale predictions: changed weights are scored, known ones are not scored again."""
    values, path = [], tmp_path / "model"
    recorded = RecordedScorer(FakeScorer(), Journal.open(tmp_path / "work"))
    for seed in (1, 2, 1):
        shutil.rmtree(path, ignore_errors=True)
        checkpoint = open_checkpoint(make_checkpoint(path, random_tensors(seed)))
        benchmarks = recorded.scorer.benchmarks(checkpoint, ["set"])
        values.append(recorded.score(Blend((checkpoint,), checkpoint), benchmarks, "x").mean)
    assert values[0] == values[2] != values[1]
    assert recorded.measured == 2


def test_trap_2_answers_of_a_crashed_run_are_not_inherited(
    scorer: VLMEvalKitScorer,
    demo: Path,
    small_benchmarks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trap 2, inherited partials: files as VLMEvalKit leaves them change nothing, wherever."""
    base, model = demo / "base", demo / "ckpts" / "parity"
    benchmark = small_benchmarks / "parity.tsv"
    expected = outcomes(scorer, base, model, benchmark)
    rows = pd.read_csv(benchmark, sep="\t")
    wrong = {
        index: {"A": "B", "B": "A"}[answer]
        for index, answer in zip(rows["index"], rows["answer"], strict=True)
    }
    for directory in (tmp_path, tmp_path / "predictions", tmp_path / "cache"):
        directory.mkdir(exist_ok=True)
        for name in ("01_parity.pkl", "model_parity_PREV.pkl", "model_parity_checkpoint.pkl"):
            (directory / name).write_bytes(pickle.dumps(wrong))
    monkeypatch.chdir(tmp_path)
    with VLMEvalKitScorer(work=tmp_path, device="cpu", max_new_tokens=4) as littered:
        assert outcomes(littered, base, model, benchmark) == expected
    assert sum(expected.values()) > 20, "wrong answers would have shown"


def test_trap_3_scores_are_not_remembered_between_evaluations(tmp_path: Path) -> None:
    """Trap 3: the same dataset object, other answers, another score."""
    for rows, right in ((CHOICE, "ABAB"), (YES_NO, ["Yes", "No"] * 2), (SHORT, "0123")):
        one = dataset(tmp_path, rows)
        keep = tmp_path / "kept.tsv"
        assert one.evaluate(list(right), keep).value == 100.0
        assert one.evaluate(["?"] * 4, keep).value == 0.0
        assert one.evaluate(list(right), keep).value == 100.0


def test_trap_3_evaluations_at_the_same_time_share_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 3, shared temp names: circular sets go through /tmp under the second's name."""
    one = dataset(tmp_path, [{**row, "g_index": k} for k, row in enumerate(CHOICE)], "circular")
    written = counted_dumps(monkeypatch)
    assert one.evaluate(list("ABAB"), tmp_path / "kept.tsv").value == 100.0
    first, written[:] = set(written), []
    one.evaluate(list("ABAB"), tmp_path / "kept.tsv")
    assert first
    assert not first & set(written)
    assert not [file for file in first if Path(file).exists()], "nothing stays behind"


def test_trap_4_a_dataset_can_be_asked_and_scored_again(tmp_path: Path) -> None:
    """Trap 4, spent objects: after `evaluate` the same prompts, images included."""
    for rows in (CHOICE, YES_NO, SHORT):
        one = dataset(tmp_path, rows)
        before = one.messages()
        one.evaluate(["A", "B", "Yes", "0"], tmp_path / "kept.tsv")
        shutil.rmtree(tmp_path / "cache")  # so that images must come from the data again
        Path(before[0][0]["value"]).parent.mkdir(parents=True)
        assert one.messages() == before
        assert Path(before[0][0]["value"]).is_file()


def test_trap_5_images_follow_the_file_not_its_name(tmp_path: Path) -> None:
    """Trap 5, old images: a TSV that changed under its old name shows its new images."""
    from PIL import Image

    from soup.evaluators.demo import png

    shown = []
    for colour in ("red", "blue"):
        path = tsv(tmp_path / "set.tsv", CHOICE)
        table = pd.read_csv(path, sep="\t")
        table["image"] = png(Image.new("RGB", (32, 32), colour))
        table.to_csv(path, sep="\t", index=False)
        one = vlmevalkit.Dataset(str(path), tmp_path / "cache")
        shown.append(Image.open(one.messages()[0][0]["value"]).convert("RGB").getpixel((5, 5)))
        digest = one.data_digest
    assert shown == [(255, 0, 0), (0, 0, 255)]
    assert one.settings["data"] == digest  # and the data is part of a result's key


# --- missing answers: 6, 7 ---------------------------------------------------------------------


def test_trap_6_partial_answers_are_not_scored(tmp_path: Path) -> None:
    """Trap 6: three answers to four questions are an error, not 100%."""
    for rows, right in ((CHOICE, "ABA"), (YES_NO, ["Yes", "No", "Yes"]), (SHORT, "012")):
        with pytest.raises(ScoringError, match="3 answers for 4 questions"):
            dataset(tmp_path, rows).evaluate(list(right), tmp_path / "kept.tsv")


def test_trap_6_rotations_without_their_question_are_an_error(tmp_path: Path) -> None:
    """Trap 6, in circular sets: what VLMEvalKit would leave out of the score is named."""
    rows = [{**row, "g_index": k} for k, row in enumerate(CHOICE)]
    rows[3]["g_index"] = 9
    with pytest.raises(BenchmarkError, match="1 question.*rotations but no first row.*index 9"):
        dataset(tmp_path, rows, "circular")


@pytest.mark.parametrize("rows", [CHOICE, YES_NO, SHORT])
@pytest.mark.parametrize("failed", [1, 4])
def test_trap_7_a_model_that_failed_is_not_scored_0(
    tmp_path: Path, rows: list[dict[str, Any]], failed: int
) -> None:
    """Trap 7: VLMEvalKit's own words for a failure are an error, never wrong answers."""
    answers = ["Failed to obtain answer via API."] * failed + ["A"] * (4 - failed)
    with pytest.raises(ScoringError, match=f"{failed} of 4 questions got no answer"):
        dataset(tmp_path, rows).evaluate(answers, tmp_path / "kept.tsv")


@pytest.mark.parametrize("rows", [CHOICE, YES_NO, SHORT])
def test_trap_7_a_model_that_says_nothing_is_known_by_its_rate(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    """Trap 7: empty answers are answers, but all of them count as unparsed."""
    outcome = dataset(tmp_path, rows).evaluate([""] * 4, tmp_path / "kept.tsv")
    assert (outcome.value, outcome.unparsed) == (0.0, 1.0)


# --- the process: 8, 9 -------------------------------------------------------------------------


def test_trap_8_importing_vlmeval_changes_nothing_in_the_users_process(
    demo: Path, small_benchmarks: Path, tmp_path: Path
) -> None:
    """Trap 8: gradients, random state, TLS, logging and environment are as they were.

    All that was asked for is there: outcomes, kept predictions, what it was measured with.
    """
    code = f"""
import logging, os, random, ssl, sys
import numpy, torch
def state():
    root = logging.getLogger()
    return (
        torch.is_grad_enabled(), torch.initial_seed(), torch.get_rng_state().tolist(),
        torch.get_num_threads(), random.getstate(), numpy.random.get_state()[1].tolist(),
        ssl._create_default_https_context, root.level, list(root.handlers), dict(os.environ),
    )
torch.manual_seed(5)
before = state()
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.workers.protocol import PROTOCOL, encode_blend, encode_checkpoint
from soup.evaluators.workers.worker import Worker
from soup.blending.blend import Blend
from soup.checkpoints.pool import Pool
pool = Pool.open({str(demo / "ckpts" / "digit")!r})
with VLMEvalKitScorer(work={str(tmp_path)!r}, device="cpu", max_new_tokens=4) as scorer:
    (benchmark,) = scorer.benchmarks(pool.reference, [{str(small_benchmarks / "digit.tsv")!r}])
    result = scorer.measure(Blend(pool.members, pool.reference), benchmark, "task")
assert state() == before
assert benchmark.samples == result.samples == len(result.outcomes) == 40
assert abs(sum(result.outcomes.values()) / 40 * 100 - result.value) < 1e-9
assert benchmark.settings["vlmeval"].startswith("ms-vlmeval ")
assert benchmark.settings["compute_dtype"] == "float32"
assert not {{"vlmeval", "transformers", "pandas", "PIL"}} & sys.modules.keys()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
    assert len(list((tmp_path / "predictions").glob("*.tsv.gz"))) == 1


def prompts_and_scores(directory: Path, answers: dict[str, list[str]]) -> dict[str, Any]:
    """What the sets of a directory ask, and what answers to them are worth."""
    found = {}
    for name, said in answers.items():
        one = vlmevalkit.Dataset(str(directory / f"{name}.tsv"), directory / "cache")
        outcome = one.evaluate(said, directory / "kept.tsv")
        prompts = [[item["value"] for item in message[1:]] for message in one.messages()]
        found[name] = [outcome.value, outcome.unparsed, outcome.outcomes, prompts]
    return found


def test_trap_9_the_environment_changes_no_score(tmp_path: Path) -> None:
    """Trap 9: nor does the .env file that VLMEvalKit reads beside its package; none is left."""
    rows = [{"question": "q?", "A": "x", "B": "y", "C": "w", "answer": "A"} for _ in range(4)]
    tsv(tmp_path / "choice.tsv", rows)
    tsv(tmp_path / "yes_no.tsv", YES_NO)
    tsv(tmp_path / "circular.tsv", rows)
    answers = {
        # with VERBOSE, "A" in a sentence may be a quantifier; long text is cut by xlsx
        "choice": ["A is the one", "=A", "A" * 40000, "<think>B</think> A"],
        "yes_no": ["Yes", "=No", "no " * 20000, "<think>Yes</think> No"],
        "circular": ["A is the one", "A", "B", "A"],
    }
    hostile = {
        "VERBOSE": "1",
        "USE_COT": "1",
        "SPLIT_THINK": "True",
        "SKIP_ERR": "1",
        "PRED_FORMAT": "xlsx",
        "EVAL_FORMAT": "json",
        "LOCAL_LLM": "a-model",
        "FORCE_LOCAL": "1",
        "PRINT_VANILLA": "1",
    }
    import vlmeval

    beside = tmp_path / "site"
    beside.mkdir()
    (beside / "vlmeval").symlink_to(Path(vlmeval.__file__).parent)
    (beside / ".env").write_text("".join(f"{k}={v}\n" for k, v in hostile.items()))
    code = (
        "import json, sys; from pathlib import Path; from tests.kit import test_kit_traps as t;"
        "print(json.dumps(t.prompts_and_scores(Path(sys.argv[1]), json.loads(sys.argv[2]))));"
        "print(json.dumps(dict(t.os.environ)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), json.dumps(answers)],
        env=os.environ | hostile | {"PYTHONPATH": f"{beside}:{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, environment = map(json.loads, done.stdout.splitlines()[-2:])
    assert {name: environment[name] for name in hostile if name in environment} == {
        "PRED_FORMAT": "tsv"
    }
    assert found == prompts_and_scores(tmp_path, answers)
    assert [found[name][0] for name in answers] == [50.0, 75.0, 75.0]


# --- words that pandas takes for nothing: 10 -----------------------------------------------------

WORDS = ("None", "NA", "N/A", "n/a", "null", "NULL")


@pytest.mark.parametrize("word", WORDS)
def test_trap_10_an_option_that_reads_none_is_an_option(tmp_path: Path, word: str) -> None:
    """Trap 10: it stands in the prompt, can be chosen by letter or by text, and be right."""
    rows = [
        {"question": "How many?", "A": "one dog", "B": word, "C": "a cat", "answer": "B"},
        {"question": "How many?", "A": "one", "B": "two", "C": "", "answer": "A"},
        {"question": word, "A": "7", "B": "8", "C": "9", "answer": "C"},
    ]
    one = dataset(tmp_path, rows)
    texts = [message[-1]["value"] for message in one.messages()]
    assert texts[0].splitlines()[2:5] == ["A. one dog", f"B. {word}", "C. a cat"]
    assert texts[1].splitlines()[2:4] == ["A. one", "B. two"]
    assert "C." not in texts[1], "a cell without text is no option"
    assert texts[2].startswith(f"Question: {word}\n")
    outcome = one.evaluate(["B", "A", "C"], tmp_path / "kept.tsv")
    assert (outcome.value, outcome.unparsed) == (100.0, 0.0)
    outcome = one.evaluate([word, "C", "9"], tmp_path / "kept.tsv")
    assert outcome.outcomes == {"0": 1.0, "1": 0.0, "2": 1.0}


def test_trap_10_hints_are_read_as_vlmevalkit_reads_them(tmp_path: Path) -> None:
    """Trap 10: a hint "None" is none; options keep their words: 2 does not become 2.0."""
    rows: list[dict[str, Any]] = [
        {"hint": "None", "question": "q?", "A": 7, "B": "nan", "C": 1.5, "D": "", "answer": "A"},
        {"hint": "look", "question": "q?", "A": 8, "B": 2, "C": "", "D": "", "answer": "A"},
        {"hint": "", "question": "q?", "A": 9, "B": "", "C": "None", "D": "", "answer": "C"},
    ]
    path = tsv(tmp_path / "set.tsv", rows)
    one = vlmevalkit.Dataset(str(path), tmp_path / "cache")
    texts = [message[-1]["value"].split("Please")[0] for message in one.messages()]
    assert texts == [
        "Question: q?\nOptions:\nA. 7\nB. nan\nC. 1.5\n",
        "Hint: look\nQuestion: q?\nOptions:\nA. 8\nB. 2\n",
        "Question: q?\nOptions:\nA. 9\nC. None\n",
    ]
    assert "1 options read 'nan', and are shown" in one.notes[0]


def test_trap_10_answers_that_look_like_missing_values_stay_answers(tmp_path: Path) -> None:
    """Trap 10, beyond options: predictions and short answers; and 7 does not become 7.0."""
    rows = [{"question": "q?", "answer": text} for text in ("None", "NA", "7", "8")]
    one = dataset(tmp_path, rows)
    assert one.evaluate(["None", "NA", "7", "8"], tmp_path / "k.tsv").value == 100.0
    assert one.evaluate(["nan", "nan", "7", "8"], tmp_path / "k.tsv").value == 50.0
    rows = [{"question": "q?", "answer": "None"} for _ in range(2)]
    assert dataset(tmp_path, rows, "all").settings["dataset"] == "ImageVQADataset"
    rows = [{"question": "q?", "answer": str(k)} for k in range(4)]
    one = dataset(tmp_path, rows, "numbers")
    assert one.evaluate(["0", "1", "2", ""], tmp_path / "k.tsv").value == 75.0


# --- one at a time: 11 ---------------------------------------------------------------------------


def test_trap_11_questions_are_answered_in_batches(
    demo: Path, small_benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 11: forty questions, batches of twenty: two calls of `generate`."""
    from transformers import GenerationMixin

    checkpoint = open_checkpoint(demo / "ckpts" / "digit")
    generate, sizes = GenerationMixin.generate, []

    def counted(self: Any, *rest: Any, **inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        return generate(self, *rest, **inputs)

    monkeypatch.setattr(GenerationMixin, "generate", counted)
    worker = Worker(lambda message: None)
    source = str(small_benchmarks / "digit.tsv")
    options = {"device": "cpu", "batch_size": 20, "max_new_tokens": 4}
    worker.handle(
        {
            "do": "open",
            "reference": encode_checkpoint(checkpoint),
            "options": options,
            "cache": str(tmp_path),
        }
    )
    worker.handle({"do": "benchmark", "source": source})
    result = worker.handle(
        {
            "do": "measure",
            "blend": encode_blend(Blend((checkpoint,), checkpoint)),
            "benchmark": source,
            "key": "a key",
            "keep": str(tmp_path / "kept.tsv"),
            "task": "task",
        }
    )
    assert result["samples"] == 40
    assert sizes == [20, 20]


def test_trap_11_answers_are_scored_without_a_file_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 11: `evaluate` without its file after each answer: few files, the same report."""
    from vlmeval.utils.mp_util import track_progress_rich

    rows = [
        {"question": "q?", "A": "even", "B": "odd", "C": "neither", "answer": "ABC"[k % 3],
         "category": "xy"[k % 2]}
        for k in range(60)
    ]  # fmt: skip
    said = ("A", "B.", "even", "odd, or even", "Answer: C", "", "A B", "Z", "what", "The answer")
    answers = [rows[k]["answer"] if k < 20 else said[k % len(said)] for k in range(60)]
    groups = [{**row, "g_index": k - k % 3} for k, row in enumerate(rows)]
    for name, made in (("choice", rows), ("circular", groups)):
        one = dataset(tmp_path, made, name)
        with monkeypatch.context() as patch:
            written = counted_dumps(patch)
            found = one.evaluate(answers, tmp_path / "kept.tsv")
            assert 0 < len(written) <= 2
            patch.setattr(metrics.multiple_choice, "track_progress_rich", track_progress_rich)
            assert one.evaluate(answers, tmp_path / "kept.tsv") == found
        assert 0 < found.value < 100


# --- what a number means: 12, 13 -----------------------------------------------------------------


def test_trap_12_versions_are_recorded_and_part_of_the_key(
    scorer: VLMEvalKitScorer, demo: Path, small_benchmarks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 12: a result of another VLMEvalKit, transformers or torch is another result."""
    import transformers

    checkpoint, name = open_checkpoint(demo / "base"), str(small_benchmarks / "digit.tsv")
    (found,) = scorer.benchmarks(checkpoint, [name])
    assert found.settings["vlmeval"] == vlmevalkit.version()
    assert found.settings["transformers"] == transformers.__version__
    assert found.settings["torch"] == torch.__version__
    digests, ask = {found.digest}, scorer._ask
    for key in ("vlmeval", "transformers", "torch"):

        def asked(request: dict[str, Any], *_: Any, key: str = key) -> dict[str, Any]:
            answer = ask(request)
            for part in (answer, answer.get("settings", {}), answer.get("model", {})):
                if key in part:
                    part[key] = "another"
            return answer

        monkeypatch.setattr(scorer, "_ask", asked)
        digests |= {one.digest for one in scorer.benchmarks(checkpoint, [name])}
    assert len(digests) == 4


def test_trap_13_nothing_in_a_benchmark_file_is_run(tmp_path: Path) -> None:
    """Trap 13: fields that VLMEvalKit gives to `eval` are read as values, in every kind of set."""
    ran = tmp_path / "ran"
    code = f"[open({str(ran)!r}, 'w').close()]"
    for name, rows in (
        ("set", CHOICE), ("yes", YES_NO), ("short", SHORT), ("HallusionBench", HALLUSION),
        ("TextVQA_x", SHORT),
    ):  # fmt: skip
        for column in ("index", "answer", "question", "image_path", "image"):
            made = [dict(row) for row in rows]
            made[0][column] = code
            try:
                one = dataset(tmp_path, made, name)
                one.messages()
                one.evaluate([code] * 4, tmp_path / "kept.tsv")
            except (BenchmarkError, ScoringError):
                pass
            assert not ran.exists(), f"{name}, {column}"


def test_trap_13_scores_of_mathvista_run_nothing(tmp_path: Path) -> None:
    """Trap 13, where the metric itself evaluates fields: lists of choices and of skills."""
    ran = tmp_path / "ran"
    for module in (metrics.mathvista, metrics.image_vqa, importing.vqa_eval):
        with pytest.raises(ValueError, match="not a value"):
            module.eval(f"[open({str(ran)!r}, 'w').close()]")
        assert module.eval("['a', 'b']") == ["a", "b"]
    assert not ran.exists()
