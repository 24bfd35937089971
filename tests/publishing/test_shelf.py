"""Where soups are published: what goes, what never does, what was taken back."""

import json
import os
import shutil

import pytest

from soup.publishing.diary import read
from tests.cli.test_cli import fails, run
from tests.publishing.pool import member
from tests.publishing.test_nights import Place, place

__all__ = ["place"]


def test_the_one_in_use_stays_where_a_link_leads_to_the_shelf(place: Place) -> None:
    """Also where it is the oldest, and none but it is to be kept."""
    (place.path / "disk").mkdir()
    place.shelf.symlink_to("disk")
    place.night()
    first = place.latest
    member(place.ckpts / "d", range(140, 200))
    assert place.night("--keep", "0").returncode == 0
    assert place.soups == [place.latest]
    member(place.ckpts / "e", range(100, 110))
    assert place.night("--keep", "0").returncode in (3, 4)
    assert (place.shelf / "latest" / "model.safetensors").is_file()
    assert first not in place.soups


def test_what_adapters_change_is_never_deleted(place: Place) -> None:
    """Adapters that were trained on a published soup: it is their base, and stays."""
    import torch

    from tests.conftest import make_adapter, make_checkpoint

    old = place.shelf / "2026-01-01"
    make_checkpoint(old, {f"{name}.weight": torch.full((20, 10), -0.5) for name in "xyz"})
    (old / "soup.json").write_text("{}")
    for path in place.ckpts.iterdir():
        shutil.rmtree(path)
    for name, rows in (("a", range(9)), ("b", range(6, 15))):
        up = torch.zeros(20, 1)
        up[list(rows)] = 1.0
        factors = {f"{x}.lora_A.weight": torch.ones(1, 10) for x in "xyz"}
        factors |= {f"{x}.lora_B.weight": up.clone() for x in "xyz"}
        make_adapter(place.ckpts / name, factors, old, lora_alpha=2)
    done = place.night("--keep", "0")
    assert done.returncode == 0, done.stderr
    assert place.soups == ["2026-01-01", place.latest]
    assert done.document["deleted"] == []


def test_what_a_killed_night_left_goes_whatever_its_date(place: Place) -> None:
    """Halves of soups are large; a link that was not swapped is a riddle."""
    place.night()
    for name in (".2026-01-01.unfinished-99-abc", ".2026-01-02.deleted-abc"):
        (place.shelf / name).mkdir()
    (place.shelf / ".latest.99").symlink_to("nowhere")
    (place.shelf / ".git").mkdir()
    place.night()
    hidden = [path.name for path in place.shelf.iterdir() if path.name.startswith(".")]
    assert sorted(hidden) == [".git", ".lock"]


def test_what_was_taken_back_goes_by_weights_and_files(place: Place) -> None:
    """The same weights beside other files answer otherwise: that is another soup."""
    place.night()
    member(place.ckpts / "d", range(140, 200))
    place.night()
    second = place.latest
    run(place.path, "rollback", "--publish", "published")
    assert "was taken back on" in place.night().document["verdict"]["why"]
    for path in place.ckpts.iterdir():
        (path / "tokenizer_config.json").write_text('{"model_max_length": 9}')
    done = place.night()
    assert done.returncode == 0, done.document["verdict"]
    assert place.latest not in (second, "")
    assert all("." not in name for name in place.soups), "none was moved aside"


def test_a_member_that_comes_back_is_not_called_new(place: Place) -> None:
    """Nor one that was renamed: neither is asked again."""
    place.night()
    shutil.move(place.ckpts / "c", place.path / "c")
    assert (
        "no longer there: c; what was scored of them is kept" in place.night().document["changes"]
    )
    shutil.move(place.path / "c", place.ckpts / "other")
    done = place.night()
    assert done.document["changes"] == ["there before, back or renamed: other"]
    assert place.scorer.calls == []


def test_a_damaged_diary_is_said_and_makes_no_night_fail(place: Place) -> None:
    """What is left counts; damaged lines count as soups that were compared."""
    place.night()
    member(place.ckpts / "d", range(140, 200))
    diary = place.shelf / "nights.jsonl"
    content = bytearray(diary.read_bytes())
    content[200] ^= 1
    diary.write_bytes(content)
    done = place.night()
    assert done.returncode == 0, done.stderr
    assert "nights.jsonl: 1 damaged line (1): " in done.stderr
    assert done.document["verdict"]["nights"] == 2
    assert len(read(diary).records) == 1


