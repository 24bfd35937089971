"""soup/watching: who shows progress, where, and what it looks like."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

import soup
from soup.evaluators.fake import FakeScorer
from soup.events import Evaluation, Note, Progress, ignore
from soup.watching import notebook, terminal
from soup.watching.terminal import Watch
from soup.watching.watch import around
from tests.terminal import Terminal
from tests.test_run import settings


def test_a_pipe_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one in LINE_EVERY seconds, of the whole where there is one; warnings always."""
    console = Console(width=80, record=True, file=open(os.devnull, "w"))
    with Watch(console) as watch:
        watch(Progress("write soup", 5, 10, "B"))
        watch(Note("look out", warning=True))
        monkeypatch.setattr(terminal, "LINE_EVERY", 0.0)
        watch(Progress("write soup", 7, 10, "B"))
        watch(Evaluation(4, 11, "c (4 of 6)", "MMStar", "c on MMStar", 1500))
        watch(Progress("c on MMStar", 1240, 1500, "samples"))
        monkeypatch.setattr(terminal, "LINE_EVERY", 10.0)
        watch(Progress("c on MMStar", 1241, 1500, "samples"))
    assert console.export_text().splitlines() == [
        "warning: look out",
        "write soup: 7 bytes of 10 bytes",
        "evaluation 4 of 11 (c (4 of 6)) · MMStar · 0 of 1,500",
        "evaluation 4 of 11 (c (4 of 6)) · MMStar · 1,240 of 1,500",
    ]


def test_quiet_is_warnings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither lines nor notes."""
    monkeypatch.setattr(terminal, "LINE_EVERY", 0.0)
    console = Console(record=True, file=open(os.devnull, "w"))
    with Watch(console, quiet=True) as watch:
        watch(Progress("write soup", 5, 10, "B"))
        watch(Note("a note"))
        watch(Note("look out", warning=True))
    assert console.export_text() == "warning: look out\n"


def test_colours_alone_make_no_terminal() -> None:
    """Where colours are forced, as in CI, lines are not drawn over each other."""
    console = Console(force_terminal=True, file=io.StringIO())
    assert console.is_terminal
    assert not terminal.is_screen(console)


SCRIPT = """
import os, time
import soup
from soup.events import Evaluation, Note, Progress
with soup.watch() as watch:
    watch(Note("it begins"))
    watch(Progress("digest", 3, 10, "B"))
    watch(Evaluation(4, 11, "c (4 of 6)", "MMStar", "c (4 of 6) on MMStar", 1500))
    for done in range(0, 1241, 20):
        watch(Progress("c (4 of 6) on MMStar", done, 1500, "samples"))
        time.sleep(0.01)
    watch(Progress("digest", 4, 10, "B"))
    while os.get_terminal_size().columns == 80:
        time.sleep(0.05)
    time.sleep(1)
watch(Progress("digest", 5, 10, "B"))
print("it ends")
"""


def test_a_terminal_has_the_whole_and_below_it_what_happens_now(tmp_path: Path) -> None:
    """Drawn anew in a window of another size; when it is over only notes are left."""
    shown = Terminal(["-c", SCRIPT], tmp_path)
    shown.until(lambda screen: screen.shows("1,240 of 1,500"))
    note, whole, task = shown.lines
    assert note == "it begins"
    assert whole.startswith("evaluation 4 of 11 · MMStar · 1,240 of 1,500 · ")
    assert task.startswith("c (4 of 6) on MMStar ━━━")
    shown.resize(24, 40)
    shown.until(lambda screen: any(len(line) < 40 and "MMStar" in line for line in screen.lines))
    assert shown.end() == 0
    assert [line for line in shown.lines if line] == ["it begins", "it ends"]
    assert not shown.hidden_cursor


MAKE = """
import sys
import soup
from soup.evaluators import FakeScorer
pool = soup.Pool.open("ckpts/*")
class Slow(FakeScorer):
    def measure(self, blend, benchmark, task, observe):
        observe(soup.Note(f"{task} is measured"))
        return super().measure(blend, benchmark, task, observe)
soup.make("max", pool, Slow(), soup.Settings(benchmarks=["x"], out="best"))
"""


def test_a_run_from_python_is_watched_in_a_terminal_and_nowhere_else(
    pool_paths: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Unless it is told otherwise: ``make`` without ``observe`` shows its progress there."""
    shown = Terminal(["-c", MAKE], tmp_path)
    assert shown.end() == 0, shown.lines
    assert "a (1 of 4) on x is measured" in shown.lines
    pool = soup.Pool.open(*pool_paths)
    soup.make("max", pool, FakeScorer(), settings(tmp_path, benchmarks=("x",), holdouts=("z",)))
    assert capfd.readouterr() == ("", "")
    with around(ignore) as nobody:
        assert nobody is ignore


def test_a_notebook_has_one_place_for_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written anew, and keeps the notes in the end; shown by IPython's own display."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    monkeypatch.setattr(notebook, "EVERY", 0.0)
    try:
        with capture_output() as captured:
            watch = notebook.NotebookWatch()
            with watch:
                watch(Note("it <begins>"))
                watch(Evaluation(4, 11, "c", "MMStar", "c on MMStar", 1500))
                watch(Progress("c on MMStar", 1240, 1500, "samples"))
    finally:
        InteractiveShell.clear_instance()
    texts = [output.data["text/plain"] for output in captured.outputs]
    assert texts[0] == texts[-1] == "it <begins>"
    assert texts[-2].splitlines()[1] == "evaluation 4 of 11 · MMStar · 1,240 of 1,500"
    assert captured.outputs[0].data["text/html"] == "<pre>it &lt;begins&gt;</pre>"
    assert not notebook.in_notebook()
