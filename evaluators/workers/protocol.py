"""What a command and its worker say to each other.

Both sides speak JSON, one object per line. The worker begins with ``{"protocol": PROTOCOL}``. Then
it gets one request at a time on stdin, and writes, on what was stdout, any number of
``{"progress": [task, done, total, unit]}`` and ``{"note": text, "warning": bool}``, and at last one
``{"result": {...}}`` or ``{"error": {"type", "message"}}``: the name of a SoupError, or none for
whatever else went wrong. Everything that libraries print goes to stderr, which the parent keeps in
a log. A blend comes as paths and coefficients, and with what is known of values that its members
share (``soup.blending.common.packed``); the worker opens the checkpoints itself. When stdin closes,
the parent is gone and so are we.

Requests, by ``do``; what ``open`` and ``benchmark`` said is said again to a worker that follows one
that died, so the same must come of it:
    open        reference, options, cache, judge, engine, vllm → {"model", "files"}: what of the
                model decides the answers, and files that it came from besides those to be seen
    benchmark   source → {"name", "samples", "settings", "files", "questions"}
    measure     blend, benchmark (source), key, keep, task → a Result's fields
    outcomes    blend, benchmark (source), samples, key, keep, task → a Part's fields; their answers
                are kept for a later ``measure``
    kit         cache, judge → {}: instead of ``open`` where no model is to be asked
    evaluate    benchmark (source), answers (a table that is kept), keep, task → a Result's fields

Where several workers share the work (``fleet``), they keep nothing. Who asks puts together what
they say:
    answer      blend, benchmark (source), positions, task → {"answers", "positions", "check",
                "loading", "answering"}, see ``sealing``:
                texts, and the seconds that both took
    score       benchmark (source), answers (to all, in order), keep, task → a Result's fields
    positions   benchmark (source), samples → {"positions"}: of the questions behind them
    right       benchmark (source), positions, answers → {"outcomes"}: of these alone

A change of any of these is a new number in ``PROTOCOL``.
"""

from typing import Any

from soup.blending.blend import Blend
from soup.blending.common import packed
from soup.checkpoints.checkpoint import Checkpoint

PROTOCOL = 9


def encode_checkpoint(checkpoint: Checkpoint) -> list[Any]:
    """What it takes to open a checkpoint again: its path, its name, an adapter's base's path, who
    supplies which kind of companion file, and the tensors that are left out of it.
    """
    base = checkpoint.base
    supplied = [[kind, str(place)] for kind, place in checkpoint.supplied]
    there = None if base is None else str(base.path)
    return [str(checkpoint.path), checkpoint.name, there, supplied, list(checkpoint.left_out)]


def _known(checkpoint: Checkpoint) -> list[Any]:
    """The same and its digest, if known: a worker proves it when it first reads the checkpoint."""
    return [*encode_checkpoint(checkpoint), checkpoint.known_digest]


def encode_blend(blend: Blend) -> dict[str, Any]:
    """A blend as JSON: paths and coefficients, the latter exact; and what is known of values."""
    return {
        "members": [_known(member) for member in blend.members],
        "coefficients": blend.coefficients and [c.hex() for c in blend.coefficients],
        "dtype": blend.dtype,
        "method": blend.method,
        "base": blend.base and _known(blend.base),
        "parameters": [[name, value.hex()] for name, value in blend.parameters],
        "files_of": blend.files_of and encode_checkpoint(blend.files_of),
        "companions": blend.companions.digest,
        "digest": blend.digest,
        "values": packed(blend),
    }