def test_a_failing_night_stands_on_the_summary_page(place: Place) -> None:
    """Else a red job would show nothing, or yesterday's verdict."""
    (place.ckpts / "c" / "config.json").write_text("{")
    summary = place.path / "summary.md"
    done = place.night("--no-skip-bad", GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 1
    text = summary.read_text()
    assert text.startswith("<!-- soup nightly -->\n\n## Nightly soup\n\n**failed**: ")
    assert "config.json" in text


def test_how_greedy_keeps_and_stops_can_be_chosen(place: Place) -> None:
    """--accept and --confident, as for soup greedy."""
    done = place.night("--accept", "significant", "--alpha", "0.01", "--confident", "0.95")
    assert done.returncode == 0, done.stderr
    settings = done.document["settings"]
    assert (settings["accept"], settings["alpha"]) == ("significant", 0.01)
    assert settings["confident"] == 0.95
    assert place.night("--accept", "luck").returncode == 2


@pytest.mark.parametrize("name", ["[x](y)", "a|b", "<b>", "$(id)", "e\x1b[31m", "💥", "'\"&"])
def test_names_are_text_in_every_output(place: Place, name: str) -> None:
    """JSON, JUnit and Markdown are well-formed whatever a checkpoint is called."""
    from xml.etree import ElementTree

    os.rename(place.ckpts / "c", place.ckpts / name)
    (place.ckpts / name / "config.json").write_text("{")
    done = place.night("--junit", "n.xml", "--markdown", "n.md", "--dry-run")
    done = place.night("--junit", "n.xml", "--markdown", "n.md")
    assert done.returncode == 0, done.stderr
    assert done.document["left_out"][0]["name"] == name
    assert ElementTree.parse(place.path / "n.xml").getroot()[0].get("skipped") == "1"
    text = (place.path / "n.md").read_text()
    assert "\x1b" not in text + done.stderr + done.stdout
    assert "<b>" not in text and "[x](y)" not in text
    json.dumps(done.document)


def test_two_nights_at_once_are_one_and_an_error(place: Place) -> None:
    """The second ends at once, in one line, and changes nothing."""
    from soup.publishing.shelf import Shelf

    with Shelf.open(place.shelf).alone():
        line = fails(place.night(), 1)
        assert "another soup nightly or soup rollback is at work there" in line
        assert "is at work there" in fails(run(place.path, "rollback", "--publish", "published"), 1)
    assert place.scorer.calls == [] and not (place.shelf / "nights.jsonl").exists()
    assert place.night().returncode == 0


def test_scores_carried_to_another_machine_are_known_there(place: Place) -> None:
    """By soup journal export and import: the same content elsewhere is not asked again."""
    place.night()
    assert run(place.path, "journal", "export", "scores.gz").returncode == 0
    other = place.path / "other"
    shutil.copytree(place.ckpts, other / "ckpts")
    shutil.copytree(place.shelf, other / "published", symlinks=True)
    assert run(other, "journal", "import", "../scores.gz").returncode == 0
    there = place
    there.path, there.ckpts, there.shelf = other, other / "ckpts", other / "published"
    done = there.night()
    assert done.returncode == 3, done.stderr
    assert "the same soup is published already" in done.document["verdict"]["why"]
    assert there.scorer.calls == []


def test_soups_published_among_the_checkpoints_are_members_like_others(place: Place) -> None:
    """--publish ckpts: the link is the soup that it leads to, once; what is no model is named."""
    place.shelf = place.ckpts
    done = place.night("--publish", "ckpts")
    assert done.returncode == 0, done.stderr
    first = place.latest
    done = place.night("--publish", "ckpts", "--keep", "0")
    assert done.returncode in (3, 4), done.stderr
    assert (place.ckpts / first).is_dir() and place.latest == first
    assert [one["how"] for one in done.document["left_out"]] == []


@pytest.mark.parametrize("column", [80])
def test_a_night_is_readable_at_80_columns(place: Place, column: int) -> None:
    """Its verdict is the last thing that it says, but for what it rests on."""
    done = place.night(COLUMNS=str(column))
    assert done.returncode == 0
    assert "\nbetter: nothing was published here before; published as " in done.stdout
    table = [line for line in done.stdout.splitlines() if line.startswith((" 1 ", " 2 ", " 3 "))]
    assert table and max(map(len, table)) <= column
