"""`soup report`: one line where something is missing; the demo goes on without it."""

import sys
from pathlib import Path

import pytest

from soup import reporting
from soup.checkpoints.pool import Pool
from soup.cli.report import report, written_or_why_not
from soup.errors import JournalError, OutputError, UsageError
from soup.evaluators.fake import FakeScorer
from soup.run import Settings, score


def test_the_report_is_written_whole_or_not_at_all(pool_paths: list[Path], tmp_path: Path) -> None:
    """A directory is none, and nothing is left behind where no run is recorded."""
    out = tmp_path / "report.html"
    with pytest.raises(JournalError, match="no run is recorded there yet; `soup greedy"):
        report(out, tmp_path / "none")
    assert not out.exists()
    score(Pool.open(*pool_paths), FakeScorer(), Settings(benchmarks="x", work=tmp_path / "work"))
    with pytest.raises(OutputError, match="it is a directory; name a file"):
        report(tmp_path, tmp_path / "work")
    report(out, tmp_path / "work")
    assert out.read_text().endswith("</html>\n")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("missing", ["altair", "jinja2", "vl_convert"])
def test_what_is_not_installed_is_named(
    pool_paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """With the command that installs it; the demo says the same and goes on."""
    score(Pool.open(*pool_paths), FakeScorer(), Settings(benchmarks="x", work=tmp_path / "work"))
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "soup.reporting.charts", raising=False)
    monkeypatch.delattr(reporting, "charts", raising=False)
    expected = f"the report needs {missing}, which is not installed here; run: pip install"
    with pytest.raises(UsageError, match=expected):
        report(tmp_path / "report.html", tmp_path / "work")
    said = written_or_why_not(tmp_path / "report.html", tmp_path / "work")
    assert "pip install 'vlm-soup[report]'" in said
    assert not (tmp_path / "report.html").exists()
