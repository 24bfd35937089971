"""Charts in a published soup's model card: small files beside it, that stand alone."""

import re
from xml.etree import ElementTree

import pytest

from tests.cli.test_cli import run
from tests.publishing.pool import member
from tests.publishing.test_nights import Place, place

__all__ = ["place"]


def test_the_model_card_shows_what_was_tried_and_where_it_gained(place: Place) -> None:
    """Each picture is a file of the soup, small, with words, colours of its own and no address;
    the manifest knows it, and a soup of this soup does not inherit it.
    """
    done = place.night("--charts")
    assert done.returncode == 0 and "warning" not in done.stderr
    soup = place.shelf / place.latest
    card = (soup / "README.md").read_text()
    shown = re.findall(r"!\[(.+?)\]\((.+?)\)", card)
    assert [file for _, file in shown] == ["soup-path.svg", "soup-gains.svg"]
    for words, file in shown:
        text = (soup / file).read_text()
        drawing = ElementTree.fromstring(text)
        assert drawing.get("aria-label") == words
        assert len(text) < 40_000 and "var(" not in text and "href" not in text
        assert drawing[0].get("fill") == "#ffffff"
    assert run(place.path, "verify", str(soup)).returncode == 0
    (soup / "soup-path.svg").write_text("<svg/>")
    assert run(place.path, "verify", str(soup)).returncode == 1
    member(place.ckpts / "d", range(140, 200))
    done = place.night(str(soup), "--reference", soup.name)
    assert done.returncode == 0, done.stderr
    assert not list((place.shelf / place.latest).glob("*.svg"))


def test_a_chart_that_fails_costs_no_soup(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a warning."""

    def broken(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("soup.reporting.charts.path", broken)
    done = place.night("--charts")
    assert done.returncode == 0
    assert "no charts in the model card: RuntimeError: no ink" in done.stderr
    assert "svg" not in (place.shelf / place.latest / "README.md").read_text()
