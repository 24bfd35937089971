"""soup/watching/tasks.py: events from any thread, in any order, after their end."""

import random
import threading

from soup.events import Evaluation, Progress
from soup.watching.tasks import LATE, Tasks


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def names(tasks: Tasks) -> list[str]:
    """What is at hand."""
    return [task.name for task in tasks.scene().tasks]


def test_a_task_that_has_ended_stays_ended() -> None:
    """Events that come late, or twice, bring nothing back; the same work may begin anew."""
    clock = Clock()
    tasks = Tasks(clock)
    for done in (10, 100, 60, 100, 30):
        tasks.take(Progress("digest", done, 100, "B"))
    assert names(tasks) == []
    tasks.take(Progress("digest", 0, 100, "B"))
    assert names(tasks) == ["digest"], "from nothing it is another one"
    tasks.take(Progress("digest", 100, 100, "B"))
    clock.now += LATE
    tasks.take(Progress("digest", 5, 100, "B"))
    assert names(tasks) == ["digest"], "so long after the end it is, too"


def test_one_worker_does_one_thing_at_a_time() -> None:
    """What it begins ends what it did before, also where that was never told to be complete."""
    tasks = Tasks(Clock())
    tasks.take(Progress("digest", 17, 104, "B"))
    tasks.take(Progress("a on x", 0, 10, "samples"))
    tasks.take(Progress("digest", 20, 104, "B"))
    assert names(tasks) == ["a on x"]
    tasks.take(Progress("b on x", 0, 10, "samples", who="gpu 1"))
    assert names(tasks) == ["a on x", "b on x"]


def test_a_count_never_goes_back() -> None:
    """An event that another one has overtaken is behind it."""
    tasks = Tasks(Clock())
    for done in (1, 9, 4):
        tasks.take(Progress("digest", done, 10, "B"))
    assert tasks.scene().tasks[0].done == 9


def test_events_from_many_threads_in_any_order_leave_nothing_behind() -> None:
    """A thousand events of five tasks from eight threads; whoever looks meanwhile sees sense."""
    tasks = Tasks()
    events = [Progress(f"task {k % 5}", done, 50, "B") for k in range(20) for done in range(51)]
    random.Random(0).shuffle(events)
    wrong: list[BaseException] = []

    def tell(part: list[Progress]) -> None:
        try:
            for event in part:
                tasks.take(event)
                for task in tasks.scene().tasks:
                    assert 0 <= task.done <= task.total
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=tell, args=(events[k::8],)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    tasks.take(Progress("the last", 50, 50, "B"))
    assert names(tasks) == []


def test_speed_counts_from_where_the_work_went_on() -> None:
    """Ninety of a hundred were answered before: the other five took five seconds."""
    clock = Clock()
    tasks = Tasks(clock)
    tasks.take(Progress("a on x", 90, 100, "samples"))
    assert tasks.scene().tasks[0].rate is None
    clock.now = 5.0
    tasks.take(Progress("a on x", 95, 100, "samples"))
    task = tasks.scene().tasks[0]
    assert (task.rate, task.seconds_left) == (1.0, 5.0)
    assert tasks.scene().speed == 1.0
    tasks.take(Progress("b on y", 0, 100, "samples"))
    assert tasks.scene().speed == 1.0, "what has no speed yet may take this one"


def test_an_evaluation_remembers_how_far_it_came() -> None:
    """When all is answered it is not at nothing again, while the metric runs."""
    tasks = Tasks(Clock())
    tasks.take(Evaluation(1, 2, "a", "x", "a on x", 100))
    tasks.take(Progress("a on x", 100, 100, "samples"))
    assert tasks.scene().answers == {"a on x": 100}
    tasks.take(Evaluation(1, 2, "a", "y", "a on y", 100))
    assert tasks.scene().answers == {"a on y": 0}
    tasks.take(Evaluation(0, 0))
    assert tasks.scene().evaluations == ()
