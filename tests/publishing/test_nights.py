"""`soup nightly` with a scorer that reads the weights: a fake. The real one: test_seven_nights."""

import json
import os
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from soup.cli import nightly as command
from tests.cli.test_cli import fails, run
from tests.publishing.pool import ReadingScorer, member

X = ("--bench", "x", "--bench", "y", "--holdout", "z")


class Place:
    """A directory in which nights are played."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three members: two know different halves of most questions, the third knows little."""
        self.path = path
        self.ckpts = path / "ckpts"
        self.shelf = path / "published"
        self.scorer = ReadingScorer()
        monkeypatch.setattr(command, "scorer_of", lambda *_: self.scorer)
        member(self.ckpts / "a", range(0, 90))
        member(self.ckpts / "b", range(60, 150))
        member(self.ckpts / "c", range(0, 20))

    def night(self, *more: object, **environment: str) -> Any:
        """One night; what it did, with its JSON document under ``document``."""
        self.scorer = ReadingScorer()
        arguments = ("ckpts/*", *X, "--publish", "published", "--settle", "0")
        drawing = () if "--charts" in more else ("--no-charts",)  # seconds
        rest = [word for word in more if word != "--charts"]
        done: Any = run(
            self.path, "nightly", *arguments, *drawing, "--json", "night.json", *rest, **environment
        )
        document = self.path / "night.json"
        done.document = json.loads(document.read_text()) if document.exists() else None
        return done

    @property
    def latest(self) -> str:
        """The soup in use."""
        return os.readlink(self.shelf / "latest")

    @property
    def soups(self) -> list[str]:
        """All that lie there."""
        return sorted(p.name for p in self.shelf.iterdir() if p.is_dir() and not p.is_symlink())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where nothing has been published."""
    return Place(tmp_path, monkeypatch)


def test_a_gain_of_luck_cannot_be_told(place: Place) -> None:
    """Exit code 4, the smallest gain that could have been told, and nothing is published."""
    place.night()
    first = place.latest
    member(place.ckpts / "d", [150], lacks=-0.01)
    done = place.night("--junit", "night.xml", "--markdown", "night.md")
    verdict = done.document["verdict"]
    assert done.returncode == 4, done.stderr
    assert verdict["word"] == "cannot tell" and verdict["gain"] == 0.5
    assert verdict["tellable"] > verdict["step"] > 0.5
    assert place.latest == first and place.soups == [first]
    assert f"the smallest gain that could have been told: {verdict['tellable']:.2f}" in done.stdout
    text = (place.path / "night.md").read_text()
    assert text.startswith("<!-- soup nightly -->\n") and "**cannot tell**" in text
    suite = ElementTree.parse(place.path / "night.xml").getroot()[0]
    assert (suite.get("failures"), suite.get("skipped"), suite.get("tests")) == ("0", "1", "4")


def test_each_soup_that_is_compared_makes_the_next_one_harder(place: Place) -> None:
    """The level is alpha divided by the number of soups so far; the same soup counts once."""
    place.night()
    for k in range(3):
        member(place.ckpts / f"d{k}", [150 + k], lacks=-0.01)
        verdict = place.night("--alpha", "0.006").document["verdict"]
        assert (verdict["nights"], verdict["level"]) == (k + 1, 0.006 / (k + 1))
        again = place.night("--alpha", "0.006").document["verdict"]
        assert again == verdict


def test_guard_rails_and_a_least_gain_hold_a_soup_back(place: Place) -> None:
    """A benchmark or hold-out that falls too far, or a gain that is too small: exit code 3."""
    place.night()
    better = member(place.ckpts / "d", range(140, 200))
    done = place.night("--min-gain", "25")
    assert done.returncode == 3 and "more than 25 are asked for" in done.stdout
    shutil.rmtree(better)
    import torch
    from safetensors.torch import load_file, save_file

    member(better, range(140, 200))
    tensors = load_file(better / "model.safetensors")
    tensors["z"] = torch.full_like(tensors["z"], -9.0)  # on the hold-out it ruins everything
    save_file(tensors, better / "model.safetensors", metadata={"format": "pt"})
    done = place.night("--no-worse", "z:0.5", "--junit", "night.xml")
    assert done.returncode == 3, done.stderr
    assert "z fell from 75.00 to 0.00, a fall of 0.5 is allowed" in done.document["verdict"]["why"]
    suite = ElementTree.parse(place.path / "night.xml").getroot()[0]
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    assert failed == ["better than the published soup", "z falls by at most 0.5"]
    assert place.night("--no-worse", "x:0.5").returncode == 0


def test_too_few_good_checkpoints_are_a_verdict(place: Place) -> None:
    """Not an error: exit code 4, and what was left out is named."""
    for name in ("a", "b"):
        (place.ckpts / name / "model.safetensors").write_bytes(b"\1\0")
    done = place.night()
    assert done.returncode == 4, done.stderr
    assert "1 good checkpoint of 3, at least 2 are needed" in done.document["verdict"]["why"]
    assert [one["name"] for one in done.document["left_out"]] == ["a", "b"]
    assert not (place.shelf / "latest").exists()


def test_a_young_file_is_not_ready(place: Place) -> None:
    """--settle: a checkpoint that was just written waits for another night."""
    for path in place.ckpts.glob("[ab]/*"):
        os.utime(path, (1, 1))
    done = place.night("--settle", "3600")
    assert done.returncode == 0, done.stderr
    (one,) = done.document["left_out"]
    assert (one["name"], one["how"]) == ("c", "not ready")
    assert "it counts as complete after 1 h 00 without a change (--settle)" in one["why"]


def test_a_bad_one_is_an_error_where_that_is_asked_for(place: Place) -> None:
    """--no-skip-bad: exit code 1; one that is not ready is left out all the same."""
    (place.ckpts / "c" / "config.json").write_text("{")
    done = place.night("--no-skip-bad")
    assert "config.json: not JSON" in fails(done, 1)
    assert done.document["error"]


def test_the_largest_group_that_fits_is_the_pool(place: Place) -> None:
    """Also where the first one is the odd one out."""
    from tests.conftest import make_checkpoint, random_tensors

    make_checkpoint(place.ckpts / "0-odd", random_tensors(1))
    done = place.night()
    assert done.returncode == 0, done.stderr
    assert [(one["name"], one["how"]) for one in done.document["left_out"]] == [
        ("0-odd", "does not fit")
    ]


def test_a_night_that_was_killed_while_it_published_is_finished_by_the_next(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link is as it was; the soup that was written is used, not written twice."""
    from soup.publishing.shelf import Shelf

    place.night()
    first = place.latest
    member(place.ckpts / "d", range(140, 200))
    with monkeypatch.context() as patched:

        def killed(shelf: Shelf, soup: Path) -> None:
            raise KeyboardInterrupt

        patched.setattr(Shelf, "use", killed)
        done = place.night()
        assert done.returncode == 130
        assert done.document["error"] == "stopped", "yesterday's result does not stand as today's"
    assert place.latest == first and place.soups == [first, f"{first}-2"]
    written = (place.shelf / f"{first}-2" / "model.safetensors").stat().st_ino
    done = place.night()
    assert done.returncode == 0 and place.latest == f"{first}-2"
    assert place.soups == [first, f"{first}-2"]
    assert (place.shelf / place.latest / "model.safetensors").stat().st_ino == written
    assert done.document["verdict"]["nights"] == 1, "it is the same soup"


