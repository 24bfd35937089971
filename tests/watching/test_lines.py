"""soup/watching/lines.py: what is at hand, in words."""

from soup.events import Evaluation, Work
from soup.watching.lines import amount, duration, shortened, task, whole
from soup.watching.tasks import Scene, Task

AT_HAND = Evaluation(
    4, 11, "c (4 of 6)", "MMStar", "c on MMStar", 1500, None, Work(0, 27_000), Work(300.0, 220_000)
)
ASKED = Task("c on MMStar", 1240, 1500, "samples", "", 38.0)


def scene(**changes: object) -> Scene:
    """An evaluation in the middle."""
    values = {"tasks": (ASKED,), "evaluations": (AT_HAND,), "answers": {"c on MMStar": 1240}}
    return Scene(**{**values, **changes})  # type: ignore[arg-type]


def test_the_whole_is_one_line() -> None:
    """Which evaluation, what it is asked, how far, how fast, and how long: it and everything."""
    expected = "evaluation 4 of 11 · MMStar · 1,240 of 1,500 · 38/s · 12 min left, 1 h 53 in all"
    assert whole(scene()) == expected
    assert whole(scene(), labels=True).startswith("evaluation 4 of 11 (c (4 of 6)) · MMStar · ")
    assert whole(Scene()) == ""


def test_the_line_fits_its_width() -> None:
    """A long name is shortened in the middle first; then parts go, the time left last."""
    for width in range(12, 120):
        assert len(whole(scene(), width)) <= width
    assert "12 min left, 1 h 53 in all" in whole(scene(), 60)
    long = Evaluation(4, 11, "c", "llava-onevision-own-questions-v2", "c on MMStar", 1500)
    assert "1,240 of 1,500" in whole(scene(evaluations=(long,)), 79)
    assert "llava" in whole(scene(evaluations=(long,)), 79)


def test_without_a_speed_there_is_no_time() -> None:
    """Of earlier results one is taken, and of what was answered before in this run."""
    fresh = {"tasks": (), "answers": {}}
    assert whole(scene(**fresh)) == "evaluation 4 of 11 · MMStar · 0 of 1,500"
    known = Evaluation(1, 2, "c", "MMStar", "c on MMStar", 1500, 0.04, Work(), Work(60.0, 0))
    line = whole(scene(**fresh, evaluations=(known,)))
    assert line == "evaluation 1 of 2 · MMStar · 0 of 1,500 · 1 min left, 2 min in all"
    assert "38 s left" in whole(
        scene(**fresh, evaluations=(Evaluation(1, 1, "c", "x", "t", 38),), speed=1.0)
    )


def test_several_workers_have_one_line() -> None:
    """Their evaluations, their speed together, the longest time."""
    other = Evaluation(5, 11, "d", "MMStar", "d on MMStar", 1500, who="gpu 1")
    tasks = (ASKED, Task("d on MMStar", 1200, 1500, "samples", "gpu 1", 30.0))
    line = whole(scene(tasks=tasks, evaluations=(AT_HAND, other)))
    assert line == "evaluations 4, 5 of 11 · 68/s · 12 min left, 1 h 53 in all"
    assert task(tasks[1])[0] == "gpu 1: d on MMStar"


def test_a_task_says_how_far_how_fast_and_how_long() -> None:
    """Bytes in their own unit."""
    one = Task("write soup", 10**9, 4 * 10**9, "B", "", 2e8)
    assert task(one) == ("write soup", "1.0 GB of 4.0 GB · 200.0 MB/s · 15 s left")
    assert task(Task("x", 1, 9, "images", "", None)) == ("x", "1 of 9 images")
    assert amount(1234, "samples") == "1,234"


def test_durations_are_for_people() -> None:
    """The larger unit, and the smaller one where it matters."""
    shown = [duration(s) for s in (0, 38, 59.9, 720, 3599, 6600, 3600 * 51)]
    assert shown == ["0 s", "38 s", "1 min", "12 min", "1 h 00", "1 h 50", "2 d 3 h"]


def test_shortened_keeps_both_ends() -> None:
    """What two names differ in stands at their ends most of the time."""
    assert shortened("checkpoint-1500", 9) == "chec…1500"
    assert shortened("short", 9) == "short"
    assert [len(shortened("abcdef", k)) for k in range(6)] == [0, 1, 2, 3, 4, 5]
