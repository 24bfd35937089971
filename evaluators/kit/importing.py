"""What we use of VLMEvalKit, imported in the one way in which it keeps prompts and scores its own.

Its datasets and metrics are imported from here, never from itself. Importing ``vlmeval`` turns
gradients off, seeds torch, disables TLS checks, reconfigures logging and sets environment
variables, so this happens in a worker process only.
"""

import ast
import importlib.metadata
import operator
import os
import string
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from typing import Any, cast

from soup.evaluators.kit.later import later
from soup.evaluators.models.workarounds import before_import

CHANGES_SCORES = (
    "VERBOSE",
    "USE_COT",
    "SPLIT_THINK",
    "SKIP_ERR",
    "PRED_FORMAT",
    "EVAL_FORMAT",
    "LOCAL_LLM",
    "FORCE_LOCAL",
    "PRINT_VANILLA",
)
"""Environment variables that change VLMEvalKit's prompts or scores: never taken from the user's."""

LATER = ("datasets", "jieba", "networkx", "openai")
"""Packages that a few of its benchmarks use, and only when they are scored (nltk: at once)."""


def _settle_environment() -> None:
    for name in CHANGES_SCORES:
        os.environ.pop(name, None)
    os.environ["PRED_FORMAT"] = "tsv"  # json is broken there, xlsx changes "=A" and cuts long text


_settle_environment()
before_import(importlib.metadata.version("transformers"))

# What it calls its tools is its command line, which imports every model and every service that it
# knows: a second or two at each start. Nothing of it is used here.
_tools: Any = types.ModuleType("vlmeval.tools")
_tools.cli = None
sys.modules["vlmeval.tools"] = _tools

import pandas as pd  # noqa: E402
import torch  # noqa: E402
import vlmeval  # noqa: E402

with later(*LATER):
    import vlmeval.dataset as kit
from vlmeval.dataset import image_mcq, image_vqa, image_yorn  # noqa: E402
from vlmeval.dataset.utils import mathvista, mmvet, multiple_choice, vqa_eval, yorn  # noqa: E402, F401
from vlmeval.dataset.utils.multiple_choice import prefetch_answer  # noqa: E402
from vlmeval.dataset.utils.yorn import YOrN_Extraction  # noqa: E402
from vlmeval.smp import LMUDataRoot, dump, load, md5  # noqa: E402
from vlmeval.smp.file import INFER_FAIL_MSG  # noqa: E402
from vlmeval.utils import can_infer  # noqa: E402

del sys.modules["vlmeval.tools"]  # whoever wants it finds the real one
torch.set_grad_enabled(False)  # as on importing its models
torch.manual_seed(1234)

__all__ = [
    "INFER_FAIL_MSG",
    "LMUDataRoot",
    "YOrN_Extraction",
    "can_infer",
    "dump",
    "files",
    "image_mcq",
    "image_vqa",
    "image_yorn",
    "kit",
    "load",
    "mathvista",
    "md5",
    "multiple_choice",
    "prefetch_answer",
    "read_csv",
]

_settle_environment()  # again: importing vlmeval reads a .env file of its own into the environment


def files() -> list[str]:
    """What VLMEvalKit reads on being imported, there or not: a file of environment variables."""
    return [os.path.realpath(os.path.join(vlmeval.__path__[0], "..", ".env"))]


class _Here:
    """In place of ``multiprocessing``: the same results, one after another.

    ImageVQADataset.evaluate forks 16 processes for string comparisons, and never ends them; a fork
    of a process that holds a model and threads can hang, and threads only wait for each other.
    """

    @staticmethod
    def Pool(processes: int) -> Any:
        """What has the one method that is used."""
        return _Here

    @staticmethod
    def map(function: Any, items: Any) -> list[Any]:
        """As a pool's."""
        return [function(item) for item in items]


image_vqa.mp = _Here


EXPRESSION = 1000
"""Characters of what is worked out, at most."""


