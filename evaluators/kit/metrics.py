"""How VLMEvalKit's ``evaluate`` runs here: its own functions and numbers, quickly, by no chance.

Importing this module replaces, in VLMEvalKit's modules, what stands between ``evaluate`` and that:

- the loop over samples, which writes all results so far after each sample: here it writes once;
- ``build_judge``, which falls back to exact matching: here it takes our judge, see ``judge.py``;
- the random choice in place of a reply that cannot be read: here that is no verdict, and counted;
- the file in ``/tmp`` named after the second, which two runs would share: here each has its own.
"""

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from soup.evaluators.kit.importing import (
    can_infer,
    dump,
    image_mcq,
    image_vqa,
    image_yorn,
    load,
    mathvista,
    multiple_choice,
)
from soup.evaluators.kit.judge import MAX_TOKENS, THREADS, Case, Hearing, Judge, hearing, reject

ALIAS = "judge"
"""The judge's name in VLMEvalKit's file names, whatever its own is."""

EXACT = "exact_matching"

TRIES = {"MathVista_auxeval": 3}
"""By a metric's function: how often it is asked for a verdict. Others ask again by themselves."""


def judge_arguments(judge: Judge | None) -> tuple[dict[str, Any], Case | None]:
    """Arguments of ``evaluate`` that let it ask a judge, or none; and the case that they open."""
    if judge is None:
        return {"model": EXACT, "nproc": 1}, None
    case = Case(judge)
    return {"model": ALIAS, "nproc": THREADS, "case": case}, case


def build_judge(case: Case, max_tokens: int = MAX_TOKENS, **_: Any) -> Case:
    """In place of VLMEvalKit's; ``max_tokens`` is the metric's own."""
    case.max_tokens = max_tokens
    return case


def track(
    func: Callable[..., Any],
    tasks: Iterable[Any] = (),
    nproc: int | None = 1,
    save: str | None = None,
    keys: Sequence[Any] | None = None,
    **_: Any,
) -> list[Any]:
    """In place of ``track_progress_rich``: the same results, the same file, written once.

    Args:
        func: called with each task: a dict of arguments, a tuple or list of them, or one.
        tasks: one per sample.
        nproc: threads; processes are never needed.
        save: a pickle of results by key, which is extended.
        keys: one per task.

    Raises:
        Exception: what ``func`` raised; after that, no other task is begun.
    """
    tasks = list(tasks)
    known = load(save) if save is not None and Path(save).exists() else {}
    results = _all(func, tasks, nproc or 1)
    if save is not None:
        known.update(zip(keys, results, strict=True) if keys is not None else ())
        dump(known, save)
    return results


def _all(func: Callable[..., Any], tasks: list[Any], threads: int) -> list[Any]:
    if threads == 1:
        return [_heard(func, task) for task in tasks]
    failed = threading.Event()

    def unless_failed(task: Any) -> Any:
        if failed.is_set():
            return None  # nobody will see it: the error is raised below
        try:
            return _heard(func, task)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(unless_failed, tasks))


def _heard(func: Callable[..., Any], task: Any) -> Any:
    """One sample's result; what its judge said is kept, or counted as no verdict."""
    for left in reversed(range(TRIES.get(func.__name__, 1))):
        with hearing() as heard:
            result = func(**task) if isinstance(task, dict) else func(*_arguments(task))
            if heard.case is None:
                return result
            if not _is_verdict(func.__name__, task, result, heard):
                reject()
        if not heard.rejected or not left:
            heard.case.close(heard)
            return result
    raise AssertionError("the last try returns")


def _arguments(task: Any) -> Sequence[Any]:
    return task if isinstance(task, (tuple, list)) else (task,)


def _is_verdict(metric: str, task: Any, result: Any, heard: Hearing) -> bool:
    """Whether the last reply decided a sample's result; choices say so themselves, see below."""
    if metric == "YOrN_auxeval":  # "Unknown" is one of the replies it asks for
        return result != "Unknown" or "unknown" in heard.replies[heard.last].lower()
    if metric == "MMVet_auxeval":
        return not result["log"].endswith("All 5 retries failed.\n")
    if metric == "MathVista_auxeval":
        return _extracted(task[1], str(result["res"]))
    return True


def _extracted(line: Any, reply: str) -> bool:
    """Whether MathVista's metric can read an extracted answer; it takes any, and finds it wrong."""
    if line["question_type"] == "multi_choice":
        return bool(can_infer(reply, mathvista.list_to_dict(eval(line["choices"]))))
    try:
        {"integer": int, "float": float}.get(line["answer_type"], str)(reply)
    except ValueError:
        return False
    return bool(reply)


class _NoChance:
    """In place of ``random``, where VLMEvalKit would choose when no reply could be read."""

    @staticmethod
    def choice(options: Sequence[str]) -> str:
        """None of the options."""
        reject()
        return ""


_temporary = threading.local()


def _unique_name() -> str:
    _temporary.name = f"soup-{uuid.uuid4().hex}"
    return str(_temporary.name)


_circular = multiple_choice.mcq_circular_eval


def _circular_alone(*args: Any, **kwargs: Any) -> Any:
    """Circular evaluation with a temporary file of its own, which goes with it."""
    try:
        return _circular(*args, **kwargs)
    finally:
        for file in Path("/tmp").glob(f"{getattr(_temporary, 'name', 'none')}.*"):
            file.unlink(missing_ok=True)


multiple_choice.rd = _NoChance
multiple_choice.timestr = _unique_name
multiple_choice.mcq_circular_eval = _circular_alone
for _module in (multiple_choice, image_yorn, image_vqa):
    _module.track_progress_rich = track
for _module in (image_mcq, image_yorn, image_vqa):
    _module.build_judge = build_judge
