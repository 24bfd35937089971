"""What is at hand, in words: one line of the whole, and one for each task."""

from collections.abc import Sequence

from soup.events import Crew, Evaluation, Work
from soup.watching.tasks import Scene, Task

DOT = " · "
SOON = 0.1  # share of the answers up to which the speed of earlier ones is believed
SHORTEST = 8  # characters that a name is shortened to at most


def whole(scene: Scene, width: int | None = None, *, labels: bool = False) -> str:
    """How far the whole run has come; empty where nothing is evaluated.

    Args:
        scene: what is at hand.
        width: characters that there are; a name is shortened, then parts are left out.
        labels: name the blend, too: for where no other line does.
    """
    if not scene.evaluations:
        return ""
    if len(scene.evaluations) > 1:
        numbers = sorted(evaluation.number for evaluation in scene.evaluations)
        of = scene.evaluations[0].of
        head = f"evaluations {', '.join(map(str, numbers))} of {of}"
        asked = [task for task in scene.tasks if task.unit == "samples"]
        rates = [task.rate for task in asked if task.rate]
        parts = [head, f"{rate(sum(rates))}/s"] if rates else [head]
        return _fitting([*parts, *_times(scene)], "", width)
    one = scene.evaluations[0]
    task = scene.task_of(one)
    done = scene.answers.get(one.task, 0)
    head = f"evaluation {one.number} of {one.of}"
    if labels:
        head += f" ({one.label})"
    speed = [f"{rate(task.rate)}/s"] if task and task.rate else []
    if scene.crew is not None and scene.speed:
        speed = [f"{rate(scene.speed)}/s"]
    parts = [head, "", f"{done:,} of {one.samples:,}", *speed, *_times(scene)]
    return _fitting(parts, one.benchmark, width)


def _fitting(parts: Sequence[str], name: str, width: int | None) -> str:
    """The parts in a line; the empty one is the name's place."""
    parts = [part or name for part in parts if part or name]
    if width is None:
        return DOT.join(parts)
    over = len(DOT.join(parts)) - width
    if over > 0 and name:
        short = shortened(name, max(SHORTEST, len(name) - over))
        parts = [short if part == name else part for part in parts]
    while len(parts) > 1 and len(DOT.join(parts)) > width:
        # the speed is missed least, then the counts; what is left of the time most
        parts.pop(-2 if len(parts) > 2 else -1)
    return shortened(DOT.join(parts), width)


def _times(scene: Scene) -> list[str]:
    """How long this evaluation takes from now, and how long all of it."""
    lefts = [_seconds(evaluation, scene) for evaluation in scene.evaluations]
    if not lefts or any(left is None for left in lefts):
        return []
    here = max(left for left, _ in filter(None, lefts))
    rest = [every for _, every in filter(None, lefts) if every is not None]
    text = f"{duration(here)} left"
    if len(rest) == len(lefts) and duration(max(rest)) != duration(here):
        text += f", {duration(max(rest))} in all"
    return [text]


def _seconds(evaluation: Evaluation, scene: Scene) -> tuple[float, float | None] | None:
    """Seconds that are left of an evaluation, and of the whole run; None where nobody knows."""
    task = scene.task_of(evaluation)
    done = scene.answers.get(evaluation.task, 0)
    if scene.crew is not None:
        return _shared(evaluation, done, scene.crew, scene.speed)
    earlier = 1 / evaluation.pace if evaluation.pace else scene.speed
    speed = (task and task.rate) or earlier
    if earlier and done < SOON * evaluation.samples:
        speed = earlier  # the first answers are slow, and say little
    if not speed:
        return None
    left = evaluation.samples - done

    def needs(work: Work) -> float:
        return work.seconds + work.questions / speed

    here = left / speed + needs(evaluation.rest)
    return here, here + needs(evaluation.later)


def _shared(
    evaluation: Evaluation, done: int, crew: Crew, speed: float | None
) -> tuple[float, float | None] | None:
    """The same where several workers share all of it; paces are those of one worker."""
    if not speed and evaluation.pace:
        speed = crew.workers / evaluation.pace
    if not speed:
        return None

    def needs(work: Work) -> float:
        return work.seconds / crew.workers + work.questions / speed

    here = (evaluation.samples - done) / speed + needs(evaluation.rest)
    made = crew.ahead / speed  # of what comes later, mostly
    return here, max(here, here + needs(evaluation.later) - made)


def crew(one: Crew) -> str:
    """What several workers have done together, beyond what has been asked for."""
    parts = [f"{one.workers} workers, {one.busy} busy"]
    parts += [f"{one.ahead:,} answers ahead"] if one.ahead else []
    if one.saved or one.dropped:
        parts += [f"of guesses {one.saved:,} came true, {one.dropped:,} did not"]
    return DOT.join(parts)


def worker(one: Task | None, speed: float | None) -> tuple[str, str]:
    """What one of several workers does, and how far and how fast; None is nothing."""
    if one is None:
        return "idle", ""
    text = f"{amount(one.done, one.unit)} of {amount(one.total, one.unit)}"
    if one.unit == "B":
        speed = one.rate
    if speed:
        text += f"{DOT}{amount(speed, one.unit) if one.unit == 'B' else rate(speed)}/s"
    return one.name, text


def task(one: Task, *, counted: bool = True) -> tuple[str, str]:
    """A task in words: what it is, and how far it has come (without that where not ``counted``)."""
    name = f"{one.who}: {one.name}" if one.who else one.name
    if not counted:
        return name, ""
    text = f"{amount(one.done, one.unit)} of {amount(one.total, one.unit, named=True)}"
    if one.rate:
        text += f"{DOT}{amount(one.rate, one.unit) if one.unit == 'B' else rate(one.rate)}/s"
        left = one.seconds_left
        text += f"{DOT}{duration(left)} left" if left is not None else ""
    return name, text


def rate(speed: float) -> str:
    """A number of things per second: two digits, or all where there are more."""
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}"


def amount(count: float, unit: str, *, named: bool = False) -> str:
    """A count for people: bytes as kB, MB, …; anything else with its unit, where named."""
    if unit == "B":
        from rich.filesize import decimal

        return decimal(int(count))
    return f"{count:,.0f} {unit}" if named else f"{count:,.0f}"


def duration(seconds: float) -> str:
    """A time for people: ``38 s``, ``12 min``, ``1 h 50``, ``2 d 3 h``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02}"
    return f"{hours // 24} d {hours % 24} h"


def shortened(text: str, width: int) -> str:
    """A text in that many characters: its middle is left out, both ends stay."""
    if len(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
