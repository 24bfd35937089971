"""Turn a pool of fine-tuned vision-language checkpoints into the one best model, by model soup.

import soup
from soup.evaluators import VLMEvalKitScorer

pool = soup.Pool.open("ckpts/*")
settings = soup.Settings(benchmarks=["MMStar"], out="my-soup")
with VLMEvalKitScorer() as scorer:
    board = soup.make("greedy", pool, scorer, settings)
print(board.to_markdown())

What stands in ``__all__`` is the public face; nothing else is promised. Each name is imported when
it is first used, so that ``import soup`` alone costs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from soup._version import __version__

if TYPE_CHECKING:
    from soup.blending.blend import Blend
    from soup.blending.streaming import Sink, stream
    from soup.blending.writer import Written, write
    from soup.checkpoints.checkpoint import Checkpoint, TensorInfo
    from soup.checkpoints.opening import open_checkpoint
    from soup.checkpoints.pool import Pool, Problem, Report, inspect
    from soup.choosing.confident import Stopped
    from soup.choosing.journal import Journal
    from soup.choosing.leaderboard import Leaderboard
    from soup.choosing.recipes import Decision
    from soup.choosing.retelling import show
    from soup.choosing.scoring import Benchmark, Part, PartialScorer, Result, Score, Scorer
    from soup.errors import SoupError
    from soup.events import Evaluation, Event, Note, Observer, Progress, Work
    from soup.run import make, score
    from soup.settings import Settings
    from soup.watching.watch import watch

_HOMES = {
    "soup.blending.blend": ("Blend",),
    "soup.blending.streaming": ("Sink", "stream"),
    "soup.blending.writer": ("Written", "write"),
    "soup.checkpoints.checkpoint": ("Checkpoint", "TensorInfo"),
    "soup.checkpoints.opening": ("open_checkpoint",),
    "soup.checkpoints.pool": ("Pool", "Problem", "Report", "inspect"),
    "soup.choosing.confident": ("Stopped",),
    "soup.choosing.journal": ("Journal",),
    "soup.choosing.leaderboard": ("Leaderboard",),
    "soup.choosing.recipes": ("Decision",),
    "soup.choosing.retelling": ("show",),
    "soup.choosing.scoring": ("Benchmark", "Part", "PartialScorer", "Result", "Score", "Scorer"),
    "soup.errors": ("SoupError",),
    "soup.events": ("Evaluation", "Event", "Note", "Observer", "Progress", "Work"),
    "soup.run": ("make", "score"),
    "soup.settings": ("Settings",),
    "soup.watching.watch": ("watch",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Benchmark",
    "Blend",
    "Checkpoint",
    "Decision",
    "Evaluation",
    "Event",
    "Journal",
    "Leaderboard",
    "Note",
    "Observer",
    "Part",
    "PartialScorer",
    "Pool",
    "Problem",
    "Progress",
    "Report",
    "Result",
    "Score",
    "Scorer",
    "Settings",
    "Sink",
    "SoupError",
    "Stopped",
    "TensorInfo",
    "Work",
    "Written",
    "__version__",
    "inspect",
    "make",
    "open_checkpoint",
    "score",
    "show",
    "stream",
    "watch",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'soup' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = found  # looked up once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