def literal(text: Any) -> Any:
    """In place of ``eval``, to which VLMEvalKit gives a table's fields: values, never code.

    Raises:
        ValueError: no list, number or text in Python's spelling.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"not a value: {str(text)[:60]!r}") from error


def _reads_tables(name: str) -> bool:
    """Whether a module is one of those that VLMEvalKit reads tables and answers with."""
    return name == "vlmeval.smp" or name.startswith(("vlmeval.smp.", "vlmeval.dataset"))


for _name, _module in list(sys.modules.items()):
    if _reads_tables(_name):
        _module.eval = literal  # type: ignore[attr-defined]


_OPERATIONS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def reckoned(text: Any) -> Any:
    """As ``literal``; sums and products of numbers, too: some metrics have answers worked out.

    Raises:
        ValueError: neither.
    """
    try:
        return literal(text)
    except ValueError:
        if not isinstance(text, str) or len(text) > EXPRESSION:
            raise
    try:
        return _worked_out(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ArithmeticError, MemoryError, RecursionError, ValueError) as error:
        raise ValueError(f"not a value: {text[:60]!r}") from error


def _worked_out(node: Any) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        number: Any = node.value
        return cast("float", number)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_worked_out(node.operand))  # type: ignore[no-any-return]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _worked_out(node.left), _worked_out(node.right)
        if isinstance(node.op, ast.Pow) and not (abs(left) < 1e6 and abs(right) < 100):
            raise ValueError("a power of many digits")
        found: float = _OPERATIONS[type(node.op)](left, right)
        return found
    raise ValueError("no number")


class _Literally:
    """Finds those that are imported later, some of them when they evaluate, and has them do so."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """The module as Python finds it, and in it ``reckoned`` before anything runs."""
        spec = PathFinder.find_spec(name, path, target) if _reads_tables(name) else None
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def prepared(module: Any) -> None:
            module.eval = reckoned
            run(module)

        spec.loader.exec_module = prepared  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Literally)

read_csv = pd.read_csv
"""Pandas' own."""

MISSING = ("", "nan", "NaN", "-nan", "-NaN", "<NA>", "1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN")
"""How tables spell a cell without a value. What pandas also takes for one, people write."""


_words: frozenset[str] = frozenset()
"""Columns that are words from the first to the last, now."""


@contextmanager
def words(columns: frozenset[str]) -> Iterator[None]:
    """While a user's table is evaluated: all cells of these columns are read as they are written.

    VLMEvalKit writes and reads its results several times, and pandas takes ``1.10`` for 1.1.
    """
    global _words
    before, _words = _words, columns | {column.lower() for column in columns if len(column) > 1}
    try:
        yield
    finally:
        _words = before


def _read_csv_as_written(file: Any, *args: Any, **kwargs: Any) -> Any:
    """``pd.read_csv`` that loses no words: an option, answer or prediction may be "None" or "NA".

    Otherwise these come back as NaN: an option "None" vanishes from the prompt and from the
    choices, and one empty prediction turns a column of "7" into 7.0, all of them wrong. Every
    other cell, and every truly empty one, is read as VLMEvalKit reads it.
    """
    frame = read_csv(file, *args, **kwargs)
    if kwargs == {"sep": "\t"} and not args:  # VLMEvalKit's way to load data and predictions
        _restore_words(frame, file)
    return frame


def _restore_words(frame: Any, file: Any) -> None:
    """Put the words back that reading took for missing values, in the columns that hold words."""
    gaps = [name for name in frame if _holds_words(name) and frame[name].isna().any()]
    said = [name for name in ("prediction", "res") if name in frame]  # "res": a judge's words
    own = [name for name in frame if name in _words and name not in said]
    gaps = [name for name in gaps if name not in own]
    if not gaps + said + own:
        return
    columns = list({*gaps, *said, *own})
    written = read_csv(file, sep="\t", usecols=columns, dtype=str, keep_default_na=False)
    for name in own:
        frame[name] = written[name].mask(written[name] == "")
    for name in gaps:
        lost = frame[name].isna() & ~written[name].isin(MISSING)
        if lost.any():
            if frame[name].dtype != written[name].dtype:  # numbers, too: they stay as they are
                frame[name] = frame[name].astype(object)
            frame.loc[lost, name] = written.loc[lost, name]
    for name in said:  # all of it, the empty ones, too
        frame[name] = written[name]


def _holds_words(column: str) -> bool:
    """Options, questions and answers. In others (hint, category) a "None" does mean nothing."""
    return column in list(string.ascii_uppercase) or column.lower() in ("question", "answer")


pd.read_csv = _read_csv_as_written