def test_old_soups_go_but_never_a_member_or_the_one_in_use(place: Place) -> None:
    """--keep N besides the one in use."""
    place.night()
    first = place.latest
    member(place.ckpts / "d", range(140, 170))
    assert place.night("--keep", "0", f"published/{first}").returncode == 0
    assert place.soups == [first, f"{first}-2"], "the first is a member of the pool"
    member(place.ckpts / "e", range(160, 200))
    done = place.night("--keep", "0")
    assert done.returncode == 0, done.stderr
    assert place.soups == [f"{first}-3"]
    assert done.document["deleted"] == [first, f"{first}-2"]


def test_rollback_uses_the_soup_before_and_is_remembered(place: Place) -> None:
    """No night publishes again by itself what was taken back; by name it can be used again."""
    place.night()
    first = place.latest
    assert "there is no soup before" in fails(
        run(place.path, "rollback", "--publish", "published"), 1
    )
    member(place.ckpts / "d", range(140, 200))
    place.night()
    second = place.latest
    done = run(place.path, "rollback", "--publish", "published")
    assert done.stdout == f"{first} is in use, {second} is not any more\n"
    assert place.latest == first
    done = place.night()
    assert done.returncode == 3 and "was taken back on" in done.document["verdict"]["why"]
    assert run(place.path, "rollback", "--publish", "published", "--to", second).returncode == 0
    assert place.latest == second
    assert "no soup 2000-01-01" in fails(
        run(place.path, "rollback", "--publish", "published", "--to", "2000-01-01"), 1
    )


