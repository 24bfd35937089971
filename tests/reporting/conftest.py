"""A run whose every name, question and answer tries to be more than text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from soup.blending.blend import Blend
from soup.checkpoints.checkpoint import Checkpoint
from soup.checkpoints.pool import Pool
from soup.choosing.questions import Questions
from soup.choosing.scoring import Benchmark
from soup.evaluators.fake import FakeScorer
from soup.evaluators.kit.answers import Answer
from soup.events import Observer, ignore
from soup.line import line
from soup.reporting.facts import Facts, gather
from soup.reporting.page import page
from soup.run import Settings, make
from tests.conftest import make_checkpoint, random_tensors

EVIL = "<img src=x onerror='window.broken=1'>"
BENCH = '"><script>window.broken=2<{script> {{ 7*7 }}'.replace("{s", "/s")
SAMPLES = 60


class Asked(FakeScorer):
    """A scorer whose questions have pictures and kinds: the first three share one picture."""

    def benchmarks(
        self, reference: Checkpoint, names: Sequence[str], observe: Observer = ignore
    ) -> list[Benchmark]:
        """As the fake's, and what the questions have in common."""
        keys = [str(k) for k in range(SAMPLES)]
        questions = Questions(
            clusters=dict.fromkeys(keys[:3], "shared"),
            categories={key: ("odd", "even " + EVIL)[int(key) % 2] for key in keys},
        )
        found = super().benchmarks(reference, names, observe)
        return [replace(benchmark, questions=questions) for benchmark in found]


def right(blend: Blend, benchmark: str, sample: int) -> float:
    """More members are right more often, each on questions of its own."""
    return float(any((sample + ord(m.name[-1])) % (3 + len(benchmark) % 3) for m in blend.members))


@dataclass(frozen=True)
class Made:
    """A finished greedy run: its ``work``, its pool's directories, its facts and its page."""

    work: Path
    paths: Sequence[Path]
    facts: Facts
    page: str


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Two runs and a line; answers, with a picture, are given by a fake instead of being kept.

    Treat it as read-only.
    """
    from PIL import Image

    tmp_path = tmp_path_factory.mktemp("reported")

    names = [f"{EVIL}-{letter}" for letter in "abcd"]
    paths = [
        make_checkpoint(tmp_path / "ckpts" / name, random_tensors(k))
        for k, name in enumerate(names)
    ]
    Image.new("RGB", (500, 300), "navy").save(tmp_path / "a picture.png")
    settings = Settings(
        benchmarks=(BENCH, "plain"), holdouts="held", work=tmp_path / ".soup", out=tmp_path / "out"
    )
    scorer = Asked(right=right, samples=SAMPLES)
    make("average", Pool.open(*paths), scorer, settings)
    make("greedy", Pool.open(*paths), scorer, settings)
    line(Pool.open(*paths[:2]), scorer, settings, 3)

    def kept(work: Path, blend: str, benchmark: str, settings: object) -> dict[str, Answer]:
        image = str(tmp_path / "a picture.png")
        return {
            str(k): Answer(str(k), f"{EVIL} {k}?", {"A": EVIL}, "['1', '1']", EVIL, image)
            for k in range(SAMPLES)
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soup.reporting.flips.kept_answers", kept)
        facts = gather(tmp_path / ".soup")
    return Made(tmp_path / ".soup", paths, facts, page(facts))
