"""Traps 1 to 5 and 12 of ``tests.kit.traps``: what lies about from before."""

import pickle
import shutil
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
from soup.evaluators import VLMEvalKitScorer
from soup.evaluators.fake import FakeScorer
from tests.conftest import make_checkpoint, random_tensors
from tests.kit.test_vlmevalkit import CHOICE, SHORT, YES_NO, tsv
from tests.kit.traps import counted_dumps, dataset

vlmevalkit = pytest.importorskip("soup.evaluators.kit.vlmevalkit")


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