def test_no_rollback_leads_to_what_was_taken_back(place: Place) -> None:
    """Nor does going on to a later soup take one back; the report tells of it."""
    from soup.reporting.facts import gather

    place.night()
    first = place.latest
    member(place.ckpts / "d", range(140, 200))
    place.night()
    back = ("rollback", "--publish", "published")
    run(place.path, *back)
    shutil.rmtree(place.ckpts / "d")
    member(place.ckpts / "e", range(150, 190))
    done = place.night()
    assert done.document["verdict"]["gain"] == 20.0, "against the one in use"
    third = place.latest
    assert run(place.path, *back).stdout == f"{first} is in use, {third} is not any more\n"
    (line,) = [line for line in gather(place.path / ".soup").more if "taken back" in line]
    assert line.endswith(f", by soup rollback; the soup {first} is in use")
    run(place.path, *back, "--to", third)
    assert run(place.path, *back).returncode == 0 and place.latest == first, "it never was"
    run(place.path, *back, "--to", third)
    assert not [line for line in gather(place.path / ".soup").more if "taken back" in line]
    shutil.rmtree(place.shelf / first)
    line = fails(run(place.path, *back), 1)
    assert f"no soup before {third} that was not taken back, too; name one with --to; it" in line
    assert place.latest == third


def test_the_published_soup_is_asked_what_it_was_not_asked(place: Place) -> None:
    """Where benchmarks have changed since, or the journal was lost: its written weights, once."""
    place.night()
    published = place.latest

    def asked() -> list[str]:
        """What the published soup was asked."""
        return [name for names, name in place.scorer.calls if names == (published,)]

    shutil.rmtree(place.ckpts / "a")  # else it would be asked as a trial
    done = place.night("--bench", "w")
    assert "asking the published soup" in done.stderr and "was not asked: w\n" in done.stderr
    assert asked() == ["w"], "what it was asked as tonight's soup counts"
    place.night("--bench", "w", "--bench", "v")
    assert asked() == ["v"]
    shutil.move(place.path / ".soup", place.path / "lost")
    assert place.night().returncode == 3
    assert asked() == ["x", "y", "z"]
    member(place.ckpts / "e", [])
    place.night()
    assert asked() == []


def test_a_dry_run_says_what_would_be_left_out_and_writes_nothing(place: Place) -> None:
    """Exit code 0, no shelf, no journal; an error where too few are left."""
    (place.ckpts / "c" / "model.safetensors").write_bytes(b"\1")
    done = place.night("--dry-run", "--push", "team/soup")
    assert done.returncode == 0, done.stderr
    assert "warning: c: would be left out, not ready: " in done.stderr
    assert "would send a published soup to team/soup" in done.stderr
    assert "plan: greedy of 2 members" in done.stdout
    assert place.scorer.calls == [] and not place.shelf.exists()
    assert not (place.path / ".soup" / "journal.jsonl").exists()


