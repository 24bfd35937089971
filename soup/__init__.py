"""Turn a pool of fine-tuned vision-language checkpoints into the one best model, by model soup.

import soup
from evaluators import VLMEvalKitScorer

pool = soup.Pool.open("ckpts/*")
settings = soup.Settings(benchmarks=["MMStar"], out="my-soup")
with VLMEvalKitScorer() as scorer:
    board = soup.make("greedy", pool, scorer, settings)
print(board.to_markdown())
"""

from soup._version import __version__
from soup.blend import Blend
from soup.checkpoint import Checkpoint, TensorInfo
from soup.confident import Stopped
from soup.errors import SoupError
from soup.events import Event, Note, Observer, Progress
from soup.journal import Journal
from soup.leaderboard import Leaderboard
from soup.pool import Pool, Problem, Report, inspect
from soup.recipes import Decision
from soup.run import Settings, make, score, show
from soup.scoring import Benchmark, Part, PartialScorer, Result, Score, Scorer
from soup.streaming import Sink, stream
from soup.writer import Written, write

__all__ = [
    "Benchmark",
    "Blend",
    "Checkpoint",
    "Decision",
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
    "Written",
    "__version__",
    "inspect",
    "make",
    "score",
    "show",
    "stream",
    "write",
]
