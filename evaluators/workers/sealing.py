"""Answers as they were made: to all questions of a slice, to these alone, in their order.

A worker puts what it was asked, and a checksum of both, beside its answers. Whoever asked compares:
answers that do not fit are none, and are asked of another worker, as if this one had died.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from soup.words import counted


def sealed(positions: Sequence[int], answers: Sequence[str]) -> dict[str, Any]:
    """The part of a worker's reply that says what it answered."""
    check = _check(positions, answers)
    return {"answers": list(answers), "positions": list(positions), "check": check}


def unfit(request: Mapping[str, Any], reply: Mapping[str, Any]) -> str | None:
    """Why a reply is none to a request, in words that follow a worker's name; None for one that is
    one, and for replies other than answers.
    """
    if request["do"] != "answer":
        return None
    asked, answers = request["positions"], reply.get("answers")
    if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
        return "said what is no answer"
    if len(answers) != len(asked):
        return f"gave {counted(len(answers), 'answer')} to {counted(len(asked), 'question')}"
    if reply.get("positions") != list(asked):
        return "answered other questions, or in another order"
    if reply.get("check") != _check(asked, answers):
        return "gave answers that are not as they were made"
    return None


def _check(positions: Sequence[int], answers: Sequence[str]) -> int:
    return crc32(json.dumps([list(positions), list(answers)]).encode())