def test_adapters_are_a_pool_too(place: Place) -> None:
    """What is published of them is a full model; the next night compares it with adapters."""
    import torch

    from tests.conftest import make_adapter, make_checkpoint

    base = make_checkpoint(
        place.path / "base", {f"{name}.weight": torch.full((20, 10), -0.5) for name in "xyz"}
    )
    for path in place.ckpts.iterdir():
        shutil.rmtree(path)

    def adapter(name: str, rows: list[int]) -> None:
        """Knows the questions of some rows."""
        up = torch.zeros(20, 1)
        up[rows] = 1.0
        down = torch.ones(1, 10)
        factors = {
            f"{x}.lora_{k}.weight": t.clone() for x in "xyz" for k, t in (("A", down), ("B", up))
        }
        make_adapter(place.ckpts / name, factors, base, lora_alpha=2)

    adapter("a", list(range(0, 9)))
    adapter("b", list(range(6, 15)))
    done = place.night("--base", "base")
    assert done.returncode == 0, done.stderr
    adapter("c", list(range(14, 20)))
    done = place.night("--base", "base")
    assert done.returncode in (0, 3, 4), done.stderr
    assert done.document["verdict"]["nights"] == 1
    done = place.night("--base", "base", "--work", "elsewhere", "--min-gain", "50")
    assert done.returncode == 3, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--no-worse", "q:1"), 2, "--no-worse q: no such benchmark in this run"),
        (("--no-worse", "x:little"), 2, "--no-worse x:little: expected NAME:POINTS"),
        (("--alpha", "2"), 2, "--alpha 2: expected more than 0 and less than 1"),
        (("--time-limit", "soon"), 2, "--time-limit soon: expected seconds, or a time"),
        (("--notify", "ftp://secret"), 2, "--notify: expected an address"),
        (("nowhere/*",), 2, "nowhere/*: matches no directory"),
        (("--publish", "ckpts/a/config.json"), 1, "cannot be published in"),
    ],
)
def test_mistakes_are_told_before_anything_is_scored(
    place: Place, arguments: tuple[str, ...], code: int, message: str
) -> None:
    """One line, exit code 2 or 1; no document of yesterday's stands as today's, all three alike."""
    for name in ("night.json", "night.md", "night.xml"):
        (place.path / name).write_text("yesterday's")
    done = place.night(*arguments, "--junit", "night.xml", "--markdown", "night.md")
    assert message in fails(done, code)
    assert place.scorer.calls == []
    assert message in done.document["error"]
    suite = ElementTree.parse(place.path / "night.xml").getroot()[0]
    assert suite.get("errors") == "1" and message in suite[0][0].get("message", "")
    assert "This run failed:" in (place.path / "night.md").read_text()


def test_no_benchmark_is_a_usage_error(place: Place) -> None:
    """There would be nothing to decide by."""
    done = run(place.path, "nightly", "ckpts/*", "--publish", "published")
    assert "add --bench NAME" in fails(done, 2)


def test_when_the_time_is_over_the_exit_code_says_so(place: Place) -> None:
    """75: the same command goes on from there, and does."""
    real = ReadingScorer.measure

    def slow(scorer: ReadingScorer, *arguments: Any) -> Any:
        if len(scorer.calls) == 3:
            import time

            time.sleep(5)
        return real(scorer, *arguments)

    ReadingScorer.measure = slow  # type: ignore[method-assign]
    try:
        done = place.night("--time-limit", "0.5")
    finally:
        ReadingScorer.measure = real  # type: ignore[method-assign]
    assert done.returncode == 75, done.stderr
    assert "the time is over" in done.stderr
    assert place.night().returncode == 0


def test_the_step_summary_is_written_by_itself(place: Place) -> None:
    """Where GitHub's CI collects it; what cannot be told is a warning, and changes nothing."""
    summary = place.path / "summary.md"
    summary.write_text("before\n")
    done = place.night(GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0
    assert summary.read_text().startswith("before\n<!-- soup nightly -->\n\n## Nightly soup")
    done = place.night("--junit", "nowhere/night.xml", GITHUB_STEP_SUMMARY="/nowhere/s.md")
    assert done.returncode == 3, "the verdict"
    assert done.stderr.count("warning: ") == 2
