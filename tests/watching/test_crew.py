"""What a terminal of 80 columns shows of eight workers; ``eight_workers`` is the long form."""

from pathlib import Path

from rich.console import Console

from soup.events import Crew, Evaluation, Progress, Took, Work
from soup.watching.lines import crew, whole, worker
from soup.watching.tasks import Task, Tasks
from soup.watching.terminal import Watch
from tests.watching.test_tasks import Clock


def at_work(tasks: Tasks, clock: Clock) -> None:
    """Eight workers at their slices for ten seconds, each at 30 questions a second."""
    tasks.take(Evaluation(4, 19, "a", "MMStar", "a on MMStar", 1500, later=Work(0, 24_000)))
    for second in range(11):
        clock.now = float(second)
        for k in range(7):
            name = f"run-{k} (1 of 9) on MMBench_DEV_EN"
            tasks.take(Progress(name, 30 * second, 320, "samples", f"worker {k + 1}"))
        tasks.take(Progress("a on MMStar", 100 * second, 1500, "samples"))
    tasks.take(Progress("load a on MMStar", 10**9, 16 * 10**9, "B", "worker 7"))
    tasks.take(Crew(8, 7, 2400, 900, 300))
    tasks.take(Took("another", 1.0, 3))


def test_all_their_answers_count_for_the_time_that_is_left() -> None:
    """What was made ahead, too; a worker's own speed goes on from slice to slice."""
    clock = Clock()
    tasks = Tasks(clock)
    at_work(tasks, clock)
    scene = tasks.scene()
    assert scene.speeds == {f"worker {k + 1}": 30.0 for k in range(7)}
    assert scene.speed == 210.0
    line = whole(scene)
    # (1,500 - 1,000) / 210, and (500 + 24,000 - 2,400) / 210
    assert line == "evaluation 4 of 19 · MMStar · 1,000 of 1,500 · 210/s · 2 s left, 2 min in all"
    tasks.take(Progress("a on MMStar", 320, 320, "samples", "worker 1"))
    assert tasks.scene().answers == {"a on MMStar": 1000}, "a worker's slice is not the whole"
    for done in (0, 30, 60):
        clock.now += 1
        tasks.take(Progress("b on MMStar", done, 99, "samples", "worker 2"))
    assert tasks.scene().speeds["worker 2"] == 360 / 13


def test_words_for_workers() -> None:
    """What they are at, what they have guessed."""
    assert crew(Crew(8, 7)) == "8 workers, 7 busy"
    assert crew(Crew(8, 7, 2400, 900, 300)) == (
        "8 workers, 7 busy · 2,400 answers ahead · of guesses 900 came true, 300 did not"
    )
    assert worker(None, None) == ("idle", "")
    assert worker(Task("a on x", 3, 99, "samples", "w", None), 30.0) == ("a on x", "3 of 99 · 30/s")
    assert worker(Task("load a", 10**9, 2 * 10**9, "B", "w", 5e8), 30.0) == (
        "load a",
        "1.0 GB of 2.0 GB · 500.0 MB/s",
    )


def test_a_worker_has_a_line(tmp_path: Path) -> None:
    """Within 80 columns, one below the other; who is idle, too; sixteen at most."""
    with (tmp_path / "console").open("w") as file:
        console = Console(width=80, record=True, file=file)
        watch = Watch(console)
        clock = Clock()
        watch._tasks = Tasks(clock)
        at_work(watch._tasks, clock)
        console.print(watch._drawn())
        watch(Crew(40, 7))
        shown = console.export_text().splitlines()
        console.print(watch._drawn())
    assert [line.split(":")[0] for line in shown[3:]] == [f"worker {k + 1}" for k in range(8)]
    assert max(map(len, shown)) <= 79
    assert len({line.index("━") for line in shown[3:9]}) == 1, "bars begin below each other"
    assert shown[-1].rstrip() == "worker 8: idle"
    assert shown[1].startswith("8 workers, 7 busy · 2,400 answers ahead")
    assert "and 24 more workers" in console.export_text()
